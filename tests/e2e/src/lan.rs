//! A LAN: the network, the DHCP server that was there before Magnetite, a capture, and room for machines.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::capture::Capture;
use crate::net::{Network, POOL, SERVER};
use crate::prepare::Prepared;
use crate::proc::{Cmd, Process};
use crate::run_dir::RunDir;
use crate::vm::{Vm, VmSpec};
use crate::wait;

/// What the LAN says of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// Advertisements with a lifetime of 0: "there is no router here". iPXE waits 15 s for a router on links that say nothing at all;
    /// this ends the wait.
    EmptyRouter,
    /// Nothing at all.
    Silent,
}

/// Who gives addresses on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dhcp {
    /// The site's own server: addresses, and not one boot option.
    Site,
    /// The same, on the boot server's own host, where it holds port 67: it says option 60, by which firmware knows that somebody answers on
    /// port 4011 there.
    SameHost,
    /// Nobody.
    None,
}

/// How a LAN is built.
#[derive(Debug, Clone)]
pub struct LanOptions {
    /// The name of the run's folder.
    pub name: String,
    /// Ports of the switch.
    pub machines: u8,
    /// Who gives addresses.
    pub dhcp: Dhcp,
    /// What is said of IPv6.
    pub ipv6: Ipv6,
}

impl LanOptions {
    /// The usual: the site's own DHCP server, and no router for IPv6.
    #[must_use]
    pub fn new(name: &str, machines: u8) -> Self {
        Self { name: name.to_owned(), machines, dhcp: Dhcp::Site, ipv6: Ipv6::EmptyRouter }
    }
}

/// A LAN that is up. Dropping it ends everything in it: fields in the order below, so that the namespaces go last.
pub struct Lan {
    capture: Capture,
    dhcp: Option<Process>,
    router: Option<Process>,
    network: Network,
    run: RunDir,
}

impl Lan {
    /// Builds a LAN; its files are in a new folder of the run's name.
    pub fn start(prepared: &Prepared, options: &LanOptions) -> Result<Self> {
        let LanOptions { name, machines, dhcp, ipv6 } = options;
        let run = RunDir::create(&prepared.paths, name)?;
        let network = Network::create(*machines)?;
        let capture = Capture::start(&network.switch(), "br0", &run.join("switch.pcap"), &run.logs())?;
        let dhcp = match dhcp {
            Dhcp::Site => Some(start_dhcp(&network.dhcp(), "", &run)?),
            Dhcp::SameHost => Some(start_dhcp(&network.server(), "dhcp-option-force=60,PXEClient\n", &run)?),
            Dhcp::None => None,
        };
        let router = match ipv6 {
            Ipv6::EmptyRouter => Some(start_router(&network.dhcp(), &run)?),
            Ipv6::Silent => None,
        };
        Ok(Self { capture, dhcp, router, network, run })
    }

    /// An error if a part of it has ended.
    pub fn check(&mut self) -> Result<()> {
        [&mut self.dhcp, &mut self.router].into_iter().flatten().try_for_each(Process::check)
    }

    /// A command that will run at the server's place in the network.
    #[must_use]
    pub fn server_command(&self, program: &Path) -> Cmd {
        Cmd::new(program).netns(self.network.server())
    }

    /// Puts a machine into the rack, switched off.
    pub fn machine(&self, spec: VmSpec) -> Result<Vm> {
        Vm::create(spec, &self.network, self.run.path())
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The run's folder.
    #[must_use]
    pub fn run(&self) -> &RunDir {
        &self.run
    }

    /// The capture of everything that passed the switch.
    #[must_use]
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// The log of the DHCP server.
    #[must_use]
    pub fn dhcp_log(&self) -> String {
        self.dhcp.as_ref().map(Process::output).unwrap_or_default()
    }
}

/// The site's own DHCP server, which was there before Magnetite: addresses, and not one boot option.
fn start_dhcp(netns: &str, more: &str, run: &RunDir) -> Result<Process> {
    let leases = run.join("dhcp.leases");
    let (first, last) = POOL;
    dnsmasq(
        "dhcp",
        netns,
        run,
        &format!(
            "dhcp-range={first},{last},255.255.255.0,12h\n\
             dhcp-option=option:router,{SERVER}\n\
             dhcp-leasefile={}\n\
             dhcp-authoritative\n\
             # Without it each first OFFER waits 3 s for a ping that nobody answers.\n\
             no-ping\n\
             log-dhcp\n{more}",
            leases.display()
        ),
    )
}

fn start_router(netns: &str, run: &RunDir) -> Result<Process> {
    dnsmasq("router", netns, run, "enable-ra\ndhcp-range=fd30::,ra-only,64,1h\nra-param=eth0,10,0\n")
}

/// Starts dnsmasq in a namespace.
pub(crate) fn dnsmasq(name: &str, netns: &str, run: &RunDir, config: &str) -> Result<Process> {
    let file = run.join(&format!("{name}.conf"));
    std::fs::write(&file, format!("port=0\ninterface=eth0\nbind-interfaces\nuser=root\n{config}"))?;
    // -d rather than -k: in the foreground, and without the change of capabilities that would make
    // the kernel forget to end it with the lab.
    let mut process = Cmd::new("dnsmasq")
        .netns(netns)
        .args(["-d", "--pid-file=", "--log-facility=-", "-C", &file.display().to_string()])
        .spawn(name, &run.logs().join(format!("{name}.log")))?;
    wait::until("dnsmasq", Duration::from_secs(10), || {
        process.check()?;
        Ok(process.output().contains("started").then_some(()))
    })?;
    Ok(process)
}
