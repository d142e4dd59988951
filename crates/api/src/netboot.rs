//! How a box is booted over the network, where it needs something else than its firmware says; and the address that it
//! is given, where the boot server gives addresses. Both stand in a Profile for all its Machines, and in a Machine for itself.

use std::net::Ipv4Addr;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a box is booted over the network.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NetbootSpec {
    /// The loader: `snponly` (iPXE that uses the firmware's own network driver), `ipxe` (iPXE with drivers of its own), `undionly`
    /// (the same as `snponly`, for a BIOS), or the name of a file in the boot server's `--ipxe-dir`. Default: what suits the
    /// firmware, and after a boot in which it was fetched and never came back, the next one. A loader that is named is never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub loader: Option<String>,
    /// How the firmware is told its loader. `Direct` (default): in the offer. `BootServer`: on port 4011, for firmware that does
    /// not take a boot file from an offer without an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<ProxyDialect>,
    /// True for a box with Secure Boot: its firmware gets the signed shim of the boot server's `--secure-boot-dir`, and no loader of the
    /// ladder. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
}

/// How firmware is told its loader.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyDialect {
    /// In the offer itself (PXE 2.1, option 43, discovery control 8).
    #[default]
    Direct,
    /// By the boot server on port 4011 (BINL), after an offer that names none.
    BootServer,
}

impl NetbootSpec {
    /// A Machine's own settings, and for what it leaves open those of its Profile.
    pub fn over(own: Option<&Self>, profile: Option<&Self>) -> Self {
        let (own, below) = (own.cloned().unwrap_or_default(), profile.cloned().unwrap_or_default());
        Self {
            loader: own.loader.or(below.loader),
            dialect: own.dialect.or(below.dialect),
            secure_boot: own.secure_boot.or(below.secure_boot),
        }
    }
}

/// What a boot server that runs with `--dhcp reservations` says beside the address. Another DHCP mode uses none of it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// The default router. Default: none is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 15))]
    pub router: Option<Ipv4Addr>,
    /// Name servers, the first one first. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 8))]
    pub dns_servers: Vec<Ipv4Addr>,
    /// Time servers. At most 8. A box whose clock is wrong cannot check certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 8))]
    pub ntp_servers: Vec<Ipv4Addr>,
    /// The domain of the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"))]
    pub domain: Option<String>,
    /// How long the address is good without being renewed, in seconds. Default 86400 (a day), at least 300. The reservation itself
    /// does not end: it is the Machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 300, max = 31_536_000))]
    pub lease_seconds: Option<i32>,
}

impl NetworkSpec {
    /// A Machine's own settings, and for what it leaves open those of its Profile.
    pub fn over(own: Option<&Self>, profile: Option<&Self>) -> Self {
        let (own, below) = (own.cloned().unwrap_or_default(), profile.cloned().unwrap_or_default());
        let list = |own: Vec<Ipv4Addr>, below| if own.is_empty() { below } else { own };
        Self {
            router: own.router.or(below.router),
            dns_servers: list(own.dns_servers, below.dns_servers),
            ntp_servers: list(own.ntp_servers, below.ntp_servers),
            domain: own.domain.or(below.domain),
            lease_seconds: own.lease_seconds.or(below.lease_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_more_than_its_profile() {
        let own = NetbootSpec { loader: Some("ipxe".into()), ..NetbootSpec::default() };
        let profile = NetbootSpec {
            loader: Some("snponly".into()),
            dialect: Some(ProxyDialect::BootServer),
            secure_boot: Some(true),
        };
        let both = NetbootSpec::over(Some(&own), Some(&profile));
        assert_eq!(both.loader.as_deref(), Some("ipxe"));
        assert_eq!((both.dialect, both.secure_boot), (Some(ProxyDialect::BootServer), Some(true)));
        assert_eq!(NetbootSpec::over(None, None), NetbootSpec::default());
    }

    #[test]
    fn a_list_is_replaced_whole() {
        let servers = |last: &[u8]| last.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last)).collect::<Vec<_>>();
        let own = NetworkSpec { dns_servers: servers(&[9]), ..NetworkSpec::default() };
        let profile =
            NetworkSpec { dns_servers: servers(&[1, 2]), ntp_servers: servers(&[3]), ..NetworkSpec::default() };
        let both = NetworkSpec::over(Some(&own), Some(&profile));
        assert_eq!((both.dns_servers, both.ntp_servers), (servers(&[9]), servers(&[3])));
    }
}
