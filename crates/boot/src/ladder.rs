//! The ladder, as data: what firmware says of itself, and the loaders that are tried on it, one after the other.

use magnetite_api::{Architecture, MacAddr, netboot::NetbootSpec, report::Firmware};

use crate::client::{ClientClass, Request};

/// A row: what an architecture code of option 93 means for a client of a class.
struct Row {
    code: u16,
    class: ClientClass,
    platform: Platform,
}

/// A kind of box, and its loaders by their names in iPXE's builds.
#[derive(Debug, PartialEq, Eq)]
pub struct Platform {
    /// The processor.
    pub architecture: Architecture,
    /// The firmware.
    pub firmware: Firmware,
    /// Uses the firmware's own network driver: small, and works wherever the firmware itself got this far.
    pub snponly: &'static str,
    /// Has drivers of its own: for firmware whose driver breaks when a loader uses it.
    pub ipxe: &'static str,
    /// The shim that firmware with Secure Boot gets, as iPXE's fork of it is called; from its own name it finds the
    /// name of iPXE beside it.
    pub shim: Option<&'static str>,
}

const BIOS: Platform = Platform {
    architecture: Architecture::X86_64,
    firmware: Firmware::Bios,
    snponly: "undionly.kpxe",
    ipxe: "ipxe.pxe",
    shim: None,
};
const X64: Platform = Platform {
    architecture: Architecture::X86_64,
    firmware: Firmware::Uefi,
    snponly: "snponly.efi",
    ipxe: "ipxe.efi",
    shim: Some("ipxe-shimx64.efi"),
};
const X64_HTTP: Platform = Platform { firmware: Firmware::UefiHttp, ..X64 };
// The names in Debian's package, and with them those of most sites.
const ARM64: Platform = Platform {
    architecture: Architecture::Aarch64,
    firmware: Firmware::Uefi,
    snponly: "snponly-arm64.efi",
    ipxe: "ipxe-arm64.efi",
    shim: Some("ipxe-shimaa64.efi"),
};
const ARM64_HTTP: Platform = Platform { firmware: Firmware::UefiHttp, ..ARM64 };

/// IANA's "Processor Architecture Types". 32-bit EFI (6) is not here: a 64-bit kernel could not be started from it.
const LADDER: [Row; 8] = [
    Row { code: 0, class: ClientClass::Pxe, platform: BIOS },
    // 7 is registered as x86-64 and printed in RFC 4578 as EFI byte code, 9 the other way round: all firmware means x86-64 by either.
    Row { code: 7, class: ClientClass::Pxe, platform: X64 },
    Row { code: 9, class: ClientClass::Pxe, platform: X64 },
    Row { code: 11, class: ClientClass::Pxe, platform: ARM64 },
    // U-Boot for 64-bit Arm, where it does not call itself UEFI (11): it starts an EFI binary all the same.
    Row { code: 22, class: ClientClass::Pxe, platform: ARM64 },
    // 15 is registered as 32-bit x86. Firmware that sends it beside `HTTPClient` is 64-bit, as with 7 and 9; a 32-bit one could
    // not be given any loader either way.
    Row { code: 15, class: ClientClass::Http, platform: X64_HTTP },
    Row { code: 16, class: ClientClass::Http, platform: X64_HTTP },
    Row { code: 19, class: ClientClass::Http, platform: ARM64_HTTP },
];

/// Makers whose boxes say that they are what they are not, by the first three octets of their MACs. Raspberry Pi's own boot ROM calls
/// itself a PC BIOS (0), and can start nothing that a PC could: it wants its own files.
const LIARS: [([u8; 3], u16); 5] = [
    ([0xb8, 0x27, 0xeb], 0),
    ([0xdc, 0xa6, 0x32], 0),
    ([0xe4, 0x5f, 0x01], 0),
    ([0xd8, 0x3a, 0xdd], 0),
    ([0x2c, 0xcf, 0x67], 0),
];

/// What a request's architecture codes come to: the first one that is known for the client's class and is no known lie. A PXE client that
/// sends none is a PC BIOS: option 93 came with PXE 2.1, and ROMs without it are x86.
pub fn platform(request: &Request) -> Option<&'static Platform> {
    let sent = &request.arches[..];
    let codes = if sent.is_empty() && request.class == ClientClass::Pxe { &[0][..] } else { sent };
    // iPXE tells the truth, whatever it was started by.
    let honest = |code: u16| request.ipxe || !request.identity.mac.is_some_and(|mac| is_lie(mac, code));
    let rows = |code: u16| LADDER.iter().find(|row| row.code == code && row.class == request.class);
    codes.iter().filter(|code| honest(**code)).find_map(|code| rows(*code)).map(|row| &row.platform)
}

fn is_lie(mac: MacAddr, code: u16) -> bool {
    let [a, b, c, ..] = mac.0;
    LIARS.contains(&([a, b, c], code))
}

/// Folder of the signed loaders, in the names under which they are served.
pub const SECURE_BOOT: &str = "secure-boot";

/// The loader for a box: the one that is named for it, else the first of its ladder that is at hand and has not failed on this box, else
/// (all of them failed) the one whose last failure is the longest ago. `failed` is in the order of their last failures. A loader that is
/// named is never changed: who named it knows the box.
pub fn loader(
    platform: &Platform,
    netboot: &NetbootSpec,
    failed: &[String],
    at_hand: impl Fn(&str) -> bool,
) -> Option<String> {
    let there = |name: &str| at_hand(name).then(|| name.to_owned());
    if netboot.secure_boot == Some(true) {
        return there(&format!("{SECURE_BOOT}/{}", platform.shim?));
    }
    match netboot.loader.as_deref() {
        Some("snponly" | "undionly") => return there(platform.snponly),
        Some("ipxe") => return there(platform.ipxe),
        Some(own) => return there(own),
        None => {}
    }
    let last_failure = |name: &str| failed.iter().rposition(|failed| failed == name);
    let ladder = [platform.snponly, platform.ipxe].into_iter().filter(|name| at_hand(name));
    // What never failed sorts before everything, and among equals the first stays first.
    ladder.min_by_key(|name| last_failure(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::fleet::Identity;

    fn request(class: ClientClass, arches: &[u16], mac: &str) -> Request {
        let identity = Identity { mac: mac.parse().ok(), ..Identity::default() };
        Request { class, arches: arches.to_vec(), ipxe: false, https: false, identity }
    }

    #[rstest]
    #[case(ClientClass::Pxe, &[0], Some("undionly.kpxe"))]
    #[case(ClientClass::Pxe, &[], Some("undionly.kpxe"))]
    #[case(ClientClass::Pxe, &[7], Some("snponly.efi"))]
    #[case(ClientClass::Pxe, &[9], Some("snponly.efi"))]
    #[case(ClientClass::Pxe, &[11], Some("snponly-arm64.efi"))]
    #[case(ClientClass::Pxe, &[22], Some("snponly-arm64.efi"))]
    #[case(ClientClass::Pxe, &[6], None)]
    #[case(ClientClass::Pxe, &[6, 7], Some("snponly.efi"))]
    #[case(ClientClass::Http, &[15], Some("snponly.efi"))]
    #[case(ClientClass::Http, &[16], Some("snponly.efi"))]
    #[case(ClientClass::Http, &[19], Some("snponly-arm64.efi"))]
    #[case(ClientClass::Http, &[7], None)]
    #[case(ClientClass::Http, &[], None)]
    #[case(ClientClass::Pxe, &[65535], None)]
    fn what_codes_mean(#[case] class: ClientClass, #[case] arches: &[u16], #[case] first: Option<&str>) {
        assert_eq!(platform(&request(class, arches, "52:54:00:00:00:01")).map(|platform| platform.snponly), first);
    }

    #[test]
    fn a_raspberry_pi_is_no_pc() {
        let mut pi = request(ClientClass::Pxe, &[0], "dc:a6:32:01:02:03");
        assert_eq!(platform(&pi), None);
        pi.arches = vec![11];
        assert_eq!(platform(&pi), Some(&ARM64), "its UEFI firmware tells the truth");
    }

    /// What is named, what failed, what is at hand, and what is offered then.
    #[rstest]
    #[case::first(None, &[], &["snponly.efi", "ipxe.efi"], Some("snponly.efi"))]
    #[case::only_one_there(None, &[], &["ipxe.efi"], Some("ipxe.efi"))]
    #[case::next(None, &["snponly.efi"], &["snponly.efi", "ipxe.efi"], Some("ipxe.efi"))]
    #[case::all_failed(None, &["snponly.efi", "ipxe.efi"], &["snponly.efi", "ipxe.efi"], Some("snponly.efi"))]
    #[case::all_failed_the_other_way_round(None, &["ipxe.efi", "snponly.efi"], &["snponly.efi", "ipxe.efi"], Some("ipxe.efi"))]
    #[case::next_is_not_there(None, &["snponly.efi"], &["snponly.efi"], Some("snponly.efi"))]
    #[case::named(Some("ipxe"), &["ipxe.efi"], &["snponly.efi", "ipxe.efi"], Some("ipxe.efi"))]
    #[case::named_and_missing(Some("ipxe"), &[], &["snponly.efi"], None)]
    #[case::named_by_the_name_of_a_bios(Some("undionly"), &[], &["snponly.efi"], Some("snponly.efi"))]
    #[case::own(Some("site.efi"), &[], &["site.efi", "snponly.efi"], Some("site.efi"))]
    #[case::nothing_there(None, &[], &[], None)]
    fn which_loader(
        #[case] named: Option<&str>,
        #[case] failed: &[&str],
        #[case] at_hand: &[&str],
        #[case] want: Option<&str>,
    ) {
        let netboot = NetbootSpec { loader: named.map(str::to_owned), ..NetbootSpec::default() };
        let failed: Vec<_> = failed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(loader(&X64, &netboot, &failed, |name| at_hand.contains(&name)).as_deref(), want);
    }

    #[test]
    fn secure_boot_gets_the_shim_or_nothing() {
        let netboot = NetbootSpec { secure_boot: Some(true), loader: Some("ipxe".into()), dialect: None };
        let of = |platform| loader(platform, &netboot, &[], |_| true);
        assert_eq!(of(&X64).as_deref(), Some("secure-boot/ipxe-shimx64.efi"));
        assert_eq!(of(&ARM64_HTTP).as_deref(), Some("secure-boot/ipxe-shimaa64.efi"));
        assert_eq!(of(&BIOS), None);
        assert_eq!(loader(&X64, &netboot, &[], |name| !name.starts_with(SECURE_BOOT)), None, "never an unsigned one");
    }
}
