//! A site: a LAN with machines, and a Kubernetes control plane.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;

use crate::capture::Capture;
use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::lan::{Lan, LanOptions};
use crate::net::Network;
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
    /// How long the certificates of the cluster's signer last.
    pub certificates: &'static str,
}

impl SiteOptions {
    /// A site with four ports, and certificates that last a day.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), machines: 4, certificates: "24h" }
    }
}

/// A site that is up. Dropping it ends everything in it: fields in the order below, so that the
/// namespaces go last.
pub struct Site {
    control_plane: ControlPlane,
    lan: Lan,
    prepared: Prepared,
    since: Timestamp,
}

impl Site {
    /// Builds a site and waits until its control plane serves.
    pub fn start(prepared: &Prepared, progress: &Progress, options: &SiteOptions) -> Result<Self> {
        let step = progress.step("starting a site: network, DHCP, Kubernetes control plane");
        let since = Timestamp::now();
        let lan = Lan::start(prepared, &LanOptions::new(&options.name, options.machines))?;
        step.note("control plane");
        let run = lan.run();
        let (netns, certificates) = (lan.network().server(), options.certificates);
        let control_plane =
            ControlPlane::start(&prepared.kubernetes, &netns, &run.join("cluster"), &run.logs(), certificates)?;
        step.done(format!("logs in {}", run.path().display()));
        Ok(Self { control_plane, lan, prepared: prepared.clone(), since })
    }

    /// When it was built.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The LAN.
    #[must_use]
    pub fn lan(&self) -> &Lan {
        &self.lan
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
        self.lan.check()
    }

    /// Starts a program at the server's place in the network (172.30.0.1), its output in the run's
    /// `logs/NAME.log`.
    pub fn spawn(&self, name: &str, program: &Path, args: &[String]) -> Result<Process> {
        let log = self.run().logs().join(format!("{name}.log"));
        self.server_command(program).args(args.iter().cloned()).spawn(name, &log)
    }

    /// A command that will run at the server's place in the network.
    #[must_use]
    pub fn server_command(&self, program: &Path) -> Cmd {
        self.lan.server_command(program)
    }

    /// Helm, as administrator.
    #[must_use]
    pub fn helm(&self) -> Cmd {
        let home = self.run().join("helm");
        self.server_command(&self.prepared.helm)
            .env("KUBECONFIG", self.admin().kubeconfig().display().to_string())
            .env("HELM_CONFIG_HOME", home.join("config").display().to_string())
            .env("HELM_CACHE_HOME", home.join("cache").display().to_string())
            .env("HELM_DATA_HOME", home.join("data").display().to_string())
    }

    /// Puts a machine into the rack, switched off.
    pub fn machine(&self, spec: VmSpec) -> Result<Vm> {
        self.lan.machine(spec)
    }

    /// The control plane.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        self.lan.network()
    }

    /// The run's folder.
    #[must_use]
    pub fn run(&self) -> &RunDir {
        self.lan.run()
    }

    /// What the site is made from.
    #[must_use]
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The capture of everything that passed the switch.
    #[must_use]
    pub fn capture(&self) -> &Capture {
        self.lan.capture()
    }

    /// The log of the site's DHCP server.
    #[must_use]
    pub fn dhcp_log(&self) -> String {
        self.lan.dhcp_log()
    }
}
