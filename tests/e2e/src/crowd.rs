//! A site of thousands: boot servers, a DHCP server, and boxes that are simulated, each with an address of its own.
//!
//! ```text
//!   sw    172.30.0.3  a switch, br0, behind which the boxes are: all of 172.31.0.0/16 is theirs
//!   dhcp  172.30.0.2  Kea: addresses, and not one boot option
//!   srv   172.30.0.1  a boot server; srv-1 is 172.30.0.11, srv-2 is 172.30.0.12
//! ```
//!
//! The boxes' addresses are behind a router, as on a site of this size: no table of neighbours holds them all.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magnetite_storm::crowd::{self, Options, mac};
use magnetite_storm::{boxes::Firmware, report::Report};
use nix::sys::signal::Signal;

use crate::kea;
use crate::magnetite::Binaries;
use crate::net::batch;
use crate::prepare::Prepared;
use crate::proc::{Cmd, Process, tail};
use crate::progress::Step;
use crate::rogue::in_netns;
use crate::run_dir::RunDir;
use crate::stamp::sha256_hex;
use crate::wait;

/// The first boot server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The name of the loader that UEFI boxes are given.
const LOADER: &str = "snponly.efi";
/// The boxes' way to everybody else.
const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 3);
/// The addresses that the DHCP server gives.
const POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(172, 31, 0, 10), Ipv4Addr::new(172, 31, 120, 250));
/// Where addresses begin that the DHCP server does not give.
const SPARE: u32 = Ipv4Addr::new(172, 31, 200, 0).to_bits();

/// A site of boot servers and a crowd. Dropping it ends everything in it.
pub struct Site {
    servers: Vec<Option<Process>>,
    dhcp: Process,
    network: Namespaces,
    run: RunDir,
    loader: Arc<[u8]>,
    binaries: Binaries,
}

/// Its namespaces, removed last.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn switch(&self) -> &str {
        &self.0[0]
    }
    fn dhcp(&self) -> &str {
        &self.0[1]
    }
    fn server(&self, number: usize) -> &str {
        &self.0[2 + number]
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| crate::net::remove(name));
    }
}

/// The address of a boot server.
pub fn server_address(number: usize) -> Ipv4Addr {
    match u8::try_from(number) {
        Ok(number @ 1..100) => Ipv4Addr::new(172, 30, 0, 10 + number),
        _ => SERVER,
    }
}

impl Site {
    /// Builds the site, with so many boot servers and Machines declared: those of the boxes 0 and up. No server runs yet.
    pub fn build(prepared: &Prepared, binaries: &Binaries, name: &str, servers: usize, machines: u32) -> Result<Self> {
        let run = RunDir::create(&prepared.paths, name)?;
        let network = namespaces(servers)?;
        let dhcp = kea::start(network.dhcp(), &run, "172.30.0.0/15", POOL, ROUTER)?;
        let loader: Arc<[u8]> = std::fs::read(prepared.loaders.ipxe.join(LOADER)).context("read the loader")?.into();
        let servers = (0..servers).map(|_| None).collect();
        let site = Self { servers, dhcp, network, run, loader, binaries: binaries.clone() };
        site.lay_out(machines)?;
        Ok(site)
    }

    /// The catalog, and the files that it names: one loader for all kinds of boxes, so that its bytes can be compared.
    fn lay_out(&self, machines: u32) -> Result<()> {
        let (catalog, files) = (self.run.join("catalog"), self.run.join("files"));
        std::fs::create_dir_all(&catalog)?;
        std::fs::create_dir_all(&files)?;
        for loader in [LOADER, "undionly.kpxe", "ipxe.efi"] {
            std::fs::write(files.join(loader), &self.loader)?;
        }
        let (kernel, initrd) = (vec![7; 1 << 20], vec![9; 16 << 20]);
        std::fs::write(files.join("vmlinuz"), &kernel)?;
        std::fs::write(files.join("initrd.img"), &initrd)?;
        let profile = include_str!("../manifests/storm.yaml");
        let profile = profile.replace("@KERNEL@", &sha256_hex(&kernel)).replace("@INITRD@", &sha256_hex(&initrd));
        std::fs::write(catalog.join("profile.yaml"), profile)?;
        let text: String = (0..machines).map(|number| {
            let [a, b, c, d, e, f] = mac(number);
            format!("---\napiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata:\n  name: box-{number}\n  labels: {{role: worker}}\nspec:\n  macs: [\"{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\"]\n")
        }).collect();
        Ok(std::fs::write(catalog.join("machines.yaml"), text)?)
    }

    /// Starts a boot server, and waits until it is ready and its files are checked.
    pub fn start_server(&mut self, number: usize) -> Result<()> {
        let text = |path: PathBuf| path.display().to_string();
        let command = Cmd::new(self.binaries.path("magnetite-bootserver"))
            .netns(self.network.server(number))
            .args([
                "--interface",
                "eth0",
                "--server-name",
                &format!("storm-{number}"),
                "--admin-addr",
                "127.0.0.1:9091",
            ])
            .args(["--catalog".to_owned(), text(self.run.join("catalog"))])
            .args(["--data-dir".to_owned(), text(self.run.join(&format!("data-{number}")))])
            .args(["--ipxe-dir".to_owned(), text(self.run.join("files"))])
            .args(["--artifacts-dir".to_owned(), text(self.run.join("files"))])
            .args(["--agent-dir", "/nonexistent", "--log-level", "warn"]);
        let log = self.run.logs().join(format!("bootserver-{number}.log"));
        let mut process = command.spawn(format!("bootserver-{number}"), &log)?;
        wait::until("the boot server to be ready", Duration::from_secs(120), || {
            process.check()?;
            Ok(self.get(number, "http://127.0.0.1:9091/readyz").ok())
        })
        .with_context(|| tail(&process.output(), 10))?;
        self.servers[number] = Some(process);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill_server(&mut self, number: usize) -> Result<()> {
        let mut process = self.servers[number].take().context("the boot server does not run")?;
        process.signal(Signal::SIGKILL)?;
        wait::until("a killed process to be gone", Duration::from_secs(5), || Ok(process.ended()))?;
        Ok(())
    }

    /// Fails, with its last words, if a boot server that should run has ended.
    pub fn check(&mut self) -> Result<()> {
        self.servers.iter_mut().flatten().try_for_each(Process::check)
    }

    /// Lets the site's DHCP server sleep while something is done: only the boot server answers.
    pub fn without_dhcp<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.dhcp.signal(Signal::SIGSTOP)?;
        let done = work();
        self.dhcp.signal(Signal::SIGCONT)?;
        done
    }

    /// Drops so many of a hundred packets that pass the boxes' interface, in either direction. Random numbers are the kernel's.
    pub fn lose(&self, percent: u32) -> Result<()> {
        let rules = format!(
            "flush ruleset\ntable inet air {{\n  chain in {{ type filter hook prerouting priority 0; iif br0 numgen random mod 100 < {percent} drop; }}\n\
               chain out {{ type filter hook output priority 0; oif br0 numgen random mod 100 < {percent} drop; }}\n}}\n"
        );
        let rules = if percent == 0 { "flush ruleset\n".to_owned() } else { rules };
        Cmd::new("nft").netns(self.network.switch()).args(["-f", "-"]).input(rules).run()?;
        Ok(())
    }

    /// Boots boxes and says what became of them.
    pub fn boot(&mut self, boxes: Vec<(u32, Firmware)>, how: &Boot, step: &Step) -> Result<Report> {
        let report = self.crowd(boxes, how).boot(step)?;
        self.check()?;
        Ok(report)
    }

    /// Boxes of this site, to be booted on another thread while something is done to the servers.
    pub fn crowd(&self, boxes: Vec<(u32, Firmware)>, how: &Boot) -> Crowd {
        let options = Options {
            boxes,
            loader: Arc::clone(&self.loader),
            interface: "br0".to_owned(),
            within: how.within,
            attempts: how.attempts,
            patience: how.patience,
            delay: how.delay,
            seed: 0x006d_6167_6e65_7469,
        };
        Crowd { options, netns: self.network.switch().to_owned() }
    }

    /// The script of a box.
    pub fn script(&self, number: u32) -> Result<String> {
        let crowd = self.crowd(vec![(number, Firmware::IpxeRom)], &Boot::AT_ONCE);
        in_netns(&crowd.netns, || {
            let script = Cell::new(String::new());
            let seen = |_, text: &str| {
                script.set(text.to_owned());
                true
            };
            crowd::boot(&crowd.options, seen, |_| ())?;
            Ok(script.into_inner())
        })
    }

    /// Does something where the boxes are.
    pub fn among_boxes<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_netns(self.network.switch(), work)
    }

    /// The namespace of the boxes.
    pub fn boxes(&self) -> &str {
        self.network.switch()
    }

    /// Addresses of boxes that the DHCP server gives to nobody.
    pub fn spare(count: u32) -> impl Iterator<Item = Ipv4Addr> {
        (0..count).map(|number| Ipv4Addr::from_bits(SPARE + number))
    }

    /// Fetches a URL from a boot server's place.
    pub fn get(&self, number: usize, url: &str) -> Result<String> {
        Cmd::new("curl").netns(self.network.server(number)).args(["-sSf", "--max-time", "10", url]).run()
    }

    /// A boot server's counter, by its name and labels as the metrics have them; 0 as long as it was never counted up.
    pub fn counter(&self, number: usize, series: &str) -> Result<f64> {
        let text = self.get(number, "http://127.0.0.1:9091/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(Ok(0.0), |value| value.parse().with_context(|| format!("{series} is {value}")))
    }

    /// What a boot server takes: resident memory in MiB, and open files.
    pub fn taken(&self, number: usize) -> Result<Taken> {
        let pid = self.servers[number].as_ref().context("the boot server does not run")?.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        let files = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"))?.count();
        Ok(Taken { memory: kib / 1024.0, files })
    }
}

/// Boxes of a site.
pub struct Crowd {
    options: Options,
    netns: String,
}

impl Crowd {
    /// Boots them. A script is right if it is the box's own.
    pub fn boot(&self, step: &Step) -> Result<Report> {
        let all = self.options.boxes.len();
        let right =
            |number: u32, script: &str| script.starts_with("#!ipxe") && script.contains(&format!("box=box-{number} "));
        let watch = |booted| step.note(format!("{booted} of {all} booted"));
        in_netns(&self.netns, || crowd::boot(&self.options, right, watch))
    }
}

/// How boxes boot.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// They are powered on within this time.
    pub within: Duration,
    /// Attempts of each.
    pub attempts: u32,
    /// Time for all.
    pub patience: Duration,
    /// The most that a packet is held back.
    pub delay: Duration,
}

impl Boot {
    /// All at once, one attempt, on a good network.
    pub const AT_ONCE: Self =
        Self { within: Duration::ZERO, attempts: 1, patience: Duration::from_secs(180), delay: Duration::ZERO };
}

/// What a process takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taken {
    /// Resident memory, in MiB.
    pub memory: f64,
    /// Open files.
    pub files: usize,
}

/// The boxes from one number up, the kinds in turn.
pub fn boxes(from: u32, count: u32, kinds: &[Firmware]) -> Vec<(u32, Firmware)> {
    (from..from + count).zip(kinds.iter().copied().cycle()).collect()
}

fn namespaces(servers: usize) -> Result<Namespaces> {
    let stem = crate::net::stem();
    let mut names = vec![format!("{stem}-sw"), format!("{stem}-dhcp"), format!("{stem}-srv")];
    names.extend((1..servers).map(|number| format!("{stem}-srv-{number}")));
    let all = Namespaces(names);
    for name in &all.0 {
        Cmd::new("ip").args(["netns", "add", name]).run()?;
    }
    let mut switch = String::from(
        "link set lo up\nlink add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         addr add 172.30.0.3/24 dev br0\nlink set br0 up\nroute add local 172.31.0.0/16 dev br0\n",
    );
    let mut ends = vec![(all.dhcp().to_owned(), Ipv4Addr::new(172, 30, 0, 2))];
    ends.extend((0..servers).map(|number| (all.server(number).to_owned(), server_address(number))));
    for (port, (netns, _)) in ends.iter().enumerate() {
        switch.push_str(&format!(
            "link add p{port} type veth peer name eth0 netns {netns}\nlink set p{port} master br0 up\n"
        ));
    }
    batch(all.switch(), switch).context("make the switch")?;
    for (netns, address) in &ends {
        // The prefix holds the boxes' addresses, as dnsmasq wants it of a range; the way to them is the router's.
        let script = format!(
            "link set lo up\naddr add {address}/15 dev eth0\nlink set eth0 up\nroute add 172.31.0.0/16 via 172.30.0.3\n"
        );
        batch(netns, script).context("connect a server")?;
    }
    ensure!(servers > 0, "a site without a boot server");
    Ok(all)
}
