//! Where files may be fetched from.
//!
//! A Profile's author chooses the URL, and the boot server has reach that its author may not have. So only http and
//! https are spoken, and addresses that mean this host or its link are refused after the name was resolved, when they
//! are what will be connected to.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Name, Resolve, Resolving},
};

use super::{args::ArtifactArgs, error::FetchError};

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
            // A translator on the way makes the IPv4 address of it that stands at its end (RFC 6052, 2.1).
            let translated = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            let behind = translated.then(|| v6.octets()).map(|[.., a, b, c, d]| IpAddr::from([a, b, c, d]));
            let refused = link_local || compatible || metadata || v6.is_multicast();
            !refused && behind.is_none_or(is_fetched_from)
        }
    }
}

/// Where files may be fetched from.
#[derive(Debug, Clone)]
pub struct Rules {
    /// False of an address that is never fetched from.
    address: fn(IpAddr) -> bool,
    /// The only hosts that are; any, if there are none.
    hosts: Vec<String>,
    /// Networks that are not.
    refused: Vec<IpNet>,
}

impl Rules {
    /// Any host, at addresses that `address` takes.
    #[cfg(test)]
    pub fn any(address: fn(IpAddr) -> bool) -> Self {
        Self { address, hosts: Vec::new(), refused: Vec::new() }
    }

    fn host(&self, host: &str) -> Result<(), FetchError> {
        if self.hosts.is_empty() || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        Err(FetchError::Host { host: host.to_owned() })
    }

    fn address(&self, host: &str, address: IpAddr) -> Result<(), FetchError> {
        if !(self.address)(address) {
            return Err(FetchError::Address { host: host.to_owned(), address });
        }
        match self.refused.iter().find(|network| network.contains(&address.to_canonical())) {
            Some(network) => Err(FetchError::Network { host: host.to_owned(), address, network: *network }),
            None => Ok(()),
        }
    }
}

impl From<&ArtifactArgs> for Rules {
    fn from(args: &ArtifactArgs) -> Self {
        let ArtifactArgs { artifact_host, refuse_artifact_network } = args;
        Self { address: is_fetched_from, hosts: artifact_host.clone(), refused: refuse_artifact_network.clone() }
    }
}

/// Finds the addresses of a name.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// As this host finds them.
pub fn system() -> Lookup {
    Arc::new(|host| Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) }))
}

/// Resolves names to addresses that may be fetched from. What it answers is what is connected to: nobody asks for the name once more.
pub struct Resolver {
    /// What may be fetched from.
    pub rules: Rules,
    /// Who knows the addresses.
    pub lookup: Lookup,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, host) = (self.rules.clone(), name.as_str().to_owned());
        let found = (self.lookup)(host.clone());
        Box::pin(async move {
            let all = found.await?;
            // One bad address spoils the name: it would be a matter of luck which is taken.
            all.iter().try_for_each(|address| rules.address(&host, address.ip()))?;
            Ok(Box::new(all.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// The URL, if it is one that may be fetched.
pub fn target(url: &str, rules: &Rules) -> Result<Url, FetchError> {
    let refused = || FetchError::Url(shown(url));
    let parsed = Url::parse(url).map_err(|_| refused())?;
    let bare = parsed.username().is_empty() && parsed.password().is_none();
    let host = parsed.host_str().filter(|_| bare && matches!(parsed.scheme(), "http" | "https"));
    let host = host.ok_or_else(refused)?;
    // An address is not resolved, so that the resolver never sees it.
    let bare = host.trim_matches(['[', ']']);
    rules.host(bare)?;
    if let Ok(address) = bare.parse::<IpAddr>() {
        rules.address(host, address)?;
    }
    Ok(parsed)
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
    #[case("64:ff9b::192.0.2.7", true)]
    #[case("64:ff9b::127.0.0.1", false)]
    #[case("64:ff9b::169.254.169.254", false)]
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
