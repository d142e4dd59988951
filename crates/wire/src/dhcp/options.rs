//! Options: kept in order and byte for byte; given a meaning only when asked for one.

use std::{borrow::Cow, net::Ipv4Addr};

use crate::{pxe, reader::Reader};

/// The code of an option (RFC 2132).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OptionCode(pub u8);

impl OptionCode {
    /// Subnet mask.
    pub const SUBNET_MASK: Self = Self(1);
    /// Routers.
    pub const ROUTER: Self = Self(3);
    /// Name servers.
    pub const DNS_SERVERS: Self = Self(6);
    /// Host name.
    pub const HOST_NAME: Self = Self(12);
    /// Domain name.
    pub const DOMAIN_NAME: Self = Self(15);
    /// Time servers.
    pub const NTP_SERVERS: Self = Self(42);
    /// Lease time, in seconds.
    pub const LEASE_TIME: Self = Self(51);
    /// Requested IP address.
    pub const REQUESTED_IP: Self = Self(50);
    /// Option overload: `file` (1), `sname` (2) or both (3) hold options too.
    pub const OVERLOAD: Self = Self(52);
    /// Message type.
    pub const MESSAGE_TYPE: Self = Self(53);
    /// Server identifier.
    pub const SERVER_ID: Self = Self(54);
    /// Parameter request list.
    pub const PARAMETERS: Self = Self(55);
    /// Maximum message size.
    pub const MAX_SIZE: Self = Self(57);
    /// Vendor class: `PXEClient…` or `HTTPClient…`.
    pub const VENDOR_CLASS: Self = Self(60);
    /// Client identifier.
    pub const CLIENT_ID: Self = Self(61);
    /// TFTP server name.
    pub const TFTP_SERVER: Self = Self(66);
    /// Boot file name.
    pub const BOOTFILE: Self = Self(67);
    /// User class (RFC 3004); iPXE sends its name bare.
    pub const USER_CLASS: Self = Self(77);
    /// Relay agent information (RFC 3046).
    pub const RELAY_AGENT: Self = Self(82);
    /// Client system architectures (RFC 4578): a list.
    pub const ARCH: Self = Self(93);
    /// Client network interface (RFC 4578).
    pub const NDI: Self = Self(94);
    /// Client machine identifier (RFC 4578): a type byte and the SMBIOS UUID.
    pub const UUID: Self = Self(97);
    /// Vendor-specific information: PXE's sub-options.
    pub const VENDOR: Self = Self(43);
    /// iPXE's encapsulated options.
    pub const IPXE: Self = Self(175);
}

/// A DHCP message type (RFC 2132, 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageType(pub u8);

impl MessageType {
    /// A client looks for servers.
    pub const DISCOVER: Self = Self(1);
    /// A server offers.
    pub const OFFER: Self = Self(2);
    /// A client chooses.
    pub const REQUEST: Self = Self(3);
    /// A client found its address in use.
    pub const DECLINE: Self = Self(4);
    /// A server agrees.
    pub const ACK: Self = Self(5);
    /// A server refuses.
    pub const NAK: Self = Self(6);
    /// A client gives its address back.
    pub const RELEASE: Self = Self(7);
    /// A client has an address and asks for the rest.
    pub const INFORM: Self = Self(8);
}

/// A client architecture (RFC 4578 and IANA's "Processor Architecture Types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Arch(pub u16);

impl Arch {
    /// PC with a BIOS.
    pub const X86_BIOS: Self = Self(0);
    /// 32-bit x86 with UEFI.
    pub const EFI_IA32: Self = Self(6);
    /// 64-bit x86 with UEFI. RFC 4578 printed 7 for EFI byte code and 9 for this one; erratum 4624 and IANA's registry
    /// have it the other way round, and so does all firmware that was captured.
    pub const EFI_X64: Self = Self(7);
    /// EFI byte code by the registry; firmware that was built after the text of RFC 4578 means 64-bit x86 by it.
    pub const EFI_BC: Self = Self(9);
    /// 32-bit ARM with UEFI.
    pub const EFI_ARM32: Self = Self(10);
    /// 64-bit ARM with UEFI.
    pub const EFI_ARM64: Self = Self(11);
    /// 32-bit x86 with UEFI, boot by HTTP.
    pub const EFI_HTTP_IA32: Self = Self(15);
    /// 64-bit x86 with UEFI, boot by HTTP.
    pub const EFI_HTTP_X64: Self = Self(16);
    /// EFI byte code, boot by HTTP.
    pub const EFI_HTTP_BC: Self = Self(17);
    /// 32-bit ARM with UEFI, boot by HTTP.
    pub const EFI_HTTP_ARM32: Self = Self(18);
    /// 64-bit ARM with UEFI, boot by HTTP.
    pub const EFI_HTTP_ARM64: Self = Self(19);
}

/// An option that does not have the form that its code asks for. Only this option is wrong; the packet
/// around it may still be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("option {code}: wanted {want} bytes, had {had}")]
pub struct OptionError {
    /// The option's code.
    pub code: u8,
    /// How long it should be.
    pub want: &'static str,
    /// How long it is.
    pub had: usize,
}

/// Options in the order in which they came. The same code may stand there more than once (RFC 3396): the
/// parts belong together.
///
/// All values are in one buffer: a packet has ten options, and an allocation for each is more work than reading it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The codes, and where in `values` what belongs to each ends. It begins where the one before ends.
    parts: Vec<(OptionCode, usize)>,
    values: Vec<u8>,
}

impl Options {
    /// Adds an option at the end. Longer than 255 bytes is split when it is encoded.
    pub fn push(&mut self, code: OptionCode, value: impl AsRef<[u8]>) {
        self.values.extend_from_slice(value.as_ref());
        self.parts.push((code, self.values.len()));
    }

    /// Takes all parts of an option away.
    pub fn remove(&mut self, code: OptionCode) {
        let mut kept = Self::default();
        self.iter().filter(|(other, _)| *other != code).for_each(|(code, value)| kept.push(code, value));
        *self = kept;
    }

    /// How many parts there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts in order.
    pub fn iter(&self) -> impl Iterator<Item = (OptionCode, &[u8])> {
        self.parts.iter().scan(0, |start, (code, end)| {
            let value = self.values.get(*start..*end).unwrap_or_default();
            *start = *end;
            Some((*code, value))
        })
    }

    /// The value of an option: all its parts, joined. Copied only if there are several.
    pub fn get(&self, code: OptionCode) -> Option<Cow<'_, [u8]>> {
        let mut parts = self.iter().filter(|(other, _)| *other == code).map(|(_, value)| value);
        let mut whole = Cow::Borrowed(parts.next()?);
        parts.for_each(|part| whole.to_mut().extend_from_slice(part));
        Some(whole)
    }

    fn exactly<const N: usize>(&self, code: OptionCode, want: &'static str) -> Result<Option<[u8; N]>, OptionError> {
        let Some(value) = self.get(code) else { return Ok(None) };
        let had = value.len();
        let value = <[u8; N]>::try_from(&*value).map_err(|_| OptionError { code: code.0, want, had })?;
        Ok(Some(value))
    }

    /// Option 53.
    ///
    /// # Errors
    /// If it is not one byte.
    pub fn message_type(&self) -> Result<Option<MessageType>, OptionError> {
        Ok(self.exactly::<1>(OptionCode::MESSAGE_TYPE, "1")?.map(|[kind]| MessageType(kind)))
    }

    /// Option 54.
    ///
    /// # Errors
    /// If it is not four bytes.
    pub fn server_id(&self) -> Result<Option<Ipv4Addr>, OptionError> {
        Ok(self.exactly::<4>(OptionCode::SERVER_ID, "4")?.map(Ipv4Addr::from))
    }

    /// Option 50.
    ///
    /// # Errors
    /// If it is not four bytes.
    pub fn requested_ip(&self) -> Result<Option<Ipv4Addr>, OptionError> {
        Ok(self.exactly::<4>(OptionCode::REQUESTED_IP, "4")?.map(Ipv4Addr::from))
    }

    /// Option 94 (RFC 4578, 2.2): the kind of interface (1 is UNDI), its major and its minor version.
    ///
    /// # Errors
    /// If it is not three bytes.
    pub fn ndi(&self) -> Result<Option<[u8; 3]>, OptionError> {
        self.exactly::<3>(OptionCode::NDI, "3")
    }

    /// Option 61 with its type byte: OVMF sends none, iPXE a 1 and the MAC.
    ///
    /// # Errors
    /// If it is shorter than two bytes (RFC 2132, 9.14).
    pub fn client_id(&self) -> Result<Option<Cow<'_, [u8]>>, OptionError> {
        match self.get(OptionCode::CLIENT_ID) {
            Some(id) if id.len() < 2 => {
                Err(OptionError { code: OptionCode::CLIENT_ID.0, want: "2 or more", had: id.len() })
            }
            id => Ok(id),
        }
    }

    /// Option 55: the codes that a client asks for, in its order. Absent: none.
    pub fn parameters(&self) -> Vec<OptionCode> {
        self.get(OptionCode::PARAMETERS).unwrap_or_default().iter().copied().map(OptionCode).collect()
    }

    /// Option 77: RFC 3004's counted strings, or, where the counts do not add up, the whole as one name: iPXE sends its
    /// own bare. Absent: none.
    pub fn user_classes(&self) -> Vec<Vec<u8>> {
        let Some(value) = self.get(OptionCode::USER_CLASS) else { return Vec::new() };
        let mut reader = Reader::new(&value);
        let names: Vec<_> = counted(&mut reader).map(<[u8]>::to_vec).collect();
        if reader.left() == 0 && !names.is_empty() { names } else { vec![value.into_owned()] }
    }

    /// Option 57, in bytes.
    ///
    /// # Errors
    /// If it is not two bytes.
    pub fn max_size(&self) -> Result<Option<u16>, OptionError> {
        Ok(self.exactly::<2>(OptionCode::MAX_SIZE, "2")?.map(u16::from_be_bytes))
    }

    /// Option 93: RFC 4578 makes it a list. Absent: an empty one.
    ///
    /// # Errors
    /// If it is empty or not a whole number of 16-bit codes.
    pub fn arches(&self) -> Result<Vec<Arch>, OptionError> {
        let Some(value) = self.get(OptionCode::ARCH) else { return Ok(Vec::new()) };
        let (codes, odd) = value.as_chunks::<2>();
        if codes.is_empty() || !odd.is_empty() {
            return Err(OptionError { code: OptionCode::ARCH.0, want: "2, 4, 6, …", had: value.len() });
        }
        Ok(codes.iter().map(|code| Arch(u16::from_be_bytes(*code))).collect())
    }

    /// Option 97 without its type byte: the SMBIOS UUID in the order in which SMBIOS holds it. A type other
    /// than 0 is no UUID.
    ///
    /// # Errors
    /// If it is not seventeen bytes.
    pub fn smbios_uuid(&self) -> Result<Option<[u8; 16]>, OptionError> {
        let Some(value) = self.exactly::<17>(OptionCode::UUID, "17")? else { return Ok(None) };
        let [kind, uuid @ ..] = value;
        Ok((kind == 0).then_some(uuid))
    }

    /// Option 60, as it stands.
    pub fn vendor_class(&self) -> Option<Cow<'_, [u8]>> {
        self.get(OptionCode::VENDOR_CLASS)
    }

    /// True if option 77 names iPXE: bare, as iPXE writes it, or as one of RFC 3004's counted strings; or if
    /// iPXE's own options (175) are there.
    pub fn is_ipxe(&self) -> bool {
        let named = self
            .get(OptionCode::USER_CLASS)
            .is_some_and(|value| *value == *b"iPXE" || counted(&mut Reader::new(&value)).any(|name| name == b"iPXE"));
        named || self.get(OptionCode::IPXE).is_some()
    }

    /// True if iPXE says in its own options (175) that HTTPS is built into it.
    pub fn ipxe_has_https(&self) -> bool {
        let own = self.get(OptionCode::IPXE);
        let version = own.as_deref().and_then(|own| pxe::sub_option(own, pxe::IPXE_HTTPS));
        version.is_some_and(|version| version.iter().any(|byte| *byte != 0))
    }
}

/// Strings with a byte of length before each. A count that goes over the end leaves what follows it unread, and itself too.
fn counted<'a>(reader: &mut Reader<'a>) -> impl Iterator<Item = &'a [u8]> {
    std::iter::from_fn(move || {
        let mut ahead = reader.clone();
        let len = ahead.byte()?;
        let name = ahead.slice(usize::from(len))?;
        *reader = ahead;
        Some(name)
    })
}
