//! A link without a cluster: the network, a capture, servers of the site, and a boot server with a folder of YAML.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::capture::Capture;
use crate::lan::dnsmasq;
use crate::magnetite::{Binaries, profile};
use crate::net::Network;
use crate::prepare::Prepared;
use crate::proc::{Cmd, Process, tail};
use crate::run_dir::RunDir;
use crate::vm::{Vm, VmSpec};
use crate::wait;

const ADMIN: &str = "127.0.0.1:9091";

/// Dropped from the first field to the last: the namespaces go last.
pub struct Link {
    bootserver: Option<Process>,
    servers: Vec<Process>,
    capture: Capture,
    network: Network,
    run: RunDir,
    prepared: Prepared,
    binaries: Binaries,
}

impl Link {
    /// A link on which nothing is served.
    pub fn start(prepared: &Prepared, binaries: &Binaries, name: &str) -> Result<Self> {
        let run = RunDir::create(&prepared.paths, name)?;
        let network = Network::create(2)?;
        let capture = Capture::start(&network.switch(), "br0", &run.join("switch.pcap"), &run.logs())?;
        let (prepared, binaries) = (prepared.clone(), binaries.clone());
        Ok(Self { bootserver: None, servers: Vec::new(), capture, network, run, prepared, binaries })
    }

    /// Writes the lab's Profile, joining nothing, and Machines.
    pub fn declare(&self, machines: impl IntoIterator<Item = String>) -> Result<()> {
        let catalog = self.run.join("catalog");
        std::fs::create_dir_all(&catalog)?;
        let profile = profile(&self.prepared.guest)?;
        let profile = profile.replace("    apiServer: https://172.30.0.1:6443\n", "    mode: None\n");
        std::fs::write(catalog.join("profile.yaml"), profile)?;
        std::fs::write(catalog.join("machines.yaml"), machines.into_iter().collect::<String>())?;
        Ok(())
    }

    /// Starts a server of the site.
    pub fn dnsmasq(&mut self, name: &str, config: &str) -> Result<()> {
        let leases = self.run.join(&format!("{name}.leases"));
        let config = format!("{config}dhcp-leasefile={}\n", leases.display());
        self.servers.push(dnsmasq(name, &self.network.dhcp(), &self.run, &config)?);
        Ok(())
    }

    /// Starts the boot server, anew if it runs, and waits until it is ready.
    pub fn serve(&mut self, args: &[&str]) -> Result<()> {
        if let Some(old) = self.bootserver.take() {
            old.stop();
        }
        let data = self.run.join("bootserver");
        let text = |path: PathBuf| path.display().to_string();
        let mut process = Cmd::new(self.binaries.path("magnetite-bootserver"))
            .netns(self.network.server())
            .args(["--interface", "eth0", "--ipxe-dir", "/usr/lib/ipxe", "--server-name", "lab"])
            .args(["--admin-addr", ADMIN, "--agent-dir", "/nonexistent"])
            .args(["--catalog".to_owned(), text(self.run.join("catalog")), "--data-dir".to_owned(), text(data)])
            .args(["--artifacts-dir".to_owned(), text(self.prepared.guest.dir.clone())])
            .args(args.iter().copied())
            .spawn("bootserver", &self.run.logs().join("bootserver.log"))?;
        let (ready, network) = (format!("http://{ADMIN}/readyz"), self.network.server());
        wait::until("the boot server to be ready", Duration::from_secs(30), || {
            process.check()?;
            Ok(Cmd::new("curl").netns(&network).args(["--silent", "--fail", &ready]).run().ok())
        })?;
        // A link-local address is none until nobody else was found to have it; from it answers come.
        wait::until("the boot server's link-local address", Duration::from_secs(10), || {
            let addresses = Cmd::new("ip").args(["-n", &network, "-6", "address", "show", "tentative"]).run()?;
            Ok(addresses.trim().is_empty().then_some(()))
        })?;
        self.bootserver = Some(process);
        Ok(())
    }

    /// What the boot server wrote since it was started last.
    pub fn log(&self) -> String {
        self.bootserver.as_ref().map(Process::output).unwrap_or_default()
    }

    /// Waits until it has written something.
    pub fn wait_log(&mut self, text: &str) -> Result<()> {
        let server = self.bootserver.as_mut().context("the boot server does not run")?;
        let result = wait::until(&format!("{text:?} in the boot server's log"), Duration::from_secs(60), || {
            server.check()?;
            Ok(server.output().contains(text).then_some(()))
        });
        result.with_context(|| tail(&server.output(), 20))
    }

    /// What a server of the site wrote.
    pub fn site_log(&self, name: &str) -> Result<String> {
        let server = self.servers.iter().find(|server| server.name() == name);
        Ok(server.with_context(|| format!("{name} does not run"))?.output())
    }

    /// Puts a machine into the rack, switched off.
    pub fn machine(&self, spec: VmSpec) -> Result<Vm> {
        Vm::create(spec, &self.network, self.run.path())
    }

    /// Waits until a machine has fetched its kernel, as the boot server's record says; the record.
    pub fn kernel_fetched(&mut self, machine: &mut Vm, timeout: Duration) -> Result<String> {
        let name = machine.spec().name.clone();
        let record = self.run.join("bootserver/machines").join(format!("{name}.json"));
        let server = self.bootserver.as_mut().context("the boot server does not run")?;
        let result = wait::until(&format!("{name} to fetch its kernel"), timeout, || {
            server.check()?;
            Ok(std::fs::read_to_string(&record).ok().filter(|text| text.contains("KernelFetched")))
        });
        result.with_context(|| format!("{}\n{}", tail(&server.output(), 20), tail(&machine.console_text(), 10)))
    }

    /// How many kernels the boot server, as it runs now, has sent.
    pub fn kernels_served(&self) -> Result<usize> {
        Ok(self.log().lines().filter(|line| line.contains("step=\"KernelFetched\"")).count())
    }

    /// How many packets of a kind passed the switch.
    pub fn captured(&self, filter: &str) -> Result<usize> {
        let file = self.capture.file().display().to_string();
        Ok(Cmd::new("tcpdump").args(["-r", &file, "-n", filter]).run()?.lines().count())
    }
}
