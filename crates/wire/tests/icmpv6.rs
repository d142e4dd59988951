//! Router discovery: what is read is what was sent, whatever was sent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use magnetite_wire::icmpv6::{Advertisement, DecodeError, EncodeError, Message, NdOption, OptionKind};
use proptest::{collection::vec, prelude::*};
use rstest::rstest;

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    message.encode(&mut bytes).unwrap();
    bytes.split_off(6)
}

fn option(kind: u8, len: usize) -> NdOption {
    NdOption { kind: OptionKind(kind), value: vec![7; len] }
}

/// The beginning of what dnsmasq 2.89 sends with `enable-ra` and a range: a router, and a prefix.
const DNSMASQ: &str =
    "8600c1bb40c007080000000000000000030440c000000e1000000e1000000000fd300000000000000000000000000000";

#[test]
fn the_empty_advertisement_is_sixteen_bytes_of_nothing() {
    let empty = Message::Advertisement(Advertisement::default());
    let bytes = encode(&empty);
    assert_eq!(bytes, [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Message::decode(&bytes), Ok(empty));
    assert_eq!(encode(&Message::Solicitation(Vec::new())), [133, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_router_is_whoever_gives_something_to_route_by() {
    let bytes: Vec<u8> = DNSMASQ
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let Ok(Message::Advertisement(router)) = Message::decode(&bytes) else { panic!("an advertisement") };
    assert_eq!((router.hop_limit, router.flags, router.lifetime), (64, 0xc0, 1800));
    assert_eq!(router.options[0].kind, OptionKind::PREFIX);
    assert!(router.is_of_a_router());
    assert!(!Advertisement::default().is_of_a_router());
    let says = |lifetime, options| Advertisement { lifetime, options, ..Advertisement::default() }.is_of_a_router();
    assert!(says(1, vec![]));
    assert!(Advertisement { flags: 0x40, ..Advertisement::default() }.is_of_a_router(), "there is DHCPv6");
    assert!(says(0, vec![option(3, 30)]), "a prefix without a default route");
    assert!(says(0, vec![option(24, 6)]), "a route to somewhere");
    assert!(!says(0, vec![option(1, 6), option(5, 6)]), "its address and the MTU");
}

#[rstest]
#[case(b"", DecodeError::Short { want: 8, had: 0 })]
#[case(&[133, 0, 0, 0, 0], DecodeError::Short { want: 8, had: 5 })]
#[case(&[134, 0, 0, 0, 0, 0, 0, 0, 0], DecodeError::Short { want: 16, had: 9 })]
#[case(&[135, 0, 0, 0, 0, 0, 0, 0], DecodeError::Kind(135))]
#[case(&[134, 1, 0, 0, 0, 0, 0, 0], DecodeError::Code(1))]
#[case(&[133, 0, 0, 0, 0, 0, 0, 0, 1, 0], DecodeError::Option { kind: 1, at: 8, want: 0, had: 2 })]
#[case(&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2], DecodeError::Option { kind: 1, at: 8, want: 8, had: 3 })]
#[case(&[133, 0, 0, 0, 0, 0, 0, 0, 1], DecodeError::Option { kind: 1, at: 8, want: 0, had: 1 })]
fn errors_say_where(#[case] bytes: &[u8], #[case] error: DecodeError) {
    assert_eq!(Message::decode(bytes), Err(error));
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let mut out = Vec::new();
    for len in [0, 5, 7, 2039, 2046] {
        let error = Message::Solicitation(vec![option(1, len)]).encode(&mut out);
        assert_eq!(error, Err(EncodeError::Option { kind: 1, had: len }));
    }
    assert_eq!(Message::Solicitation(vec![option(1, 6); 257]).encode(&mut out), Err(EncodeError::TooMany));
    assert!(out.is_empty());
    let mut many = encode(&Message::Solicitation(vec![option(1, 6); 256]));
    assert!(Message::decode(&many).is_ok());
    many.extend([1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Message::decode(&many), Err(DecodeError::TooMany));
}

fn any_message() -> impl Strategy<Value = Message> {
    let one = (any::<u8>(), 0..6usize, any::<u8>())
        .prop_map(|(kind, units, byte)| NdOption { kind: OptionKind(kind), value: vec![byte; units * 8 + 6] });
    let fields = (any::<u8>(), any::<u8>(), any::<u16>(), any::<u32>(), any::<u32>());
    let advertisement =
        (fields, vec(one.clone(), 0..6)).prop_map(|((hop_limit, flags, lifetime, reachable, retransmit), options)| {
            Message::Advertisement(Advertisement { hop_limit, flags, lifetime, reachable, retransmit, options })
        });
    prop_oneof![vec(one, 0..6).prop_map(Message::Solicitation), advertisement]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(message in any_message()) {
        prop_assert_eq!(Message::decode(&encode(&message)), Ok(message));
    }

    #[test]
    fn no_bytes_panic_and_what_is_read_is_read_again(kind in 132..136u8, bytes in vec(any::<u8>(), 0..80)) {
        if let Ok(message) = Message::decode(&[vec![kind, 0], bytes].concat()) {
            prop_assert_eq!(Message::decode(&encode(&message)), Ok(message));
        }
    }
}
