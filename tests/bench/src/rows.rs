//! The rows: what is measured, with whom, and how.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use magnetite_e2e::{
    paths::Paths,
    proc::{Cmd, Process},
    progress::Progress,
    run_dir::RunDir,
};

use crate::{
    link::{Link, SERVER},
    load::{Dhcp, Http, Seen, Tftp, echo},
    peers::{self, INITRD, LOADER, Stage, within},
    row::{Figure, Row},
    stats::permille,
};

/// Debian's packages, and what they are for.
const PACKAGES: [(&str, &str); 3] = [("dnsmasq-base", "a peer"), ("tftpd-hpa", "a peer"), ("nginx-light", "a peer")];
/// Machines of the catalog.
const MACHINES: u32 = 10_000;
/// Clients of the DHCP row.
const CLIENTS: u32 = 5_000;

/// How the benchmark is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The rows; all if none is named.
    pub only: Vec<String>,
    /// Rounds of each row.
    pub rounds: u32,
    /// Seconds of each measurement.
    pub seconds: u32,
    /// The boot server's binary, built for release.
    pub bootserver: PathBuf,
}

struct Bench {
    stage: Stage,
    link: Link,
    time: Duration,
    rounds: u32,
}

type Measure<'a> = Box<dyn Fn() -> Result<(f64, String)> + 'a>;

/// The names of all rows.
pub fn names() -> [&'static str; 8] {
    ["dhcp", "tftp", "tftp-window", "script", "ignition", "initrd", "memory", "start"]
}

/// Runs the rows, and hands each on when it is done.
pub fn run(options: &Options, progress: &Progress, mut show: impl FnMut(&Row)) -> Result<()> {
    magnetite_e2e::interrupt::install();
    let paths = Paths::find()?;
    magnetite_e2e::apt::ensure_these(progress, &paths, &PACKAGES)?;
    let go = peers::build(progress, &paths)?;
    let run = RunDir::create(&paths, "bench")?;
    let link = Link::create(250)?;
    let stage = Stage { netns: link.server(), dir: run.path().to_owned(), bootserver: options.bootserver.clone(), go };
    stage.lay_out()?;
    let bench = Bench { stage, link, time: Duration::from_secs(options.seconds.into()), rounds: options.rounds };
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    for name in names().into_iter().filter(|name| wanted(name)) {
        show(&bench.row(name, progress)?);
    }
    Ok(())
}

impl Bench {
    fn row(&self, name: &str, progress: &Progress) -> Result<Row> {
        match name {
            "dhcp" => self.dhcp(progress),
            "tftp" => self.tftp(1, progress),
            "tftp-window" => self.tftp(16, progress),
            "script" => self.script(progress),
            "ignition" => self.ignition(progress),
            "initrd" => self.initrd(progress),
            "memory" => self.memory(progress),
            "start" => self.start(progress),
            other => anyhow::bail!("there is no row {other:?}; --list names them"),
        }
    }

    /// Round after round, each server in turn. One that fails says why and is left out from then on.
    fn rounds(&self, name: &str, servers: &[(&str, Measure<'_>)], progress: &Progress) -> Vec<Figure> {
        let new = |who: &str| Figure { who: who.to_owned(), rounds: Vec::new(), note: String::new() };
        let mut figures: Vec<_> = servers.iter().map(|(who, _)| new(who)).collect();
        let mut failed = vec![false; servers.len()];
        let step = progress.step(format!("measuring {name}"));
        for round in 1..=self.rounds {
            for (((who, measure), figure), failed) in servers.iter().zip(&mut figures).zip(&mut failed) {
                if *failed {
                    continue;
                }
                step.note(format!("round {round} of {}: {who}", self.rounds));
                match measure() {
                    Ok((value, note)) => {
                        figure.rounds.push(value);
                        figure.note = note;
                    }
                    Err(error) => {
                        *failed = true;
                        figure.rounds.clear();
                        figure.note = format!("not measured: {error:#}").lines().next().unwrap_or_default().to_owned();
                    }
                }
            }
        }
        step.done("done");
        figures
    }

    fn ask_dhcp(&self) -> Result<(f64, String)> {
        let load = Dhcp { clients: CLIENTS, window: 32, time: self.time };
        let seen = within(&self.link.clients(), || load.run())?;
        Ok(described(seen))
    }

    fn dhcp(&self, progress: &Progress) -> Result<Row> {
        let stage = &self.stage;
        let served = |process: Process| -> Result<(f64, String)> {
            let result = self.ask_dhcp();
            process.stop();
            result
        };
        let servers: [(&str, Measure<'_>); 4] = [
            ("magnetite", Box::new(move || served(self.magnetite()?))),
            ("dnsmasq", Box::new(move || served(stage.dnsmasq()?))),
            ("pixiecore", Box::new(move || served(stage.pixiecore()?))),
            ("plain loop", Box::new(|| self.plain_loop())),
        ];
        Ok(Row {
            name: "dhcp",
            what: "ProxyDHCP offers to 5,000 clients, 32 under way",
            unit: "offers/s",
            target: "2 x dnsmasq, 0.7 of the plain loop, p99 no worse than dnsmasq's",
            yardstick: "dnsmasq",
            figures: self.rounds("dhcp", &servers, progress),
        })
    }

    /// What receiving and sending cost without any server: the limit of this machine.
    fn plain_loop(&self) -> Result<(f64, String)> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| within(&self.link.server(), || echo(&stop)));
            let result = self.ask_dhcp();
            stop.store(true, Ordering::Relaxed);
            server.join().map_err(|_| anyhow::anyhow!("the plain loop panicked"))??;
            result
        })
    }

    fn magnetite(&self) -> Result<Process> {
        Ok(self.stage.magnetite(MACHINES, &self.link.clients())?.0)
    }

    fn tftp(&self, window: usize, progress: &Progress) -> Result<Row> {
        let bytes: Arc<[u8]> = peers::bytes(LOADER.1).into();
        let load = move |process: Process| -> Result<(f64, String)> {
            let (file, bytes) = (LOADER.0.to_owned(), Arc::clone(&bytes));
            let server = server()?;
            let load = Tftp { server, file, bytes, clients: 32, block: 1468, window, time: self.time };
            let result = within(&self.link.clients(), || load.run());
            process.stop();
            let (rate, note) = described(result?);
            Ok((rate / 1e6, note))
        };
        let (a, b, c) = (load.clone(), load.clone(), load);
        let servers: [(&str, Measure<'_>); 3] = [
            ("magnetite", Box::new(move || a(self.magnetite()?))),
            ("dnsmasq", Box::new(move || b(self.stage.dnsmasq()?))),
            ("tftpd-hpa", Box::new(move || c(self.stage.tftpd()?))),
        ];
        let name = if window == 1 { "tftp" } else { "tftp-window" };
        Ok(Row {
            name,
            what: if window == 1 {
                "TFTP, 850 KB, 32 clients, block 1468, lock step"
            } else {
                "TFTP, the same, window of 16 asked for"
            },
            unit: "MB/s",
            target: if window == 1 { "1.5 x dnsmasq" } else { "5 x dnsmasq" },
            yardstick: "dnsmasq",
            figures: self.rounds(name, &servers, progress),
        })
    }

    /// The links of some machines: script, Ignition config and initrd.
    fn links(&self, machines: u32) -> Result<Vec<[String; 3]>> {
        within(&self.link.clients(), || {
            let first = Dhcp::first(Duration::from_secs(10), true)?;
            // The initrd is summed after the start; until then the script says to wait.
            let script = magnetite_e2e::wait::until("the files to be checked", Duration::from_secs(60), || {
                let script = Cmd::new("curl").netns(self.link.clients()).args(["-sS", &first]).run()?;
                Ok(script.contains("config.ign").then_some(script))
            })?;
            ensure!(machines > 0, "no machine to ask for: {script}");
            let base = first.rsplit_once('/').context("a link has a path")?.0;
            let path = |end: &str| Ok(format!("/{}/{end}", base.splitn(4, '/').nth(3).context("a link has a path")?));
            let ends = ["boot.ipxe", "config.ign", "initrd/0"];
            let links: Vec<String> = ends.into_iter().map(path).collect::<Result<_>>()?;
            let links: [String; 3] = links.try_into().map_err(|_| anyhow::anyhow!("three links"))?;
            Ok(vec![links])
        })
    }

    fn http(
        &self,
        port: u16,
        paths: Vec<String>,
        begins: &[u8],
        connections: usize,
        count_bytes: bool,
    ) -> Result<(f64, String)> {
        let server = SocketAddr::from((server()?, port));
        let load = Http { server, paths, connections, begins: begins.to_vec(), count_bytes, time: self.time };
        Ok(described(within(&self.link.clients(), || load.run())?))
    }

    /// Asks Magnetite for one of a machine's links.
    fn ask_magnetite(
        &self,
        which: usize,
        begins: &[u8],
        connections: usize,
        count_bytes: bool,
    ) -> Result<(f64, String)> {
        let process = self.magnetite()?;
        let paths = self.links(1)?.into_iter().filter_map(|links| links.get(which).cloned()).collect();
        let result = self.http(8080, paths, begins, connections, count_bytes);
        process.stop();
        result
    }

    fn ask(
        &self,
        server: Result<(Process, u16)>,
        path: &str,
        begins: &[u8],
        connections: usize,
        count_bytes: bool,
    ) -> Result<(f64, String)> {
        let (process, port) = server?;
        let result = self.http(port, vec![path.to_owned()], begins, connections, count_bytes);
        process.stop();
        result
    }

    /// nginx with a static file of the length of Magnetite's script.
    fn nginx_script(&self) -> Result<(f64, String)> {
        let text = format!("#!ipxe\n{}\n", "# a script of the length of Magnetite's\n".repeat(16));
        std::fs::write(self.stage.dir.join("files/boot.txt"), text)?;
        self.ask(self.stage.nginx(), "/boot.txt", b"#!ipxe", 64, false)
    }

    fn script(&self, progress: &Progress) -> Result<Row> {
        let servers: [(&str, Measure<'_>); 3] = [
            ("magnetite", Box::new(|| self.ask_magnetite(0, b"#!ipxe", 64, false))),
            ("nginx, a static file", Box::new(|| self.nginx_script())),
            (
                "matchbox",
                Box::new(|| self.ask(self.stage.matchbox(), "/ipxe?mac=52-54-00-30-00-10", b"#!ipxe", 64, false)),
            ),
        ];
        Ok(Row {
            name: "script",
            what: "a machine's own iPXE script over HTTP, 64 connections",
            unit: "answers/s",
            target: "as nginx with a static file",
            yardstick: "nginx, a static file",
            figures: self.rounds("script", &servers, progress),
        })
    }

    fn ignition(&self, progress: &Progress) -> Result<Row> {
        let servers: [(&str, Measure<'_>); 3] = [
            ("magnetite", Box::new(|| self.ask_magnetite(1, b"{", 64, false))),
            ("nginx, a static file", Box::new(|| self.nginx_script())),
            (
                "matchbox",
                Box::new(|| self.ask(self.stage.matchbox(), "/ignition?mac=52-54-00-30-00-10", b"{", 64, false)),
            ),
        ];
        Ok(Row {
            name: "ignition",
            what: "a machine's own Ignition config from a template, 64 connections",
            unit: "answers/s",
            target: "5 x matchbox",
            yardstick: "matchbox",
            figures: self.rounds("ignition", &servers, progress),
        })
    }

    fn initrd(&self, progress: &Progress) -> Result<Row> {
        let begins = peers::bytes(64);
        let (a, b, c) = (begins.clone(), begins.clone(), begins);
        let mega = |(rate, note): (f64, String)| (rate / 1e6, note);
        let servers: [(&str, Measure<'_>); 3] = [
            ("magnetite", Box::new(move || self.ask_magnetite(2, &a, 16, true).map(mega))),
            (
                "nginx",
                Box::new(move || self.ask(self.stage.nginx(), &format!("/{}", INITRD.0), &b, 16, true).map(mega)),
            ),
            (
                "matchbox",
                Box::new(move || {
                    self.ask(self.stage.matchbox(), &format!("/assets/{}", INITRD.0), &c, 16, true).map(mega)
                }),
            ),
        ];
        Ok(Row {
            name: "initrd",
            what: "an initrd of 50 MB over HTTP, 16 connections",
            unit: "MB/s",
            target: "as nginx",
            yardstick: "nginx",
            figures: self.rounds("initrd", &servers, progress),
        })
    }

    fn memory(&self, progress: &Progress) -> Result<Row> {
        let servers: [(&str, Measure<'_>); 2] = [
            (
                "magnetite",
                Box::new(|| {
                    let process = self.magnetite()?;
                    self.ask_dhcp()?;
                    let memory = resident(&process);
                    process.stop();
                    memory
                }),
            ),
            (
                "matchbox, one group",
                Box::new(|| {
                    let (process, port) = self.stage.matchbox()?;
                    self.http(port, vec!["/ipxe?mac=52-54-00-30-00-10".to_owned()], b"#!ipxe", 64, false)?;
                    let memory = resident(&process);
                    process.stop();
                    memory
                }),
            ),
        ];
        Ok(Row {
            name: "memory",
            what: "resident memory with 10,000 Machines declared, after 5,000 of them asked",
            unit: "MB",
            target: "under 64 MB",
            yardstick: "matchbox, one group",
            figures: self.rounds("memory", &servers, progress),
        })
    }

    fn start(&self, progress: &Progress) -> Result<Row> {
        let servers: [(&str, Measure<'_>); 1] = [(
            "magnetite",
            Box::new(|| {
                let (process, took) = self.stage.magnetite(MACHINES, &self.link.clients())?;
                process.stop();
                Ok((took.as_secs_f64(), String::new()))
            }),
        )];
        Ok(Row {
            name: "start",
            what: "from the start of the process to its first right offer, 10,000 Machines in the catalog",
            unit: "s",
            target: "under 1 s",
            yardstick: "magnetite",
            figures: self.rounds("start", &servers, progress),
        })
    }
}

fn server() -> Result<Ipv4Addr> {
    SERVER.parse().context("the server's address")
}

fn described(seen: Seen) -> (f64, String) {
    let Seen { rate, mut latencies, errors } = seen;
    let p99 = permille(&mut latencies, 990).map(|p99| format!("p99 {:.2} ms", p99.as_secs_f64() * 1e3));
    let errors = (errors > 0).then(|| format!("{errors} asked again"));
    (rate, p99.into_iter().chain(errors).collect::<Vec<_>>().join(", "))
}

/// A process's resident memory, in MB.
fn resident(process: &Process) -> Result<(f64, String)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    Ok((kib * 1024.0 / 1e6, String::new()))
}
