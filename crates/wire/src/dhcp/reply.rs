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
        if vendor_class.starts_with(b"PXEClient") {
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
    let mut packet = reply(request, answer, MessageType::OFFER)?;
    if answer.class == Class::Pxe {
        packet.options.push(OptionCode::VENDOR, pxe::BOOT_AT_ONCE);
    }
    relay_agent(request, &mut packet);
    let destination =
        if request.giaddr.is_unspecified() { Destination::Broadcast } else { Destination::Relay(request.giaddr) };
    Ok((packet, destination))
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
    let mut packet = reply(request, answer, MessageType::ACK)?;
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

fn reply(request: &Packet, answer: &BootAnswer, kind: MessageType) -> Result<Packet, ReplyError> {
    let mut file = [0; 128];
    let name = answer.bootfile.as_bytes();
    if let Some(at) = name.iter().position(|byte| *byte == 0) {
        return Err(ReplyError::BootfileNul { at });
    }
    match file.get_mut(..name.len()) {
        Some(place) if name.len() < 128 => place.copy_from_slice(name),
        _ => return Err(ReplyError::BootfileTooLong { had: name.len() }),
    }
    let mut options = Options::default();
    options.push(OptionCode::MESSAGE_TYPE, [kind.0]);
    options.push(OptionCode::SERVER_ID, answer.server.octets());
    options.push(OptionCode::VENDOR_CLASS, answer.class.as_bytes());
    // Firmware compares it with its own; one that sent none wants none.
    if let Some(uuid) = request.options.get(OptionCode::UUID) {
        options.push(OptionCode::UUID, uuid);
    }
    Ok(Packet {
        op: BOOTREPLY,
        htype: request.htype,
        hlen: request.hlen,
        hops: 0,
        xid: request.xid,
        secs: request.secs,
        flags: request.flags,
        ciaddr: request.ciaddr,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: answer.server,
        giaddr: request.giaddr,
        chaddr: request.chaddr,
        sname: [0; 64],
        file,
        options,
    })
}

/// RFC 3046, 2.2: a server echoes what the relay added, and last.
fn relay_agent(request: &Packet, packet: &mut Packet) {
    if let Some(relay) = request.options.get(OptionCode::RELAY_AGENT) {
        packet.options.push(OptionCode::RELAY_AGENT, relay);
    }
}
