//! What real firmware sent in the lab (tests/golden/pcap), read back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fmt::Write, net::Ipv4Addr, path::PathBuf};

use magnetite_wire::{
    dhcp::{
        MessageType, OptionCode, Packet,
        reply::{BootAnswer, Class, Destination, boot_server_ack, proxy_offer},
    },
    tftp,
};

/// One UDP datagram of a capture.
struct Datagram {
    source: u16,
    target: u16,
    payload: Vec<u8>,
}

/// The UDP datagrams of a classic pcap or pcapng file of Ethernet frames with IPv4 in them.
fn datagrams(name: &str) -> Vec<Datagram> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pcap").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut frames = Vec::new();
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        let mut at = 0;
        while at + 12 <= bytes.len() {
            let (kind, len) = (u32_at(at), u32_at(at + 4));
            if kind == 6 {
                frames.push(&bytes[at + 28..at + 28 + u32_at(at + 20)]);
            }
            at += len;
        }
    } else {
        let mut at = 24;
        while at + 16 <= bytes.len() {
            let len = u32_at(at + 8);
            frames.push(&bytes[at + 16..at + 16 + len]);
            at += 16 + len;
        }
    }
    frames.into_iter().filter_map(udp).collect()
}

fn udp(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.strip_prefix(frame.get(..12)?)?.strip_prefix(&[8, 0])?;
    let header = usize::from(ip.first()? & 15) * 4;
    let udp = (*ip.get(9)? == 17).then(|| ip.get(header..)).flatten()?;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let len = usize::from(port(4)?);
    Some(Datagram { source: port(0)?, target: port(2)?, payload: udp.get(8..len)?.to_vec() })
}

fn captures() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pcap");
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 10, "the captures are there");
    names
}

fn is_dhcp(datagram: &Datagram) -> bool {
    [67, 68, 4011].contains(&datagram.target) && [67, 68, 4011].contains(&datagram.source)
}

fn describe(packet: &Packet) -> String {
    let options = &packet.options;
    let text = |code| options.get(code).map(|value| String::from_utf8_lossy(&value).into_owned());
    format!(
        "type={:?} xid={:08x} flags={:04x} ciaddr={} siaddr={} file={:?} class={:?} arch={:?} uuid={} ipxe={} codes={:?}",
        options.message_type().unwrap().map(|kind| kind.0),
        packet.xid,
        packet.flags,
        packet.ciaddr,
        packet.siaddr,
        String::from_utf8_lossy(&packet.bootfile()),
        text(OptionCode::VENDOR_CLASS),
        options.arches().unwrap().iter().map(|arch| arch.0).collect::<Vec<_>>(),
        options.smbios_uuid().unwrap().is_some(),
        options.is_ipxe(),
        options.iter().map(|(code, _)| code.0).collect::<Vec<_>>(),
    )
}

#[test]
fn what_firmware_sent_is_read_and_written_back() {
    let mut seen = 0;
    for name in captures() {
        let mut text = String::new();
        for datagram in datagrams(&name).iter().filter(|datagram| is_dhcp(datagram)) {
            let packet = Packet::decode(&datagram.payload).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut bytes = Vec::new();
            packet.encode(&mut bytes).unwrap();
            assert_eq!(Packet::decode(&bytes).as_ref(), Ok(&packet), "{name}");
            let line = format!("{} -> {} {}", datagram.source, datagram.target, describe(&packet));
            if packet.op == 1 && !text.contains(&line) {
                writeln!(text, "{line}").unwrap();
            }
            seen += 1;
        }
        insta::assert_snapshot!(name.trim_end_matches(".pcap").replace('-', "_"), text);
    }
    assert!(seen > 50, "{seen} packets");
}

#[test]
fn every_request_of_firmware_gets_the_form_that_all_accept() {
    let server = Ipv4Addr::new(172, 30, 0, 1);
    for name in captures() {
        for datagram in datagrams(&name) {
            let Ok(request) = Packet::decode(&datagram.payload) else { continue };
            let Some(class) = request.options.vendor_class().as_deref().and_then(Class::of) else { continue };
            if !is_dhcp(&datagram) || request.op != 1 {
                continue;
            }
            let answer = BootAnswer { server, bootfile: "snponly.efi".to_owned(), class };
            let (offer, to) = proxy_offer(&request, &answer).unwrap();
            assert_eq!(to, Destination::Broadcast);
            assert_eq!(
                (offer.op, offer.xid, offer.chaddr, offer.yiaddr),
                (2, request.xid, request.chaddr, Ipv4Addr::UNSPECIFIED)
            );
            assert_eq!((offer.siaddr, offer.bootfile().as_slice()), (server, &b"snponly.efi"[..]));
            assert_eq!(offer.options.server_id(), Ok(Some(server)));
            assert_eq!(offer.options.message_type(), Ok(Some(MessageType::OFFER)));
            assert_eq!(offer.options.get(OptionCode::UUID), request.options.get(OptionCode::UUID));
            let vendor = offer.options.get(OptionCode::VENDOR);
            assert_eq!(vendor, (class == Class::Pxe).then(|| vec![6, 1, 8, 255]), "{name}");
            let mut bytes = Vec::new();
            offer.encode(&mut bytes).unwrap();
            assert_eq!(bytes.len(), 300, "BOOTP's least length, and no more than needed");
        }
    }
}

#[test]
fn a_menu_s_choice_is_echoed_and_the_answer_goes_back_to_its_port() {
    let request = datagrams("probe-bios-menu.pcap")
        .into_iter()
        .find(|datagram| datagram.target == 4011)
        .map(|datagram| Packet::decode(&datagram.payload).unwrap())
        .expect("the capture has a request on 4011");
    let peer = "172.30.0.150:68".parse().unwrap();
    let answer =
        BootAnswer { server: Ipv4Addr::new(172, 30, 0, 1), bootfile: "undionly.kpxe".into(), class: Class::Pxe };
    let (ack, to) = boot_server_ack(&request, &answer, peer).unwrap();
    assert_eq!(to, Destination::Peer(peer));
    assert_eq!(ack.options.get(OptionCode::VENDOR).unwrap()[..2], [71, 4]);
    assert_eq!(ack.options.message_type(), Ok(Some(MessageType::ACK)));
}

#[test]
fn a_boot_file_that_does_not_fit_is_an_error_and_not_a_cut_name() {
    let datagram = &datagrams("uefi-http.pcap")[0];
    let request = Packet::decode(&datagram.payload).unwrap();
    let answer = |len: usize| BootAnswer { server: Ipv4Addr::LOCALHOST, bootfile: "x".repeat(len), class: Class::Http };
    assert!(proxy_offer(&request, &answer(127)).is_ok());
    assert!(proxy_offer(&request, &answer(128)).is_err());
    assert!(proxy_offer(&request, &answer(4096)).is_err());
}

#[test]
fn tftp_requests_of_firmware() {
    let mut text = String::new();
    for name in captures() {
        for datagram in datagrams(&name).iter().filter(|datagram| datagram.target == 69) {
            let packet = tftp::Packet::decode(&datagram.payload).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut bytes = Vec::new();
            packet.encode(&mut bytes);
            assert_eq!(tftp::Packet::decode(&bytes).as_ref(), Ok(&packet));
            writeln!(text, "{name} {packet:?}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
}
