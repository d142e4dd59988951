use std::net::Ipv4Addr;

use super::*;
use crate::fixtures::Site;

fn server(socket: UdpSocket, site: &Site) -> Server {
    let source = Source { address: Ipv4Addr::LOCALHOST.into(), interface: None };
    Server::new(socket, source, 1500, Arc::clone(&site.app))
}

/// Asks, and gives up nothing: the socket of the transfer.
async fn ask(server: SocketAddr, request: ReadRequest) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut out = Vec::new();
    Packet::Read(request).encode(&mut out);
    socket.send_to(&out, server).await.unwrap();
    socket
}

async fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 2048];
    let heard = tokio::time::timeout(std::time::Duration::from_secs(10), socket.recv_from(&mut buffer)).await;
    let (len, peer) = heard.expect("an answer").unwrap();
    buffer.truncate(len);
    (buffer, peer)
}

fn wants(file: &str) -> ReadRequest {
    ReadRequest { file: file.to_owned(), block_size: Some(1468), size: true, ..ReadRequest::default() }
}

/// A client in lock step, as every ROM is one.
async fn fetch(server: SocketAddr, file: &str) -> Result<Vec<u8>, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut out = Vec::new();
    Packet::Read(ReadRequest { file: file.to_owned(), block_size: Some(1468), size: true, ..ReadRequest::default() })
        .encode(&mut out);
    socket.send_to(&out, server).await.unwrap();
    let (mut got, mut buffer) = (Vec::new(), [0; 2048]);
    loop {
        let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let ack = match Packet::decode(&buffer[..len]).unwrap() {
            Packet::Oack(_) => 0,
            Packet::Data { block, bytes } => {
                got.extend(bytes);
                if bytes.len() < 1468 {
                    let mut out = Vec::new();
                    Packet::Ack(block).encode(&mut out);
                    socket.send_to(&out, peer).await.unwrap();
                    return Ok(got);
                }
                block
            }
            Packet::Error { message, .. } => return Err(message),
            other => panic!("{other:?}"),
        };
        let mut out = Vec::new();
        Packet::Ack(ack).encode(&mut out);
        socket.send_to(&out, peer).await.unwrap();
    }
}

#[tokio::test]
async fn loaders_are_sent_and_nothing_else_is() {
    let site = Site::new().await;
    let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
    let address = socket.local_addr().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(server(socket, &site).run(stop.clone()));
    let id = magnetite_boot::capability::machine_id(&site.machine);
    assert_eq!(fetch(address, &format!("m/{id}/undionly.kpxe")).await.unwrap(), b"loader");
    assert_eq!(fetch(address, "/undionly.kpxe").await.unwrap(), b"loader");
    for name in ["../../etc/passwd", "/etc/passwd", "m/x/../undionly.kpxe", "undionly.kpxe/", "UNDIONLY.KPXE"] {
        assert_eq!(fetch(address, name).await, Err("no such file".to_owned()), "{name}");
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    let steps = site.app.records.all()["box"].boot.steps.clone();
    assert_eq!((steps[0].name, steps[0].bytes), (BootStepName::LoaderSent, Some(6)));
}

/// A server on the loopback, while `work` runs.
async fn serving<F: Future<Output = ()>>(site: &Site, mtu: u16, work: impl FnOnce(SocketAddr) -> F) {
    let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
    let address = socket.local_addr().unwrap();
    let source = Source { address: Ipv4Addr::LOCALHOST.into(), interface: None };
    let stop = CancellationToken::new();
    let running = tokio::spawn(Server::new(socket, source, mtu, Arc::clone(&site.app)).run(stop.clone()));
    work(address).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_can_be_written() {
    let site = Site::new().await;
    serving(&site, 1500, async |address| {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(b"\0\x02undionly.kpxe\0octet\0", address).await.unwrap();
        let (answer, _) = hear(&socket).await;
        assert!(matches!(Packet::decode(&answer).unwrap(), Packet::Error { code: ErrorCode::ACCESS, .. }));
    })
    .await;
    assert_eq!(site.counted(&site.app.metrics.tftp, "write_refused"), 1);
}

#[tokio::test]
async fn who_only_wanted_the_size_leaves_no_trace() {
    let site = Site::new().await;
    serving(&site, 1500, async |address| {
        let socket = ask(address, wants("undionly.kpxe")).await;
        let (answer, peer) = hear(&socket).await;
        let Packet::Oack(options) = Packet::decode(&answer).unwrap() else { panic!("{answer:?}") };
        assert!(options.contains(&("tsize".to_owned(), "6".to_owned())), "{options:?}");
        let mut out = Vec::new();
        Packet::Error { code: ErrorCode::OPTIONS, message: "User aborted the transfer".to_owned() }.encode(&mut out);
        socket.send_to(&out, peer).await.unwrap();
        crate::fixtures::until("the probe to end", || site.counted(&site.app.metrics.tftp, "size_probe") == 1).await;
    })
    .await;
    assert!(site.app.records.all().is_empty(), "it is no step");
}

#[tokio::test]
async fn one_client_has_four_transfers_and_no_more() {
    let site = Site::new().await;
    serving(&site, 1500, async |address| {
        let mut held = Vec::new();
        for _ in 0..site.app.limits.transfers {
            let socket = ask(address, wants("undionly.kpxe")).await;
            let (_, peer) = hear(&socket).await;
            held.push((socket, peer));
        }
        ask(address, wants("undionly.kpxe")).await;
        let refused = || site.counted(&site.app.metrics.tftp, "too_many_of_one_client");
        crate::fixtures::until("the fifth to be dropped", || refused() == 1).await;
        // One that ends makes room for another.
        let (socket, peer) = held.remove(0);
        let mut out = Vec::new();
        Packet::Error { code: ErrorCode::UNDEFINED, message: String::new() }.encode(&mut out);
        socket.send_to(&out, peer).await.unwrap();
        crate::fixtures::until("one to end", || site.counted(&site.app.metrics.tftp, "size_probe") == 1).await;
        let again = ask(address, wants("undionly.kpxe")).await;
        hear(&again).await;
        for (socket, peer) in held.iter().map(|(socket, peer)| (socket, *peer)) {
            socket.send_to(&out, peer).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_block_fits_the_interface() {
    let site = Site::with(|app| drop(app.loaders.insert("undionly.kpxe".to_owned(), Arc::from(vec![7; 4000])))).await;
    for (mtu, agreed) in [(1400, "1368"), (9000, "1468")] {
        serving(&site, mtu, async |address| {
            let request = ReadRequest { block_size: Some(9000), ..wants("undionly.kpxe") };
            let socket = ask(address, request).await;
            let (answer, peer) = hear(&socket).await;
            let Packet::Oack(options) = Packet::decode(&answer).unwrap() else { panic!("{answer:?}") };
            assert!(options.contains(&("blksize".to_owned(), agreed.to_owned())), "{options:?}");
            let mut out = Vec::new();
            Packet::Error { code: ErrorCode::UNDEFINED, message: String::new() }.encode(&mut out);
            socket.send_to(&out, peer).await.unwrap();
        })
        .await;
    }
}
