//! A site: the network, its DHCP server, a Kubernetes control plane, and room for machines.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::capture::Capture;
use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::net::{Network, POOL, SERVER};
use crate::prepare::Prepared;
use crate::proc::{Cmd, Process};
use crate::progress::Progress;
use crate::run_dir::RunDir;
use crate::vm::{Vm, VmSpec};
use crate::wait;

/// How a site is built.
#[derive(Debug, Clone)]
pub struct SiteOptions {
    /// The name of the run's folder.
    pub name: String,
    /// Ports of the switch.
    pub machines: u8,
}

impl SiteOptions {
    /// A site with four ports.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), machines: 4 }
    }
}

/// A site that is up. Dropping it ends everything in it: fields in the order below, so that the
/// namespaces go last.
pub struct Site {
    control_plane: ControlPlane,
    capture: Capture,
    dhcp: Process,
    router: Process,
    network: Network,
    run: RunDir,
    prepared: Prepared,
}

impl Site {
    /// Builds a site and waits until its control plane serves.
    pub fn start(prepared: &Prepared, progress: &Progress, options: &SiteOptions) -> Result<Self> {
        let run = RunDir::create(&prepared.paths, &options.name)?;
        let step = progress.step("starting a site: network, DHCP, Kubernetes control plane");
        let network = Network::create(options.machines)?;
        let capture = Capture::start(&network.switch(), "br0", &run.join("switch.pcap"), &run.logs())?;
        let dhcp = start_dhcp(&network, &run)?;
        let router = start_router(&network, &run)?;
        step.note("control plane");
        let control_plane =
            ControlPlane::start(&prepared.kubernetes, &network.server(), &run.join("cluster"), &run.logs())?;
        step.done(format!("logs in {}", run.path().display()));
        Ok(Self { control_plane, capture, dhcp, router, network, run, prepared: prepared.clone() })
    }

    /// kubectl as administrator.
    #[must_use]
    pub fn admin(&self) -> &Kubectl {
        self.control_plane.admin()
    }

    /// Runs kubectl as administrator.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.admin().run(args)
    }

    /// Applies YAML or JSON as administrator.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.admin().apply(manifest)
    }

    /// Calls `look` until it returns something, and fails at once if a part of the site has ended.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        wait::until(what, timeout, || {
            self.check()?;
            look(self)
        })
    }

    /// An error if a part of the site has ended.
    pub fn check(&mut self) -> Result<()> {
        self.control_plane.check()?;
        self.dhcp.check()?;
        self.router.check()
    }

    /// Starts a program at the server's place in the network (172.30.0.1), its output in the run's
    /// `logs/NAME.log`.
    pub fn spawn(&self, name: &str, program: &Path, args: &[String]) -> Result<Process> {
        self.server_command(program)
            .args(args.iter().cloned())
            .spawn(name, &self.run.logs().join(format!("{name}.log")))
    }

    /// A command that will run at the server's place in the network.
    #[must_use]
    pub fn server_command(&self, program: &Path) -> Cmd {
        Cmd::new(program).netns(self.network.server())
    }

    /// Helm, as administrator.
    #[must_use]
    pub fn helm(&self) -> Cmd {
        let home = self.run.join("helm");
        self.server_command(&self.prepared.helm)
            .env("KUBECONFIG", self.admin().kubeconfig().display().to_string())
            .env("HELM_CONFIG_HOME", home.join("config").display().to_string())
            .env("HELM_CACHE_HOME", home.join("cache").display().to_string())
            .env("HELM_DATA_HOME", home.join("data").display().to_string())
    }

    /// Puts a machine into the rack, switched off.
    pub fn machine(&self, spec: VmSpec) -> Result<Vm> {
        Vm::create(spec, &self.network, self.run.path())
    }

    /// The control plane.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
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

    /// What the site is made from.
    #[must_use]
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The capture of everything that passed the switch.
    #[must_use]
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// The log of the site's DHCP server.
    #[must_use]
    pub fn dhcp_log(&self) -> String {
        self.dhcp.output()
    }
}

/// The site's own DHCP server, which was there before Magnetite: addresses, and not one boot option.
fn start_dhcp(network: &Network, run: &RunDir) -> Result<Process> {
    let leases = run.join("dhcp.leases");
    let (first, last) = POOL;
    dnsmasq(
        "dhcp",
        network,
        run,
        &format!(
            "dhcp-range={first},{last},255.255.255.0,12h\n\
             dhcp-option=option:router,{SERVER}\n\
             dhcp-leasefile={}\n\
             dhcp-authoritative\n\
             # Without it each first OFFER waits 3 s for a ping that nobody answers.\n\
             no-ping\n\
             log-dhcp\n",
            leases.display()
        ),
    )
}

/// Router advertisements with a lifetime of 0: "there is no router here". iPXE waits 15 s for a router
/// on links that say nothing at all; this ends the wait.
fn start_router(network: &Network, run: &RunDir) -> Result<Process> {
    dnsmasq("router", network, run, "enable-ra\ndhcp-range=fd30::,ra-only,64,1h\nra-param=eth0,10,0\n")
}

fn dnsmasq(name: &str, network: &Network, run: &RunDir, config: &str) -> Result<Process> {
    let file = run.join(&format!("{name}.conf"));
    std::fs::write(&file, format!("port=0\ninterface=eth0\nbind-interfaces\nuser=root\n{config}"))?;
    // -d rather than -k: in the foreground, and without the change of capabilities that would make
    // the kernel forget to end it with the lab.
    let mut process = Cmd::new("dnsmasq")
        .netns(network.dhcp())
        .args(["-d", "--pid-file=", "--log-facility=-", "-C", &file.display().to_string()])
        .spawn(name, &run.logs().join(format!("{name}.log")))?;
    wait::until("dnsmasq", Duration::from_secs(10), || {
        process.check()?;
        Ok(process.output().contains("started").then_some(()))
    })?;
    Ok(process)
}
