//! The packet (RFC 2131, figure 1).

use std::net::Ipv4Addr;

use super::{OptionCode, Options};
use crate::reader::Reader;

/// A DHCPv4 packet.
///
/// ```text
///  op(1) htype(1) hlen(1) hops(1) | xid(4) | secs(2) flags(2)
///  ciaddr(4) yiaddr(4) siaddr(4) giaddr(4) | chaddr(16) | sname(64) | file(128) | cookie(4) options…
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// 1 from a client, 2 from a server.
    pub op: u8,
    /// Hardware type; 1 is Ethernet.
    pub htype: u8,
    /// Length of the hardware address, at most 16.
    pub hlen: u8,
    /// Relays that it passed.
    pub hops: u8,
    /// Transaction id; iPXE's boot-server request has 0.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// Flags; the top bit asks for a broadcast.
    pub flags: u16,
    /// The client's address, if it has one already.
    pub ciaddr: Ipv4Addr,
    /// The address for the client; zero in a proxy's answer.
    pub yiaddr: Ipv4Addr,
    /// The next server.
    pub siaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// Hardware address, padded.
    pub chaddr: [u8; 16],
    /// Server name; zeros if it held options.
    pub sname: [u8; 64],
    /// Boot file name; zeros if it held options.
    pub file: [u8; 128],
    /// Options, without pads and end. Those of an overloaded `file` and `sname` (RFC 2132, 9.3) are here too,
    /// and option 52, which said so, is not: it is about the bytes, not about what they mean.
    pub options: Options,
}

/// Client to server.
pub const BOOTREQUEST: u8 = 1;
/// Server to client.
pub const BOOTREPLY: u8 = 2;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// BOOTP's least length, which some firmware insists on.
const LEAST: usize = 300;
/// A datagram of 64 KiB could hold 32,000 empty options, each a value in memory; firmware sends about ten.
const MOST_OPTIONS: usize = 1024;
/// Where the areas of options begin in a packet.
const OPTIONS_AT: usize = 240;
const FILE_AT: usize = 108;
const SNAME_AT: usize = 44;

/// Why bytes are not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short for the fixed part.
    #[error("{had} bytes; a packet has at least 240")]
    Short {
        /// Bytes that came.
        had: usize,
    },
    /// `op` is neither 1 nor 2.
    #[error("op {0}; 1 or 2 is known")]
    Op(u8),
    /// `hlen` is longer than `chaddr`.
    #[error("hlen {0}; at most 16 fits")]
    Hlen(u8),
    /// Not DHCP: the cookie is another.
    #[error("cookie {0:?} at byte 236")]
    Cookie([u8; 4]),
    /// An option goes over the end.
    #[error("option {code} at byte {at}: wanted {want} bytes, had {had}")]
    Option {
        /// Its code.
        code: u8,
        /// Where its code stands, from the start of the packet: 44 to 107 is `sname`, 108 to 235 `file`, from 240
        /// on it is the options themselves.
        at: usize,
        /// How long it says that it is.
        want: usize,
        /// How much is left.
        had: usize,
    },
    /// More options than any client sends.
    #[error("more than {MOST_OPTIONS} options")]
    TooMany,
}

/// Why a value is not bytes: what would be written could not be read back as the same. Nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A field cannot be carried.
    #[error("{0} cannot be encoded")]
    Field(&'static str),
    /// An option that is no option: a pad (0), the end (255), or an overload (52), which would make options of the
    /// names in `file` and `sname`.
    #[error("option {0} cannot be encoded")]
    Option(u8),
}

impl Packet {
    /// Reads a packet. Strict where we decide (length, op, hlen, cookie), lenient where hardware is odd:
    /// unknown options stay, a missing end option is forgiven, and what comes after the end is ignored.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut packet = fixed(&mut reader).ok_or(DecodeError::Short { had: bytes.len() })?;
        if packet.op != BOOTREQUEST && packet.op != BOOTREPLY {
            return Err(DecodeError::Op(packet.op));
        }
        if packet.hlen > 16 {
            return Err(DecodeError::Hlen(packet.hlen));
        }
        let cookie = reader.take::<4>().ok_or(DecodeError::Short { had: bytes.len() })?;
        if cookie != COOKIE {
            return Err(DecodeError::Cookie(cookie));
        }
        read_options(reader.rest(), OPTIONS_AT, &mut packet.options)?;
        let Some(overload) = overload(&packet.options) else { return Ok(packet) };
        // RFC 3396, 5: `file` before `sname`.
        if overload & 1 == 1 {
            let file = std::mem::replace(&mut packet.file, [0; 128]);
            read_options(&file, FILE_AT, &mut packet.options)?;
        }
        if overload & 2 == 2 {
            let sname = std::mem::replace(&mut packet.sname, [0; 64]);
            read_options(&sname, SNAME_AT, &mut packet.options)?;
        }
        packet.options.remove(OptionCode::OVERLOAD);
        Ok(packet)
    }

    /// Appends the packet to `out`: options with the end option, padded to 300 bytes. An option longer than 255
    /// bytes is split (RFC 3396, 6).
    ///
    /// # Errors
    /// If [`Packet::decode`] would not read the same again. `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.check()?;
        let start = out.len();
        let Self {
            op,
            htype,
            hlen,
            hops,
            xid,
            secs,
            flags,
            ciaddr,
            yiaddr,
            siaddr,
            giaddr,
            chaddr,
            sname,
            file,
            options,
        } = self;
        out.extend([*op, *htype, *hlen, *hops]);
        out.extend(xid.to_be_bytes());
        out.extend(secs.to_be_bytes());
        out.extend(flags.to_be_bytes());
        for address in [ciaddr, yiaddr, siaddr, giaddr] {
            out.extend(address.octets());
        }
        out.extend(chaddr);
        out.extend(sname);
        out.extend(file);
        out.extend(COOKIE);
        for (code, value) in options.iter() {
            let mut parts = value.chunks(255).peekable();
            if parts.peek().is_none() {
                out.extend([code.0, 0]);
            }
            for part in parts {
                out.push(code.0);
                out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                out.extend(part);
            }
        }
        out.push(255);
        out.resize(out.len().max(start.saturating_add(LEAST)), 0);
        Ok(())
    }

    /// Whether it can be read back.
    fn check(&self) -> Result<(), EncodeError> {
        if self.op != BOOTREQUEST && self.op != BOOTREPLY {
            return Err(EncodeError::Field("op"));
        }
        if self.hlen > 16 {
            return Err(EncodeError::Field("hlen"));
        }
        if let Some((code, _)) = self.options.iter().find(|(code, _)| matches!(code.0, 0 | 255)) {
            return Err(EncodeError::Option(code.0));
        }
        if overload(&self.options).is_some() {
            return Err(EncodeError::Option(OptionCode::OVERLOAD.0));
        }
        let parts = self.options.iter().map(|(_, value)| value.len().div_ceil(255).max(1));
        if parts.fold(0, usize::saturating_add) > MOST_OPTIONS {
            return Err(EncodeError::Field("more options than are read"));
        }
        Ok(())
    }

    /// The Ethernet address, if the hardware is Ethernet.
    pub fn mac(&self) -> Option<[u8; 6]> {
        let [a, b, c, d, e, f, ..] = self.chaddr;
        (self.htype == 1 && self.hlen == 6).then_some([a, b, c, d, e, f])
    }

    /// The boot file's name: option 67, else the `file` field up to its NUL (or whole, if it has none).
    pub fn bootfile(&self) -> Vec<u8> {
        let until_nul = |bytes: &[u8]| bytes.iter().copied().take_while(|byte| *byte != 0).collect::<Vec<u8>>();
        match self.options.get(OptionCode::BOOTFILE) {
            Some(name) => until_nul(&name),
            None => until_nul(&self.file),
        }
    }
}

fn fixed(reader: &mut Reader<'_>) -> Option<Packet> {
    let [op, htype, hlen, hops] = reader.take()?;
    Some(Packet {
        op,
        htype,
        hlen,
        hops,
        xid: u32::from_be_bytes(reader.take()?),
        secs: u16::from_be_bytes(reader.take()?),
        flags: u16::from_be_bytes(reader.take()?),
        ciaddr: reader.take::<4>()?.into(),
        yiaddr: reader.take::<4>()?.into(),
        siaddr: reader.take::<4>()?.into(),
        giaddr: reader.take::<4>()?.into(),
        chaddr: reader.take()?,
        sname: reader.take()?,
        file: reader.take()?,
        options: Options::default(),
    })
}

/// Option 52, if it is one byte of 1, 2 or 3 (RFC 2132, 9.3); anything else overloads nothing and is kept as it is.
fn overload(options: &Options) -> Option<u8> {
    match &*options.get(OptionCode::OVERLOAD)? {
        [fields @ 1..=3] => Some(*fields),
        _ => None,
    }
}

/// Reads one area of options, which begins at byte `start` of the packet. Code 0 is a pad, 255 the end.
fn read_options(area: &[u8], start: usize, into: &mut Options) -> Result<(), DecodeError> {
    let mut reader = Reader::new(area);
    loop {
        let at = start.saturating_add(reader.at());
        let code = match reader.byte() {
            None | Some(255) => return Ok(()),
            Some(0) => continue,
            Some(code) => code,
        };
        let want = usize::from(reader.byte().ok_or(DecodeError::Option { code, at, want: 1, had: 0 })?);
        let had = reader.left();
        let value = reader.slice(want).ok_or(DecodeError::Option { code, at, want, had })?;
        if into.len() >= MOST_OPTIONS {
            return Err(DecodeError::TooMany);
        }
        into.push(OptionCode(code), value);
    }
}
