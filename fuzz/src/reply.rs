//! The answers to any request that can be read, and the decision before them.

use std::net::{Ipv4Addr, SocketAddrV4};

use magnetite_api::{MacAddr, MachineUuid, netboot::NetbootSpec};
use magnetite_boot::{
    client::{ClientClass, Request},
    fleet::{Fleet, Identity},
    ladder,
    plan::{self, Answer, Ignored, Loaders},
};
use magnetite_wire::{
    dhcp::{
        MessageType, OptionCode, Options, Packet,
        reply::{self, BootAnswer, Class, Destination, Lease, ReplyError},
    },
    pxe,
};

const SERVER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const PEERS: [SocketAddrV4; 2] =
    [SocketAddrV4::new(Ipv4Addr::new(172, 30, 0, 9), 4011), SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68)];

/// Every answer can be written, is read back as the same, and repeats what clients and relays compare with their own.
pub fn check(bytes: &[u8]) {
    let Ok(request) = Packet::decode(bytes) else { return };
    for (class, direct) in [(Class::Pxe, true), (Class::Pxe, false), (Class::Http, true)] {
        let bootfile = "m/0123456789abcdef/snponly.efi".to_owned();
        let answer = BootAnswer { server: SERVER, bootfile, class, direct };
        proxy(bytes, &request, &answer);
        boot_server(bytes, &request, &answer);
        leases(bytes, &request, &answer);
        let long = BootAnswer { bootfile: "x".repeat(128), direct: true, ..answer };
        let error = reply::proxy_offer(&request, &long).err();
        assert_eq!(error, Some(ReplyError::BootfileTooLong { had: 128 }));
    }
    decision(&request);
}

fn proxy(bytes: &[u8], request: &Packet, answer: &BootAnswer) {
    let (offer, to) = reply::proxy_offer(request, answer).expect("the name fits");
    common(bytes, request, &offer, MessageType::OFFER);
    boots(request, &offer, answer, answer.direct);
    assert_eq!(offer.yiaddr, Ipv4Addr::UNSPECIFIED, "a proxy gives no address");
    let at_once = (answer.class == Class::Pxe && answer.direct).then(|| pxe::BOOT_AT_ONCE.to_vec());
    assert_eq!(offer.options.get(OptionCode::VENDOR), at_once.map(Into::into), "43 is PXE's alone");
    match to {
        Destination::Relay(relay) => {
            assert!(relay == request.giaddr && !relay.is_unspecified());
            assert_eq!(offer.flags & 0x8000, 0x8000, "a relay has no address of the client's to send it to");
        }
        other => assert!(other == Destination::Broadcast && request.giaddr.is_unspecified()),
    }
}

fn boot_server(bytes: &[u8], request: &Packet, answer: &BootAnswer) {
    for peer in PEERS {
        let (ack, to) = reply::boot_server_ack(request, answer, peer).expect("the name fits");
        common(bytes, request, &ack, MessageType::ACK);
        boots(request, &ack, answer, true);
        assert!(!to.address().ip().is_unspecified() && to.address().port() != 0, "{to:?} is nobody");
        item(request, &ack);
    }
}

/// With an address: the reserved one and no other, whatever the request asks for.
fn leases(bytes: &[u8], request: &Packet, answer: &BootAnswer) {
    let lease = Lease {
        address: Ipv4Addr::new(172, 30, 0, 21),
        mask: Ipv4Addr::new(255, 255, 255, 0),
        seconds: 3600,
        router: Some(SERVER),
        dns_servers: vec![SERVER; 2],
        ntp_servers: Vec::new(),
        host_name: "box".to_owned(),
        domain: None,
    };
    for (kind, answer) in [(MessageType::OFFER, Some(answer)), (MessageType::ACK, None)] {
        let (given, to) = reply::lease(request, kind, SERVER, &lease, answer).expect("the name fits");
        common(bytes, request, &given, kind);
        assert_eq!(given.yiaddr, lease.address);
        assert!(!to.address().ip().is_unspecified(), "{to:?} is nobody");
        match answer {
            Some(answer) => boots(request, &given, answer, answer.direct),
            None => assert!(given.bootfile().is_empty() && given.siaddr.is_unspecified()),
        }
    }
    let (nak, to) = reply::refusal(request, SERVER);
    common(bytes, request, &nak, MessageType::NAK);
    assert_eq!((nak.yiaddr, nak.ciaddr), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED), "RFC 2131, table 3");
    assert!(matches!(to, Destination::Broadcast | Destination::Relay(_)), "the client may not have its address");
}

/// What holds of every answer.
fn common(bytes: &[u8], request: &Packet, reply: &Packet, kind: MessageType) {
    let mut written = Vec::new();
    reply.encode(&mut written).expect("an answer can be written");
    let read = Packet::decode(&written).expect("an answer can be read");
    assert_eq!(whole(read), whole(reply.clone()), "an answer is read as it was meant");
    assert!(written.len() <= bytes.len() + 300, "{} bytes for {}: an amplifier", written.len(), bytes.len());
    assert_eq!((reply.op, reply.options.message_type()), (2, Ok(Some(kind))));
    let echoed = |packet: &Packet| (packet.xid, packet.htype, packet.hlen, packet.chaddr, packet.giaddr);
    assert_eq!(echoed(reply), echoed(request));
    assert_eq!(reply.flags & 0x7fff, request.flags & 0x7fff);
    assert!(reply.flags >= request.flags, "a client that wants a broadcast gets one");
    assert_eq!(reply.options.server_id(), Ok(Some(SERVER)));
    let relay = request.options.get(OptionCode::RELAY_AGENT);
    assert_eq!(reply.options.get(OptionCode::RELAY_AGENT), relay, "82 is echoed");
    if relay.is_some() {
        let last = reply.options.iter().last().map(|(code, _)| code);
        assert_eq!(last, Some(OptionCode::RELAY_AGENT), "RFC 3046, 2.2: last");
    }
    let known = [1, 3, 6, 12, 43, 51, 53, 54, 60, 82, 97];
    assert!(reply.options.iter().all(|(code, _)| known.contains(&code.0)), "nothing else is said: {reply:?}");
}

/// What holds of an answer with boot information.
fn boots(request: &Packet, reply: &Packet, answer: &BootAnswer, named: bool) {
    assert_eq!(reply.siaddr, SERVER);
    assert_eq!(reply.options.get(OptionCode::UUID), request.options.get(OptionCode::UUID), "97 is echoed");
    assert_eq!(reply.options.vendor_class().as_deref().and_then(Class::of), Some(answer.class));
    let name = if named { answer.bootfile.as_bytes() } else { b"" };
    assert_eq!(reply.bootfile(), name, "who asks on 4011 is told the file there");
}

/// A packet with each option in one piece: one longer than 255 bytes travels in several (RFC 3396).
fn whole(packet: Packet) -> Packet {
    let mut options = Options::default();
    let mut seen = [false; 256];
    for (code, _) in packet.options.iter() {
        if !std::mem::replace(&mut seen[usize::from(code.0)], true) {
            options.push(code, packet.options.get(code).unwrap_or_default());
        }
    }
    Packet { options, ..packet }
}

/// A menu's choice is echoed, if it has the form of one.
fn item(request: &Packet, ack: &Packet) {
    let of = |packet: &Packet| {
        let vendor = packet.options.get(OptionCode::VENDOR)?;
        <[u8; 4]>::try_from(pxe::sub_option(&vendor, pxe::BOOT_ITEM)?).ok()
    };
    assert_eq!(of(ack), of(request));
}

/// A client that nobody declared gets nothing, whatever it sends; and what it sends is asked for its platform.
fn decision(request: &Packet) {
    let options = &request.options;
    let Some(class) = options.vendor_class().as_deref().and_then(Class::of) else { return };
    let class = if class == Class::Pxe { ClientClass::Pxe } else { ClientClass::Http };
    let arches = options.arches().unwrap_or_default().into_iter().map(|arch| arch.0).collect();
    let uuid = options.smbios_uuid().unwrap_or_default().map(MachineUuid::from_smbios);
    let identity = Identity { mac: request.mac().map(MacAddr), uuid, serial: None };
    let asked = Request { class, arches, ipxe: options.is_ipxe(), https: options.ipxe_has_https(), identity };
    let netboot = NetbootSpec::default();
    if let Some(platform) = ladder::platform(&asked) {
        let loader = ladder::loader(platform, &netboot, &[], |_| true);
        assert_eq!(loader.as_deref(), Some(platform.snponly), "the first of its ladder");
    }
    let loaders = Loaders { netboot: &netboot, failed: &[], at_hand: &|_| true };
    let found = Fleet::default().find(&asked.identity);
    assert_eq!(plan::answer(&asked, &found, &loaders), Answer::Ignore(Ignored::Unknown));
}
