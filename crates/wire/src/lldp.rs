//! What a switch tells of itself on each of its ports: LLDP (IEEE 802.1AB-2016, clause 8 and 9). Read alone: nothing here speaks it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::reader::Reader;

/// The EtherType of LLDP.
pub const ETHERTYPE: u16 = 0x88cc;
/// A frame of 1,500 bytes could hold 750 values of no length.
const MOST: usize = 256;

const END: u8 = 0;
const CHASSIS: u8 = 1;
const PORT: u8 = 2;
const PORT_DESCRIPTION: u8 = 4;
const SYSTEM_NAME: u8 = 5;

/// The switch at the other end of a cable, as it names itself. Texts are what was sent, of any length and with any character.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Neighbour {
    /// The switch's identifier, often its address.
    pub chassis: String,
    /// The port's identifier, such as `Ethernet7` or an address.
    pub port: String,
    /// The port's description.
    pub port_description: Option<String>,
    /// The switch's name.
    pub system_name: Option<String>,
}

/// Why a frame is none of LLDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends in the midst of something.
    #[error("the frame ends within a value that begins at byte {at}")]
    Short {
        /// Where that begins.
        at: usize,
    },
    /// Another protocol's.
    #[error("EtherType {0:#06x} is not that of LLDP")]
    EtherType(u16),
    /// The standard asks for chassis and port, in this order, before all else.
    #[error("the value at byte {at} is of type {kind}, where {wanted} has to be")]
    Order {
        /// Where it begins.
        at: usize,
        /// What it is.
        kind: u8,
        /// What it has to be.
        wanted: u8,
    },
    /// An identifier without its subtype.
    #[error("the identifier at byte {at} is empty")]
    Empty {
        /// Where it begins.
        at: usize,
    },
    /// More values than a switch sends.
    #[error("more than 256 values")]
    TooMany,
}

impl Neighbour {
    /// Reads an Ethernet frame, from its destination on.
    ///
    /// # Errors
    /// It is none of LLDP.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame);
        let short = |at| DecodeError::Short { at };
        reader.take::<12>().ok_or(short(0))?;
        let kind = u16::from_be_bytes(reader.take().ok_or(short(12))?);
        if kind != ETHERTYPE {
            return Err(DecodeError::EtherType(kind));
        }
        let mut neighbour = Self {
            chassis: identifier(&mut reader, CHASSIS)?,
            port: identifier(&mut reader, PORT)?,
            ..Self::default()
        };
        for _ in 0..MOST {
            // Padding may follow the end, and old switches leave the end away.
            if reader.left() == 0 {
                return Ok(neighbour);
            }
            match value(&mut reader)? {
                (END, _) => return Ok(neighbour),
                (PORT_DESCRIPTION, text) => neighbour.port_description = Some(self::text(text)),
                (SYSTEM_NAME, text) => neighbour.system_name = Some(self::text(text)),
                _ => {}
            }
        }
        Err(DecodeError::TooMany)
    }
}

/// One value: seven bits of type, nine of length (clause 8.4).
fn value<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), DecodeError> {
    let at = reader.at();
    let head = u16::from_be_bytes(reader.take().ok_or(DecodeError::Short { at })?);
    let [kind, _] = head.to_be_bytes();
    let bytes = reader.slice(usize::from(head & 0x1ff)).ok_or(DecodeError::Short { at })?;
    Ok((kind >> 1, bytes))
}

/// An identifier, as people write one of its subtype (clauses 8.5.2 and 8.5.3).
fn identifier(reader: &mut Reader<'_>, wanted: u8) -> Result<String, DecodeError> {
    let at = reader.at();
    let (kind, bytes) = value(reader)?;
    if kind != wanted {
        return Err(DecodeError::Order { at, kind, wanted });
    }
    let Some((subtype, id)) = bytes.split_first() else { return Err(DecodeError::Empty { at }) };
    // An address has subtype 4 in a chassis and 3 in a port, a network address 5 and 4.
    let (mac, network) = if wanted == CHASSIS { (4, 5) } else { (3, 4) };
    Ok(match id {
        [a, b, c, d, e, f] if *subtype == mac => format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        [family, address @ ..] if *subtype == network => address_of(*family, address).unwrap_or_else(|| text(id)),
        _ => text(id),
    })
}

/// An address behind the number of its family (IANA: 1 is IPv4, 2 is IPv6).
fn address_of(family: u8, bytes: &[u8]) -> Option<String> {
    let address = match family {
        1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(address.to_string())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let head = (u16::from(kind) << 9) | u16::try_from(value.len()).unwrap();
        [&head.to_be_bytes()[..], value].concat()
    }

    fn frame(values: &[Vec<u8>]) -> Vec<u8> {
        let head = [0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc];
        [&head[..], &values.concat()].concat()
    }

    fn switch() -> Vec<Vec<u8>> {
        vec![
            tlv(1, &[4, 0x02, 0, 0, 0xaa, 0xbb, 0xcc]),
            tlv(2, b"\x05Ethernet7"),
            tlv(3, &[0, 120]),
            tlv(4, b"rack 7 unit 12"),
            tlv(5, b"leaf-7a"),
            tlv(127, &[0, 0x80, 0xc2, 1, 0, 1]),
            tlv(0, &[]),
        ]
    }

    #[test]
    fn what_a_switch_says() {
        let want = Neighbour {
            chassis: "02:00:00:aa:bb:cc".into(),
            port: "Ethernet7".into(),
            port_description: Some("rack 7 unit 12".into()),
            system_name: Some("leaf-7a".into()),
        };
        assert_eq!(Neighbour::decode(&frame(&switch())), Ok(want.clone()));
        let padded = [frame(&switch()), vec![0; 30]].concat();
        assert_eq!(Neighbour::decode(&padded), Ok(want.clone()), "behind the end is padding");
        assert_eq!(Neighbour::decode(&frame(&switch()[..6])), Ok(want), "without an end");
    }

    #[rstest]
    #[case(&[4, 1, 2, 3, 4, 5, 6], "01:02:03:04:05:06")]
    #[case(&[5, 1, 192, 0, 2, 1], "192.0.2.1")]
    #[case(&[7, b'x'], "x")]
    #[case(&[5, 9, b'?'], "\t?")]
    #[case(&[7, 0xff], "\u{fffd}")]
    fn a_chassis_as_people_write_it(#[case] id: &[u8], #[case] want: &str) {
        let values = [tlv(1, id), tlv(2, &[3, 1, 2, 3, 4, 5, 6])];
        let neighbour = Neighbour::decode(&frame(&values)).unwrap();
        assert_eq!((neighbour.chassis.as_str(), neighbour.port.as_str()), (want, "01:02:03:04:05:06"));
    }

    #[test]
    fn what_is_none_says_where() {
        let whole = frame(&switch());
        for end in 0..whole.len() - 2 {
            // It may end behind any value but the first two.
            let (_, at) = match Neighbour::decode(&whole[..end]) {
                Ok(_) => continue,
                Err(DecodeError::Short { at }) => ((), at),
                Err(error) => panic!("{end}: {error}"),
            };
            assert!(at <= end, "{end} {at}");
        }
        let swapped = [tlv(2, b"\x05x"), tlv(1, b"\x07y")];
        assert_eq!(Neighbour::decode(&frame(&swapped)), Err(DecodeError::Order { at: 14, kind: 2, wanted: 1 }));
        assert_eq!(Neighbour::decode(&frame(&[tlv(1, &[])])), Err(DecodeError::Empty { at: 14 }));
        let other = [&whole[..12], &[0x08, 0x00]].concat();
        assert_eq!(Neighbour::decode(&other), Err(DecodeError::EtherType(0x0800)));
        let many = [vec![tlv(1, b"\x07x"), tlv(2, b"\x07y")], vec![tlv(9, &[]); 300]].concat();
        assert_eq!(Neighbour::decode(&frame(&many)), Err(DecodeError::TooMany));
    }
}
