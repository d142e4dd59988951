//! Magnetite at the site: its charts installed, its binaries running as the charts' service accounts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::guest::Guest;
use crate::lan::Lan;
use crate::proc::{Cmd, Process, tail};
use crate::progress::Progress;
use crate::site::Site;
use crate::vm::VmSpec;
use crate::wait;

/// The namespace that the chart is installed into.
pub const NAMESPACE: &str = "magnetite";
/// The Secret that Profiles of the lab may hand to their machines, and its key.
pub const SECRET: (&str, &str) = ("for-machines", "text");
const VALUES: [&str; 4] =
    ["--set", "bootserver.interface=eth0", "--set", "controller.secretNames={for-machines,lab-bmc}"];
/// The addresses of Pods, as every machine of the lab has them (etc/cni/net.d). They are fenced off, as docs/fences.md says.
pub const PODS: &str = "10.85.0.0/24";
const BOOTSERVER_ADMIN: &str = "127.0.0.1:9091";
const CONTROLLER_ADMIN: &str = "127.0.0.1:9090";

/// Magnetite's own binaries, built beforehand.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The folder that holds `magnetite-controller`, `magnetite-bootserver` and `magnetite-agent`.
    pub dir: PathBuf,
}

impl Binaries {
    /// A binary's path.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Magnetite, running.
pub struct Magnetite {
    binaries: Binaries,
    /// The folder of what it serves.
    artifacts: PathBuf,
    controller: Option<Process>,
    bootserver: Option<Process>,
    /// The Profile that boxes boot which nobody declared.
    discovery: Option<&'static str>,
    /// The boot server's kubeconfig, once made: it must start again while no API server can make another.
    account: Option<PathBuf>,
}

impl Magnetite {
    /// Installs both charts with Helm, then starts the binaries with exactly the rights that the charts grant.
    pub fn start(site: &Site, binaries: &Binaries, progress: &Progress) -> Result<Self> {
        Self::start_serving(site, binaries, &site.prepared().guest.dir, progress)
    }

    /// The same, with another folder of artifacts.
    pub fn start_serving(site: &Site, binaries: &Binaries, artifacts: &Path, progress: &Progress) -> Result<Self> {
        Self::start_finding(site, binaries, artifacts, None, progress)
    }

    /// The same; with a Profile for boxes that nobody declared.
    pub fn start_finding(
        site: &Site,
        binaries: &Binaries,
        artifacts: &Path,
        discovery: Option<&'static str>,
        progress: &Progress,
    ) -> Result<Self> {
        let step = progress.step("installing Magnetite");
        install_charts(site, discovery, |note| step.note(note))?;
        let (binaries, artifacts) = (binaries.clone(), artifacts.to_owned());
        let mut magnetite = Self { binaries, artifacts, controller: None, bootserver: None, discovery, account: None };
        step.note("controller");
        magnetite.start_controller(site)?;
        step.note("boot server");
        magnetite.start_bootserver(site)?;
        magnetite.wait_ready(site)?;
        step.done("helm install accepted; the binaries run with the charts' RBAC");
        Ok(magnetite)
    }

    /// Starts the controller as its service account.
    pub fn start_controller(&mut self, site: &Site) -> Result<()> {
        let account = site.control_plane().service_account(NAMESPACE, "magnetite-controller")?;
        let process = site
            .server_command(&self.binaries.path("magnetite-controller"))
            .env("KUBECONFIG", account.kubeconfig().display().to_string())
            .args(["--namespace", NAMESPACE, "--admin-addr", CONTROLLER_ADMIN])
            .args(self.discovery.map(|_| "--discovery"))
            .spawn("controller", &site.run().logs().join("controller.log"))?;
        self.controller = Some(process);
        Ok(())
    }

    /// Starts the boot server as its service account. Its data folder outlives it.
    pub fn start_bootserver(&mut self, site: &Site) -> Result<()> {
        let account = site.control_plane().service_account(NAMESPACE, "magnetite-bootserver")?;
        self.account = Some(account.kubeconfig().to_owned());
        self.restart_bootserver(site)
    }

    /// Starts the boot server with the kubeconfig that it had, asking the API server for nothing.
    pub fn restart_bootserver(&mut self, site: &Site) -> Result<()> {
        let account = self.account.as_ref().context("the boot server never ran")?;
        let process = bootserver_command(site.lan(), &self.binaries, &self.artifacts)?
            .env("KUBECONFIG", account.display().to_string())
            .args(["--namespace", NAMESPACE])
            .args(self.discovery.map(|profile| format!("--discovery={profile}")))
            .spawn("bootserver", &site.run().logs().join("bootserver.log"))?;
        self.bootserver = Some(process);
        Ok(())
    }

    /// Waits until both say that they are ready.
    pub fn wait_ready(&mut self, site: &Site) -> Result<()> {
        for (name, address) in [("controller", CONTROLLER_ADMIN), ("boot server", BOOTSERVER_ADMIN)] {
            wait::until(&format!("the {name} to be ready"), Duration::from_secs(60), || {
                self.check()?;
                Ok(http_get(site, &format!("http://{address}/readyz")).ok())
            })?;
        }
        Ok(())
    }

    /// An error, with its last words, if a part has ended.
    pub fn check(&mut self) -> Result<()> {
        for process in [&mut self.controller, &mut self.bootserver].into_iter().flatten() {
            process.check()?;
        }
        Ok(())
    }

    /// `kill -9` of the controller.
    pub fn kill_controller(&mut self) -> Result<()> {
        kill(self.controller.take().context("the controller does not run")?)
    }

    /// `kill -9` of the boot server.
    pub fn kill_bootserver(&mut self) -> Result<()> {
        kill(self.bootserver.take().context("the boot server does not run")?)
    }

    /// The boot server's metrics, as text.
    pub fn bootserver_metrics(&self, site: &Site) -> Result<String> {
        http_get(site, &format!("http://{BOOTSERVER_ADMIN}/metrics"))
    }

    /// All that the boot server logged since it was last started.
    #[must_use]
    pub fn bootserver_log(&self) -> String {
        self.bootserver.as_ref().map(Process::output).unwrap_or_default()
    }

    /// The controller's metrics, as text.
    pub fn controller_metrics(&self, site: &Site) -> Result<String> {
        http_get(site, &format!("http://{CONTROLLER_ADMIN}/metrics"))
    }

    /// What the binaries logged last, for a failure's report.
    #[must_use]
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for process in [&self.controller, &self.bootserver].into_iter().flatten() {
            text.push_str(&format!("{}:\n{}", process.name(), tail(&process.output(), 12)));
        }
        text
    }
}

fn kill(mut process: Process) -> Result<()> {
    process.signal(Signal::SIGKILL)?;
    wait::until("a killed process to be gone", Duration::from_secs(5), || Ok(process.ended()))?;
    Ok(())
}

/// The boot server's command line, but for where it finds its Machines.
pub fn bootserver_command(lan: &Lan, binaries: &Binaries, artifacts: &Path) -> Result<Cmd> {
    // Ignition fetches the agent by architecture; a folder of one link is the whole release.
    let agents = lan.run().join("agents");
    std::fs::create_dir_all(&agents)?;
    let link = agents.join(format!("magnetite-agent-{}", std::env::consts::ARCH));
    if !link.exists() {
        std::fs::copy(binaries.path("magnetite-agent"), &link).context("lay out the agent")?;
    }
    let text = |path: &Path| path.display().to_string();
    Ok(lan
        .server_command(&binaries.path("magnetite-bootserver"))
        .args(["--interface", "eth0", "--server-name", "lab", "--admin-addr", BOOTSERVER_ADMIN])
        .args(["--refuse-network", PODS])
        .args(["--data-dir".to_owned(), text(&lan.run().join("bootserver"))])
        .args(["--artifacts-dir".to_owned(), text(artifacts)])
        .args(["--agent-dir".to_owned(), text(&agents)]))
}

/// Installs the charts as an administrator would.
pub fn install_charts(site: &Site, discovery: Option<&str>, note: impl Fn(&str)) -> Result<()> {
    let finding = discovery.map(|profile| format!("discovery.profile={profile}"));
    let more = finding.iter().flat_map(|value| ["--set", value.as_str()]);
    let charts = site.prepared().paths.workspace().join("deploy/charts");
    for chart in ["magnetite-crds", "magnetite"] {
        note(chart);
        site.helm()
            .args(["install", chart, &charts.join(chart).display().to_string()])
            .args(["--namespace", NAMESPACE, "--create-namespace"])
            .args(if chart == "magnetite" { VALUES.into_iter().chain(more.clone()).collect() } else { Vec::new() })
            .run()?;
    }
    site.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
    Ok(())
}

/// The lab's Profile, with the checksums of the image that the lab packed.
pub fn profile(guest: &Guest) -> Result<String> {
    let mut text = include_str!("../manifests/profile.yaml").to_owned();
    for path in [&guest.kernel, &guest.initrd, &guest.rootfs] {
        let name = path.file_name().and_then(|name| name.to_str()).context("a file name")?;
        text = text.replace(&format!("@SHA256:{name}@"), &sha256(path)?);
    }
    if text.contains("@SHA256") {
        bail!("a checksum of the Profile was not filled in");
    }
    Ok(text)
}

/// A file's SHA-256 in hexadecimal.
pub fn sha256(file: &Path) -> Result<String> {
    let out = Cmd::new("sha256sum").arg(file.display().to_string()).run()?;
    out.split_whitespace().next().map(str::to_owned).context("sha256sum prints a sum")
}

/// The same for a site without a cluster: its machines join nothing.
pub fn profile_without_join(guest: &Guest) -> Result<String> {
    let profile = profile(guest)?.replace("    apiServer: https://172.30.0.1:6443\n", "    mode: None\n");
    if !profile.contains("mode: None") {
        bail!("the Profile joins something:\n{profile}");
    }
    Ok(profile)
}

/// A Machine for a box of the lab.
#[must_use]
pub fn machine(vm: &VmSpec) -> String {
    format!(
        "---\napiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata:\n  name: {}\n  labels:\n    role: worker\nspec:\n  macs:\n  - {}\n  uuid: {}\n  variables:\n    rack: r{}\n",
        vm.name, vm.mac, vm.uuid, vm.port
    )
}

/// A Machine's status, by its name.
pub fn machine_status(site: &Site, name: &str) -> Result<Value> {
    Ok(site.admin().get(&["machine", name])?.map(|machine| machine["status"].clone()).unwrap_or_default())
}

/// Waits for a Machine's phase; its status is in the error if it does not come.
pub fn wait_phase(site: &mut Site, name: &str, phase: &str, timeout: Duration) -> Result<Value> {
    let result = site.wait_until(&format!("Machine {name} to be {phase}"), timeout, |site| {
        let status = machine_status(site, name)?;
        Ok((status["phase"] == phase).then_some(status))
    });
    result.with_context(|| {
        let status = machine_status(site, name).unwrap_or_default();
        format!(
            "it is {}: {} {}\nsteps: {}",
            status["phase"], status["reason"], status["message"], status["boot"]["steps"]
        )
    })
}

/// Waits until another boot than the one that began at `before` ends Ready, and returns its steps.
pub fn wait_next_boot(site: &mut Site, name: &str, before: &Value, timeout: Duration) -> Result<Vec<Value>> {
    site.wait_until("the second boot to end Ready", timeout, |site| {
        let status = machine_status(site, name)?;
        let boot = &status["boot"];
        let steps = boot["steps"].as_array().cloned().unwrap_or_default();
        let again = boot["startedAt"] != *before && steps.iter().any(|step| step["name"] == "NodeReady");
        Ok((again && status["phase"] == "Ready").then_some(steps))
    })
}

/// Fetches a URL from the server's place in the network; a status of 400 or more is an error.
pub fn http_get(site: &Site, url: &str) -> Result<String> {
    site.server_command(Path::new("curl")).args(["-sSf", "--max-time", "10", url]).run()
}
