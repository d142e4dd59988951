//! The two messages of ICMPv6 by which hosts find routers (RFC 4861, 4.1 and 4.2).
//!
//! The checksum is the kernel's: a raw ICMPv6 socket fills it in and drops what has a wrong one (RFC 3542, 3.1).

use crate::reader::Reader;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Flags: addresses come by DHCPv6, or other things do.
const DHCPV6: u8 = 0xc0;
/// A datagram of 64 KiB could hold 8,000 options; routers send about five.
const MOST_OPTIONS: usize = 256;

/// The kind of an option (RFC 4861, 4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OptionKind(pub u8);

impl OptionKind {
    /// The sender's link-layer address.
    pub const SOURCE_LINK_LAYER: Self = Self(1);
    /// A prefix that is on the link, or from which hosts make addresses.
    pub const PREFIX: Self = Self(3);
    /// A route through this router (RFC 4191).
    pub const ROUTE: Self = Self(24);
}

/// An option: its value without kind and length, so 6 bytes, or 14, or 22…
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NdOption {
    /// What it is.
    pub kind: OptionKind,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A host asks for routers.
    Solicitation(Vec<NdOption>),
    /// A router tells of itself.
    Advertisement(Advertisement),
}

/// What a router tells of itself. The default tells nothing: no router, no prefix, no DHCPv6.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advertisement {
    /// The hop limit that hosts should use; 0 leaves it to them.
    pub hop_limit: u8,
    /// The top bit says that addresses come by DHCPv6, the next that other things do.
    pub flags: u8,
    /// For how many seconds it is a default router; 0 if it is none.
    pub lifetime: u16,
    /// For how many milliseconds a neighbour counts as reachable; 0 leaves it to the hosts.
    pub reachable: u32,
    /// Milliseconds between two solicitations of a neighbour; 0 leaves it to the hosts.
    pub retransmit: u32,
    /// Options.
    pub options: Vec<NdOption>,
}

impl Advertisement {
    /// True if it gives hosts anything to go by, be it that there is DHCPv6: its sender is a router, and its link has IPv6.
    pub fn is_of_a_router(&self) -> bool {
        let routes = |option: &NdOption| matches!(option.kind, OptionKind::PREFIX | OptionKind::ROUTE);
        self.lifetime > 0 || self.flags & DHCPV6 != 0 || self.options.iter().any(routes)
    }
}

/// Why bytes are not one of the two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another of ICMPv6's messages.
    #[error("type {0} is neither a router's solicitation (133) nor its advertisement (134)")]
    Kind(u8),
    /// RFC 4861, 6.1: the code must be 0.
    #[error("code {0}; 0 is known")]
    Code(u8),
    /// Too short for the fixed part.
    #[error("{had} bytes; {want} or more are a message of this type")]
    Short {
        /// Bytes that there should be.
        want: usize,
        /// Bytes that came.
        had: usize,
    },
    /// An option has no length, or one that goes over the end.
    #[error("option {kind} at byte {at}: wanted {want} bytes, had {had}")]
    Option {
        /// Its kind.
        kind: u8,
        /// Where it stands, from the start of the message.
        at: usize,
        /// How long it says that it is; 0 is no length.
        want: usize,
        /// How much is left.
        had: usize,
    },
    /// More options than any router sends.
    #[error("more than {MOST_OPTIONS} options")]
    TooMany,
}

/// Why a value is not bytes. Nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// With kind and length an option is 8 to 2,040 bytes, in steps of 8.
    #[error("option {kind} has {had} bytes; 6, 14, 22 … 2038 can be encoded")]
    Option {
        /// Its kind.
        kind: u8,
        /// How many bytes it has.
        had: usize,
    },
    /// More options than are read.
    #[error("more than {MOST_OPTIONS} options")]
    TooMany,
}

impl Message {
    /// Reads a message. Reserved bits and the checksum are not looked at; unknown options stay.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let short = |want| DecodeError::Short { want, had: bytes.len() };
        let [kind, code, _, _] = reader.take().ok_or(short(8))?;
        let least = match kind {
            SOLICITATION => 8,
            ADVERTISEMENT => 16,
            other => return Err(DecodeError::Kind(other)),
        };
        if code != 0 {
            return Err(DecodeError::Code(code));
        }
        let [hop_limit, flags, high, low] = reader.take().ok_or(short(least))?;
        if kind == SOLICITATION {
            return Ok(Self::Solicitation(read_options(reader)?));
        }
        let reachable = u32::from_be_bytes(reader.take().ok_or(short(least))?);
        let retransmit = u32::from_be_bytes(reader.take().ok_or(short(least))?);
        let (lifetime, options) = (u16::from_be_bytes([high, low]), read_options(reader)?);
        Ok(Self::Advertisement(Advertisement { hop_limit, flags, lifetime, reachable, retransmit, options }))
    }

    /// Appends the message to `out`, its checksum zero.
    ///
    /// # Errors
    /// If [`Message::decode`] would not read the same again. `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let options = match self {
            Self::Solicitation(options) => options,
            Self::Advertisement(advertisement) => &advertisement.options,
        };
        if options.len() > MOST_OPTIONS {
            return Err(EncodeError::TooMany);
        }
        if let Some(wrong) = options.iter().find(|option| units(option).is_none()) {
            return Err(EncodeError::Option { kind: wrong.kind.0, had: wrong.value.len() });
        }
        match self {
            Self::Solicitation(_) => out.extend([SOLICITATION, 0, 0, 0, 0, 0, 0, 0]),
            Self::Advertisement(Advertisement { hop_limit, flags, lifetime, reachable, retransmit, options: _ }) => {
                out.extend([ADVERTISEMENT, 0, 0, 0, *hop_limit, *flags]);
                out.extend(lifetime.to_be_bytes());
                out.extend(reachable.to_be_bytes());
                out.extend(retransmit.to_be_bytes());
            }
        }
        for option in options {
            out.extend([option.kind.0, units(option).unwrap_or_default()]);
            out.extend(&option.value);
        }
        Ok(())
    }
}

/// An option's length on the wire, in units of eight bytes.
fn units(option: &NdOption) -> Option<u8> {
    let len = option.value.len().checked_add(2)?;
    u8::try_from(len / 8).ok().filter(|units| *units > 0 && len.is_multiple_of(8))
}

fn read_options(mut reader: Reader<'_>) -> Result<Vec<NdOption>, DecodeError> {
    let mut options = Vec::new();
    while reader.left() > 0 {
        let (at, had) = (reader.at(), reader.left());
        let kind = reader.byte().unwrap_or_default();
        let want = usize::from(reader.byte().unwrap_or_default()).saturating_mul(8);
        let error = DecodeError::Option { kind, at, want, had };
        let value = want.checked_sub(2).and_then(|len| reader.slice(len)).ok_or(error)?;
        if options.len() >= MOST_OPTIONS {
            return Err(DecodeError::TooMany);
        }
        options.push(NdOption { kind: OptionKind(kind), value: value.to_vec() });
    }
    Ok(options)
}
