//! Plain HTTP or HTTPS: by which of them a client is told to go on.
//!
//! A client that does not trust our certificate ends its boot at an `https://` link, and none says whom it trusts. So
//! nobody gets one before somebody has said that his firmware, his iPXE or his systems trust it, and iPXE only if
//! HTTPS is built into it, which it does say.

use crate::client::{ClientClass, Request};

/// By which protocol a link leads to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// `http://`.
    #[default]
    Http,
    /// `https://`.
    Https,
}

impl Scheme {
    /// As a URL begins.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Who trusts the certificate, by the word of whoever runs the site. By default nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trust {
    /// UEFI HTTP boot: the certificate's authority is enrolled in the firmware.
    pub firmware: bool,
    /// iPXE: it was built to trust that authority.
    pub ipxe: bool,
    /// Ignition and what else runs in the systems: their images have the authority among theirs.
    pub system: bool,
}

impl Trust {
    /// How a client goes on that asked by DHCP.
    pub fn scheme(self, request: &Request) -> Scheme {
        let trusts = match (request.ipxe, request.class) {
            (true, _) => self.ipxe && request.https,
            (false, ClientClass::Http) => self.firmware,
            // It takes loaders by TFTP.
            (false, ClientClass::Pxe) => false,
        };
        if trusts { Scheme::Https } else { Scheme::Http }
    }

    /// How a system goes on that iPXE started. The way in which iPXE came says nothing of it.
    pub fn of_system(self) -> Scheme {
        if self.system { Scheme::Https } else { Scheme::Http }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::fleet::Identity;

    const NOBODY: Trust = Trust { firmware: false, ipxe: false, system: false };
    const FIRMWARE: Trust = Trust { firmware: true, ..NOBODY };
    const IPXE: Trust = Trust { ipxe: true, ..NOBODY };
    const SYSTEM: Trust = Trust { system: true, ..NOBODY };
    const ALL: Trust = Trust { firmware: true, ipxe: true, system: true };

    /// Who is told `https://`: by class, whether it is iPXE, and whether that has HTTPS.
    #[rstest]
    #[case::ipxe_with_https(ClientClass::Pxe, true, true, &[IPXE, ALL])]
    #[case::ipxe_over_http_boot(ClientClass::Http, true, true, &[IPXE, ALL])]
    #[case::ipxe_without(ClientClass::Pxe, true, false, &[])]
    #[case::ipxe_without_over_http_boot(ClientClass::Http, true, false, &[])]
    #[case::http_boot(ClientClass::Http, false, false, &[FIRMWARE, ALL])]
    #[case::pxe(ClientClass::Pxe, false, false, &[])]
    fn only_who_can_and_trusts(
        #[case] class: ClientClass,
        #[case] ipxe: bool,
        #[case] https: bool,
        #[case] by: &[Trust],
    ) {
        let request = Request { class, arches: vec![7], ipxe, https, identity: Identity::default() };
        for trust in [NOBODY, FIRMWARE, IPXE, SYSTEM, ALL] {
            let want = if by.contains(&trust) { Scheme::Https } else { Scheme::Http };
            assert_eq!(trust.scheme(&request), want, "{trust:?}");
        }
    }

    #[test]
    fn a_system_is_told_https_only_by_name() {
        let of = |trust: Trust| trust.of_system();
        assert_eq!([NOBODY, FIRMWARE, IPXE].map(of), [Scheme::Http; 3]);
        assert_eq!([SYSTEM, ALL].map(of), [Scheme::Https; 2]);
    }
}
