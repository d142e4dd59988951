//! Which addresses a kubelet's serving certificate may name.

use std::net::IpAddr;

/// An address that a box can be reached at: not loopback, link-local, multicast or unspecified.
pub fn usable(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let address = address.to_canonical();
    let unusable = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (!unusable && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_reach_a_box() {
        for good in ["172.30.0.16", "2001:db8::1", "fd00::1"] {
            assert!(usable(good).is_some(), "{good}");
        }
        let bad = ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255"];
        for bad in bad.into_iter().chain(["::ffff:127.0.0.1", "box-1", "", "10.0.0.1:80"]) {
            assert!(usable(bad).is_none(), "{bad}");
        }
    }
}
