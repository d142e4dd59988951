use std::{net::Ipv4Addr, path::Path};

use magnetite_wire::dhcp::{OptionCode, Options};

use super::*;
use crate::{fixtures::Site, net};

fn server(site: &Site, service: Service) -> Server {
    let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
    Server::new(socket, service, Arc::clone(&site.app), Arc::default())
}

fn request(mac: &str, kind: MessageType, class: &[u8], ipxe: bool) -> Vec<u8> {
    let mut chaddr = [0; 16];
    chaddr[..6].copy_from_slice(&mac.parse::<MacAddr>().unwrap().0);
    let nobody = Ipv4Addr::UNSPECIFIED;
    let mut options = Options::default();
    options.push(OptionCode::MESSAGE_TYPE, [kind.0]);
    options.push(OptionCode::VENDOR_CLASS, class);
    options.push(OptionCode::ARCH, [0, 0]);
    if ipxe {
        options.push(OptionCode::USER_CLASS, *b"iPXE");
    }
    let packet = Packet {
        op: 1,
        htype: 1,
        hlen: 6,
        hops: 0,
        xid: 7,
        secs: 0,
        flags: 0,
        ciaddr: nobody,
        yiaddr: nobody,
        siaddr: nobody,
        giaddr: nobody,
        chaddr,
        sname: [0; 64],
        file: [0; 128],
        options,
    };
    let mut bytes = Vec::new();
    packet.encode(&mut bytes).unwrap();
    bytes
}

const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 68);

#[tokio::test]
async fn declared_boxes_are_answered_and_nobody_else() {
    let site = Site::new().await;
    let (proxy, boot) = (server(&site, Service::Proxy), server(&site, Service::BootServer));
    let file =
        |answer: Option<(Packet, Destination)>| answer.map(|(packet, _)| String::from_utf8(packet.bootfile()).unwrap());
    let mine = crate::fixtures::MAC;
    let loader =
        file(proxy.answer(&request(mine, MessageType::DISCOVER, b"PXEClient:Arch:00000", false), PEER)).unwrap();
    assert_eq!(Path::new(&loader).file_name().unwrap(), "undionly.kpxe");
    let script = file(proxy.answer(&request(mine, MessageType::DISCOVER, b"PXEClient", true), PEER)).unwrap();
    assert!(script.starts_with("http://127.0.0.1:8080/m/") && script.ends_with("/x86_64/boot.ipxe"), "{script}");
    assert_eq!(file(boot.answer(&request(mine, MessageType::REQUEST, b"PXEClient", false), PEER)).unwrap(), loader);
    // The choice of the site's own server, a DISCOVER of no firmware, and a stranger.
    for bytes in [
        request(mine, MessageType::REQUEST, b"PXEClient", false),
        request(mine, MessageType::DISCOVER, b"udhcp 1.35.0", false),
        request("52:54:00:99:99:99", MessageType::DISCOVER, b"PXEClient", false),
        vec![1; 12],
    ] {
        assert!(proxy.answer(&bytes, PEER).is_none());
    }
}

#[tokio::test]
async fn strangers_get_ipxe_where_serial_numbers_are_asked_for() {
    let site = Site::with(|app| app.identify_by_serial = true).await;
    let proxy = server(&site, Service::Proxy);
    let file = |ipxe| {
        let bytes = request("52:54:00:99:99:99", MessageType::DISCOVER, b"PXEClient", ipxe);
        proxy.answer(&bytes, PEER).map(|(packet, _)| String::from_utf8(packet.bootfile()).unwrap())
    };
    assert_eq!(file(false).unwrap(), "undionly.kpxe");
    assert_eq!(file(true).unwrap(), "http://127.0.0.1:8080/identify.ipxe");
}

#[tokio::test]
async fn a_stranger_is_remembered_once_and_only_so_many() {
    let site = Site::new().await;
    let proxy = server(&site, Service::Proxy);
    for _ in 0..3 {
        proxy.answer(&request("52:54:00:99:99:99", MessageType::DISCOVER, b"PXEClient", false), PEER);
    }
    assert_eq!(proxy.strangers.0.lock().unwrap().len(), 1);
    for number in 0..5000u16 {
        let [high, low] = number.to_be_bytes();
        let mac = format!("52:54:00:77:{high:02x}:{low:02x}");
        proxy.answer(&request(&mac, MessageType::DISCOVER, b"PXEClient", false), PEER);
    }
    assert_eq!(proxy.strangers.0.lock().unwrap().len(), MOST_STRANGERS);
}

#[tokio::test]
async fn on_a_socket_garbage_stops_nothing_and_a_request_is_acknowledged_to_its_sender() {
    let site = Site::new().await;
    let server = server(&site, Service::BootServer);
    let address = server.socket.local_addr().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [&[][..], &[0xff; 3000], &[2; 300]] {
        client.send_to(garbage, address).await.unwrap();
    }
    let asked = request(crate::fixtures::MAC, MessageType::REQUEST, b"PXEClient:Arch:00000", false);
    client.send_to(&asked, address).await.unwrap();
    let mut buffer = [0; 2048];
    let answer = tokio::time::timeout(std::time::Duration::from_secs(10), client.recv_from(&mut buffer)).await;
    let (len, from) = answer.expect("an answer").unwrap();
    assert_eq!(from, address, "from the port and the address that were asked");
    let packet = Packet::decode(&buffer[..len]).unwrap();
    assert_eq!(packet.options.message_type().unwrap(), Some(MessageType::ACK));
    assert_eq!((packet.xid, packet.siaddr), (7, Ipv4Addr::LOCALHOST));
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(site.counted(&site.app.metrics.dhcp, "malformed"), 3);
    assert_eq!(site.counted(&site.app.metrics.dhcp, "acknowledged"), 1);
}

#[tokio::test]
async fn an_unknown_box_is_counted_each_time_and_logged_once() {
    let site = Site::new().await;
    let proxy = server(&site, Service::Proxy);
    for _ in 0..3 {
        proxy.answer(&request("52:54:00:99:99:99", MessageType::DISCOVER, b"PXEClient", false), PEER);
    }
    assert_eq!(site.counted(&site.app.metrics.dhcp, "unknown"), 3);
    assert!(!proxy.strangers.is_new("52:54:00:99:99:99".parse().unwrap()));
    assert!(site.app.records.all().is_empty(), "it is nobody's boot");
}

#[tokio::test]
async fn who_cannot_be_helped_gets_no_offer() {
    let site = Site::with(|app| app.loaders.clear()).await;
    let proxy = server(&site, Service::Proxy);
    let ask = |mac, ipxe| proxy.answer(&request(mac, MessageType::DISCOVER, b"PXEClient", ipxe), PEER);
    assert!(ask(crate::fixtures::MAC, false).is_none(), "a loader that is not there is not offered");
    assert_eq!(site.counted(&site.app.metrics.dhcp, "no_loader"), 1);
    assert!(ask(crate::fixtures::MAC, true).is_some(), "iPXE needs none");
    let twin = std::sync::Arc::new(magnetite_api::Machine::new("twin", site.machine.spec.clone()));
    site.change(|view| {
        let machines = view.fleet.machines().cloned().chain([Arc::clone(&twin)]);
        view.fleet = Arc::new(magnetite_boot::fleet::Fleet::index(machines));
    });
    assert!(ask(crate::fixtures::MAC, true).is_none(), "two Machines claim it");
    assert_eq!(site.counted(&site.app.metrics.dhcp, "conflict"), 1);
}

#[tokio::test]
async fn one_box_gone_mad_is_not_answered_more_than_it_can_use() {
    let site = Site::with(|app| app.limits.dhcp = crate::limits::Limiter::new(2)).await;
    let proxy = server(&site, Service::Proxy);
    let asked = request(crate::fixtures::MAC, MessageType::DISCOVER, b"PXEClient", true);
    let answered = (0..50).filter(|_| proxy.answer(&asked, PEER).is_some()).count();
    // Two a second, and the second may turn meanwhile.
    assert!((2..=4).contains(&answered), "{answered}");
    assert!(site.counted(&site.app.metrics.dhcp, "too_many") >= 46);
}

#[tokio::test]
async fn the_link_of_an_offer_fits_and_is_good_for_its_machine() {
    let site = Site::with(|app| (app.address, app.http_port) = (Ipv4Addr::new(255, 255, 255, 255), 65535)).await;
    let proxy = server(&site, Service::Proxy);
    let (packet, _) =
        proxy.answer(&request(crate::fixtures::MAC, MessageType::DISCOVER, b"PXEClient", true), PEER).unwrap();
    let link = String::from_utf8(packet.bootfile()).unwrap();
    assert!(link.len() < 128, "{link}");
    let parts: Vec<_> = link.split('/').collect();
    let authorized = |seconds| {
        let now = unix(clock::now()) + seconds;
        site.app.authorize(&site.app.view(), parts[4], parts[5], magnetite_boot::capability::Purpose::Boot, now)
    };
    assert!(authorized(14 * 60).is_some());
    assert!(authorized(16 * 60).is_none(), "an offer's link is good for a quarter of an hour");
}
