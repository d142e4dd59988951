use std::{net::Ipv4Addr, path::Path};

use magnetite_boot::capability::Purpose;
use magnetite_wire::dhcp::{OptionCode, request::Persona};

use super::*;
use crate::{
    fence::{Fence, FenceArgs},
    fixtures::Site,
    net,
};

fn server(site: &Site, service: Service) -> Server {
    let interface = site.app.interfaces[0].clone();
    Server::new(service, interface, Arc::clone(&site.app), Arc::default())
}

impl Server {
    fn hear(&self, bytes: &[u8], peer: SocketAddrV4) -> Option<(Packet, Destination)> {
        self.answer(&Packet::decode(bytes).ok()?, peer)
    }
}

fn request(mac: &str, kind: MessageType, class: &'static str, ipxe: bool) -> Vec<u8> {
    let persona = Persona { vendor_class: class, ipxe, ..Persona::BIOS };
    bytes(&persona.request(kind, mac.parse::<MacAddr>().unwrap().0, None, 7))
}

fn bytes(packet: &Packet) -> Vec<u8> {
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
    let loader = file(proxy.hear(&request(mine, MessageType::DISCOVER, "PXEClient:Arch:00000", false), PEER)).unwrap();
    assert_eq!(Path::new(&loader).file_name().unwrap(), "undionly.kpxe");
    let script = file(proxy.hear(&request(mine, MessageType::DISCOVER, "PXEClient", true), PEER)).unwrap();
    assert!(script.starts_with("http://127.0.0.1:8080/m/") && script.ends_with("/x86_64/boot.ipxe"), "{script}");
    assert_eq!(file(boot.hear(&request(mine, MessageType::REQUEST, "PXEClient", false), PEER)).unwrap(), loader);
    // The choice of the site's own server, a DISCOVER of no firmware, and a stranger.
    for bytes in [
        request(mine, MessageType::REQUEST, "PXEClient", false),
        request(mine, MessageType::DISCOVER, "udhcp 1.35.0", false),
        request("52:54:00:99:99:99", MessageType::DISCOVER, "PXEClient", false),
        vec![1; 12],
    ] {
        assert!(proxy.hear(&bytes, PEER).is_none());
    }
}

#[tokio::test]
async fn strangers_get_ipxe_where_serial_numbers_are_asked_for() {
    let site = Site::with(|app| app.identify_by_serial = true).await;
    let proxy = server(&site, Service::Proxy);
    let file = |ipxe| {
        let bytes = request("52:54:00:99:99:99", MessageType::DISCOVER, "PXEClient", ipxe);
        proxy.hear(&bytes, PEER).map(|(packet, _)| String::from_utf8(packet.bootfile()).unwrap())
    };
    assert_eq!(file(false).unwrap(), "undionly.kpxe");
    assert_eq!(file(true).unwrap(), "http://127.0.0.1:8080/identify.ipxe");
}

#[tokio::test]
async fn a_stranger_is_remembered_once_and_only_so_many() {
    let site = Site::new().await;
    let proxy = server(&site, Service::Proxy);
    for _ in 0..3 {
        proxy.hear(&request("52:54:00:99:99:99", MessageType::DISCOVER, "PXEClient", false), PEER);
    }
    assert_eq!(proxy.strangers.len(), 1);
    for number in 0..5000u16 {
        let [high, low] = number.to_be_bytes();
        let mac = format!("52:54:00:77:{high:02x}:{low:02x}");
        proxy.hear(&request(&mac, MessageType::DISCOVER, "PXEClient", false), PEER);
    }
    assert_eq!(proxy.strangers.len(), strangers::MOST);
}

#[tokio::test]
async fn on_a_socket_garbage_stops_nothing_and_a_request_is_acknowledged_to_its_sender() {
    let site = Site::new().await;
    let server = server(&site, Service::BootServer);
    let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
    let address = socket.local_addr().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(socket, stop.clone()));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [&[][..], &[0xff; 3000], &[2; 300]] {
        client.send_to(garbage, address).await.unwrap();
    }
    let asked = request(crate::fixtures::MAC, MessageType::REQUEST, "PXEClient:Arch:00000", false);
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
        proxy.hear(&request("52:54:00:99:99:99", MessageType::DISCOVER, "PXEClient", false), PEER);
    }
    assert_eq!(site.counted(&site.app.metrics.dhcp, "unknown"), 3);
    assert!(!proxy.strangers.is_new("52:54:00:99:99:99".parse().unwrap()));
    assert!(site.app.records.all().is_empty(), "it is nobody's boot");
}

#[tokio::test]
async fn who_cannot_be_helped_gets_no_offer() {
    let site = Site::with(|app| app.loaders.clear()).await;
    let proxy = server(&site, Service::Proxy);
    let ask = |mac, ipxe| proxy.hear(&request(mac, MessageType::DISCOVER, "PXEClient", ipxe), PEER);
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
    let asked = request(crate::fixtures::MAC, MessageType::DISCOVER, "PXEClient", true);
    let answered = (0..50).filter(|_| proxy.hear(&asked, PEER).is_some()).count();
    // Two a second, and the second may turn meanwhile.
    assert!((2..=4).contains(&answered), "{answered}");
    assert!(site.counted(&site.app.metrics.dhcp, "too_many") >= 46);
}

#[tokio::test]
async fn the_link_of_an_offer_fits_and_is_good_for_its_machine() {
    let site = Site::with(|app| {
        (app.interfaces[0].address, app.http_port) = (Ipv4Addr::new(255, 255, 255, 255), 65535);
    })
    .await;
    let proxy = server(&site, Service::Proxy);
    let (packet, _) =
        proxy.hear(&request(crate::fixtures::MAC, MessageType::DISCOVER, "PXEClient", true), PEER).unwrap();
    let link = String::from_utf8(packet.bootfile()).unwrap();
    assert!(link.len() < 128, "{link}");
    let parts: Vec<_> = link.split('/').collect();
    let authorized = |seconds| {
        let now = unix(clock::now()) + seconds;
        site.app.authorize(&site.app.view(), parts[4], parts[5], Purpose::Boot, now)
    };
    assert!(authorized(14 * 60).is_some());
    assert!(authorized(16 * 60).is_none(), "an offer's link is good for a quarter of an hour");
}

/// The site, whose one Machine has an address.
async fn with_address(change: impl Fn(&mut magnetite_api::MachineSpec)) -> Site {
    let site = Site::new().await;
    let mut machine = site.machine.clone();
    change(&mut machine.spec);
    site.change(|view| view.fleet = Arc::new(magnetite_boot::fleet::Fleet::index([Arc::new(machine.clone())])));
    site
}

#[tokio::test]
async fn a_declared_address_is_given_to_its_machine_and_to_nobody_else() {
    let site = with_address(|spec| spec.address = Some("127.0.0.21/24".parse().unwrap())).await;
    let server = server(&site, Service::Reservations);
    let mine = crate::fixtures::MAC;
    let (offer, to) = server.hear(&request(mine, MessageType::DISCOVER, "PXEClient", false), PEER).unwrap();
    assert_eq!((offer.yiaddr, to), (Ipv4Addr::new(127, 0, 0, 21), Destination::Broadcast));
    assert!(offer.bootfile().ends_with(b"undionly.kpxe"));
    // The system that was booted asks too, and boots nothing.
    let (offer, _) = server.hear(&request(mine, MessageType::DISCOVER, "systemd", false), PEER).unwrap();
    assert!(offer.bootfile().is_empty() && offer.yiaddr == Ipv4Addr::new(127, 0, 0, 21));
    let mut choice = Persona::BIOS.request(MessageType::REQUEST, mine.parse::<MacAddr>().unwrap().0, None, 8);
    choice.options.push(OptionCode::SERVER_ID, Ipv4Addr::LOCALHOST.octets());
    choice.options.push(OptionCode::REQUESTED_IP, [127, 0, 0, 99]);
    let (nak, _) = server.hear(&bytes(&choice), PEER).unwrap();
    assert_eq!(nak.options.message_type().unwrap(), Some(MessageType::NAK));
    assert!(server.hear(&request("52:54:00:99:99:99", MessageType::DISCOVER, "PXEClient", false), PEER).is_none());
    let counts = ["offered", "refused", "unknown"].map(|outcome| site.counted(&site.app.metrics.dhcp, outcome));
    assert_eq!(counts, [2, 1, 1]);

    let none = Site::new().await;
    let server = self::server(&none, Service::Reservations);
    assert!(server.hear(&request(mine, MessageType::DISCOVER, "PXEClient", false), PEER).is_none(), "no address");
    assert_eq!(none.counted(&none.app.metrics.dhcp, "no_address"), 1);
}

#[tokio::test]
async fn a_machine_may_be_told_its_loader_on_4011_and_may_name_it() {
    let netboot = |loader: Option<&str>, dialect| {
        let loader = loader.map(str::to_owned);
        Some(magnetite_api::netboot::NetbootSpec { loader, dialect, secure_boot: None })
    };
    let asked = request(crate::fixtures::MAC, MessageType::DISCOVER, "PXEClient", false);
    let later = magnetite_api::netboot::ProxyDialect::BootServer;
    let site = with_address(|spec| spec.netboot = netboot(None, Some(later))).await;
    let (offer, _) = server(&site, Service::Proxy).hear(&asked, PEER).unwrap();
    assert!(offer.bootfile().is_empty() && offer.options.get(OptionCode::VENDOR).is_none());
    let ask = request(crate::fixtures::MAC, MessageType::REQUEST, "PXEClient", false);
    let (ack, _) = server(&site, Service::BootServer).hear(&ask, PEER).unwrap();
    assert!(ack.bootfile().ends_with(b"undionly.kpxe"));
    let site = with_address(|spec| spec.netboot = netboot(Some("own.kpxe"), None)).await;
    assert!(server(&site, Service::Proxy).hear(&asked, PEER).is_none(), "not there");
    let failure = site.app.records.all()["box"].boot.failure.clone().unwrap();
    assert_eq!(failure.reason, "NoLoader");
}

/// S10: by the address that a packet came from, and by its relay's. What comes from nowhere is on the link.
#[tokio::test]
async fn who_is_outside_the_fence_is_not_answered() {
    let fence = |words: &[&str]| words.iter().map(|text| text.parse().unwrap()).collect();
    let site = Site::with(|app| {
        app.fence = Fence::from(&FenceArgs {
            serve_network: fence(&["192.0.2.0/24"]),
            refuse_network: fence(&["192.0.2.128/25"]),
        });
    })
    .await;
    let ask = |service, kind, source: [u8; 4], relay: [u8; 4]| {
        let persona = Persona { vendor_class: "PXEClient:Arch:00000", ..Persona::BIOS };
        let mut packet = persona.request(kind, crate::fixtures::MAC.parse::<MacAddr>().unwrap().0, None, 7);
        packet.giaddr = relay.into();
        let answer =
            server(&site, service).packet(&bytes(&packet), SocketAddrV4::new(source.into(), 68), &mut Vec::new());
        answer.is_some()
    };
    let discover = |source, relay| ask(Service::Proxy, MessageType::DISCOVER, source, relay);
    let request = |source, relay| ask(Service::BootServer, MessageType::REQUEST, source, relay);
    let (nowhere, box_, relay, pod, elsewhere) =
        ([0; 4], [192, 0, 2, 7], [192, 0, 2, 1], [192, 0, 2, 200], [10, 0, 0, 1]);
    assert!(discover(nowhere, nowhere) && discover(box_, nowhere) && discover(relay, relay));
    assert!(request(box_, nowhere));
    assert!(!discover(elsewhere, nowhere) && !discover(pod, nowhere));
    assert!(!discover(elsewhere, relay) && !discover(relay, elsewhere) && !discover(nowhere, elsewhere));
    assert!(!request(pod, nowhere) && !request(elsewhere, nowhere));
    assert_eq!((site.app.metrics.fenced_at("dhcp"), site.app.metrics.fenced_at("pxe")), (5, 2));
}
