//! DHCP packets (RFC 2131, RFC 4578), byte by byte.

use std::net::Ipv4Addr;

/// DHCP message types.
pub const DISCOVER: u8 = 1;
/// An offer.
pub const OFFER: u8 = 2;
/// A request.
pub const REQUEST: u8 = 3;
/// An acknowledgement.
pub const ACK: u8 = 5;

/// Where options begin: 236 bytes of BOOTP, and the magic cookie.
const OPTIONS: usize = 240;

/// What a box says of itself, whatever it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Option 93.
    pub arch: u16,
    /// True for iPXE, which sends options 77 and 175.
    pub ipxe: bool,
}

/// A question.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The message's type.
    pub kind: u8,
    /// The transaction.
    pub xid: u32,
    /// Seconds since it began.
    pub secs: u16,
    /// The client's address, once it has one.
    pub client: Option<Ipv4Addr>,
    /// Option 50.
    pub wanted: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
}

impl Question {
    /// The packet, as firmware orders it: 53, then what the PXE specification wants.
    pub fn bytes(&self, who: Identity) -> Vec<u8> {
        let mut out = vec![0; OPTIONS];
        out[..4].copy_from_slice(&[1, 1, 6, 0]);
        out[4..8].copy_from_slice(&self.xid.to_be_bytes());
        out[8..10].copy_from_slice(&self.secs.to_be_bytes());
        out[10] = 0x80;
        out[12..16].copy_from_slice(&self.client.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        out[28..34].copy_from_slice(&who.mac);
        out[236..240].copy_from_slice(&[99, 130, 83, 99]);
        let mut option = |code: u8, value: &[u8]| {
            out.push(code);
            out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            out.extend(value);
        };
        option(53, &[self.kind]);
        option(57, &1472_u16.to_be_bytes());
        option(55, &[1, 3, 6, 12, 15, 43, 60, 66, 67, 97]);
        option(93, &who.arch.to_be_bytes());
        option(94, &[1, 3, 0]);
        option(60, format!("PXEClient:Arch:{:05}:UNDI:003000", who.arch).as_bytes());
        // RFC 4578: a type of 0, then the UUID.
        let mut uuid = [0; 17];
        uuid[11..].copy_from_slice(&who.mac);
        option(97, &uuid);
        if who.ipxe {
            option(77, b"iPXE");
            option(175, &[177, 5, 1, 0x1a, 0xf4, 0x10, 0, 19, 1, 1, 21, 1, 1, 235, 3, 1, 21, 1]);
        }
        for (code, address) in [(50, self.wanted), (54, self.server)] {
            if let Some(address) = address {
                option(code, &address.octets());
            }
        }
        out.push(255);
        out.resize(out.len().max(300), 0);
        out
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The transaction.
    pub xid: u32,
    /// The message's type.
    pub kind: u8,
    /// The address that it gives; 0.0.0.0 from a proxy.
    pub address: Ipv4Addr,
    /// siaddr.
    pub next: Ipv4Addr,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Whether option 60 says `PXEClient`.
    pub pxe: bool,
    /// Whether option 43 says to boot the file without asking port 4011 (sub-option 6, bit 3).
    pub direct: bool,
    /// The boot file, of the field or of option 67.
    pub file: String,
}

impl Answer {
    /// Reads an answer; none if it is something else.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if *bytes.first()? != 2 || bytes.get(236..OPTIONS)? != [99, 130, 83, 99] {
            return None;
        }
        let field = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let mut answer = Self {
            xid: u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?),
            kind: 0,
            address: field(16)?,
            next: field(20)?,
            server: None,
            pxe: false,
            direct: false,
            file: text(bytes.get(108..236)?),
        };
        let mut options = bytes.get(OPTIONS..)?;
        while let [code, rest @ ..] = options {
            options = rest;
            match code {
                0 => continue,
                255 => break,
                _ => {}
            }
            let (len, rest) = options.split_first()?;
            let value = rest.get(..usize::from(*len))?;
            options = rest.get(usize::from(*len)..)?;
            match code {
                53 => answer.kind = *value.first()?,
                54 => answer.server = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from),
                60 => answer.pxe = value.starts_with(b"PXEClient"),
                43 => answer.direct = value.starts_with(&[6, 1]) && value.get(2).is_some_and(|bits| bits & 8 != 0),
                67 => answer.file = text(value),
                _ => {}
            }
        }
        (answer.kind != 0).then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_what_firmware_sends() {
        let who = Identity { mac: [2, 0, 0, 0, 0, 9], arch: 7, ipxe: false };
        let bytes = Question { kind: DISCOVER, xid: 7, ..Question::default() }.bytes(who);
        assert_eq!((bytes.len() >= 300, bytes[0], &bytes[28..34]), (true, 1, &who.mac[..]));
        assert!(bytes.windows(32).any(|text| text == b"PXEClient:Arch:00007:UNDI:003000"));
        assert_eq!(Answer::read(&bytes), None, "a question is no answer");
    }

    #[test]
    fn an_answer_is_read_or_is_none() {
        let mut bytes = vec![0; OPTIONS];
        bytes[0] = 2;
        bytes[7] = 9;
        bytes[20..24].copy_from_slice(&[10, 0, 0, 1]);
        bytes[108..112].copy_from_slice(b"file");
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend([53, 1, 2, 54, 4, 10, 0, 0, 1, 60, 9]);
        bytes.extend(b"PXEClient");
        bytes.extend([43, 4, 6, 1, 8, 255, 255]);
        let answer = Answer::read(&bytes).unwrap();
        assert_eq!((answer.xid, answer.kind, answer.pxe, answer.direct), (9, OFFER, true, true));
        assert_eq!((answer.file.as_str(), answer.server), ("file", Some(Ipv4Addr::new(10, 0, 0, 1))));
        for cut in 0..bytes.len() - 1 {
            // Cut anywhere, it is read or it is not; it is never a crash.
            drop(Answer::read(&bytes[..cut]));
        }
    }
}
