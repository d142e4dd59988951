//! The packets: a message, and a message that relays pass on (RFC 8415, 8 and 9).

use std::net::Ipv6Addr;

use super::{OptionCode, Options};
use crate::reader::Reader;

/// A message type (RFC 8415, 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageType(pub u8);

impl MessageType {
    /// A client looks for servers.
    pub const SOLICIT: Self = Self(1);
    /// A server offers.
    pub const ADVERTISE: Self = Self(2);
    /// A client chooses.
    pub const REQUEST: Self = Self(3);
    /// A server answers.
    pub const REPLY: Self = Self(7);
    /// A client has an address and asks for the rest.
    pub const INFORMATION_REQUEST: Self = Self(11);
    /// A relay passes on to a server.
    pub const RELAY_FORWARD: Self = Self(12);
    /// A server answers through a relay.
    pub const RELAY_REPLY: Self = Self(13);

    fn is_relay(self) -> bool {
        matches!(self, Self::RELAY_FORWARD | Self::RELAY_REPLY)
    }
}

/// A message between a client and a server.
///
/// ```text
///  type(1) xid(3) | options…
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: MessageType,
    /// Transaction id.
    pub xid: [u8; 3],
    /// Options.
    pub options: Options,
}

/// What a relay wraps a packet in.
///
/// ```text
///  type(1) hops(1) | link-address(16) | peer-address(16) | options…
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// [`MessageType::RELAY_FORWARD`] or [`MessageType::RELAY_REPLY`].
    pub kind: MessageType,
    /// Relays that it passed before this one.
    pub hops: u8,
    /// Names the link that the client is on.
    pub link: Ipv6Addr,
    /// Who the relay had it from.
    pub peer: Ipv6Addr,
    /// Options; the packet inside is option 9.
    pub options: Options,
}

/// A packet, as it comes from a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// From a client or a server.
    Message(Message),
    /// From a relay, or to one.
    Relay(Relay),
}

/// A datagram of 64 KiB could hold 16,000 empty options, each a value in memory; firmware sends about ten.
const MOST_OPTIONS: usize = 1024;
/// HOP_COUNT_LIMIT (RFC 8415, 7.6).
const MOST_RELAYS: usize = 8;

/// Why bytes are not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short for the fixed part.
    #[error("{had} bytes; {want} or more are a packet of this type")]
    Short {
        /// Bytes that there should be.
        want: usize,
        /// Bytes that came.
        had: usize,
    },
    /// An option goes over the end.
    #[error("option {code} at byte {at}: wanted {want} bytes, had {had}")]
    Option {
        /// Its code; 0 if that is cut off too.
        code: u16,
        /// Where its code stands, from the start of the packet.
        at: usize,
        /// How long it says that it is.
        want: usize,
        /// How much is left.
        had: usize,
    },
    /// More options than any client sends.
    #[error("more than {MOST_OPTIONS} options")]
    TooMany,
    /// A relay's packet without a packet.
    #[error("a relayed packet has no option 9")]
    NothingRelayed,
    /// Relays around relays, deeper than any server must look.
    #[error("more than {MOST_RELAYS} relays")]
    TooDeep,
}

/// Why a value is not bytes. Nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The type belongs to the other of [`Message`] and [`Relay`].
    #[error("message type {0} has another form")]
    Kind(u8),
    /// An option has more than 65,535 bytes.
    #[error("option {0} is longer than its length can say")]
    Option(u16),
    /// More options than are read.
    #[error("more than {MOST_OPTIONS} options")]
    TooMany,
}

impl Packet {
    /// Reads a packet. Unknown types and options stay as they are; nothing may be left over.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let kind = MessageType(*bytes.first().ok_or(DecodeError::Short { want: 4, had: 0 })?);
        let mut reader = Reader::new(bytes);
        if kind.is_relay() {
            let short = DecodeError::Short { want: 34, had: bytes.len() };
            let [_, hops] = reader.take().ok_or(short)?;
            let link = reader.take::<16>().ok_or(short)?.into();
            let peer = reader.take::<16>().ok_or(short)?.into();
            Ok(Self::Relay(Relay { kind, hops, link, peer, options: read_options(reader)? }))
        } else {
            let short = DecodeError::Short { want: 4, had: bytes.len() };
            let [_, xid @ ..] = reader.take::<4>().ok_or(short)?;
            Ok(Self::Message(Message { kind, xid, options: read_options(reader)? }))
        }
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// If [`Packet::decode`] would not read the same again. `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Message(Message { kind, xid, options }) => {
                check(*kind, false, options)?;
                out.push(kind.0);
                out.extend(xid);
                write_options(options, out);
            }
            Self::Relay(Relay { kind, hops, link, peer, options }) => {
                check(*kind, true, options)?;
                out.extend([kind.0, *hops]);
                out.extend(link.octets());
                out.extend(peer.octets());
                write_options(options, out);
            }
        }
        Ok(())
    }

    /// The message inside all relays, and the relays, the outermost first.
    ///
    /// # Errors
    /// If a relay holds nothing or something that is no packet, or there are more relays than RFC 8415 allows.
    pub fn unwrap_relays(self) -> Result<(Vec<Relay>, Message), DecodeError> {
        let (mut packet, mut relays) = (self, Vec::new());
        loop {
            let relay = match packet {
                Self::Message(message) => return Ok((relays, message)),
                Self::Relay(relay) => relay,
            };
            if relays.len() >= MOST_RELAYS {
                return Err(DecodeError::TooDeep);
            }
            let inner = relay.options.get(OptionCode::RELAY_MESSAGE).ok_or(DecodeError::NothingRelayed)?;
            packet = Self::decode(inner)?;
            relays.push(relay);
        }
    }
}

fn check(kind: MessageType, relay: bool, options: &Options) -> Result<(), EncodeError> {
    if kind.is_relay() != relay {
        return Err(EncodeError::Kind(kind.0));
    }
    if options.len() > MOST_OPTIONS {
        return Err(EncodeError::TooMany);
    }
    match options.iter().find(|(_, value)| u16::try_from(value.len()).is_err()) {
        Some((code, _)) => Err(EncodeError::Option(code.0)),
        None => Ok(()),
    }
}

fn write_options(options: &Options, out: &mut Vec<u8>) {
    for (code, value) in options.iter() {
        out.extend(code.0.to_be_bytes());
        out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(value);
    }
}

fn read_options(mut reader: Reader<'_>) -> Result<Options, DecodeError> {
    let mut options = Options::default();
    while reader.left() > 0 {
        let (at, had) = (reader.at(), reader.left());
        let head = |code| DecodeError::Option { code, at, want: 4, had };
        let code = u16::from_be_bytes(reader.take().ok_or(head(0))?);
        let want = usize::from(u16::from_be_bytes(reader.take().ok_or(head(code))?));
        let had = reader.left();
        let value = reader.slice(want).ok_or(DecodeError::Option { code, at, want, had })?;
        if options.len() >= MOST_OPTIONS {
            return Err(DecodeError::TooMany);
        }
        options.push(OptionCode(code), value);
    }
    Ok(options)
}
