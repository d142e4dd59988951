//! DUIDs: who a client or a server is (RFC 8415, 11; RFC 6355).

use crate::reader::Reader;

const LINK_LAYER_TIME: u16 = 1;
const LINK_LAYER: u16 = 3;
const UUID: u16 = 4;
const ETHERNET: u16 = 1;

/// A DUID, byte for byte. To be compared and echoed; its parts are a hint who the box is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Duid(Vec<u8>);

impl Duid {
    /// The least and the largest length, type included (RFC 8415, 11.1: a type and at most 128 bytes). EDK2 refuses
    /// a server's DUID of fewer than 8 or more than 128, which the ones that are made here keep to.
    const LENGTHS: std::ops::RangeInclusive<usize> = 3..=130;

    /// From the bytes of option 1 or 2; nothing if there are too few or too many of them.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Self::LENGTHS.contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// A DUID-LL: Ethernet and a MAC. It needs no clock and is the same after each start.
    pub fn of_mac(mac: [u8; 6]) -> Self {
        let mut bytes = Vec::with_capacity(10);
        bytes.extend(LINK_LAYER.to_be_bytes());
        bytes.extend(ETHERNET.to_be_bytes());
        bytes.extend(mac);
        Self(bytes)
    }

    /// As it stands on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The type.
    pub fn kind(&self) -> Option<u16> {
        Reader::new(&self.0).take().map(u16::from_be_bytes)
    }

    /// The MAC of a DUID-LLT or DUID-LL. It is that of one of the box's cards, not always of the one that boots.
    pub fn mac(&self) -> Option<[u8; 6]> {
        let mut reader = Reader::new(&self.0);
        let kind = u16::from_be_bytes(reader.take()?);
        let hardware = u16::from_be_bytes(reader.take()?);
        match kind {
            LINK_LAYER => {}
            LINK_LAYER_TIME => drop(reader.take::<4>()?),
            _ => return None,
        }
        let mac = reader.take()?;
        (hardware == ETHERNET && reader.left() == 0).then_some(mac)
    }

    /// The sixteen bytes of a DUID-UUID. RFC 6355 has them in network order, and so does iPXE; EDK2 puts the table of
    /// SMBIOS there as it is, its first three fields little-endian.
    pub fn uuid(&self) -> Option<[u8; 16]> {
        let mut reader = Reader::new(&self.0);
        let kind = u16::from_be_bytes(reader.take()?);
        let uuid = reader.take()?;
        (kind == UUID && reader.left() == 0).then_some(uuid)
    }
}
