//! Bytes from nobody knows whom: never a panic, and what is read can be written back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pcap;

use std::{net::Ipv4Addr, sync::LazyLock};

use magnetite_wire::{
    dhcp::{Arch, DecodeError, EncodeError, OptionCode, Options, Packet},
    pxe, tftp,
};
use proptest::prelude::*;
use rstest::rstest;

fn packet() -> impl Strategy<Value = Packet> {
    let options = prop::collection::vec((1u8..=254, prop::collection::vec(any::<u8>(), 0..40)), 0..12);
    let addresses = any::<[[u8; 4]; 4]>();
    (any::<(u32, u16, u16, u8)>(), addresses, any::<[u8; 16]>(), 0u8..=16, options).prop_map(
        |((xid, secs, flags, hops), [ciaddr, yiaddr, siaddr, giaddr], chaddr, hlen, options)| {
            let mut packet = empty();
            (packet.xid, packet.secs, packet.flags, packet.hops, packet.hlen) = (xid, secs, flags, hops, hlen);
            packet.chaddr = chaddr;
            (packet.ciaddr, packet.yiaddr) = (ciaddr.into(), yiaddr.into());
            (packet.siaddr, packet.giaddr) = (siaddr.into(), giaddr.into());
            for (code, value) in options {
                // Overload would make zeros of `file` options too, which is right but not what is meant here.
                if code != OptionCode::OVERLOAD.0 {
                    packet.options.push(OptionCode(code), value);
                }
            }
            packet
        },
    )
}

fn empty() -> Packet {
    Packet {
        op: 1,
        htype: 1,
        hlen: 6,
        hops: 0,
        xid: 1,
        secs: 0,
        flags: 0,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: Ipv4Addr::UNSPECIFIED,
        chaddr: [0; 16],
        sname: [0; 64],
        file: [0; 128],
        options: Options::default(),
    }
}

fn bytes(packet: &Packet) -> Vec<u8> {
    let mut out = vec![9, 9, 9]; // what was in the buffer before stays
    packet.encode(&mut out).unwrap();
    assert_eq!(out[..3], [9, 9, 9]);
    out.split_off(3)
}

/// Calls every getter; none may panic.
fn ask_everything(packet: &Packet) {
    let o = &packet.options;
    let _ =
        (o.message_type(), o.server_id(), o.max_size(), o.arches(), o.smbios_uuid(), o.is_ipxe(), o.ipxe_has_https());
    let _ = (o.requested_ip(), o.ndi(), o.client_id(), o.parameters(), o.user_classes(), o.vendor_class());
    let _ = (packet.mac(), packet.bootfile());
}

/// Everything on UDP that real firmware and real servers sent.
static REAL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    pcap::captures().iter().flat_map(|name| pcap::datagrams(name)).map(|datagram| datagram.payload).collect()
});

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_is_written_is_read(packet in packet()) {
        prop_assert_eq!(Packet::decode(&bytes(&packet)), Ok(packet));
    }

    #[test]
    fn no_bytes_panic(raw in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Packet::decode(&raw);
        let _ = tftp::Packet::decode(&raw);
        let _ = pxe::sub_option(&raw, 71);
    }

    /// Real packets with bytes changed, cut and with an overload before the end: reading never panics, the getters
    /// never panic, and what is read is written back to something that reads the same.
    #[test]
    fn no_mutant_of_a_real_packet_panics(which: prop::sample::Index, edits in edits(), cut: prop::sample::Index, overload in prop::option::of(any::<u8>())) {
        let mut raw = which.get(&REAL).clone();
        if let (Some(fields), true) = (overload, raw.len() > 243) {
            raw.splice(240..240, [52, 1, fields]);
        }
        for (at, value) in edits {
            let at = at.index(raw.len());
            raw[at] = value;
        }
        if cut.index(4) == 0 {
            raw.truncate(cut.index(raw.len()));
        }
        reads_the_same_or_not_at_all(&raw)?;
    }

    /// The same for made-up packets, whose options are wilder, and whose `file` and `sname` may be options.
    #[test]
    fn no_mutant_panics(packet in packet(), edits in edits(), overload in prop::option::of(0u8..5), names in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 4, 52, 53, 67, 255]), 192)) {
        let mut raw = bytes(&packet);
        raw[44..236].copy_from_slice(&names);
        if let Some(fields) = overload {
            raw.splice(240..240, [52, 1, fields]);
        }
        for (at, value) in edits {
            let at = at.index(raw.len());
            raw[at] = value;
        }
        reads_the_same_or_not_at_all(&raw)?;
    }

    #[test]
    fn tftp_requests_read_back(file in "[a-z./]{1,30}", block in prop::option::of(8u16..=65464), size: bool, window in prop::option::of(1u16..), timeout in prop::option::of(1u8..)) {
        let request = tftp::ReadRequest { file, block_size: block, size, window, timeout };
        let mut raw = Vec::new();
        tftp::Packet::Read(request.clone()).encode(&mut raw);
        prop_assert_eq!(tftp::Packet::decode(&raw), Ok(tftp::Packet::Read(request)));
    }
}

fn reads_the_same_or_not_at_all(raw: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(read) = Packet::decode(raw) {
        ask_everything(&read);
        prop_assert_eq!(Packet::decode(&bytes(&read)), Ok(read));
    }
    if let Ok(read) = tftp::Packet::decode(raw) {
        let mut out = Vec::new();
        read.encode(&mut out);
        prop_assert_eq!(tftp::Packet::decode(&out), Ok(read));
    }
    Ok(())
}

#[rstest]
#[case::hlen_255(|raw: &mut Vec<u8>| raw[2] = 255, DecodeError::Hlen(255))]
#[case::op_3(|raw: &mut Vec<u8>| raw[0] = 3, DecodeError::Op(3))]
#[case::cookie(|raw: &mut Vec<u8>| raw[236] = 0, DecodeError::Cookie([0, 130, 83, 99]))]
#[case::short(|raw: &mut Vec<u8>| raw.truncate(239), DecodeError::Short { had: 239 })]
#[case::cut_option(|raw: &mut Vec<u8>| { raw.truncate(240); raw.extend([60, 9, b'P']); }, DecodeError::Option { code: 60, at: 240, want: 9, had: 1 })]
#[case::cut_length(|raw: &mut Vec<u8>| { raw.truncate(240); raw.push(60); }, DecodeError::Option { code: 60, at: 240, want: 1, had: 0 })]
#[case::cut_in_file(|raw: &mut Vec<u8>| { raw[234..236].copy_from_slice(&[60, 7]); raw.splice(240..240, [52, 1, 1]); }, DecodeError::Option { code: 60, at: 234, want: 7, had: 0 })]
#[case::cut_in_sname(|raw: &mut Vec<u8>| { raw[107] = 60; raw.splice(240..240, [52, 1, 2]); }, DecodeError::Option { code: 60, at: 107, want: 1, had: 0 })]
fn where_others_panicked_or_lied(#[case] spoil: fn(&mut Vec<u8>), #[case] want: DecodeError) {
    let mut raw = bytes(&empty());
    spoil(&mut raw);
    assert_eq!(Packet::decode(&raw), Err(want));
}

#[test]
fn a_bad_option_spoils_only_itself() {
    let mut packet = empty();
    packet.options.push(OptionCode::NDI, [1, 2]); // two bytes: dhcproto panics in a debug build
    packet.options.push(OptionCode::ARCH, [0, 7, 0]);
    packet.options.push(OptionCode::UUID, [0; 3]);
    packet.options.push(OptionCode::MESSAGE_TYPE, [1]);
    let read = Packet::decode(&bytes(&packet)).unwrap();
    assert!(read.options.arches().is_err() && read.options.smbios_uuid().is_err());
    assert_eq!(read.options.message_type().unwrap().unwrap().0, 1);
}

#[test]
fn a_list_of_architectures_is_a_list() {
    let mut options = Options::default();
    options.push(OptionCode::ARCH, [0, 6, 0, 7]);
    assert_eq!(options.arches().unwrap().iter().map(|arch| arch.0).collect::<Vec<_>>(), [6, 7]);
}

#[test]
fn long_options_are_split_and_joined() {
    let mut packet = empty();
    packet.options.push(OptionCode(224), vec![5; 700]);
    let read = Packet::decode(&bytes(&packet)).unwrap();
    assert_eq!(read.options.iter().map(|(_, value)| value.len()).collect::<Vec<_>>(), [255, 255, 190]);
    assert_eq!(read.options.get(OptionCode(224)).unwrap(), vec![5; 700]);
}

#[test]
fn overloaded_fields_hold_options() {
    let mut raw = bytes(&empty());
    raw[108..112].copy_from_slice(&[53, 1, 1, 255]);
    raw[44..48].copy_from_slice(&[93, 2, 0, 7]);
    raw.splice(240..240, [52, 1, 3]);
    let read = Packet::decode(&raw).unwrap();
    assert_eq!(read.options.message_type().unwrap().unwrap().0, 1);
    assert_eq!(read.options.arches(), Ok(vec![Arch::EFI_X64]));
    assert_eq!(read.bootfile(), b"", "options are no name");
    assert_eq!(Packet::decode(&bytes(&read)), Ok(read), "written back without the overload, and not doubled");
}

#[test]
fn an_overload_without_sense_overloads_nothing() {
    for value in [&[0][..], &[4], &[255], &[], &[1, 1]] {
        let mut packet = empty();
        packet.file[..2].copy_from_slice(b"5x");
        packet.options.push(OptionCode::OVERLOAD, value);
        let read = Packet::decode(&bytes(&packet)).unwrap();
        assert_eq!((read.bootfile(), read), (b"5x".to_vec(), packet), "{value:?}");
    }
}

#[rstest]
#[case::op(|p: &mut Packet| p.op = 3, EncodeError::Field("op"))]
#[case::hlen(|p: &mut Packet| p.hlen = 17, EncodeError::Field("hlen"))]
#[case::pad(|p: &mut Packet| p.options.push(OptionCode(0), [1]), EncodeError::Option(0))]
#[case::end(|p: &mut Packet| p.options.push(OptionCode(255), [1]), EncodeError::Option(255))]
#[case::overload(|p: &mut Packet| p.options.push(OptionCode::OVERLOAD, [1]), EncodeError::Option(52))]
#[case::many(|p: &mut Packet| p.options.push(OptionCode(224), vec![0; 255 * 1025]), EncodeError::Field("more options than are read"))]
fn what_could_not_be_read_back_is_not_written(#[case] spoil: fn(&mut Packet), #[case] want: EncodeError) {
    let (mut packet, mut out) = (empty(), vec![9]);
    spoil(&mut packet);
    assert_eq!((packet.encode(&mut out), out), (Err(want), vec![9]));
}

#[test]
fn a_flood_of_empty_options_is_refused() {
    let mut raw = bytes(&empty())[..240].to_vec();
    raw.extend([224, 0].repeat(1024));
    assert_eq!(Packet::decode(&raw).unwrap().options.len(), 1024);
    raw.extend([224, 0]);
    assert_eq!(Packet::decode(&raw), Err(DecodeError::TooMany));
}

/// RFC 3004, 4, and what clients make of it.
#[rstest]
#[case::rfc(b"\x04iPXE\x03lab", &["iPXE", "lab"], true)]
#[case::bare(b"iPXE", &["iPXE"], true)]
#[case::other(b"\x03lab", &["lab"], false)]
#[case::counts_that_do_not_add_up(b"\x04iPXE\x09x", &["\x04iPXE\x09x"], true)]
#[case::count_too_long(b"\x09lab", &["\x09lab"], false)]
fn user_classes(#[case] value: &[u8], #[case] want: &[&str], #[case] ipxe: bool) {
    let mut options = Options::default();
    options.push(OptionCode::USER_CLASS, value);
    assert_eq!(
        (options.user_classes(), options.is_ipxe()),
        (want.iter().map(|name| name.as_bytes().to_vec()).collect(), ipxe)
    );
}

/// iPXE's feature flags, and forms of them that say nothing.
#[rstest]
#[case::as_it_sends_them(b"\xb1\x05\x01\x1a\xf4\x10\x00\xeb\x03\x01\x00\x00\x14\x01\x01\x13\x01\x01", true)]
#[case::http_alone(b"\x13\x01\x01", false)]
#[case::version_0(b"\x14\x01\x00", false)]
#[case::no_value(b"\x14\x00", false)]
#[case::cut(b"\x14\x01", false)]
#[case::behind_the_end(b"\xff\x14\x01\x01", false)]
#[case::in_another_s_value(b"\x13\x03\x14\x01\x01", false)]
fn features_of_ipxe(#[case] value: &[u8], #[case] https: bool) {
    let mut options = Options::default();
    assert!(!options.ipxe_has_https());
    options.push(OptionCode::IPXE, value);
    assert_eq!(options.ipxe_has_https(), https);
}

/// The requests that RFC 2348 and 7440 print; option names in any case (RFC 2347).
#[rstest]
#[case::rfc_2348(b"\x00\x01foobar\x00octet\x00blksize\x001432\x00", Some(1432), None, false)]
#[case::rfc_7440(b"\x00\x01foobar\x00octet\x00windowsize\x008\x00", None, Some(8), false)]
#[case::rfc_2349(b"\x00\x01foobar\x00OcTeT\x00TSIZE\x000\x00BlkSize\x008\x00", Some(8), None, true)]
#[case::too_small(b"\x00\x01foobar\x00octet\x00blksize\x007\x00windowsize\x000\x00", None, None, false)]
#[case::too_large(b"\x00\x01foobar\x00octet\x00blksize\x0065465\x00windowsize\x0065536\x00", None, None, false)]
#[case::no_number(b"\x00\x01foobar\x00octet\x00blksize\x00-8\x00windowsize\x00x\x00", None, None, false)]
fn tftp_examples(#[case] raw: &[u8], #[case] block_size: Option<u16>, #[case] window: Option<u16>, #[case] size: bool) {
    let want = tftp::ReadRequest { file: "foobar".into(), block_size, size, window, timeout: None };
    assert_eq!(tftp::Packet::decode(raw), Ok(tftp::Packet::Read(want)));
}

#[test]
fn a_file_name_is_short_and_text() {
    let request = |name: &[u8]| [b"\x00\x01", name, b"\x00octet\x00"].concat();
    assert!(tftp::Packet::decode(&request(&[b'a'; 255])).is_ok());
    assert!(tftp::Packet::decode(&request(&[b'a'; 256])).is_err());
    assert!(tftp::Packet::decode(&request(&[0xff, 0xfe])).is_err());
    assert_eq!(tftp::Packet::decode(b"\x00\x02f\x00octet\x00"), Ok(tftp::Packet::Write));
}

#[test]
fn a_file_name_without_a_nul_is_read_whole() {
    let mut packet = empty();
    packet.file = [b'a'; 128];
    assert_eq!(Packet::decode(&bytes(&packet)).unwrap().bootfile().len(), 128);
}

#[rstest]
#[case(b"\x00\x01file\x00netascii\x00", "octet")]
#[case(b"\x00\x01\x00octet\x00", "file name")]
#[case(b"\x00\x01file", "file name")]
#[case(b"\x00\x09", "opcode 9")]
#[case(b"\x00", "opcode")]
#[case(b"\x00\x04\x01", "block")]
fn bad_tftp(#[case] raw: &[u8], #[case] want: &str) {
    let error = tftp::Packet::decode(raw).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
}
