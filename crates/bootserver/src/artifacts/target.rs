//! Where files may be fetched from.
//!
//! A Profile's author chooses the URL, and the boot server has reach that its author may not have. So only http and
//! https are spoken, and addresses that mean this host or its link are refused after the name was resolved, when they
//! are what will be connected to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Name, Resolve, Resolving},
};

use super::error::FetchError;

/// False of an address that leads to this host, or no further than its own link (cloud metadata is there).
pub fn is_fetched_from(address: IpAddr) -> bool {
    let address = address.to_canonical();
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first != 0 && first < 224 && !v4.is_loopback() && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            let link_local = v6.segments()[0] & 0xffc0 == 0xfe80;
            // The old form ::a.b.c.d of an IPv4 address, which to_canonical leaves alone, holds :: and ::1 too.
            let compatible = v6.segments()[..6] == [0; 6];
            let metadata = v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            !(link_local || compatible || metadata || v6.is_multicast())
        }
    }
}

/// Resolves names to addresses that may be fetched from.
pub struct Resolver(pub fn(IpAddr) -> bool);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let all: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // One bad address spoils the name: it would be a matter of luck which is taken.
            if let Some(bad) = all.iter().find(|address| !allowed(address.ip())) {
                return Err(FetchError::Address { host, address: bad.ip() }.into());
            }
            Ok(Box::new(all.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// The URL, if it is one that may be fetched.
pub fn target(url: &str, allowed: fn(IpAddr) -> bool) -> Result<Url, FetchError> {
    let refused = || FetchError::Url(shown(url));
    let parsed = Url::parse(url).map_err(|_| refused())?;
    let bare = parsed.username().is_empty() && parsed.password().is_none();
    let host = parsed.host_str().filter(|_| bare && matches!(parsed.scheme(), "http" | "https"));
    let host = host.ok_or_else(refused)?;
    // An address is not resolved, so that the resolver never sees it.
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) if !allowed(address) => Err(FetchError::Address { host: host.to_owned(), address }),
        _ => Ok(parsed),
    }
}

/// A URL as it is logged, reported and remembered: without what may be secret in it, which is a user's name and
/// password, and the query, where signed links have their signature.
pub fn shown(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = bare.split_once("//").unwrap_or(("", bare));
    let authority = rest.split('/').next().unwrap_or_default();
    let rest = authority.rfind('@').map_or(rest, |at| &rest[at + 1..]);
    let query = if bare.len() < url.len() { "?…" } else { "" };
    if scheme.is_empty() { format!("{rest}{query}") } else { format!("{scheme}//{rest}{query}") }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("192.0.2.7", true)]
    #[case("10.0.0.1", true)]
    #[case("2001:db8::1", true)]
    #[case("fd12::1", true)]
    #[case("127.9.9.9", false)]
    #[case("0.0.0.0", false)]
    #[case("169.254.169.254", false)]
    #[case("224.0.0.1", false)]
    #[case("255.255.255.255", false)]
    #[case("::", false)]
    #[case("::1", false)]
    #[case("::127.0.0.1", false)]
    #[case("::ffff:169.254.169.254", false)]
    #[case("fe80::1", false)]
    #[case("ff02::1", false)]
    #[case("fd00:ec2::254", false)]
    fn addresses(#[case] address: &str, #[case] allowed: bool) {
        assert_eq!(is_fetched_from(address.parse().unwrap()), allowed);
    }

    #[rstest]
    #[case("https://files.example/a/vmlinuz", "https://files.example/a/vmlinuz")]
    #[case("https://files.example/vmlinuz?X-Signature=secret#x", "https://files.example/vmlinuz?…")]
    #[case("https://user:secret@files.example/a@b", "https://files.example/a@b")]
    #[case("user:secret@files.example", "files.example")]
    #[case("nonsense", "nonsense")]
    fn secrets_are_not_shown(#[case] url: &str, #[case] as_shown: &str) {
        assert_eq!(shown(url), as_shown);
    }
}
