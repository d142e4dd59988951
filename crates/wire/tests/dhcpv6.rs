//! DHCPv6: what is read is what was sent, whatever was sent; and what is answered is what EDK2 and iPXE take.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::Ipv6Addr;

use dhcproto::{Decodable, v6};
use magnetite_wire::{
    dhcp::{Arch, reply::Class},
    dhcpv6::{
        DecodeError, Duid, EncodeError, Message, MessageType, OptionCode, OptionError, Options, Packet, Relay,
        reply::{self, BootAnswer, ReplyError},
    },
};
use proptest::{collection::vec, prelude::*};
use rstest::rstest;

fn decode(bytes: &[u8]) -> Result<Packet, DecodeError> {
    Packet::decode(bytes)
}

fn encode(packet: &Packet) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    packet.encode(&mut bytes).unwrap();
    assert!(bytes.starts_with(b"before"), "appended");
    bytes.split_off(6)
}

fn with(options: &[(u16, &[u8])]) -> Options {
    let mut all = Options::default();
    for (code, value) in options {
        all.push(OptionCode(*code), *value);
    }
    all
}

fn message(kind: MessageType, options: &[(u16, &[u8])]) -> Message {
    Message { kind, xid: [1, 2, 3], options: with(options) }
}

/// iPXE's DUID: a UUID in network order.
const CLIENT: &[u8] = &[0, 4, 0x3f, 0x0d, 0x2c, 0x5e, 0x1d, 0x2b, 0x4c, 0x3a, 0x9f, 0, 0, 0, 0, 0, 0, 7];
const PXE: &[u8] = b"\0\0\x01\x57\0\x20PXEClient:Arch:00007:UNDI:003000";

fn ours() -> Duid {
    Duid::of_mac([0x52, 0x54, 0, 0x30, 0, 1])
}

fn boots(class: Class) -> BootAnswer {
    BootAnswer { server: ours(), url: "tftp://[fd30::1]/m/0011/snponly.efi".into(), parameters: Vec::new(), class }
}

/// OVMF 2022.11 looks for an address, over PXE.
const OVMF_PXE: &str = "016a5ad00001001200045e2c0d3f2b1d3a4c9f000000000000000008000200000003000cfc96fcd6ffffffffffffffff0006\
    0008003b003c00170010003e0003010300003d0002000700100026000001570020505845436c69656e743a417263683a3030\
    3030373a554e44493a303033303030";
/// The same box asks the boot server whose offer it kept, from port 4011 to 4011 of ff02::1:2.
const OVMF_PXE_4011: &str = "036a5ad00002000a000300013e702c0671ed0001001200045e2c0d3f2b1d3a4c9f000000000000000008000206a400060008\
    003b003c00170010003e0003010300003d0002000700100026000001570020505845436c69656e743a417263683a30303030\
    373a554e44493a303033303030";
/// OVMF 2022.11, HTTP boot.
const OVMF_HTTP: &str = "01b320b70001001200045e2c0d3f2b1d3a4c9f000000000000010008000200000003000c6def0f09ffffffffffffffff0006\
    0008003b003c00170010003e0003010300003d000200100010002700000157002148545450436c69656e743a417263683a30\
    303031363a554e44493a303033303030";
/// iPXE 1.0.0+git-20190125 where routers say that addresses come by DHCPv6.
const IPXE: &str = "01d9188a0001001200043f0d2c5e1d2b4c3a9f000000000000000003000cb509350300000000000000000006000800170018\
    003b003c00100026000001570020505845436c69656e743a417263683a30303030373a554e44493a303033303130003d0002\
    0007003e000301030a000f0006000469505845000800020000";
/// dnsmasq 2.90 gives OVMF an address, and a status that says that it did.
const DNSMASQ: &str = "02685ad00001001200045e2c0d3f2b1d3a4c9f000000000000000002000e00010001329432398aa77210822400030028f57d\
    7f720000070800000c4e00050018fd30000000000000000000000000011b00000e1000000e10000d00090000737563636573\
    730007000100";

fn captured(hex: &str) -> Message {
    let digits: Vec<u8> = hex.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect();
    let packet = decode(&bytes).unwrap();
    assert_eq!(encode(&packet), bytes);
    let Packet::Message(message) = packet else { panic!("no relay sent it") };
    message
}

/// What firmware sent in the lab.
#[rstest]
#[case::pxe(OVMF_PXE, Some(Class::Pxe), Arch::EFI_X64, false, [0x5e, 0x2c, 0x0d, 0x3f])]
#[case::pxe_again(OVMF_PXE_4011, Some(Class::Pxe), Arch::EFI_X64, false, [0x5e, 0x2c, 0x0d, 0x3f])]
#[case::http(OVMF_HTTP, Some(Class::Http), Arch::EFI_HTTP_X64, false, [0x5e, 0x2c, 0x0d, 0x3f])]
#[case::ipxe(IPXE, Some(Class::Pxe), Arch::EFI_X64, true, [0x3f, 0x0d, 0x2c, 0x5e])]
fn firmware_is_understood(
    #[case] hex: &str,
    #[case] class: Option<Class>,
    #[case] arch: Arch,
    #[case] ipxe: bool,
    #[case] uuid: [u8; 4],
) {
    let message = captured(hex);
    let options = &message.options;
    assert_eq!(options.vendor_class().unwrap().unwrap().boot_class(), class);
    assert_eq!((options.arches().unwrap(), options.is_ipxe()), (vec![arch], ipxe));
    assert!(options.requested().unwrap().contains(&OptionCode::BOOT_URL));
    // The same board: as SMBIOS has its UUID, and in network order.
    assert_eq!(options.client_id().unwrap().unwrap().uuid().unwrap()[..4], uuid);
}

#[test]
fn ovmf_asks_again_by_the_id_that_it_was_offered() {
    let boot_server = Duid::of_mac([0x3e, 0x70, 0x2c, 0x06, 0x71, 0xed]);
    let (first, again) = (captured(OVMF_PXE), captured(OVMF_PXE_4011));
    assert_eq!(reply::kind(&first, &boot_server), Some(MessageType::ADVERTISE));
    assert_eq!(reply::kind(&again, &boot_server), Some(MessageType::REPLY));
    assert_eq!(reply::kind(&again, &ours()), None, "another boot server's");
    assert_eq!(again.xid, first.xid, "not a new exchange");
    assert_eq!(again.options.get(OptionCode::IA_NA), None);
}

#[test]
fn the_sites_own_server_is_told_from_ours() {
    let offer = captured(DNSMASQ);
    assert_eq!((offer.kind, offer.options.status()), (MessageType::ADVERTISE, Ok(Some((0, &b"success"[..])))));
    assert_eq!(offer.options.server_id().unwrap().unwrap().mac(), Some([0x8a, 0xa7, 0x72, 0x10, 0x82, 0x24]));
    assert!(offer.options.get(OptionCode::IA_NA).is_some());
    assert_eq!(reply::kind(&offer, &ours()), None);
}

#[test]
fn duids_tell_who_the_box_is() {
    let mac = Some([0x52, 0x54, 0, 0x30, 0, 0x10]);
    let link_layer = Duid::new(&[0, 3, 0, 1, 0x52, 0x54, 0, 0x30, 0, 0x10]).unwrap();
    assert_eq!((link_layer.kind(), link_layer.mac(), link_layer.uuid()), (Some(3), mac, None));
    assert_eq!(link_layer, Duid::of_mac([0x52, 0x54, 0, 0x30, 0, 0x10]));
    let with_time = Duid::new(&[0, 1, 0, 1, 9, 9, 9, 9, 0x52, 0x54, 0, 0x30, 0, 0x10]).unwrap();
    assert_eq!((with_time.kind(), with_time.mac()), (Some(1), mac));
    let uuid = Duid::new(CLIENT).unwrap();
    assert_eq!((uuid.kind(), uuid.mac()), (Some(4), None));
    assert_eq!(uuid.uuid().unwrap()[..4], [0x3f, 0x0d, 0x2c, 0x5e]);
    for wrong in [&[0, 3, 0, 6, 1, 2, 3, 4, 5, 6][..], &[0, 3, 0, 1, 1, 2, 3, 4, 5], &[0, 4, 1], &[0, 2, 0, 0, 1, 1]] {
        let duid = Duid::new(wrong).unwrap();
        assert_eq!((duid.mac(), duid.uuid()), (None, None), "{wrong:?}");
    }
    assert_eq!(Duid::new(&[0, 3]), None);
    assert_eq!(Duid::new(&[0; 131]), None);
}

#[test]
fn options_are_read_when_asked_for() {
    let options = with(&[
        (1, CLIENT),
        (6, &[0, 59, 0, 60]),
        (8, &[0, 100]),
        (13, b"\0\x02no"),
        (15, b"\0\x01x\0\x04iPXE"),
        (16, b"\0\0\0\x09\0\x01z"),
        (16, PXE),
        (59, b"http://[fd30::1]/x"),
        (60, b"\0\x01a\0\0"),
        (61, &[0, 7, 0, 16]),
        (62, &[1, 3, 0]),
        (79, &[0, 1, 1, 2, 3, 4, 5, 6]),
    ]);
    assert_eq!(options.client_id().unwrap().unwrap().as_bytes(), CLIENT);
    assert_eq!(options.server_id(), Ok(None));
    assert_eq!(options.requested().unwrap(), [OptionCode::BOOT_URL, OptionCode::BOOT_PARAMETERS]);
    assert_eq!((options.elapsed(), options.status()), (Ok(Some(100)), Ok(Some((2, &b"no"[..])))));
    assert!(options.is_ipxe());
    let class = options.vendor_class().unwrap().unwrap();
    assert_eq!((class.enterprise, class.boot_class()), (343, Some(Class::Pxe)));
    assert_eq!(options.boot_url(), Ok(Some("http://[fd30::1]/x")));
    assert_eq!(options.boot_parameters().unwrap(), [&b"a"[..], b""]);
    assert_eq!(options.arches().unwrap(), [Arch::EFI_X64, Arch::EFI_HTTP_X64]);
    assert_eq!((options.nii(), options.client_mac()), (Ok(Some([1, 3, 0])), Some([1, 2, 3, 4, 5, 6])));
}

#[rstest]
#[case(1, &[0], "3 to 130")]
#[case(6, &[0], "2, 4, 6, …")]
#[case(8, &[0], "2")]
#[case(13, &[0], "2 or more")]
#[case(15, &[0, 9, 1], "as many as it counts")]
#[case(16, &[0, 0, 1], "4 and as many as it counts")]
#[case(59, &[0xff], "UTF-8")]
#[case(60, &[0], "as many as it counts")]
#[case(61, &[0, 7, 0], "2, 4, 6, …")]
#[case(62, &[1], "3")]
fn a_bad_option_is_an_error_of_that_option(#[case] code: u16, #[case] value: &[u8], #[case] want: &'static str) {
    let options = with(&[(code, value), (3, b"kept")]);
    let error = [
        options.client_id().err(),
        options.requested().err(),
        options.elapsed().err(),
        options.status().err(),
        options.user_classes().err(),
        options.vendor_class().err(),
        options.boot_url().err(),
        options.boot_parameters().err(),
        options.arches().err(),
        options.nii().err(),
    ];
    let errors: Vec<_> = error.into_iter().flatten().collect();
    assert_eq!(errors, [OptionError { code, want, had: value.len() }]);
    let packet = Packet::Message(Message { kind: MessageType::SOLICIT, xid: [0; 3], options });
    assert_eq!(decode(&encode(&packet)), Ok(packet));
}

#[rstest]
#[case(b"", DecodeError::Short { want: 4, had: 0 })]
#[case(b"\x01\0\0", DecodeError::Short { want: 4, had: 3 })]
#[case(&[12; 33], DecodeError::Short { want: 34, had: 33 })]
#[case(b"\x01\0\0\0\0\x01", DecodeError::Option { code: 1, at: 4, want: 4, had: 2 })]
#[case(b"\x01\0\0\0\0", DecodeError::Option { code: 0, at: 4, want: 4, had: 1 })]
#[case(b"\x01\0\0\0\0\x08\0\x02\0", DecodeError::Option { code: 8, at: 4, want: 2, had: 1 })]
fn errors_say_where(#[case] bytes: &[u8], #[case] error: DecodeError) {
    assert_eq!(decode(bytes), Err(error));
}

#[test]
fn memory_is_bounded_by_what_firmware_sends() {
    let mut bytes = vec![1, 0, 0, 0];
    bytes.extend([0; 4 * 1024]);
    assert!(decode(&bytes).is_ok());
    bytes.extend([0; 4]);
    assert_eq!(decode(&bytes), Err(DecodeError::TooMany));
}

fn relayed(inner: &Packet, hops: u8) -> Packet {
    let inner = encode(inner);
    let (link, peer) = ("fd30::fe".parse().unwrap(), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, hops.into()));
    let options = with(&[(18, &[hops]), (9, &inner)]);
    Packet::Relay(Relay { kind: MessageType::RELAY_FORWARD, hops, link, peer, options })
}

#[test]
fn an_answer_goes_back_by_the_relays_that_its_request_came_by() {
    let solicit = message(MessageType::SOLICIT, &[(1, CLIENT), (16, PXE)]);
    let outer = relayed(&relayed(&Packet::Message(solicit.clone()), 0), 1);
    let (relays, inner) = decode(&encode(&outer)).unwrap().unwrap_relays().unwrap();
    assert_eq!((relays.len(), relays[0].hops, &inner), (2, 1, &solicit));
    let answer = reply::answer(&inner, MessageType::ADVERTISE, &boots(Class::Pxe), false).unwrap();
    let back = reply::through_relays(&relays, answer.clone()).unwrap();
    let (back, inner) = decode(&encode(&back)).unwrap().unwrap_relays().unwrap();
    assert_eq!(inner, answer);
    for (way, there) in back.iter().zip(&relays) {
        assert_eq!(
            (way.kind, way.hops, way.link, way.peer),
            (MessageType::RELAY_REPLY, there.hops, there.link, there.peer)
        );
        assert_eq!(way.options.get(OptionCode::INTERFACE_ID), there.options.get(OptionCode::INTERFACE_ID));
    }
}

#[test]
fn relays_are_followed_no_deeper_than_the_rfc_allows() {
    let mut packet = Packet::Message(message(MessageType::SOLICIT, &[]));
    for hops in 0..8 {
        packet = relayed(&packet, hops);
    }
    assert!(packet.clone().unwrap_relays().is_ok());
    assert_eq!(relayed(&packet, 8).unwrap_relays().unwrap_err(), DecodeError::TooDeep);
    let empty = Relay {
        kind: MessageType::RELAY_FORWARD,
        hops: 0,
        link: Ipv6Addr::LOCALHOST,
        peer: Ipv6Addr::LOCALHOST,
        options: with(&[]),
    };
    assert_eq!(Packet::Relay(empty).unwrap_relays().unwrap_err(), DecodeError::NothingRelayed);
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let mut out = b"x".to_vec();
    let cases = [
        (Packet::Message(message(MessageType::RELAY_FORWARD, &[])), EncodeError::Kind(12)),
        (Packet::Message(message(MessageType::SOLICIT, &[(16, &[0; 65_536])])), EncodeError::Option(16)),
        (Packet::Message(message(MessageType::SOLICIT, &[(3, b"".as_slice()); 1025])), EncodeError::TooMany),
    ];
    for (packet, error) in cases {
        assert_eq!(packet.encode(&mut out), Err(error));
    }
    assert_eq!(out, b"x");
}

/// Who is answered with what (RFC 8415, 16).
#[rstest]
#[case::solicit(MessageType::SOLICIT, None, Some(MessageType::ADVERTISE))]
#[case::solicit_with_a_server(MessageType::SOLICIT, Some(true), None)]
#[case::request_to_us(MessageType::REQUEST, Some(true), Some(MessageType::REPLY))]
#[case::request_to_another(MessageType::REQUEST, Some(false), None)]
#[case::request_to_none(MessageType::REQUEST, None, None)]
#[case::information(MessageType::INFORMATION_REQUEST, None, Some(MessageType::REPLY))]
#[case::information_from_us(MessageType::INFORMATION_REQUEST, Some(true), Some(MessageType::REPLY))]
#[case::information_from_another(MessageType::INFORMATION_REQUEST, Some(false), None)]
#[case::another_servers_advertise(MessageType::ADVERTISE, Some(false), None)]
#[case::renew(MessageType(5), Some(true), None)]
fn only_boot_questions_are_answered(
    #[case] kind: MessageType,
    #[case] server_is_ours: Option<bool>,
    #[case] want: Option<MessageType>,
) {
    let other = Duid::of_mac([9; 6]);
    let mut request = message(kind, &[(1, CLIENT)]);
    if let Some(is_ours) = server_is_ours {
        request.options.push(OptionCode::SERVER_ID, if is_ours { ours() } else { other }.as_bytes());
    }
    assert_eq!(reply::kind(&request, &ours()), want);
    request.options = with(&[]);
    assert_eq!(reply::kind(&request, &ours()), None, "nobody to give it back to");
}

#[test]
fn the_offer_is_one_that_edk2_takes_for_a_proxys() {
    let solicit = message(MessageType::SOLICIT, &[(1, CLIENT), (3, &[0; 12]), (16, PXE)]);
    let offer = reply::answer(&solicit, MessageType::ADVERTISE, &boots(Class::Pxe), false).unwrap();
    assert_eq!((offer.kind, offer.xid), (MessageType::ADVERTISE, solicit.xid));
    let codes = |message: &Message| message.options.iter().map(|(code, _)| code.0).collect::<Vec<_>>();
    assert_eq!(codes(&offer), [1, 2, 16], "no address, no status, no URL");
    assert_eq!(offer.options.get(OptionCode::CLIENT_ID), Some(CLIENT));
    // EDK2 wants 13 bytes or more: enterprise, length, and nine letters.
    assert_eq!(offer.options.get(OptionCode::VENDOR_CLASS), Some(&b"\0\0\x01\x57\0\x09PXEClient"[..]));
    let reply = reply::answer(&solicit, MessageType::REPLY, &boots(Class::Pxe), false).unwrap();
    assert_eq!(codes(&reply), [1, 2, 59, 16]);
    let relayed = reply::answer(&solicit, MessageType::ADVERTISE, &boots(Class::Pxe), true).unwrap();
    assert_eq!(codes(&relayed), [1, 2, 59, 16], "no relay passes on what goes to port 4011");
    let with_parameters = BootAnswer { parameters: vec![b"quiet".to_vec()], ..boots(Class::Http) };
    let http = reply::answer(&solicit, MessageType::ADVERTISE, &with_parameters, false).unwrap();
    assert_eq!(codes(&http), [1, 2, 59, 60, 16]);
    assert_eq!(http.options.boot_parameters().unwrap(), [b"quiet"]);
    let bytes = encode(&Packet::Message(http));
    let end = bytes.windows(4).position(|window| window == b".efi").unwrap() + 4;
    assert_eq!(bytes[end], 0, "EDK2 reads the URL to the next NUL");
}

#[test]
fn a_url_that_would_be_read_as_another_is_not_sent() {
    let solicit = message(MessageType::SOLICIT, &[(1, CLIENT)]);
    for url in ["", "http://a\0b", &"x".repeat(1025)] {
        let wrong = BootAnswer { url: url.into(), ..boots(Class::Http) };
        let error = reply::answer(&solicit, MessageType::REPLY, &wrong, false).unwrap_err();
        assert_eq!(error, ReplyError::Url { had: url.len() });
        assert!(!error.to_string().contains("http"), "the URL of a script holds a capability");
    }
    let wrong = BootAnswer { parameters: vec![vec![0; 2000]], ..boots(Class::Http) };
    assert!(reply::answer(&solicit, MessageType::REPLY, &wrong, false).is_err());
}

#[rstest]
#[case("fe80::5054:ff:fe30:10", Some([0x52, 0x54, 0, 0x30, 0, 0x10]))]
#[case("fe80::1", None)]
#[case("fd30::5054:ff:fe30:10", None)]
fn a_link_local_address_tells_the_card(#[case] address: Ipv6Addr, #[case] mac: Option<[u8; 6]>) {
    assert_eq!(reply::mac_of_link_local(address), mac);
}

fn any_options() -> impl Strategy<Value = Options> {
    let code = prop_oneof![any::<u16>(), Just(1), Just(3), Just(9), Just(15), Just(16), Just(59), Just(61), Just(79)];
    vec((code, vec(any::<u8>(), 0..40)), 0..12).prop_map(|options| {
        let mut all = Options::default();
        options.into_iter().for_each(|(code, value)| all.push(OptionCode(code), value));
        all
    })
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let kind = any::<u8>().prop_filter("a relay's", |kind| !matches!(kind, 12 | 13));
    let message = (kind, any::<[u8; 3]>(), any_options())
        .prop_map(|(kind, xid, options)| Packet::Message(Message { kind: MessageType(kind), xid, options }));
    let relay = (12..=13u8, any::<u8>(), any::<u128>(), any::<u128>(), any_options()).prop_map(
        |(kind, hops, link, peer, options)| {
            let (link, peer) = (link.into(), peer.into());
            Packet::Relay(Relay { kind: MessageType(kind), hops, link, peer, options })
        },
    );
    prop_oneof![message, relay]
}

/// Asks for everything that can be asked for.
fn ask(packet: Packet) {
    let options = match &packet {
        Packet::Message(message) => &message.options,
        Packet::Relay(relay) => &relay.options,
    };
    let client = options.client_id().ok().flatten();
    let _ = client.map(|duid| (duid.kind(), duid.mac(), duid.uuid()));
    let _ = (options.requested(), options.elapsed().ok(), options.status().ok(), options.user_classes().ok());
    let _ = (options.is_ipxe(), options.vendor_class().ok().flatten().map(|class| class.boot_class()));
    let _ = (
        options.boot_url().ok(),
        options.boot_parameters().ok(),
        options.arches(),
        options.nii(),
        options.client_mac(),
    );
    if let Ok((relays, message)) = packet.unwrap_relays()
        && let Some(kind) = reply::kind(&message, &ours())
        && let Ok(answer) = reply::answer(&message, kind, &boots(Class::Http), false)
        && let Ok(packet) = reply::through_relays(&relays, answer)
    {
        assert_eq!(decode(&encode(&packet)), Ok(packet));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(packet in any_packet()) {
        let bytes = encode(&packet);
        prop_assert_eq!(decode(&bytes), Ok(packet.clone()));
        ask(packet);
    }

    #[test]
    fn no_bytes_panic_and_what_is_read_is_written_back(kind in any::<u8>(), bytes in vec(any::<u8>(), 0..200)) {
        let bytes = [vec![kind], bytes].concat();
        if let Ok(packet) = decode(&bytes) {
            prop_assert_eq!(&encode(&packet), &bytes);
            ask(packet);
        }
    }

    #[test]
    fn a_damaged_packet_does_not_panic(packet in any_packet(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode(&packet);
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(packet) = decode(&bytes) {
            prop_assert_eq!(&encode(&packet), &bytes);
            ask(packet);
        }
    }

    /// Another implementation reads what is written here.
    #[test]
    fn dhcproto_agrees(xid in any::<[u8; 3]>(), arches in vec(any::<u16>(), 1..4), elapsed in any::<u16>()) {
        let arch: Vec<u8> = arches.iter().flat_map(|arch| arch.to_be_bytes()).collect();
        let options = with(&[(1, CLIENT), (8, &elapsed.to_be_bytes()), (61, &arch)]);
        let bytes = encode(&Packet::Message(Message { kind: MessageType::SOLICIT, xid, options }));
        let theirs = v6::Message::from_bytes(&bytes).unwrap();
        prop_assert_eq!((theirs.msg_type(), theirs.xid()), (v6::MessageType::Solicit, xid));
        prop_assert_eq!(theirs.opts().get(v6::OptionCode::ClientId), Some(&v6::DhcpOption::ClientId(CLIENT.to_vec())));
        prop_assert_eq!(theirs.opts().get(v6::OptionCode::ElapsedTime), Some(&v6::DhcpOption::ElapsedTime(elapsed)));
    }
}
