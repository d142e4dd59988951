//! Options: kept in order and byte for byte; given a meaning only when asked for one.

use super::Duid;
use crate::{dhcp::Arch, dhcp::reply::Class, reader::Reader};

/// The code of an option (RFC 8415, 21; RFC 5970).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OptionCode(pub u16);

impl OptionCode {
    /// Client identifier.
    pub const CLIENT_ID: Self = Self(1);
    /// Server identifier.
    pub const SERVER_ID: Self = Self(2);
    /// Identity association for an address: kept as bytes, since none is given out.
    pub const IA_NA: Self = Self(3);
    /// Option request.
    pub const REQUEST: Self = Self(6);
    /// Elapsed time.
    pub const ELAPSED: Self = Self(8);
    /// The packet that a relay passes on.
    pub const RELAY_MESSAGE: Self = Self(9);
    /// Status code.
    pub const STATUS: Self = Self(13);
    /// User class; iPXE names itself here.
    pub const USER_CLASS: Self = Self(15);
    /// Vendor class.
    pub const VENDOR_CLASS: Self = Self(16);
    /// A relay's name for the interface (RFC 8415, 21.18): echoed.
    pub const INTERFACE_ID: Self = Self(18);
    /// Boot file URL (RFC 5970, 3.1).
    pub const BOOT_URL: Self = Self(59);
    /// Boot file parameters (RFC 5970, 3.2).
    pub const BOOT_PARAMETERS: Self = Self(60);
    /// Client system architectures (RFC 5970, 3.3): a list.
    pub const ARCH: Self = Self(61);
    /// Client network interface (RFC 5970, 3.4).
    pub const NII: Self = Self(62);
    /// The client's link-layer address, as its relay saw it (RFC 6939).
    pub const CLIENT_LINK_LAYER: Self = Self(79);
}

/// An option that does not have the form that its code asks for. Only this option is wrong; the packet
/// around it may still be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("option {code}: wanted {want} bytes, had {had}")]
pub struct OptionError {
    /// The option's code.
    pub code: u16,
    /// How long it should be.
    pub want: &'static str,
    /// How long it is.
    pub had: usize,
}

/// Option 16: an enterprise number and its strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorClass {
    /// Who defines the strings; 343 for PXE and HTTP boot.
    pub enterprise: u32,
    /// The strings: `PXEClient:Arch:00007:UNDI:003000`.
    pub classes: Vec<Vec<u8>>,
}

impl VendorClass {
    /// The protocol that the client speaks, by the beginning of one of the strings. Not by the enterprise number, which
    /// EDK2's own HTTP boot does not look at either.
    pub fn boot_class(&self) -> Option<Class> {
        self.classes.iter().find_map(|class| Class::of(class))
    }
}

/// Options in the order in which they came. The same code may stand there more than once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<(OptionCode, Vec<u8>)>);

impl Options {
    /// Adds an option at the end.
    pub fn push(&mut self, code: OptionCode, value: impl Into<Vec<u8>>) {
        self.0.push((code, value.into()));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The options in order.
    pub fn iter(&self) -> impl Iterator<Item = (OptionCode, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    /// The value of an option: of the first, where it stands more than once.
    pub fn get(&self, code: OptionCode) -> Option<&[u8]> {
        self.iter().find_map(|(other, value)| (other == code).then_some(value))
    }

    fn duid(&self, code: OptionCode) -> Result<Option<Duid>, OptionError> {
        let Some(value) = self.get(code) else { return Ok(None) };
        let error = OptionError { code: code.0, want: "3 to 130", had: value.len() };
        Duid::new(value).map(Some).ok_or(error)
    }

    /// Option 1.
    ///
    /// # Errors
    /// If no DUID has that length.
    pub fn client_id(&self) -> Result<Option<Duid>, OptionError> {
        self.duid(OptionCode::CLIENT_ID)
    }

    /// Option 2.
    ///
    /// # Errors
    /// If no DUID has that length.
    pub fn server_id(&self) -> Result<Option<Duid>, OptionError> {
        self.duid(OptionCode::SERVER_ID)
    }

    fn words(&self, code: OptionCode) -> Result<Vec<u16>, OptionError> {
        let value = self.get(code).unwrap_or_default();
        let (words, odd) = value.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(OptionError { code: code.0, want: "2, 4, 6, …", had: value.len() });
        }
        Ok(words.iter().map(|word| u16::from_be_bytes(*word)).collect())
    }

    /// Option 6: the codes that a client asks for, in its order. Absent: none.
    ///
    /// # Errors
    /// If it is not a whole number of 16-bit codes.
    pub fn requested(&self) -> Result<Vec<OptionCode>, OptionError> {
        Ok(self.words(OptionCode::REQUEST)?.into_iter().map(OptionCode).collect())
    }

    /// Option 8, in hundredths of a second.
    ///
    /// # Errors
    /// If it is not two bytes.
    pub fn elapsed(&self) -> Result<Option<u16>, OptionError> {
        let Some(value) = self.get(OptionCode::ELAPSED) else { return Ok(None) };
        let error = OptionError { code: OptionCode::ELAPSED.0, want: "2", had: value.len() };
        value.try_into().map(|word| Some(u16::from_be_bytes(word))).map_err(|_| error)
    }

    /// Option 13: the code and the words for people.
    ///
    /// # Errors
    /// If it is shorter than two bytes.
    pub fn status(&self) -> Result<Option<(u16, &[u8])>, OptionError> {
        let Some(value) = self.get(OptionCode::STATUS) else { return Ok(None) };
        let error = OptionError { code: OptionCode::STATUS.0, want: "2 or more", had: value.len() };
        let (code, words) = value.split_first_chunk::<2>().ok_or(error)?;
        Ok(Some((u16::from_be_bytes(*code), words)))
    }

    /// Option 15: counted strings. Absent: none.
    ///
    /// # Errors
    /// If the counts do not add up.
    pub fn user_classes(&self) -> Result<Vec<&[u8]>, OptionError> {
        let Some(value) = self.get(OptionCode::USER_CLASS) else { return Ok(Vec::new()) };
        let error = OptionError { code: OptionCode::USER_CLASS.0, want: "as many as it counts", had: value.len() };
        counted(Reader::new(value)).ok_or(error)
    }

    /// True if option 15 names iPXE.
    pub fn is_ipxe(&self) -> bool {
        self.user_classes().is_ok_and(|classes| classes.contains(&b"iPXE".as_slice()))
    }

    /// Option 16. Where it stands more than once, the first with enterprise 343.
    ///
    /// # Errors
    /// If the first of them is too short, or its counts do not add up.
    pub fn vendor_class(&self) -> Result<Option<VendorClass>, OptionError> {
        let mut first = None;
        for (_, value) in self.iter().filter(|(code, _)| *code == OptionCode::VENDOR_CLASS) {
            let class = vendor_class(value);
            match class {
                Ok(class) if class.enterprise == super::INTEL => return Ok(Some(class)),
                other => drop(first.get_or_insert(other)),
            }
        }
        first.transpose()
    }

    /// Option 59.
    ///
    /// # Errors
    /// If it is no text.
    pub fn boot_url(&self) -> Result<Option<&str>, OptionError> {
        let Some(value) = self.get(OptionCode::BOOT_URL) else { return Ok(None) };
        let error = OptionError { code: OptionCode::BOOT_URL.0, want: "UTF-8", had: value.len() };
        std::str::from_utf8(value).map(Some).map_err(|_| error)
    }

    /// Option 60: counted strings. Absent: none.
    ///
    /// # Errors
    /// If the counts do not add up.
    pub fn boot_parameters(&self) -> Result<Vec<&[u8]>, OptionError> {
        let Some(value) = self.get(OptionCode::BOOT_PARAMETERS) else { return Ok(Vec::new()) };
        let error = OptionError { code: OptionCode::BOOT_PARAMETERS.0, want: "as many as it counts", had: value.len() };
        counted(Reader::new(value)).ok_or(error)
    }

    /// Option 61. Absent: an empty list.
    ///
    /// # Errors
    /// If it is not a whole number of 16-bit codes.
    pub fn arches(&self) -> Result<Vec<Arch>, OptionError> {
        Ok(self.words(OptionCode::ARCH)?.into_iter().map(Arch).collect())
    }

    /// Option 62: the kind of interface (1 is UNDI), its major and its minor version.
    ///
    /// # Errors
    /// If it is not three bytes.
    pub fn nii(&self) -> Result<Option<[u8; 3]>, OptionError> {
        let Some(value) = self.get(OptionCode::NII) else { return Ok(None) };
        let error = OptionError { code: OptionCode::NII.0, want: "3", had: value.len() };
        value.try_into().map(Some).map_err(|_| error)
    }

    /// Option 79, if it is an Ethernet address. A relay adds it; from anybody else it is worth what its sender is.
    pub fn client_mac(&self) -> Option<[u8; 6]> {
        let mut reader = Reader::new(self.get(OptionCode::CLIENT_LINK_LAYER)?);
        let hardware = u16::from_be_bytes(reader.take()?);
        let mac = reader.take()?;
        (hardware == 1 && reader.left() == 0).then_some(mac)
    }
}

fn vendor_class(value: &[u8]) -> Result<VendorClass, OptionError> {
    let error = OptionError { code: OptionCode::VENDOR_CLASS.0, want: "4 and as many as it counts", had: value.len() };
    let mut reader = Reader::new(value);
    let enterprise = reader.take().map(u32::from_be_bytes).ok_or(error)?;
    let classes = counted(reader).ok_or(error)?.into_iter().map(<[u8]>::to_vec).collect();
    Ok(VendorClass { enterprise, classes })
}

/// Strings with two bytes of length before each, up to the end.
fn counted(mut reader: Reader<'_>) -> Option<Vec<&[u8]>> {
    let mut strings = Vec::new();
    while reader.left() > 0 {
        let len = u16::from_be_bytes(reader.take()?);
        strings.push(reader.slice(usize::from(len))?);
    }
    Some(strings)
}
