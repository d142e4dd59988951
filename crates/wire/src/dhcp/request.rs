//! Requests as firmware sends them: for tests, and for whoever wants to know beforehand what a box would be answered.

use std::net::Ipv4Addr;

use super::{MessageType, OptionCode, Options, Packet, packet::BOOTREQUEST};

/// A kind of client, in the words that it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persona {
    /// Option 60.
    pub vendor_class: &'static str,
    /// Option 93.
    pub arch: u16,
    /// Option 94.
    pub ndi: [u8; 3],
    /// True if it is iPXE, which says so by option 77.
    pub ipxe: bool,
}

impl Persona {
    /// A PC BIOS with a PXE ROM that is not iPXE.
    pub const BIOS: Self =
        Self { vendor_class: "PXEClient:Arch:00000:UNDI:002001", arch: 0, ndi: [1, 2, 1], ipxe: false };
    /// UEFI on 64-bit x86, PXE.
    pub const UEFI: Self =
        Self { vendor_class: "PXEClient:Arch:00007:UNDI:003000", arch: 7, ndi: [1, 3, 0], ipxe: false };
    /// UEFI on 64-bit x86, HTTP boot.
    pub const UEFI_HTTP: Self =
        Self { vendor_class: "HTTPClient:Arch:00016:UNDI:003000", arch: 16, ndi: [1, 3, 0], ipxe: false };
    /// UEFI on 64-bit Arm, PXE.
    pub const ARM64: Self =
        Self { vendor_class: "PXEClient:Arch:00011:UNDI:003000", arch: 11, ndi: [1, 3, 0], ipxe: false };
    /// UEFI on 64-bit Arm, HTTP boot.
    pub const ARM64_HTTP: Self =
        Self { vendor_class: "HTTPClient:Arch:00019:UNDI:003000", arch: 19, ndi: [1, 3, 0], ipxe: false };

    /// iPXE, started by this firmware: it takes option 60 over from the offer that booted it, and is a PXE client whatever that was.
    pub fn ipxe(self) -> Self {
        let arch = match self.arch {
            16 => 7,
            19 => 11,
            other => other,
        };
        Self { vendor_class: "PXEClient", arch, ipxe: true, ..self }
    }

    /// Its request. `uuid` is in the byte order of SMBIOS.
    pub fn request(&self, kind: MessageType, mac: [u8; 6], uuid: Option<[u8; 16]>, xid: u32) -> Packet {
        let mut options = Options::default();
        options.push(OptionCode::MESSAGE_TYPE, [kind.0]);
        options.push(OptionCode::MAX_SIZE, 1472_u16.to_be_bytes());
        options.push(OptionCode::PARAMETERS, [1, 3, 6, 12, 15, 17, 43, 54, 60, 66, 67, 97]);
        if let Some(uuid) = uuid {
            // A zero says that a UUID follows (RFC 4578, 2.3).
            options.push(OptionCode::UUID, [&[0][..], &uuid].concat());
        }
        options.push(OptionCode::NDI, self.ndi);
        options.push(OptionCode::ARCH, self.arch.to_be_bytes());
        options.push(OptionCode::VENDOR_CLASS, self.vendor_class.as_bytes());
        if self.ipxe {
            options.push(OptionCode::USER_CLASS, *b"iPXE");
        }
        let [a, b, c, d, e, f] = mac;
        let nobody = Ipv4Addr::UNSPECIFIED;
        Packet {
            op: BOOTREQUEST,
            htype: 1,
            hlen: 6,
            hops: 0,
            xid,
            secs: 0,
            flags: 0x8000,
            ciaddr: nobody,
            yiaddr: nobody,
            siaddr: nobody,
            giaddr: nobody,
            chaddr: [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            sname: [0; 64],
            file: [0; 128],
            options,
        }
    }
}
