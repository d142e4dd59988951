//! What a boot request says of its sender: the facts that the decision needs, without the packet.

use magnetite_api::{Architecture, report::Firmware};

use crate::fleet::Identity;

/// Which protocol the client speaks, by option 60.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientClass {
    /// `PXEClient`: loaders come by TFTP.
    Pxe,
    /// `HTTPClient`: the loader comes by HTTP, from the firmware itself.
    Http,
}

/// A boot request as values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which protocol the client speaks.
    pub class: ClientClass,
    /// Option 93, all of it: RFC 4578 makes it a list.
    pub arches: Vec<u16>,
    /// True if the client is iPXE: user class `iPXE` (option 77) or iPXE's own options (175).
    pub ipxe: bool,
    /// Who it says it is.
    pub identity: Identity,
}

/// A row of the ladder: what an architecture code of option 93 means.
struct Known {
    code: u16,
    class: ClientClass,
    architecture: Architecture,
    firmware: Firmware,
    loader: &'static str,
}

/// The ladder, as data: IANA "Processor Architecture Types". 7 is registered as EFI byte code and is what
/// every x86-64 firmware sends; 9 is registered as x86-64 and sent by few. Both are meant alike. 32-bit EFI
/// (6) has no loader here: a 64-bit kernel could not be started from it.
const LADDER: [Known; 6] = [
    Known {
        code: 0,
        class: ClientClass::Pxe,
        architecture: Architecture::X86_64,
        firmware: Firmware::Bios,
        loader: "undionly.kpxe",
    },
    Known {
        code: 7,
        class: ClientClass::Pxe,
        architecture: Architecture::X86_64,
        firmware: Firmware::Uefi,
        loader: "snponly.efi",
    },
    Known {
        code: 9,
        class: ClientClass::Pxe,
        architecture: Architecture::X86_64,
        firmware: Firmware::Uefi,
        loader: "snponly.efi",
    },
    Known {
        code: 11,
        class: ClientClass::Pxe,
        architecture: Architecture::Aarch64,
        firmware: Firmware::Uefi,
        loader: "ipxe-arm64.efi",
    },
    Known {
        code: 16,
        class: ClientClass::Http,
        architecture: Architecture::X86_64,
        firmware: Firmware::UefiHttp,
        loader: "snponly.efi",
    },
    Known {
        code: 19,
        class: ClientClass::Http,
        architecture: Architecture::Aarch64,
        firmware: Firmware::UefiHttp,
        loader: "ipxe-arm64.efi",
    },
];

/// What a request's architecture codes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// The processor.
    pub architecture: Architecture,
    /// The firmware.
    pub firmware: Firmware,
    /// The iPXE binary for it, by its name in Debian's `ipxe` package.
    pub loader: &'static str,
}

impl Request {
    /// The first code of option 93 that is known for the client's class. A PXE client that sends none is a
    /// PC BIOS: option 93 came with PXE 2.1, and ROMs without it are x86.
    pub fn platform(&self) -> Option<Platform> {
        let codes = if self.arches.is_empty() && self.class == ClientClass::Pxe { &[0][..] } else { &self.arches[..] };
        let known =
            codes.iter().find_map(|code| LADDER.iter().find(|row| row.code == *code && row.class == self.class))?;
        let Known { code: _, class: _, architecture, firmware, loader } = known;
        Some(Platform { architecture: *architecture, firmware: *firmware, loader })
    }
}

/// Every loader that the ladder can name: the only files that are served to firmware.
pub fn loaders() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<_> = LADDER.iter().map(|row| row.loader).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn request(class: ClientClass, arches: &[u16]) -> Request {
        Request { class, arches: arches.to_vec(), ipxe: false, identity: Identity::default() }
    }

    #[rstest]
    #[case(ClientClass::Pxe, &[0], Some("undionly.kpxe"))]
    #[case(ClientClass::Pxe, &[], Some("undionly.kpxe"))]
    #[case(ClientClass::Pxe, &[7], Some("snponly.efi"))]
    #[case(ClientClass::Pxe, &[9], Some("snponly.efi"))]
    #[case(ClientClass::Pxe, &[11], Some("ipxe-arm64.efi"))]
    #[case(ClientClass::Pxe, &[6], None)]
    #[case(ClientClass::Pxe, &[6, 7], Some("snponly.efi"))]
    #[case(ClientClass::Http, &[16], Some("snponly.efi"))]
    #[case(ClientClass::Http, &[7], None)]
    #[case(ClientClass::Http, &[], None)]
    #[case(ClientClass::Pxe, &[65535], None)]
    fn ladder(#[case] class: ClientClass, #[case] arches: &[u16], #[case] loader: Option<&str>) {
        assert_eq!(request(class, arches).platform().map(|platform| platform.loader), loader);
    }
}
