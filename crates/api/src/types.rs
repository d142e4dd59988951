//! Values that have a form: parsed once, at the edge, and never again.

use std::{borrow::Cow, fmt, net::Ipv4Addr, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Why a text is not the value that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not six octets in hexadecimal.
    #[error("{0:?} is not a MAC address; write six octets such as 52:54:00:30:00:10")]
    Mac(String),
    /// Not a UUID.
    #[error("{0:?} is not a UUID; write 8-4-4-4-12 hexadecimal digits")]
    Uuid(String),
    /// Not a SHA-256 digest.
    #[error("{0:?} is not a SHA-256 digest; write 64 hexadecimal digits, as sha256sum prints them")]
    Sha256(String),
    /// Not the fingerprint of a key.
    #[error(
        "{0:?} is not a key's fingerprint; write sixteen hexadecimal digits in four groups, such as 7f3a-91c2-0b5d-44e1"
    )]
    Fingerprint(String),
    /// Not an IPv4 address with the size of its network.
    #[error("{0:?} is not an IPv4 address with the length of its network's prefix; write one such as 10.0.0.21/24")]
    Ipv4Cidr(String),
    /// Not an architecture that has a name here.
    #[error("{0:?} is not an architecture; write x86_64 or aarch64")]
    Architecture(String),
}

macro_rules! string_form {
    ($name:ident, $pattern:literal, $example:literal, $doc:literal) => {
        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $doc, "example": $example, "maxLength": 64 })
            }
        }
    };
}

/// An Ethernet address. Read with `:` or `-` between the octets, in either case; written in lower case with `:`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

string_form!(
    MacAddr,
    "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$",
    "52:54:00:30:00:10",
    "Ethernet address: six octets in hexadecimal with ':' or '-' between them."
);

impl FromStr for MacAddr {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::Mac(text.to_owned());
        if text.split([':', '-']).map(str::len).ne([2; 6]) {
            return Err(fail());
        }
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
        decode_hex(&digits).map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl MacAddr {
    /// Its twelve digits alone, as part of a name.
    pub fn digits(&self) -> String {
        self.0.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// The address of such digits, which is the one way to write it.
    pub fn of_digits(digits: &str) -> Option<Self> {
        decode_hex(digits).map(Self).filter(|mac| mac.digits() == digits)
    }

    /// True of an address that cannot name a machine: all zeros, all ones, or a group address.
    pub fn is_bogus(&self) -> bool {
        self.0 == [0; 6] || self.0[0] & 1 == 1
    }
}

/// An IPv4 address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of the network's prefix, 1 to 32.
    pub prefix: u8,
}

string_form!(
    Ipv4Cidr,
    "^([0-9]{1,3}\\.){3}[0-9]{1,3}/([1-9]|[12][0-9]|3[0-2])$",
    "10.0.0.21/24",
    "IPv4 address with the length of its network's prefix."
);

impl FromStr for Ipv4Cidr {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
            let names_a_host = !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
            (names_a_host && (1..=32).contains(&prefix)).then_some(Self { address, prefix })
        };
        parse().ok_or_else(|| ParseError::Ipv4Cidr(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Ipv4Cidr {
    /// The network's mask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0))
    }
}

/// An SMBIOS system UUID, in the byte order in which it is written (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineUuid(pub [u8; 16]);

string_form!(
    MachineUuid,
    "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
    "3f0d2c5e-0000-4000-8000-000000000010",
    "SMBIOS system UUID, as dmidecode prints it: 8-4-4-4-12 hexadecimal digits."
);

impl FromStr for MachineUuid {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::Uuid(text.to_owned());
        if text.split('-').map(str::len).ne([8, 4, 4, 4, 12]) {
            return Err(fail());
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        decode_hex(&digits).map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for MachineUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MachineUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl MachineUuid {
    /// From the bytes that SMBIOS and DHCP option 97 carry: the first three fields are little-endian
    /// (SMBIOS 2.6, 7.2.1; every firmware measured in the lab sends them so).
    pub fn from_smbios(raw: [u8; 16]) -> Self {
        let mut out = raw;
        out[0..4].reverse();
        out[4..6].reverse();
        out[6..8].reverse();
        Self(out)
    }

    /// As firmware writes it that takes the one byte order for the other.
    pub fn byte_swapped(self) -> Self {
        Self::from_smbios(self.0)
    }

    /// True of a value that many boards share, so that it names none of them: all zeros, all ones, and the
    /// constant `03000200-0400-0500-0006-000700080009` that some board makers never replaced.
    pub fn is_bogus(&self) -> bool {
        const UNSET: [u8; 16] =
            [0x03, 0x00, 0x02, 0x00, 0x04, 0x00, 0x05, 0x00, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00, 0x09];
        self.0 == [0; 16] || self.0 == [0xff; 16] || self.0 == UNSET
    }
}

/// A serial number that is a maker's placeholder and so names no machine.
pub fn serial_is_bogus(serial: &str) -> bool {
    const PLACEHOLDERS: [&str; 9] = [
        "",
        "0",
        "none",
        "not specified",
        "default string",
        "system serial number",
        "to be filled by o.e.m.",
        "0123456789",
        "unknown",
    ];
    let text = serial.trim().to_ascii_lowercase();
    PLACEHOLDERS.contains(&text.as_str()) || text.bytes().all(|byte| byte == b'0')
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

string_form!(
    Sha256,
    "^[0-9A-Fa-f]{64}$",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "SHA-256 digest of the whole file: 64 hexadecimal digits, as sha256sum prints them."
);

impl FromStr for Sha256 {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        decode_hex(text).map(Self).ok_or_else(|| ParseError::Sha256(text.to_owned()))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A claim key as a person compares it: the first 64 bits of the SHA-256 of its SubjectPublicKeyInfo, as four groups
/// of four digits. To find another key with the same one takes 2^64 tries, all within one boot window.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 8]);

string_form!(
    Fingerprint,
    "^[0-9a-f]{4}(-[0-9a-f]{4}){3}$",
    "7f3a-91c2-0b5d-44e1",
    "Fingerprint of a claim key: sixteen hexadecimal digits in four groups."
);

impl FromStr for Fingerprint {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::Fingerprint(text.to_owned());
        if text.split('-').map(str::len).ne([4; 4]) {
            return Err(fail());
        }
        decode_hex(&text.replace('-', "")).map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i] = self.0;
        write!(f, "{a:02x}{b:02x}-{c:02x}{d:02x}-{e:02x}{g:02x}-{h:02x}{i:02x}")
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256> for Fingerprint {
    fn from(digest: Sha256) -> Self {
        let [a, b, c, d, e, g, h, i, ..] = digest.0;
        Self([a, b, c, d, e, g, h, i])
    }
}

impl Sha256 {
    /// Digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The first ten digits: enough to name a revision or a key to a person.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}

/// A processor architecture, by the name that the kernel gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Architecture {
    /// 64-bit x86, BIOS and UEFI.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm, UEFI.
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl Architecture {
    /// The name in specs, templates and paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            other => Err(ParseError::Architecture(other.to_owned())),
        }
    }
}

fn decode_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    // from_str_radix would take a sign.
    if digits.len() != N * 2 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; N];
    for (index, octet) in out.iter_mut().enumerate() {
        *octet = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("52:54:00:30:00:1f", true)]
    #[case("52-54-00-30-00-1F", true)]
    #[case("525400300010", false)]
    #[case("52:54:00:30:00", false)]
    #[case("52:54:00:30:00:10:11", false)]
    #[case("+2:54:00:30:00:10", false)] // u8::from_str_radix takes a sign; an address has none
    fn mac_forms(#[case] text: &str, #[case] ok: bool) {
        assert_eq!(text.parse::<MacAddr>().is_ok(), ok);
    }

    #[rstest]
    #[case("10.0.0.21/24", Some("255.255.255.0"))]
    #[case("10.0.0.21/32", Some("255.255.255.255"))]
    #[case("10.0.0.21/1", Some("128.0.0.0"))]
    #[case("10.0.0.21", None)]
    #[case("10.0.0.21/0", None)]
    #[case("10.0.0.21/33", None)]
    #[case("10.0.0.256/24", None)]
    #[case("0.0.0.0/8", None)]
    #[case("224.0.0.1/24", None)]
    fn cidr_forms(#[case] text: &str, #[case] mask: Option<&str>) {
        assert_eq!(text.parse::<Ipv4Cidr>().ok().map(|cidr| cidr.mask().to_string()).as_deref(), mask);
        assert!(mask.is_none() || text.parse::<Ipv4Cidr>().unwrap().to_string() == text);
    }

    #[test]
    fn uuid_from_smbios_swaps_the_first_three_fields() {
        let raw = [0x5e, 0x2c, 0x0d, 0x3f, 0, 0, 0, 0x40, 0x80, 0, 0, 0, 0, 0, 0, 0x10];
        assert_eq!(MachineUuid::from_smbios(raw).to_string(), "3f0d2c5e-0000-4000-8000-000000000010");
    }

    #[test]
    fn placeholders_name_no_machine() {
        assert!("03000200-0400-0500-0006-000700080009".parse::<MachineUuid>().unwrap().is_bogus());
        assert!(serial_is_bogus(" To Be Filled By O.E.M. "));
        assert!(serial_is_bogus("0000000"));
        assert!(!serial_is_bogus("PF3X01"));
        assert!(MacAddr([0xff; 6]).is_bogus());
    }
}
