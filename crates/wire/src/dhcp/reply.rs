//! Replies as values: the packet and where it goes. The driver only sends.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{MessageType, OptionCode, Options, Packet, packet::BOOTREPLY};
use crate::pxe;

/// What a client is told to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootAnswer {
    /// Our address, on the interface that the request came to.
    pub server: Ipv4Addr,
    /// A file name for TFTP, or a URL.
    pub bootfile: String,
    /// The protocol that the client speaks: option 60 is echoed by it.
    pub class: Class,
    /// True if a PXE client is told the file in the offer; else it asks for it on port 4011 (BINL), where the offer says
    /// nothing of a file. An HTTP client never asks there.
    pub direct: bool,
}

/// What a client is given beside the address that is reserved for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The mask of its network.
    pub mask: Ipv4Addr,
    /// How long it is good, in seconds.
    pub seconds: u32,
    /// The default router.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Time servers.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// The host's name, without its domain.
    pub host_name: String,
    /// The domain.
    pub domain: Option<String>,
}

/// The protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `PXEClient`.
    Pxe,
    /// `HTTPClient` (UEFI HTTP boot).
    Http,
}

impl Class {
    /// By the prefix of option 60. Never by the rest of it: iPXE takes its option 60 over from the offer that
    /// booted it.
    pub fn of(vendor_class: &[u8]) -> Option<Self> {
        // U-Boot's default is its own name; it speaks PXE's part of DHCP.
        if vendor_class.starts_with(b"PXEClient") || vendor_class.starts_with(b"U-Boot") {
            Some(Self::Pxe)
        } else if vendor_class.starts_with(b"HTTPClient") {
            Some(Self::Http)
        } else {
            None
        }
    }

    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Pxe => b"PXEClient",
            Self::Http => b"HTTPClient",
        }
    }
}

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To all on the link, port 68: the client has no address yet.
    Broadcast,
    /// To the relay, port 67.
    Relay(Ipv4Addr),
    /// Back to where the request came from.
    Peer(SocketAddrV4),
    /// To an address that the client already has, port 68.
    Client(Ipv4Addr),
}

impl Destination {
    /// As a socket address.
    pub fn address(self) -> SocketAddrV4 {
        match self {
            Self::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
            Self::Relay(relay) => SocketAddrV4::new(relay, 67),
            Self::Peer(peer) => peer,
            Self::Client(client) => SocketAddrV4::new(client, 68),
        }
    }
}

/// A reply that cannot be made. It does not repeat the boot file's name: that of a script holds a capability, and errors
/// are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The `file` field has 128 bytes, one of them for the NUL that some firmware insists on.
    #[error("the boot file's name has {had} bytes; at most 127 fit")]
    BootfileTooLong {
        /// How many it has.
        had: usize,
    },
    /// Firmware would read the name up to the NUL, and boot something else.
    #[error("the boot file's name has a NUL at byte {at}")]
    BootfileNul {
        /// Where.
        at: usize,
    },
}

/// The proxy's OFFER to a DISCOVER: boot information and no address (yiaddr stays zero).
///
/// The form is the one that satisfied every firmware measured: siaddr and `file` set (U-Boot reads only the field,
/// iPXE needs siaddr), 54 (OVMF ignores an offer without it), 60 (every client does), 97 echoed, and for
/// PXE clients 43 with "boot at once". HTTP clients get no 43.
///
/// # Errors
/// If the boot file's name does not fit, or holds a NUL.
pub fn proxy_offer(request: &Packet, answer: &BootAnswer) -> Result<(Packet, Destination), ReplyError> {
    let mut packet = base(request, answer.server, MessageType::OFFER);
    boot(request, &mut packet, answer)?;
    relay_agent(request, &mut packet);
    // A client that looks for servers has no address, whatever it says: what it says must not make us send to others.
    Ok(to_all(request, packet))
}

/// A whole answer to a client for which an address is reserved: an OFFER or an ACK, with boot information if the client asks as one that
/// boots. Whoever calls it has seen that the client's own address, if it has one, is the reserved one.
///
/// # Errors
/// If the boot file's name does not fit, or holds a NUL.
pub fn lease(
    request: &Packet,
    kind: MessageType,
    server: Ipv4Addr,
    lease: &Lease,
    answer: Option<&BootAnswer>,
) -> Result<(Packet, Destination), ReplyError> {
    let mut packet = base(request, server, kind);
    packet.yiaddr = lease.address;
    let Lease { address: _, mask, seconds, router, dns_servers, ntp_servers, host_name, domain } = lease;
    let octets = |addresses: &[Ipv4Addr]| addresses.iter().flat_map(|address| address.octets()).collect::<Vec<u8>>();
    let mut push = |code, value: Vec<u8>| {
        if !value.is_empty() {
            packet.options.push(code, value);
        }
    };
    push(OptionCode::LEASE_TIME, seconds.to_be_bytes().to_vec());
    push(OptionCode::SUBNET_MASK, mask.octets().to_vec());
    push(OptionCode::ROUTER, router.iter().flat_map(|router| router.octets()).collect());
    push(OptionCode::DNS_SERVERS, octets(dns_servers));
    push(OptionCode::HOST_NAME, host_name.clone().into_bytes());
    push(OptionCode::DOMAIN_NAME, domain.clone().unwrap_or_default().into_bytes());
    push(OptionCode::NTP_SERVERS, octets(ntp_servers));
    if let Some(answer) = answer {
        boot(request, &mut packet, answer)?;
    }
    relay_agent(request, &mut packet);
    Ok((packet, to_client(request)))
}

/// The refusal of an address that is not the one reserved for the client: it begins anew with a DISCOVER.
pub fn refusal(request: &Packet, server: Ipv4Addr) -> (Packet, Destination) {
    let mut packet = base(request, server, MessageType::NAK);
    packet.ciaddr = Ipv4Addr::UNSPECIFIED;
    relay_agent(request, &mut packet);
    // RFC 2131, 4.3.2: it may be on another network than it believes.
    to_all(request, packet)
}

/// To all on the client's link. A relay sends to the address that the answer gives (RFC 1542, 4.1.2), unless the flag says to broadcast it:
/// where there is none to give, dnsmasq's drops what does not say so.
fn to_all(request: &Packet, mut packet: Packet) -> (Packet, Destination) {
    if request.giaddr.is_unspecified() {
        return (packet, Destination::Broadcast);
    }
    packet.flags |= BROADCAST;
    (packet, Destination::Relay(request.giaddr))
}

/// The top bit of `flags`: the client takes no unicast before it has its address.
const BROADCAST: u16 = 0x8000;

/// RFC 2131, 4.1: to the relay; to an address that the client has; else to all, since a frame to an address that it
/// does not have yet would need its hardware address in this host's table.
fn to_client(request: &Packet) -> Destination {
    match (request.giaddr.is_unspecified(), request.ciaddr.is_unspecified()) {
        (false, _) => Destination::Relay(request.giaddr),
        (true, false) => Destination::Client(request.ciaddr),
        (true, true) => Destination::Broadcast,
    }
}

/// The boot server's ACK to a REQUEST on port 4011, sent back to the port that it came from: iPXE asks from
/// 68, OVMF from 4011. A boot item in the request (43, sub-option 71) is echoed.
///
/// # Errors
/// If the boot file's name does not fit, or holds a NUL.
pub fn boot_server_ack(
    request: &Packet,
    answer: &BootAnswer,
    peer: SocketAddrV4,
) -> Result<(Packet, Destination), ReplyError> {
    let mut packet = base(request, answer.server, MessageType::ACK);
    name_file(request, &mut packet, answer)?;
    let asked = request.options.get(OptionCode::VENDOR);
    let item = asked.as_deref().and_then(|vendor| pxe::sub_option(vendor, pxe::BOOT_ITEM));
    match item.map(<[u8; 4]>::try_from) {
        Some(Ok(item)) => {
            let mut vendor = vec![pxe::BOOT_ITEM, 4];
            vendor.extend(item);
            vendor.push(pxe::END);
            packet.options.push(OptionCode::VENDOR, vendor);
        }
        _ if answer.class == Class::Pxe => packet.options.push(OptionCode::VENDOR, pxe::BOOT_AT_ONCE),
        _ => {}
    }
    relay_agent(request, &mut packet);
    let destination = match (peer.ip().is_unspecified(), request.ciaddr.is_unspecified()) {
        (false, _) => Destination::Peer(peer),
        (true, false) => Destination::Client(request.ciaddr),
        (true, true) => Destination::Broadcast,
    };
    Ok((packet, destination))
}

/// What every answer has.
fn base(request: &Packet, server: Ipv4Addr, kind: MessageType) -> Packet {
    let mut options = Options::default();
    options.push(OptionCode::MESSAGE_TYPE, [kind.0]);
    options.push(OptionCode::SERVER_ID, server.octets());
    Packet {
        op: BOOTREPLY,
        htype: request.htype,
        hlen: request.hlen,
        hops: 0,
        xid: request.xid,
        secs: request.secs,
        flags: request.flags,
        ciaddr: request.ciaddr,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: request.giaddr,
        chaddr: request.chaddr,
        sname: [0; 64],
        file: [0; 128],
        options,
    }
}

/// Boot information in an offer: the file and, for PXE clients, that it is to be loaded at once; or no more than that there is a boot server.
fn boot(request: &Packet, packet: &mut Packet, answer: &BootAnswer) -> Result<(), ReplyError> {
    if answer.class == Class::Pxe && !answer.direct {
        class_and_id(request, packet, answer);
        return Ok(());
    }
    name_file(request, packet, answer)?;
    if answer.class == Class::Pxe {
        packet.options.push(OptionCode::VENDOR, pxe::BOOT_AT_ONCE);
    }
    Ok(())
}

fn class_and_id(request: &Packet, packet: &mut Packet, answer: &BootAnswer) {
    packet.siaddr = answer.server;
    packet.options.push(OptionCode::VENDOR_CLASS, answer.class.as_bytes());
    // Firmware compares it with its own; one that sent none wants none.
    if let Some(uuid) = request.options.get(OptionCode::UUID) {
        packet.options.push(OptionCode::UUID, uuid);
    }
}

fn name_file(request: &Packet, packet: &mut Packet, answer: &BootAnswer) -> Result<(), ReplyError> {
    let name = answer.bootfile.as_bytes();
    if let Some(at) = name.iter().position(|byte| *byte == 0) {
        return Err(ReplyError::BootfileNul { at });
    }
    match packet.file.get_mut(..name.len()) {
        Some(place) if name.len() < 128 => place.copy_from_slice(name),
        _ => return Err(ReplyError::BootfileTooLong { had: name.len() }),
    }
    class_and_id(request, packet, answer);
    Ok(())
}

/// RFC 3046, 2.2: a server echoes what the relay added, and last.
fn relay_agent(request: &Packet, packet: &mut Packet) {
    if let Some(relay) = request.options.get(OptionCode::RELAY_AGENT) {
        packet.options.push(OptionCode::RELAY_AGENT, relay);
    }
}
