//! Bytes from nobody knows whom: never a panic, and what is read can be written back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::Ipv4Addr;

use dhcproto::{Decodable, Decoder, Encodable};
use magnetite_wire::{
    dhcp::{DecodeError, OptionCode, Options, Packet},
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

    /// Real packets with bytes changed and cut: reading never panics, the getters never panic, and what is
    /// read is written back to something that reads the same.
    #[test]
    fn no_mutant_panics(packet in packet(), edits in prop::collection::vec((0usize..600, any::<u8>()), 0..8), cut in 0usize..600) {
        let mut raw = bytes(&packet);
        for (at, value) in edits {
            if let Some(byte) = raw.get_mut(at) { *byte = value; }
        }
        raw.truncate(cut.max(200));
        if let Ok(read) = Packet::decode(&raw) {
            let o = &read.options;
            let _ = (o.message_type(), o.server_id(), o.max_size(), o.arches(), o.smbios_uuid(), o.is_ipxe());
            let _ = (read.mac(), read.bootfile());
            if o.get(OptionCode::OVERLOAD).is_none() {
                prop_assert_eq!(Packet::decode(&bytes(&read)), Ok(read));
            }
        }
    }

    /// dhcproto as an oracle, on well-formed packets only: it panics on others.
    #[test]
    fn dhcproto_reads_the_same(xid in any::<u32>(), mac in any::<[u8; 6]>(), arch in any::<u16>(), class in "[A-Za-z:0-9]{1,30}") {
        let mut packet = empty();
        packet.xid = xid;
        packet.chaddr[..6].copy_from_slice(&mac);
        packet.options.push(OptionCode::MESSAGE_TYPE, [1]);
        packet.options.push(OptionCode::ARCH, arch.to_be_bytes());
        packet.options.push(OptionCode::VENDOR_CLASS, class.as_bytes());
        let raw = bytes(&packet);
        let theirs = dhcproto::v4::Message::decode(&mut Decoder::new(&raw)).unwrap();
        prop_assert_eq!(theirs.xid(), xid);
        prop_assert_eq!(theirs.chaddr(), &mac[..]);
        prop_assert_eq!(theirs.opts().msg_type(), Some(dhcproto::v4::MessageType::Discover));
        let back = Packet::decode(&theirs.to_vec().unwrap()).unwrap();
        prop_assert_eq!(back.options.vendor_class(), Some(class.into_bytes()));
        prop_assert_eq!(back.options.arches().unwrap()[0].0, arch);
    }

    #[test]
    fn tftp_requests_read_back(file in "[a-z./]{1,30}", block in prop::option::of(8u16..=65464), size: bool, window in prop::option::of(1u16..), timeout in prop::option::of(1u8..)) {
        let request = tftp::ReadRequest { file, block_size: block, size, window, timeout };
        let mut raw = Vec::new();
        tftp::Packet::Read(request.clone()).encode(&mut raw);
        prop_assert_eq!(tftp::Packet::decode(&raw), Ok(tftp::Packet::Read(request)));
    }
}

#[rstest]
#[case::hlen_255(|raw: &mut Vec<u8>| raw[2] = 255, DecodeError::Hlen(255))]
#[case::op_3(|raw: &mut Vec<u8>| raw[0] = 3, DecodeError::Op(3))]
#[case::cookie(|raw: &mut Vec<u8>| raw[236] = 0, DecodeError::Cookie([0, 130, 83, 99]))]
#[case::short(|raw: &mut Vec<u8>| raw.truncate(239), DecodeError::Short { had: 239 })]
#[case::cut_option(|raw: &mut Vec<u8>| { raw.truncate(240); raw.extend([60, 9, b'P']); }, DecodeError::Option { code: 60, at: 0, want: 9, had: 1 })]
#[case::cut_length(|raw: &mut Vec<u8>| { raw.truncate(240); raw.push(60); }, DecodeError::Option { code: 60, at: 0, want: 1, had: 0 })]
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
    let mut packet = empty();
    packet.options.push(OptionCode::OVERLOAD, [3]);
    packet.file[..4].copy_from_slice(&[53, 1, 1, 255]);
    packet.sname[..4].copy_from_slice(&[93, 2, 0, 7]);
    let read = Packet::decode(&bytes(&packet)).unwrap();
    assert_eq!(read.options.message_type().unwrap().unwrap().0, 1);
    assert_eq!(read.options.arches().unwrap()[0].0, 7);
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
