//! Which sources are answered at all, by network: `--serve-network` and `--refuse-network`.
//!
//! A fence keeps out who is not on the provisioning network, above all Pods: their node is often the boot server's own, and no policy
//! of theirs holds for a port of the node. It goes by the address that a packet came from and by nothing that a packet says, but for a
//! DHCP relay's: `X-Forwarded-For` and the like are never read.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use magnetite_daemon::clock;

use crate::{metrics::Metrics, told::Told};

/// Which networks are answered.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Fences")]
pub struct FenceArgs {
    /// Network whose machines are answered, such as 10.0.0.0/24; once for each, or with commas between them. DHCP relays must be in
    /// one of them too. Given, nobody else is answered, by any protocol. Boxes that have no address yet are on the link, and always
    /// answered. Default: all are.
    #[arg(long, value_name = "CIDR", env = "MAGNETITE_SERVE_NETWORK", value_delimiter = ',', value_parser = network)]
    pub serve_network: Vec<IpNet>,

    /// Network that is never answered, whatever --serve-network says, such as a cluster's Pods and Services.
    #[arg(long, value_name = "CIDR", env = "MAGNETITE_REFUSE_NETWORK", value_delimiter = ',', value_parser = network)]
    pub refuse_network: Vec<IpNet>,
}

/// A network of the command line. IPv4 within IPv6 is refused: sources are compared as what they are.
fn network(text: &str) -> Result<IpNet, String> {
    let wanted = "is no network; write it as 10.0.0.0/24 or fd00::/64";
    let network: IpNet = text.trim().parse().map_err(|_| format!("{text:?} {wanted}"))?;
    match network {
        IpNet::V6(six) if six.addr().to_ipv4_mapped().is_some() => {
            Err(format!("{text:?} is an IPv4 network within IPv6; write it as 10.0.0.0/24"))
        }
        _ => Ok(network.trunc()),
    }
}

/// What a source knocks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// DHCP, UDP port 67.
    Dhcp,
    /// PXE, UDP port 4011.
    Pxe,
    /// DHCPv6, UDP ports 547 and 4011.
    Dhcpv6,
    /// TFTP.
    Tftp,
    /// What boots, over HTTP and HTTPS.
    Boot,
    /// The agents' claims and reports.
    Agents,
}

impl Door {
    /// As a metric label and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Pxe => "pxe",
            Self::Dhcpv6 => "dhcpv6",
            Self::Tftp => "tftp",
            Self::Boot => "http",
            Self::Agents => "https",
        }
    }

    /// Whether its socket hears the provisioning interface alone: then an address that no router passes on is of that link. A TCP
    /// socket hears the host's own Pods too, which have such addresses as well.
    fn hears_one_link(self) -> bool {
        match self {
            Self::Dhcp | Self::Pxe | Self::Dhcpv6 | Self::Tftp => true,
            Self::Boot | Self::Agents => false,
        }
    }
}

/// The fence.
#[derive(Debug, Default)]
pub struct Fence {
    serve: Vec<IpNet>,
    refuse: Vec<IpNet>,
    told: Told<IpAddr>,
}

impl From<&FenceArgs> for Fence {
    fn from(FenceArgs { serve_network, refuse_network }: &FenceArgs) -> Self {
        Self { serve: serve_network.clone(), refuse: refuse_network.clone(), told: Told::default() }
    }
}

impl Fence {
    /// Whether a source is answered at a door.
    pub fn admits(&self, door: Door, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&source));
        if door.hears_one_link() && source.is_unspecified() {
            // A box without an address (RFC 2131, 4.1): no router passes it on.
            return true;
        }
        if within(&self.refuse) {
            return false;
        }
        let of_link = matches!(source, IpAddr::V6(source) if Ipv6Addr::is_unicast_link_local(&source));
        self.serve.is_empty() || within(&self.serve) || (door.hears_one_link() && of_link)
    }

    /// Whether all of these are, as a packet has them. One that is not is counted, and each source logged once in a while.
    pub fn lets_in(&self, door: Door, sources: impl IntoIterator<Item = IpAddr>, metrics: &Metrics) -> bool {
        let Some(source) = sources.into_iter().find(|source| !self.admits(door, *source)) else { return true };
        metrics.fenced(door.as_str());
        let source = source.to_canonical();
        if self.told.is_new(source, clock::now()) {
            let server = door.as_str();
            tracing::warn!(%source, server, "not answered: the source is outside --serve-network, or within --refuse-network");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn fence(serve: &[&str], refuse: &[&str]) -> Fence {
        let all = |list: &[&str]| list.iter().map(|text| network(text).unwrap()).collect();
        Fence::from(&FenceArgs { serve_network: all(serve), refuse_network: all(refuse) })
    }

    const SITE: &[&str] = &["10.0.0.0/24", "fd30::/64"];
    const PODS: &[&str] = &["10.244.0.0/16", "10.0.0.128/25"];

    #[rstest]
    #[case::no_fence(&[], &[], "203.0.113.9", true)]
    #[case::served(SITE, &[], "10.0.0.7", true)]
    #[case::elsewhere(SITE, &[], "10.0.1.7", false)]
    #[case::a_pod(&[], PODS, "10.244.3.9", false)]
    #[case::not_a_pod(&[], PODS, "192.0.2.9", true)]
    #[case::refused_wins(SITE, PODS, "10.0.0.200", false)]
    #[case::served_and_not_refused(SITE, PODS, "10.0.0.100", true)]
    #[case::ipv6(SITE, PODS, "fd30::9", true)]
    #[case::another_ipv6(SITE, PODS, "fd31::9", false)]
    #[case::mapped(SITE, PODS, "::ffff:10.0.0.7", true)]
    #[case::mapped_and_refused(&[], PODS, "::ffff:10.244.3.9", false)]
    fn who_is_answered(#[case] serve: &[&str], #[case] refuse: &[&str], #[case] source: &str, #[case] want: bool) {
        let fence = fence(serve, refuse);
        for door in [Door::Dhcp, Door::Pxe, Door::Dhcpv6, Door::Tftp, Door::Boot, Door::Agents] {
            assert_eq!(fence.admits(door, source.parse().unwrap()), want, "{door:?}");
        }
    }

    /// What no router passes on came from the link, where only the link is heard; over TCP it may be a Pod of this host.
    #[test]
    fn a_box_without_an_address_is_on_the_link() {
        let fence = fence(SITE, &["0.0.0.0/0"]);
        for door in [Door::Dhcp, Door::Pxe, Door::Dhcpv6, Door::Tftp] {
            assert!(fence.admits(door, "0.0.0.0".parse().unwrap()) && fence.admits(door, "fe80::1".parse().unwrap()));
        }
        for door in [Door::Boot, Door::Agents] {
            assert!(!fence.admits(door, "0.0.0.0".parse().unwrap()) && !fence.admits(door, "fe80::1".parse().unwrap()));
        }
    }

    #[test]
    fn networks_of_the_command_line() {
        assert_eq!(network("10.0.0.7/24").unwrap().to_string(), "10.0.0.0/24");
        for wrong in ["10.0.0.0", "10.0.0.0/33", "", "::ffff:10.0.0.0/120", "eno1"] {
            assert!(network(wrong).unwrap_err().contains("write it as"), "{wrong}");
        }
    }

    #[test]
    fn each_refusal_is_counted_and_each_source_told_once() {
        let (fence, metrics) = (fence(SITE, PODS), Metrics::default());
        let (relay, pod) = ("10.0.0.1".parse().unwrap(), "10.244.3.9".parse().unwrap());
        assert!(fence.lets_in(Door::Dhcp, [relay, relay], &metrics));
        // A relay that is in, for a network that is not.
        assert!(!fence.lets_in(Door::Dhcp, [relay, pod], &metrics));
        assert!(!fence.lets_in(Door::Dhcp, [pod], &metrics));
        assert_eq!(metrics.fenced_at("dhcp"), 2);
        assert_eq!(fence.told.len(), 1);
    }
}
