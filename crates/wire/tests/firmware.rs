//! What real firmware sent in the lab (tests/golden/pcap), read back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pcap;

use std::{fmt::Write, net::Ipv4Addr};

use dhcproto::{Decodable, Encodable};
use magnetite_wire::{
    dhcp::{
        Arch, MessageType, OptionCode, Packet,
        reply::{self, BootAnswer, Class, Destination, ReplyError, boot_server_ack, proxy_offer},
    },
    pxe, tftp,
};
use pcap::{captures, datagrams, is_dhcp};

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

/// Debian's iPXE of 2019, which QEMU's cards have too, is built without HTTPS; that of 2025 has it, and says so.
#[test]
fn ipxe_says_whether_it_has_https() {
    let mut seen = [0, 0];
    for name in captures() {
        for datagram in datagrams(&name).iter().filter(|datagram| is_dhcp(datagram)) {
            let Ok(Packet { options, op: 1, .. }) = Packet::decode(&datagram.payload) else { continue };
            let of_2025 = options.is_ipxe() && name == "arm64-ipxe.pcap";
            assert_eq!(options.ipxe_has_https(), of_2025, "{name}");
            seen[usize::from(of_2025)] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
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
            let answer = BootAnswer { server, bootfile: "snponly.efi".to_owned(), class, direct: true };
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
            assert_eq!(
                vendor.map(|vendor| vendor.into_owned()),
                (class == Class::Pxe).then(|| vec![6, 1, 8, 255]),
                "{name}"
            );
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
    let answer = BootAnswer {
        server: Ipv4Addr::new(172, 30, 0, 1),
        bootfile: "undionly.kpxe".into(),
        class: Class::Pxe,
        direct: true,
    };
    let (ack, to) = boot_server_ack(&request, &answer, peer).unwrap();
    assert_eq!(to, Destination::Peer(peer));
    assert_eq!(ack.options.get(OptionCode::VENDOR).unwrap()[..2], [71, 4]);
    assert_eq!(ack.options.message_type(), Ok(Some(MessageType::ACK)));
}

#[test]
fn a_boot_file_that_does_not_fit_is_an_error_and_not_a_cut_name() {
    let datagram = &datagrams("uefi-http.pcap")[0];
    let request = Packet::decode(&datagram.payload).unwrap();
    let answer = |len: usize| BootAnswer {
        server: Ipv4Addr::LOCALHOST,
        bootfile: "x".repeat(len),
        class: Class::Http,
        direct: true,
    };
    assert!(proxy_offer(&request, &answer(127)).is_ok());
    assert!(proxy_offer(&request, &answer(128)).is_err());
    let error = proxy_offer(&request, &answer(4096)).unwrap_err().to_string();
    assert_eq!(error, "the boot file's name has 4096 bytes; at most 127 fit", "and not the name: it may be a secret");
    let nul = BootAnswer { bootfile: "a\0b".into(), ..answer(1) };
    assert_eq!(proxy_offer(&request, &nul).unwrap_err(), ReplyError::BootfileNul { at: 1 });
}

#[test]
fn answers_go_where_they_are_heard() {
    let mut request = Packet::decode(&datagrams("uefi-probe-full.pcap")[0].payload).unwrap();
    let answer = BootAnswer {
        server: Ipv4Addr::new(172, 30, 0, 1),
        bootfile: "snponly.efi".into(),
        class: Class::Pxe,
        direct: true,
    };
    let to = |request: &Packet| proxy_offer(request, &answer).unwrap().1.address().to_string();
    assert_eq!(to(&request), "255.255.255.255:68");
    request.giaddr = Ipv4Addr::new(10, 0, 0, 1);
    request.options.push(OptionCode::RELAY_AGENT, *b"\x01\x04eth7");
    assert_eq!(to(&request), "10.0.0.1:67");
    let (offer, _) = proxy_offer(&request, &answer).unwrap();
    let last = offer.options.iter().last().unwrap();
    assert_eq!(last, (OptionCode::RELAY_AGENT, &b"\x01\x04eth7"[..]), "RFC 3046, 2.2: echoed, and last");
    assert_eq!(offer.giaddr, request.giaddr);

    // iPXE asks from 68, OVMF from 4011; each listens where it asked from.
    for peer in ["172.30.0.151:68", "172.30.0.151:4011"] {
        let (ack, to) = boot_server_ack(&request, &answer, peer.parse().unwrap()).unwrap();
        assert_eq!(to.address().to_string(), peer);
        assert_eq!(ack.options.get(OptionCode::VENDOR).unwrap()[..], pxe::BOOT_AT_ONCE, "no menu, no item to echo");
    }
}

#[test]
fn a_request_without_a_transaction_id_is_answered_without_one() {
    let request = datagrams("probe-bios-menu.pcap").into_iter().find(|datagram| datagram.target == 4011).unwrap();
    let request = Packet::decode(&request.payload).unwrap();
    assert_eq!(request.xid, 0, "iPXE's boot-server request");
    let answer =
        BootAnswer { server: Ipv4Addr::LOCALHOST, bootfile: "undionly.kpxe".into(), class: Class::Pxe, direct: true };
    let (ack, _) = boot_server_ack(&request, &answer, "172.30.0.151:68".parse().unwrap()).unwrap();
    assert_eq!((ack.xid, ack.flags, ack.ciaddr, ack.secs), (0, request.flags, request.ciaddr, request.secs));
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

/// The oracle on what was really sent: every field and every option of every packet.
#[test]
fn dhcproto_reads_the_captures_the_same() {
    for name in captures() {
        for datagram in datagrams(&name).iter().filter(|datagram| is_dhcp(datagram)) {
            let ours = Packet::decode(&datagram.payload).unwrap();
            assert!(ours.hlen == 6, "{name}: well formed, else the oracle panics");
            let theirs = dhcproto::v4::Message::decode(&mut dhcproto::Decoder::new(&datagram.payload)).unwrap();
            assert_eq!((ours.xid, ours.secs, ours.flags), (theirs.xid(), theirs.secs(), u16::from(theirs.flags())));
            assert_eq!(
                [ours.ciaddr, ours.yiaddr, ours.siaddr, ours.giaddr],
                [theirs.ciaddr(), theirs.yiaddr(), theirs.siaddr(), theirs.giaddr()]
            );
            assert_eq!(ours.mac().unwrap(), theirs.chaddr());
            let kind = theirs.opts().msg_type().map(|kind| MessageType(kind.into()));
            assert_eq!(ours.options.message_type(), Ok(kind));
            // What it writes, we read as what was sent; it orders options by code.
            let back = Packet::decode(&theirs.to_vec().unwrap()).unwrap();
            let sorted = |packet: &Packet| {
                let mut options: Vec<_> = packet.options.iter().map(|(code, value)| (code, value.to_vec())).collect();
                options.sort();
                options
            };
            assert_eq!(sorted(&back), sorted(&ours), "{name}");
        }
    }
}

#[test]
fn what_an_ipxe_says_of_itself_is_read() {
    let first = |name: &str| Packet::decode(&datagrams(name)[0].payload).unwrap().options;
    let options = first("bios-virtio-net-pci-ipxerom.pcap");
    assert_eq!(options.user_classes(), [b"iPXE".to_vec()], "bare, without RFC 3004's count");
    assert_eq!(options.ndi(), Ok(Some([1, 2, 1])));
    assert_eq!(options.arches(), Ok(vec![Arch::X86_BIOS]));
    assert_eq!(options.max_size(), Ok(Some(1472)));
    assert!(options.parameters().contains(&OptionCode::BOOTFILE));
    let id = options.client_id().unwrap().unwrap();
    assert_eq!((id.len(), id[0]), (7, 1));
    let own = options.get(OptionCode::IPXE).unwrap();
    assert_eq!(pxe::sub_option(&own, 235), Some(&[1, 0, 0][..]), "its version");
    assert_eq!(pxe::sub_option(&own, 19), Some(&[1][..]), "it speaks HTTP");
    assert_eq!(pxe::sub_option(&own, 20), None, "and, being of 2019, no HTTPS");

    let options = first("uefi-probe-full.pcap");
    assert_eq!((options.user_classes(), options.client_id()), (vec![], Ok(None)));
    assert_eq!(options.arches(), Ok(vec![Arch::EFI_X64]));
    assert_eq!(first("uefi-http.pcap").arches(), Ok(vec![Arch::EFI_HTTP_X64]));
    assert_eq!(first("arm64-pxe.pcap").arches(), Ok(vec![Arch::EFI_ARM64]));
}

/// What a client that never answers makes us send, in bytes of IP: RFC 2347's options keep it small.
#[test]
fn a_request_of_firmware_is_not_amplified() {
    const HEADERS: usize = 28;
    let limits = tftp::transfer::Limits { block_size: 1468, window: 16 };
    for name in captures() {
        for datagram in datagrams(&name).iter().filter(|datagram| datagram.target == 69) {
            let Ok(tftp::Packet::Read(request)) = tftp::Packet::decode(&datagram.payload) else { continue };
            let agreed = tftp::Negotiated::from_request(&request, limits);
            let mut oack = Vec::new();
            tftp::Packet::Oack(agreed.acknowledge(&request, 100 << 20)).encode(&mut oack);
            let (asked, sent) = (datagram.payload.len() + HEADERS, 3 * (oack.len() + HEADERS));
            assert!(agreed.oack && sent <= 3 * asked, "{name}: {sent} bytes for {asked}");
        }
    }
}

fn reserved() -> reply::Lease {
    reply::Lease {
        address: Ipv4Addr::new(172, 30, 0, 21),
        mask: Ipv4Addr::new(255, 255, 255, 0),
        seconds: 86_400,
        router: Some(Ipv4Addr::new(172, 30, 0, 2)),
        dns_servers: vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)],
        ntp_servers: Vec::new(),
        host_name: "box".to_owned(),
        domain: None,
    }
}

#[test]
fn a_reserved_address_comes_with_all_that_is_said_of_it() {
    let request = Packet::decode(&datagrams("uefi-probe-full.pcap")[0].payload).unwrap();
    let server = Ipv4Addr::new(172, 30, 0, 1);
    let boot = BootAnswer { server, bootfile: "snponly.efi".into(), class: Class::Pxe, direct: true };
    let (offer, to) = reply::lease(&request, MessageType::OFFER, server, &reserved(), Some(&boot)).unwrap();
    assert_eq!((offer.yiaddr, offer.siaddr, to), (reserved().address, server, Destination::Broadcast));
    let options: Vec<_> = offer.options.iter().map(|(code, value)| (code.0, value.to_vec())).collect();
    assert_eq!(options[..2], [(53, vec![2]), (54, server.octets().to_vec())]);
    assert_eq!(options[2..7].iter().map(|(code, _)| *code).collect::<Vec<_>>(), [51, 1, 3, 6, 12], "nothing empty");
    assert_eq!(offer.options.get(OptionCode::LEASE_TIME).unwrap()[..], 86_400_u32.to_be_bytes());
    assert_eq!(offer.options.get(OptionCode::VENDOR).unwrap()[..], pxe::BOOT_AT_ONCE);
    let renewal = Packet { ciaddr: reserved().address, ..request };
    let (ack, to) = reply::lease(&renewal, MessageType::ACK, server, &reserved(), None).unwrap();
    assert_eq!(to, Destination::Client(reserved().address));
    assert!(ack.bootfile().is_empty() && ack.siaddr.is_unspecified() && ack.options.vendor_class().is_none());
}

#[test]
fn a_wrong_address_is_refused_to_all() {
    let mut request = Packet::decode(&datagrams("uefi-probe-full.pcap")[0].payload).unwrap();
    (request.flags, request.ciaddr) = (0, Ipv4Addr::new(10, 0, 0, 9));
    let (nak, to) = reply::refusal(&request, Ipv4Addr::LOCALHOST);
    assert_eq!((nak.ciaddr, nak.yiaddr, to), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, Destination::Broadcast));
    request.giaddr = Ipv4Addr::new(10, 0, 0, 1);
    let (nak, to) = reply::refusal(&request, Ipv4Addr::LOCALHOST);
    assert_eq!((nak.flags, to), (0x8000, Destination::Relay(request.giaddr)), "RFC 2131, 4.3.2");
}

#[test]
fn who_asks_on_4011_is_told_nothing_before() {
    let request = Packet::decode(&datagrams("uefi-probe-full.pcap")[0].payload).unwrap();
    let server = Ipv4Addr::new(172, 30, 0, 1);
    let answer = BootAnswer { server, bootfile: "snponly.efi".into(), class: Class::Pxe, direct: false };
    let (offer, _) = proxy_offer(&request, &answer).unwrap();
    assert!(offer.bootfile().is_empty() && offer.options.get(OptionCode::VENDOR).is_none());
    assert_eq!((offer.siaddr, offer.options.vendor_class().as_deref()), (server, Some(&b"PXEClient"[..])));
    let (ack, _) = boot_server_ack(&request, &answer, "172.30.0.150:4011".parse().unwrap()).unwrap();
    assert_eq!(ack.bootfile(), b"snponly.efi");
    // UEFI HTTP boot never asks there.
    let http = BootAnswer { class: Class::Http, ..answer };
    assert_eq!(proxy_offer(&request, &http).unwrap().0.bootfile(), b"snponly.efi");
}
