use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use magnetite_api::report::BootStepName;
use magnetite_wire::tftp::{ErrorCode, Packet, ReadRequest};

use rstest::rstest;

use super::*;
use crate::{
    fence::{Fence, FenceArgs},
    fixtures::Site,
};

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
    let here = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(here).await.unwrap();
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

/// A server on the loopback, while `work` runs.
async fn serving<F: Future<Output = ()>>(site: &Site, mtu: u16, work: impl FnOnce(SocketAddr) -> F) {
    serving_at(Ipv4Addr::LOCALHOST.into(), site, mtu, work).await;
}

async fn serving_at<F: Future<Output = ()>>(
    address: IpAddr,
    site: &Site,
    mtu: u16,
    work: impl FnOnce(SocketAddr) -> F,
) {
    let socket = net::udp(None, address, 0).unwrap();
    let bound = socket.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = Server::new(socket, Source { address, interface: None }, mtu, Arc::clone(&site.app));
    let running = tokio::spawn(server.run(stop.clone()));
    work(bound).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[rstest]
#[case(IpAddr::V4(Ipv4Addr::LOCALHOST), false)]
#[case(IpAddr::V4(Ipv4Addr::LOCALHOST), true)]
#[case(IpAddr::V6(Ipv6Addr::LOCALHOST), false)]
#[tokio::test]
async fn loaders_are_sent_and_nothing_else_is(#[case] address: IpAddr, #[case] single_port: bool) {
    let site = Site::with(|app| app.tftp_single_port = single_port).await;
    serving_at(address, &site, 1500, async |server| {
        let id = site.id();
        assert_eq!(fetch(server, &format!("m/{id}/undionly.kpxe")).await.unwrap(), b"loader");
        assert_eq!(fetch(server, "/undionly.kpxe").await.unwrap(), b"loader");
        for name in ["../../etc/passwd", "/etc/passwd", "m/x/../undionly.kpxe", "undionly.kpxe/", "UNDIONLY.KPXE"] {
            assert_eq!(fetch(server, name).await, Err("no such file".to_owned()), "{name}");
        }
    })
    .await;
    let steps = site.app.records.all()["box"].boot.steps.clone();
    assert_eq!((steps[0].name, steps[0].bytes), (BootStepName::LoaderSent, Some(6)));
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

fn abort() -> Vec<u8> {
    let mut out = Vec::new();
    Packet::Error { code: ErrorCode::UNDEFINED, message: String::new() }.encode(&mut out);
    out
}

fn ack(block: u16) -> Vec<u8> {
    let mut out = Vec::new();
    Packet::Ack(block).encode(&mut out);
    out
}

/// Windows go out as one piece and come as packets, whatever they end with.
#[rstest]
#[case(16 * 1468 * 3, "a window that ends with an empty block")]
#[case(16 * 1468 * 3 - 1, "a short block at the end of a window")]
#[case(100_000, "a window that the file ends within")]
#[tokio::test]
async fn windows_come_as_packets(#[case] size: usize, #[case] what: &str) {
    let file: Arc<[u8]> = (0..size).map(|at| (at % 251) as u8).collect();
    let site = Site::with(|app| drop(app.loaders.insert("undionly.kpxe".to_owned(), Arc::clone(&file)))).await;
    serving(&site, 1500, async |server| {
        let socket = ask(server, ReadRequest { window: Some(16), ..wants("undionly.kpxe") }).await;
        let (_, peer) = hear(&socket).await;
        socket.send_to(&ack(0), peer).await.unwrap();
        let (mut got, mut blocks) = (Vec::<u8>::new(), 0u16);
        loop {
            let (packet, _) = hear(&socket).await;
            let Packet::Data { block, bytes } = Packet::decode(&packet).unwrap() else { panic!("{what}: {packet:?}") };
            blocks += 1;
            assert_eq!(block, blocks, "{what}");
            got.extend(bytes);
            if blocks % 16 == 0 || bytes.len() < 1468 {
                socket.send_to(&ack(block), peer).await.unwrap();
            }
            if bytes.len() < 1468 {
                break;
            }
        }
        assert!(got == *file, "{what}");
    })
    .await;
    assert_eq!(site.counted(&site.app.metrics.tftp, "done"), 1, "{what}");
}

/// The same request from the same port again: a second transfer, which the client tells from the first by its port. Where there
/// is but one port, it is the first one still, and a request for something else is a client that began anew.
#[rstest]
#[case(false)]
#[case(true)]
#[tokio::test]
async fn one_port_of_a_client_asks_twice(#[case] single_port: bool) {
    let site = Site::with(|app| {
        app.tftp_single_port = single_port;
        app.loaders.insert("other.efi".to_owned(), Arc::from(&b"another loader"[..]));
    })
    .await;
    serving(&site, 1500, async |server| {
        let socket = ask(server, wants("undionly.kpxe")).await;
        let (_, first) = hear(&socket).await;
        assert_eq!(first.port() == server.port(), single_port);
        let again = |file: &str| {
            let mut out = Vec::new();
            Packet::Read(wants(file)).encode(&mut out);
            out
        };
        socket.send_to(&again("undionly.kpxe"), server).await.unwrap();
        if single_port {
            socket.send_to(&again("other.efi"), server).await.unwrap();
        }
        // An OACK that a slow machine's timer sent again may come in between.
        let (answer, second) = loop {
            let (answer, peer) = hear(&socket).await;
            let size = format!("tsize\0{}\0", if single_port { "another loader" } else { "loader" }.len());
            if String::from_utf8_lossy(&answer).contains(&size) && (single_port || peer != first) {
                break (answer, peer);
            }
        };
        assert!(matches!(Packet::decode(&answer).unwrap(), Packet::Oack(_)), "{answer:?}");
        socket.send_to(&abort(), second).await.unwrap();
        socket.send_to(&abort(), first).await.unwrap();
    })
    .await;
    let counted = |outcome| site.counted(&site.app.metrics.tftp, outcome);
    assert_eq!((counted("size_probe"), counted("aborted")), if single_port { (1, 1) } else { (2, 0) });
}

/// S10: not even told that there is nothing for it.
#[tokio::test]
async fn who_is_outside_the_fence_hears_nothing() {
    let site = Site::with(|app| {
        let refuse_network = vec!["127.0.0.0/8".parse().unwrap()];
        app.fence = Fence::from(&FenceArgs { refuse_network, ..FenceArgs::default() });
    })
    .await;
    serving(&site, 1500, async |server| {
        let sockets = [ask(server, wants("undionly.kpxe")).await, ask(server, wants("nothing")).await];
        crate::fixtures::until("both to be refused", || site.app.metrics.fenced_at("tftp") == 2).await;
        for socket in sockets {
            assert!(socket.try_recv_from(&mut [0; 16]).is_err());
        }
    })
    .await;
    assert_eq!(site.counted(&site.app.metrics.tftp, "not_found"), 0);
}
