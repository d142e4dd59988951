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

/// The host in the URL of an API server: a name, or an address without the brackets of IPv6.
pub fn host(url: &str) -> Option<&str> {
    let authority = url.strip_prefix("https://")?.split('/').next()?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    Some(host.trim_matches(['[', ']'])).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_api_server() {
        for (url, wanted) in [
            ("https://10.0.0.5:6443", Some("10.0.0.5")),
            ("https://master", Some("master")),
            ("https://api.example:6443/x", Some("api.example")),
            ("https://[fd30::1]:6443", Some("fd30::1")),
            ("https://:6443", None),
            ("10.0.0.5:6443", None),
        ] {
            assert_eq!(host(url), wanted, "{url}");
        }
    }

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
