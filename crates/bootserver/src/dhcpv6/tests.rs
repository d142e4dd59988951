use std::net::{Ipv4Addr, Ipv6Addr};

use magnetite_api::{MachineSpec, types::MacAddr};
use magnetite_wire::dhcpv6::{OptionCode, Options};
use rstest::rstest;

use super::*;
use crate::{
    fence::{Fence, FenceArgs},
    fixtures::{MAC, Site},
    net,
};

const CARD: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe30, 0x10);
const US: Ipv6Addr = Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, 1);
/// The UUID 3f0d2c5e-1d2b-4c3a-9f00-000000000007 as SMBIOS has it, in a DUID-UUID.
const EDK2: &[u8] = &[0, 4, 0x5e, 0x2c, 0x0d, 0x3f, 0x2b, 0x1d, 0x3a, 0x4c, 0x9f, 0, 0, 0, 0, 0, 0, 7];
/// The same in network order.
const IPXE: &[u8] = &[0, 4, 0x3f, 0x0d, 0x2c, 0x5e, 0x1d, 0x2b, 0x4c, 0x3a, 0x9f, 0, 0, 0, 0, 0, 0, 7];
/// Some vendor's.
const UNKNOWN: &[u8] = b"\0\x02unknown";
/// The card's.
const LINK_LAYER: &[u8] = &[0, 3, 0, 1, 0x52, 0x54, 0, 0x30, 0, 0x10];
const NAME: &[u8] = b"\0\x04iPXE";
const PXE: &[u8] = b"\0\0\x01\x57\0\x20PXEClient:Arch:00007:UNDI:003000";
const HTTP: &[u8] = b"\0\0\x01\x57\0\x21HTTPClient:Arch:00016:UNDI:003000";

fn peer(address: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 7)
}

fn message(kind: MessageType, options: &[(u16, &[u8])]) -> Message {
    let mut all = Options::default();
    for (code, value) in options {
        all.push(OptionCode(*code), *value);
    }
    Message { kind, xid: [1, 2, 3], options: all }
}

fn bytes(packet: Packet) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(&mut out).unwrap();
    out
}

async fn site(change: impl FnOnce(&mut App)) -> Site {
    Site::with(|app| {
        app.interfaces[0].address6 = Some(US);
        app.loaders.insert("snponly.efi".into(), Arc::from(&b"loader"[..]));
        change(app);
    })
    .await
}

fn server(site: &Site, service: Service, address: Ipv6Addr) -> Server {
    let us = Us { id: Duid::of_mac([2; 6]), address, iface: "lo".into() };
    let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
    Server::new(socket, service, us, Arc::clone(&site.app), Arc::default())
}

/// The answer to a message from a card, and the port that it goes to.
fn ask(site: &Site, service: Service, message: &Message, from: SocketAddrV6) -> Option<(Message, SocketAddrV6)> {
    let (packet, to) = server(site, service, US).answer(&bytes(Packet::Message(message.clone())), from)?;
    let Packet::Message(answer) = packet else { panic!("wrapped") };
    Some((answer, to))
}

fn url(answer: &Message) -> &str {
    answer.options.boot_url().unwrap().unwrap_or_default()
}

#[tokio::test]
async fn edk2_is_offered_and_told_on_4011() {
    let site = site(|_| {}).await;
    let solicit = message(MessageType::SOLICIT, &[(1, EDK2), (3, &[0; 12]), (16, PXE), (61, &[0, 7])]);
    let (offer, to) = ask(&site, Service::Server, &solicit, peer(CARD, 546)).unwrap();
    assert_eq!((offer.kind, to), (MessageType::ADVERTISE, peer(CARD, 546)));
    assert_eq!(url(&offer), "");
    let ours = offer.options.get(OptionCode::SERVER_ID).unwrap();
    let request = message(MessageType::REQUEST, &[(2, ours), (1, EDK2), (16, PXE), (61, &[0, 7])]);
    let (reply, to) = ask(&site, Service::BootServer, &request, peer(CARD, 4011)).unwrap();
    assert_eq!((reply.kind, to), (MessageType::REPLY, peer(CARD, 4011)));
    assert_eq!(url(&reply), format!("tftp://[fd30::1]/m/{}/snponly.efi", site.id()));
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "advertised"), 1);
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "replied"), 1);
    let another = message(MessageType::REQUEST, &[(2, b"another server"), (1, EDK2), (16, PXE), (61, &[0, 7])]);
    assert!(ask(&site, Service::Server, &another, peer(CARD, 546)).is_none());
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "not_ours"), 1);
}

#[tokio::test]
async fn http_boot_is_told_in_the_offer() {
    let site = site(|_| {}).await;
    let solicit = message(MessageType::SOLICIT, &[(1, EDK2), (16, HTTP), (61, &[0, 16])]);
    let (offer, _) = ask(&site, Service::Server, &solicit, peer(CARD, 546)).unwrap();
    assert_eq!(url(&offer), format!("http://[fd30::1]:8080/ipxe/{}/snponly.efi", site.id()));
}

#[tokio::test]
async fn ipxe_is_told_its_script_where_it_asks_for_no_address() {
    let site = site(|_| {}).await;
    let options: &[(u16, &[u8])] = &[(1, IPXE), (15, NAME), (16, PXE), (61, &[0, 7])];
    let information = message(MessageType::INFORMATION_REQUEST, options);
    let (reply, _) = ask(&site, Service::Server, &information, peer(CARD, 546)).unwrap();
    let url = url(&reply);
    assert!(url.starts_with("http://[fd30::1]:8080/m/") && url.ends_with("/x86_64/boot.ipxe"), "{url}");
    let solicit = message(MessageType::SOLICIT, options);
    assert!(ask(&site, Service::Server, &solicit, peer(CARD, 546)).is_none());
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "wants_address"), 1);
    let link_local = server(&site, Service::Server, "fe80::1".parse().unwrap());
    assert!(link_local.answer(&bytes(Packet::Message(information)), peer(CARD, 546)).is_none());
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "link_local"), 1);
}

/// Each of the ways by which a box may be known, and the byte order of each of its two firmwares.
#[rstest]
#[case::its_address(CARD, &[(1, UNKNOWN), (16, PXE)], Some(MAC), None)]
#[case::its_duid("fd30::9".parse().unwrap(), &[(1, LINK_LAYER), (16, PXE)], Some(MAC), None)]
#[case::edk2(CARD, &[(1, EDK2), (16, PXE)], Some(MAC), Some("3f0d2c5e-1d2b-4c3a-9f00-000000000007"))]
#[case::ipxe(CARD, &[(1, IPXE), (15, NAME)], Some(MAC), Some("3f0d2c5e-1d2b-4c3a-9f00-000000000007"))]
#[case::a_private_address("fe80::9".parse().unwrap(), &[(1, EDK2), (16, PXE)], None, Some("3f0d2c5e-1d2b-4c3a-9f00-000000000007"))]
fn who_a_box_is(
    #[case] address: Ipv6Addr,
    #[case] options: &[(u16, &[u8])],
    #[case] mac: Option<&str>,
    #[case] uuid: Option<&str>,
) {
    let (request, _) = read(&message(MessageType::SOLICIT, options), &[], address).unwrap();
    assert_eq!(request.identity.mac, mac.map(|mac| mac.parse::<MacAddr>().unwrap()));
    assert_eq!(request.identity.uuid.map(|uuid| uuid.to_string()).as_deref(), uuid);
}

#[tokio::test]
async fn a_box_behind_a_relay_is_known_by_what_the_relay_saw() {
    let site = site(|_| {}).await;
    let inner = message(MessageType::SOLICIT, &[(1, UNKNOWN), (16, PXE), (61, &[0, 7])]);
    let mut options = Options::default();
    options.push(OptionCode::CLIENT_LINK_LAYER, [0, 1, 0x52, 0x54, 0, 0x30, 0, 0x10]);
    options.push(OptionCode::INTERFACE_ID, *b"port 4");
    options.push(OptionCode::RELAY_MESSAGE, bytes(Packet::Message(inner)));
    let (link, away) = ("fd31::1".parse().unwrap(), "fe80::99".parse().unwrap());
    let relay = Relay { kind: MessageType::RELAY_FORWARD, hops: 0, link, peer: away, options };
    let server = server(&site, Service::Server, US);
    let from = peer(link, 547);
    let (packet, to) = server.answer(&bytes(Packet::Relay(relay.clone())), from).unwrap();
    assert_eq!(to, from);
    let (relays, answer) = packet.unwrap_relays().unwrap();
    assert_eq!((relays[0].peer, answer.kind), (away, MessageType::ADVERTISE));
    assert_eq!(relays[0].options.get(OptionCode::INTERFACE_ID), Some(&b"port 4"[..]));
    // A relay's answer is not a question, whoever sends it here.
    let reply = Relay { kind: MessageType::RELAY_REPLY, ..relay };
    assert!(server.answer(&bytes(Packet::Relay(reply)), from).is_none());
}

#[tokio::test]
async fn whoever_is_not_declared_or_does_not_boot_gets_nothing() {
    let site = site(|_| {}).await;
    let stranger: SocketAddrV6 = peer("fe80::5054:ff:fe99:9999".parse().unwrap(), 546);
    let solicit = message(MessageType::SOLICIT, &[(1, UNKNOWN), (16, PXE), (61, &[0, 7])]);
    assert!(ask(&site, Service::Server, &solicit, stranger).is_none());
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "unknown"), 1);
    let linux = message(MessageType::SOLICIT, &[(1, IPXE), (6, &[0, 23])]);
    assert!(ask(&site, Service::Server, &linux, peer(CARD, 546)).is_none());
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "not_pxe"), 1);
    let arm = message(MessageType::SOLICIT, &[(1, EDK2), (16, PXE), (61, &[0, 11])]);
    assert!(ask(&site, Service::Server, &arm, peer(CARD, 546)).is_none());
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "no_loader"), 1, "its loader is not in the folder");
    for malformed in [&b""[..], &[12; 20], &[1, 0, 0, 0, 0]] {
        assert!(server(&site, Service::Server, US).answer(malformed, stranger).is_none());
    }
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "malformed"), 3);
}

#[tokio::test]
async fn two_machines_that_claim_one_box_are_both_left_alone() {
    let site = site(|_| {}).await;
    let twin =
        magnetite_api::Machine::new("twin", MachineSpec { macs: vec![MAC.parse().unwrap()], ..MachineSpec::default() });
    let all = [Arc::new(site.machine.clone()), Arc::new(twin)];
    site.change(|view| view.fleet = Arc::new(magnetite_boot::fleet::Fleet::index(all.clone())));
    let solicit = message(MessageType::SOLICIT, &[(1, EDK2), (16, PXE), (61, &[0, 7])]);
    assert!(ask(&site, Service::Server, &solicit, peer(CARD, 546)).is_none());
    assert_eq!(site.counted(&site.app.metrics.dhcpv6, "conflict"), 1);
}

#[tokio::test]
async fn a_box_that_is_to_be_asked_for_its_serial_number_gets_ipxe_and_the_question() {
    let site = site(|app| app.identify_by_serial = true).await;
    let stranger = peer("fe80::5054:ff:fe99:9999".parse().unwrap(), 546);
    let http = message(MessageType::SOLICIT, &[(1, EDK2), (16, HTTP), (61, &[0, 16])]);
    let (offer, _) = ask(&site, Service::Server, &http, stranger).unwrap();
    assert_eq!(url(&offer), "http://[fd30::1]:8080/ipxe/snponly.efi");
    let ipxe = message(MessageType::INFORMATION_REQUEST, &[(1, IPXE), (15, NAME), (61, &[0, 7])]);
    let (reply, _) = ask(&site, Service::Server, &ipxe, stranger).unwrap();
    assert_eq!(url(&reply), "http://[fd30::1]:8080/identify.ipxe");
}

#[tokio::test]
async fn a_box_gone_mad_is_dropped_and_its_neighbour_is_not() {
    let site = site(|app| app.limits.dhcp = crate::limits::Limiter::new(2)).await;
    let solicit = message(MessageType::SOLICIT, &[(1, EDK2), (16, PXE), (61, &[0, 7])]);
    let answered = (0..50).filter(|_| ask(&site, Service::Server, &solicit, peer(CARD, 546)).is_some()).count();
    // Two a second, and the second may turn meanwhile.
    assert!((2..=4).contains(&answered), "{answered}");
    assert!(site.counted(&site.app.metrics.dhcpv6, "too_many") >= 46);
    let nobody = Identity::default();
    let of = |duid: &[u8]| sender(&message(MessageType::SOLICIT, &[(1, duid)]), &nobody);
    assert_ne!(of(b"\0\x02 one box"), of(b"\0\x02 another"));
}

/// S10.
#[tokio::test]
async fn who_is_outside_the_fence_is_not_answered() {
    let site = site(|app| {
        let serve_network = vec!["fd30::/64".parse().unwrap()];
        app.fence = Fence::from(&FenceArgs { serve_network, ..FenceArgs::default() });
    })
    .await;
    let solicit = message(MessageType::SOLICIT, &[(1, LINK_LAYER), (3, &[0; 12]), (16, PXE), (61, &[0, 7])]);
    let asks = |address: &str| ask(&site, Service::Server, &solicit, peer(address.parse().unwrap(), 546)).is_some();
    assert!(asks("fe80::5054:ff:fe30:10") && asks("fd30::7"));
    assert!(!asks("fd31::7"));
    assert_eq!(site.app.metrics.fenced_at("dhcpv6"), 1);
}
