//! Replies as values: boot information beside a DHCPv6 server that knows nothing of it.
//!
//! RFC 8415 has no proxy: a client takes addresses and all else from one server. What stands in for one was read in the
//! sources of the two clients that matter:
//!
//! - **EDK2, PXE** (`PxeBcDhcp6.c`): an ADVERTISE without an IA_NA whose vendor class is enterprise 343 and begins with
//!   `PXEClient` is kept as a "proxy BINL" offer. Once the site's server gave an address, EDK2 sends the REQUEST a second
//!   time, without its IA and with our server id, from port 4011 to port 4011: of the host in option 59 of the offer, or
//!   of all servers on the link if the offer has none. It takes the file from the REPLY to that, which must come from 4011.
//! - **EDK2, HTTP** (`HttpBootDhcp6.c`): the same ADVERTISE with `HTTPClient` and option 59 is enough; nothing follows.
//! - **iPXE** (`dhcpv6.c`): in a SOLICIT it drops every ADVERTISE without an address. To an INFORMATION-REQUEST it takes the
//!   first REPLY that names its own client id, whoever sent it.
//!
//! Neither takes an answer with a status other than success, or one that gives the client id not back, so there is never
//! a status here; and an IA_NA, even one that says "no address", makes EDK2 believe that it was given one.

use std::net::Ipv6Addr;

use super::{Duid, INTEL, Message, MessageType, OptionCode, Options, Packet, Relay};
use crate::dhcp::reply::Class;

/// What a client is told to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootAnswer {
    /// Who we are.
    pub server: Duid,
    /// The URL: `tftp://[2001:db8::1]/loader` for PXE, else `http://…`.
    pub url: String,
    /// Parameters for what is booted (option 60); mostly none.
    pub parameters: Vec<Vec<u8>>,
    /// The protocol that the client speaks.
    pub class: Class,
}

/// A reply that cannot be made. It does not repeat the URL: that of a script holds a capability, and errors are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// EDK2 copies the URL up to the first NUL; an option can hold 65,535 bytes.
    #[error("the boot file's URL has {had} bytes or a NUL; 1 to 1024 and no NUL are good")]
    Url {
        /// How many it has.
        had: usize,
    },
    /// Its length does not fit its count.
    #[error("a boot parameter has {had} bytes; at most 1024 are good")]
    Parameter {
        /// How many it has.
        had: usize,
    },
}

const LONGEST: usize = 1024;

/// Which of a server's answers a message asks for; nothing if it asks for none, or asks another server
/// (RFC 8415, 16.2 to 16.12). `ours` is our server id.
pub fn kind(request: &Message, ours: &Duid) -> Option<MessageType> {
    let options = &request.options;
    // All three bear it from EDK2 and from iPXE, and both drop an answer that does not give it back.
    options.get(OptionCode::CLIENT_ID)?;
    let server = options.get(OptionCode::SERVER_ID);
    let to_us = server == Some(ours.as_bytes());
    match request.kind {
        MessageType::SOLICIT if server.is_none() => Some(MessageType::ADVERTISE),
        MessageType::REQUEST if to_us => Some(MessageType::REPLY),
        MessageType::INFORMATION_REQUEST if server.is_none() || to_us => Some(MessageType::REPLY),
        _ => None,
    }
}

/// The answer to a message for which [`kind`] says `kind`: no address, no status.
///
/// The offer to a PXE client on our own link has no URL: EDK2 then sends its second REQUEST to all servers on the link, from
/// its link-local address. To the host of a URL it would need a route, which it may not have yet; behind a relay
/// (`relayed`), which passes on nothing that goes to port 4011, there is no other way.
///
/// # Errors
/// If the URL or a parameter does not fit.
pub fn answer(request: &Message, kind: MessageType, answer: &BootAnswer, relayed: bool) -> Result<Message, ReplyError> {
    let url = answer.url.as_bytes();
    if url.is_empty() || url.len() > LONGEST || url.contains(&0) {
        return Err(ReplyError::Url { had: url.len() });
    }
    let mut options = Options::default();
    if let Some(client) = request.options.get(OptionCode::CLIENT_ID) {
        options.push(OptionCode::CLIENT_ID, client);
    }
    options.push(OptionCode::SERVER_ID, answer.server.as_bytes());
    if kind != MessageType::ADVERTISE || answer.class == Class::Http || relayed {
        options.push(OptionCode::BOOT_URL, url);
        if !answer.parameters.is_empty() {
            options.push(OptionCode::BOOT_PARAMETERS, counted(&answer.parameters)?);
        }
    }
    // Last, and never the URL: EDK2's HTTP boot reads the URL up to the next NUL, without regard to its length, and an
    // option's code begins with one.
    options.push(OptionCode::VENDOR_CLASS, vendor_class(answer.class)?);
    Ok(Message { kind, xid: request.xid, options })
}

/// Wraps an answer for the way back through the relays by which its request came, the outermost first
/// (RFC 8415, 19.3): each gets back its hop count, its addresses and its name for the interface.
pub fn through_relays(relays: &[Relay], answer: Message) -> Result<Packet, super::EncodeError> {
    let mut packet = Packet::Message(answer);
    for relay in relays.iter().rev() {
        let mut inner = Vec::new();
        packet.encode(&mut inner)?;
        let mut options = Options::default();
        if let Some(interface) = relay.options.get(OptionCode::INTERFACE_ID) {
            options.push(OptionCode::INTERFACE_ID, interface);
        }
        options.push(OptionCode::RELAY_MESSAGE, inner);
        let Relay { kind: _, hops, link, peer, options: _ } = relay;
        packet =
            Packet::Relay(Relay { kind: MessageType::RELAY_REPLY, hops: *hops, link: *link, peer: *peer, options });
    }
    Ok(packet)
}

/// The MAC that an address was made of (RFC 4291, appendix A), if it is link-local: EDK2 and iPXE have no other kind.
pub fn mac_of_link_local(address: Ipv6Addr) -> Option<[u8; 6]> {
    match address.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => Some([a ^ 2, b, c, d, e, f]),
        _ => None,
    }
}

fn vendor_class(class: Class) -> Result<Vec<u8>, ReplyError> {
    let name: &[u8] = match class {
        Class::Pxe => b"PXEClient",
        Class::Http => b"HTTPClient",
    };
    let mut value = INTEL.to_be_bytes().to_vec();
    value.extend(counted(&[name])?);
    Ok(value)
}

fn counted(strings: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, ReplyError> {
    let mut out = Vec::new();
    for string in strings {
        let string = string.as_ref();
        let fits = u16::try_from(string.len()).ok().filter(|len| usize::from(*len) <= LONGEST);
        out.extend(fits.ok_or(ReplyError::Parameter { had: string.len() })?.to_be_bytes());
        out.extend(string);
    }
    Ok(out)
}
