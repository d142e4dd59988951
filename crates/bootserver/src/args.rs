//! The command line.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use clap::{Parser, ValueEnum};
use magnetite_daemon::{admin::AdminArgs, log::LogArgs};

use crate::{artifacts::ArtifactArgs, fence::FenceArgs, tls::TlsArgs};

/// Magnetite's boot server: ProxyDHCP, TFTP and HTTP for bare machines, beside a DHCP server that knows nothing
/// of it. Finds its Machines and Profiles in a cluster, or in a folder of YAML files.
#[derive(Parser, Debug, Clone)]
#[command(name = "magnetite-bootserver", version, max_term_width = 110)]
#[command(after_help = "Examples:
  In a cluster (KUBECONFIG, or a Pod's own account):
    magnetite-bootserver --interface eno1 --data-dir /var/lib/magnetite --agent-dir /usr/lib/magnetite/agent

  Without a cluster, from a folder of the same YAML:
    magnetite-bootserver --catalog ./site --interface eno1 --data-dir /var/lib/magnetite

  On two networks, where no other DHCP server is:
    magnetite-bootserver --interface eno1,eno2.100 --dhcp reservations --data-dir /var/lib/magnetite

  Completion: magnetite-bootserver --completion bash > /etc/bash_completion.d/magnetite-bootserver

Exit codes: 0 asked to stop, 1 it could not start or a part failed (the last line says which), 2 wrong arguments.")]
pub struct Args {
    /// Folder of YAML files with Machines, Profiles and ConfigMaps; watched for changes. Without it they come
    /// from the cluster.
    #[arg(long, value_name = "DIR", env = "MAGNETITE_CATALOG")]
    pub catalog: Option<PathBuf>,

    /// Network interfaces on which machines boot (VLANs too, such as eno1.100), with commas between them. Nothing is answered that comes from
    /// another; what comes from one is answered there, from the address that this host has there.
    #[arg(
        long,
        value_name = "IFACE",
        env = "MAGNETITE_INTERFACE",
        value_delimiter = ',',
        required_unless_present = "completion"
    )]
    pub interface: Vec<String>,

    /// IPv4 address that machines reach this server at, where there is one interface. Default: the interface's first.
    #[arg(long, value_name = "IPV4", env = "MAGNETITE_ADDRESS")]
    pub address: Option<Ipv4Addr>,

    /// Folder for keys, snapshot, boot records and fetched artifacts. Must outlive the process: the agents on
    /// the machines trust the key that is made in it.
    #[arg(long, value_name = "DIR", env = "MAGNETITE_DATA_DIR", required_unless_present = "completion")]
    pub data_dir: Option<PathBuf>,

    /// Folder with the iPXE binaries undionly.kpxe, snponly.efi, ipxe.efi and ipxe-arm64.efi, as Debian's package ipxe has
    /// them, and with loaders of your own that Machines or Profiles name (*.efi, *.pxe, *.kpxe). One that is not there is not offered.
    /// One that changes is served from then on, without a restart: rename new ones into their places.
    #[arg(long, value_name = "DIR", env = "MAGNETITE_IPXE_DIR", default_value = "/usr/lib/ipxe")]
    pub ipxe_dir: PathBuf,

    /// Folder with the signed binaries for machines with `netboot.secureBoot`: the shim ipxe-shimx64.efi (ipxe-shimaa64.efi) and ipxe.efi beside
    /// it, unchanged, as the iPXE project signs them. Default: none, and such machines are not answered.
    #[arg(long, value_name = "DIR", env = "MAGNETITE_SECURE_BOOT_DIR")]
    pub secure_boot_dir: Option<PathBuf>,

    /// Folder below which Profiles name files (`kernel: {file: debian/vmlinuz}`). Default: artifacts in --data-dir.
    #[arg(long, value_name = "DIR", env = "MAGNETITE_ARTIFACTS_DIR")]
    pub artifacts_dir: Option<PathBuf>,

    /// Most bytes that fetched artifacts take in --data-dir, such as 20Gi. The least recently used go first, and none
    /// that a Machine boots. Default: as many as leave a tenth of the disk free.
    #[arg(long, value_name = "SIZE", env = "MAGNETITE_CACHE_QUOTA", value_parser = crate::quantity::bytes)]
    pub cache_quota: Option<u64>,

    /// Folder with the agents magnetite-agent-x86_64 and magnetite-agent-aarch64.
    #[arg(long, value_name = "DIR", env = "MAGNETITE_AGENT_DIR", default_value = "/usr/lib/magnetite/agent")]
    pub agent_dir: PathBuf,

    /// TCP port for scripts, kernels and configs.
    #[arg(long, value_name = "N", env = "MAGNETITE_HTTP_PORT", default_value_t = 8080)]
    pub http_port: u16,

    /// TCP port for the agents' claims and reports (TLS).
    #[arg(long, value_name = "N", env = "MAGNETITE_HTTPS_PORT", default_value_t = 8443)]
    pub https_port: u16,

    /// Whether to answer DHCP.
    #[arg(long, value_enum, env = "MAGNETITE_DHCP", default_value_t = DhcpMode::Proxy)]
    pub dhcp: DhcpMode,

    /// Whether to answer boot questions over DHCPv6, and to serve TFTP and HTTP on IPv6 too. No addresses are handed
    /// out: the site's own DHCPv6 server does that, and knows nothing of this one.
    #[arg(long, value_enum, env = "MAGNETITE_DHCPV6", default_value_t = Dhcpv6Mode::Off)]
    pub dhcpv6: Dhcpv6Mode,

    /// IPv6 address that machines reach this server at, where there is one interface; given, TFTP and HTTP are served on it
    /// too. Default, with --dhcpv6 proxy: the interface's first global or unique-local one, else its link-local one, which
    /// iPXE cannot use.
    #[arg(long, value_name = "IPV6", env = "MAGNETITE_ADDRESS6")]
    pub address6: Option<Ipv6Addr>,

    /// Whether to say by router advertisement that there is no router. It ends the 15 seconds that iPXE waits for one
    /// on a link without IPv6. Needs CAP_NET_RAW. Falls silent as long as a real router speaks.
    #[arg(long, value_enum, env = "MAGNETITE_ROUTER_ADVERTISEMENT", default_value_t = RouterAdvertisement::Off)]
    pub router_advertisement: RouterAdvertisement,

    /// Find boxes that no Machine declares: each boots this Profile's kernel and initrds (from memory; nothing is installed), tells what it is
    /// made of, and waits for `kubectl magnetite approve` or a DiscoveryRule. The Profile's other settings do not matter. Off by default, when an
    /// unknown box gets no answer and goes on to its next boot device. A box with another system on its disk does NOT go on to it while this
    /// is on and its firmware tries the network first. Boxes get their addresses elsewhere: with --dhcp reservations none are found.
    #[arg(long, value_name = "PROFILE", env = "MAGNETITE_DISCOVERY")]
    pub discovery: Option<String>,

    /// Answer firmware that no Machine declares, with iPXE, to ask it for its serial number. Off by default, when
    /// an unknown box gets no answer. A box that stays unknown goes on to its next boot device.
    #[arg(long, env = "MAGNETITE_IDENTIFY_BY_SERIAL")]
    pub identify_by_serial: bool,

    /// Send all TFTP packets from port 69. Use it where a Service, NAT or a firewall stands before this server and lets nothing
    /// through but port 69. Otherwise leave it: a transfer has another port then, which all firmware expects (RFC 1350), and
    /// two transfers to one port of a client are told apart.
    #[arg(long, env = "MAGNETITE_TFTP_SINGLE_PORT")]
    pub tftp_single_port: bool,

    /// Tell of other servers that say what to boot, as far as they broadcast it: in the log and as a metric. Listens on the DHCP client's
    /// port (UDP 68) of each interface, beside a client of this host's own. Off by default: some clients want that port for
    /// themselves.
    #[arg(long, env = "MAGNETITE_REPORT_OTHER_SERVERS")]
    pub report_other_servers: bool,

    /// Name of this server in reports: lower-case letters, digits, '-' and '.'. Default: the host's name.
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = server_name)]
    pub server_name: Option<String>,

    /// Namespace of the ConfigMaps that Profiles name.
    #[arg(long, value_name = "NAME", env = "MAGNETITE_NAMESPACE", default_value = "magnetite")]
    pub namespace: String,

    /// Print a completion script for a shell and exit.
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completion: Option<clap_complete::Shell>,

    #[command(flatten)]
    pub artifacts: ArtifactArgs,

    #[command(flatten)]
    pub tls: TlsArgs,

    #[command(flatten)]
    pub limits: LimitArgs,

    #[command(flatten)]
    pub fence: FenceArgs,

    #[command(flatten)]
    pub admin: AdminArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

/// What one client may have. All are far above what one box asks for, so that one gone mad leaves room for the others.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// HTTP requests a second from one IP address; 0: no bound. What is over it is told to come again (503). Raise it
    /// where many machines share an address (NAT, a caching proxy in between), and for benchmarks.
    #[arg(long, value_name = "N", env = "MAGNETITE_CLIENT_REQUESTS_PER_SECOND", default_value_t = 200)]
    pub client_requests_per_second: u32,

    /// TFTP transfers at once to one IP address; 0: no bound. What is over it is dropped. Raise it where many machines
    /// share an address (NAT), and for benchmarks.
    #[arg(long, value_name = "N", env = "MAGNETITE_CLIENT_TRANSFERS", default_value_t = 4)]
    pub client_transfers: usize,

    /// DHCP packets a second from one MAC; 0: no bound. What is over it is dropped. Raise it where a load generator asks
    /// with few MACs.
    #[arg(long, value_name = "N", env = "MAGNETITE_CLIENT_DHCP_PER_SECOND", default_value_t = 20)]
    pub client_dhcp_per_second: u32,
}

/// Whether to answer DHCP.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpMode {
    /// Boot information only, beside the site's DHCP server (ports 67 and 4011).
    Proxy,
    /// Addresses too, but only for Machines with `spec.address`, and nothing for anybody else (ports 67 and 4011). For networks without a
    /// DHCP server, or with one that leaves these machines out.
    Reservations,
    /// Boot information on port 4011 only, where port 67 of this host is taken: its holder must tell machines option 60 "PXEClient".
    BootServer,
    /// Not at all: the site's DHCP server names this one's TFTP or HTTP itself.
    Off,
}

/// Whether to answer DHCPv6.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dhcpv6Mode {
    /// Not at all.
    Off,
    /// Boot information only, beside the site's DHCPv6 server (ports 547 and 4011): to EDK2's PXE and HTTP boot, and to
    /// iPXE where the site's routers say that other things than addresses come by DHCPv6.
    Proxy,
}

/// Whether to say that there is no router.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterAdvertisement {
    /// Say nothing.
    Off,
    /// Say that there is none: lifetime 0, no prefix.
    Empty,
}

/// A name that may be part of an object's name.
pub fn server_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = !text.is_empty() && text.len() <= 180 && text.chars().all(|c| good(c) || matches!(c, '-' | '.'));
    if fits && text.starts_with(good) && text.ends_with(good) && !text.contains("..") {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not at most 180 lower-case letters, digits, '-' and '.', with a letter or digit at each end"
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use rstest::rstest;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("magnetite-bootserver").chain(args.iter().copied()))
    }

    #[test]
    fn the_two_ways_to_run() {
        Args::command().debug_assert();
        let cluster = parse(&["--interface", "eno1", "--data-dir", "/d"]).unwrap();
        assert_eq!((cluster.catalog, cluster.http_port, cluster.https_port), (None, 8080, 8443));
        assert_eq!((cluster.dhcp, cluster.namespace.as_str()), (DhcpMode::Proxy, "magnetite"));
        let catalog =
            parse(&["--catalog", "site", "--interface", "eno1", "--data-dir", "/d", "--dhcp", "off"]).unwrap();
        assert_eq!((catalog.catalog, catalog.dhcp), (Some("site".into()), DhcpMode::Off));
        assert_eq!((catalog.dhcpv6, catalog.router_advertisement), (Dhcpv6Mode::Off, RouterAdvertisement::Off));
        assert!(parse(&["--completion", "bash"]).is_ok(), "needs no interface");
        let two = parse(&["--interface", "eno1,eno2.100", "--data-dir", "/d", "--dhcp", "boot-server"]).unwrap();
        assert_eq!((two.interface.len(), two.dhcp), (2, DhcpMode::BootServer));
        for wrong in [&["--data-dir", "/d"][..], &["--interface", "x", "--data-dir", "/d", "--server-name", "A_b"]] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn a_fence_is_of_several_networks() {
        let words = ["--serve-network", "10.0.0.0/24,fd30::/64", "--refuse-network", "10.244.0.0/16"];
        let more = ["--refuse-network", "10.96.0.0/12"];
        let fence = parse(&[&["--interface", "x", "--data-dir", "/d"][..], &words, &more].concat()).unwrap().fence;
        assert_eq!((fence.serve_network.len(), fence.refuse_network.len()), (2, 2));
        let wrong = parse(&["--interface", "x", "--data-dir", "/d", "--serve-network", "10.0.0.7"]).unwrap_err();
        assert!(wrong.exit_code() == 2 && wrong.to_string().contains("10.0.0.0/24"), "{wrong}");
    }

    #[test]
    fn a_limit_can_be_lifted() {
        let limits = |more: &[&str]| parse(&[&["--interface", "x", "--data-dir", "/d"], more].concat()).unwrap().limits;
        let usual = limits(&[]);
        let usual = (usual.client_requests_per_second, usual.client_transfers, usual.client_dhcp_per_second);
        assert_eq!(usual, (200, 4, 20));
        let lifted = limits(&["--client-requests-per-second", "0", "--client-transfers", "0"]);
        assert_eq!((lifted.client_requests_per_second, lifted.client_transfers), (0, 0));
    }

    #[test]
    fn where_artifacts_come_from() {
        let artifacts = |more: &[&str]| {
            Ok::<_, clap::Error>(parse(&[&["--interface", "x", "--data-dir", "/d"], more].concat())?.artifacts)
        };
        let some =
            ["--artifact-host", "a.example,b.example", "--refuse-artifact-network", "10.244.0.0/16,fd00:10::/64"];
        let some = artifacts(&some).unwrap();
        assert_eq!((some.artifact_host.len(), some.refuse_artifact_network.len()), (2, 2));
        assert_eq!(artifacts(&["--refuse-artifact-network", "10.244.0.0"]).unwrap_err().exit_code(), 2);
    }

    /// What a file of deploy/ says.
    fn deployed(file: &str) -> String {
        std::fs::read_to_string(format!("{}/../../deploy/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    /// The service and the static Pod of a host without a cluster name what there is.
    #[test]
    fn what_is_deployed_by_hand_has_flags_that_exist() {
        let pod = deployed("static-pod/magnetite-bootserver.yaml");
        let flags: Vec<_> =
            pod.lines().filter_map(|line| line.strip_prefix("    - --")).map(|flag| format!("--{flag}")).collect();
        let args = parse(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert_eq!(
            (args.catalog, args.data_dir),
            (Some("/etc/magnetite/catalog".into()), Some("/var/lib/magnetite".into()))
        );
        let command = Args::command();
        let known: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        let unit = deployed("systemd/magnetite-bootserver.service");
        let own = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
        let environment = deployed("systemd/bootserver.env");
        let set = environment.lines().map(|line| line.trim_start_matches('#')).filter(|line| !line.starts_with(' '));
        let names: Vec<_> = own.chain(set).filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.contains(&"MAGNETITE_INTERFACE") && names.contains(&"MAGNETITE_DATA_DIR"), "{names:?}");
        // Read by the client of the cluster.
        let unknown: Vec<_> = names.into_iter().filter(|name| *name != "KUBECONFIG" && !known.contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    /// systemd itself reads the unit, where it is there.
    #[test]
    fn systemd_takes_the_unit() {
        let folder = tempfile::tempdir().unwrap();
        let unit = deployed("systemd/magnetite-bootserver.service")
            .replace("/usr/local/bin/magnetite-bootserver", "/bin/true");
        let path = folder.path().join("magnetite-bootserver.service");
        std::fs::write(&path, unit).unwrap();
        let verify = std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output();
        let Ok(verify) = verify else { return eprintln!("systemd-analyze is not there, and the unit is not verified") };
        // It reads what the unit stands on as well, and may find fault with that.
        let said = String::from_utf8_lossy(&verify.stderr).into_owned();
        assert!(!said.contains("magnetite-bootserver"), "{said}");
    }

    #[rstest]
    #[case("rack-1.example.com", true)]
    #[case("Rack", false)]
    #[case("-a", false)]
    #[case("a..b", false)]
    #[case("", false)]
    fn names_of_servers(#[case] name: &str, #[case] good: bool) {
        assert_eq!(server_name(name).is_ok(), good);
    }
}
