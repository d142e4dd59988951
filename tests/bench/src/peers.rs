//! The servers: how each is started, and where it serves what. One at a time has port 67 or 69.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use magnetite_e2e::{
    paths::Paths,
    proc::{Cmd, Process, tail},
    progress::Progress,
    wait,
};

use crate::{link::SERVER, load::Dhcp};

/// matchbox, through Go's module proxy.
const MATCHBOX_MODULE: (&str, &str) = ("github.com/poseidon/matchbox", "v0.11.0");

/// What the servers serve, and where their files are.
pub struct Stage {
    /// The servers' namespace.
    pub netns: String,
    /// A folder for this run.
    pub dir: PathBuf,
    /// Magnetite's boot server.
    pub bootserver: PathBuf,
    /// Peers that were built.
    pub go: PathBuf,
}

/// TFTP's file: the size of a loader. Its name is one that the boot server has.
pub const LOADER: (&str, usize) = ("undionly.kpxe", 850 << 10);
/// The large file.
pub const INITRD: (&str, usize) = ("initrd.img", 50 << 20);
/// nginx's and matchbox's ports.
const NGINX: u16 = 8081;
const MATCHBOX: u16 = 8082;

/// Bytes that do not repeat, so that a block in the wrong place is seen.
pub fn bytes(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size.div_ceil(8)).flat_map(|_| next()).take(size).collect()
}

impl Stage {
    /// Lays out the files that all serve. `script`: what nginx has where Magnetite renders.
    pub fn lay_out(&self) -> Result<()> {
        let files = self.dir.join("files");
        std::fs::create_dir_all(&files)?;
        for (name, size) in [LOADER, INITRD, ("vmlinuz", 1 << 20)] {
            std::fs::write(files.join(name), bytes(size))?;
        }
        Ok(())
    }

    fn text(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn command(&self, program: impl AsRef<Path>) -> Cmd {
        Cmd::new(program).netns(&self.netns)
    }

    fn spawn(&self, name: &str, command: Cmd) -> Result<Process> {
        Ok(command.spawn(name, &self.dir.join(format!("{name}.log")))?.grace(Duration::from_secs(1)))
    }

    /// Magnetite with so many Machines, and how long it took from its start to its first right answer to DHCP.
    pub fn magnetite(&self, machines: u32, clients: &str) -> Result<(Process, Duration)> {
        let catalog = self.catalog(machines)?;
        let data = self.dir.join(format!("data-{machines}"));
        // A start from nothing each time: no windows, no records.
        drop(std::fs::remove_dir_all(&data));
        let command = self
            .command(&self.bootserver)
            .args(["--interface", "eth0", "--server-name", "bench", "--admin-addr", "127.0.0.1:9091"])
            .args([
                "--catalog".to_owned(),
                catalog.display().to_string(),
                "--data-dir".to_owned(),
                data.display().to_string(),
            ])
            .args(["--ipxe-dir".to_owned(), self.text("files"), "--artifacts-dir".to_owned(), self.text("files")])
            .args(["--agent-dir", "/nonexistent", "--log-level", "warn"])
            // All clients are one process here; what one may ask is for networks.
            .args(["--client-requests-per-second", "0", "--client-transfers", "0", "--client-dhcp-per-second", "0"]);
        let start = Instant::now();
        let mut process = self.spawn("magnetite", command)?;
        let answered = within(clients, || Dhcp::first(Duration::from_secs(60), false));
        let took = start.elapsed();
        process.check()?;
        ensure!(answered?.ends_with(LOADER.0), "Magnetite offers another file");
        Ok((process, took))
    }

    /// A catalog of one Profile and so many Machines.
    fn catalog(&self, machines: u32) -> Result<PathBuf> {
        let dir = self.dir.join(format!("catalog-{machines}"));
        if dir.exists() {
            return Ok(dir);
        }
        std::fs::create_dir_all(&dir)?;
        std::fs::write(
            dir.join("profile.yaml"),
            include_str!("profile.yaml")
                .replace("@KERNEL@", &sum(&bytes(1 << 20)))
                .replace("@INITRD@", &sum(&bytes(INITRD.1))),
        )?;
        let all: Vec<u32> = (0..machines).collect();
        for (number, some) in all.chunks(500).enumerate() {
            let text: String = some.iter().map(|machine| {
                let [_, a, b, c] = machine.to_be_bytes();
                format!("---\napiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata:\n  name: box-{machine}\n  labels: {{role: worker}}\nspec:\n  macs: [\"02:00:00:{a:02x}:{b:02x}:{c:02x}\"]\n  variables: {{rack: r{}}}\n", machine % 100)
            }).collect();
            std::fs::write(dir.join(format!("machines-{number}.yaml")), text)?;
        }
        Ok(dir)
    }

    /// dnsmasq: ProxyDHCP and TFTP.
    pub fn dnsmasq(&self) -> Result<Process> {
        let config = self.dir.join("dnsmasq.conf");
        let root = self.text("files");
        std::fs::write(
            &config,
            format!(
                "port=0\ninterface=eth0\nbind-interfaces\nuser=root\nquiet-dhcp\nquiet-tftp\ndhcp-range=10.77.0.0,proxy,255.255.0.0\n\
                 dhcp-boot={0}\npxe-service=x86PC,boot,{0}\nenable-tftp\ntftp-root={root}\ntftp-max=1000\n",
                LOADER.0
            ),
        )?;
        let command = self.command("dnsmasq").args([
            "-d",
            "--pid-file=",
            "--log-facility=-",
            "-C",
            &config.display().to_string(),
        ]);
        let mut process = self.spawn("dnsmasq", command)?;
        wait::until("dnsmasq", Duration::from_secs(10), || {
            process.check()?;
            Ok(process.output().contains("started").then_some(()))
        })?;
        Ok(process)
    }

    /// tftpd-hpa, in the foreground.
    pub fn tftpd(&self) -> Result<Process> {
        let command = self
            .command("/usr/sbin/in.tftpd")
            .args(["--foreground", "--listen", "--user", "root", "--address", &format!("{SERVER}:69"), "--secure"])
            .arg(self.text("files"));
        self.listening("tftpd-hpa", command, "udp", 69)
    }

    /// nginx: static files, with as many workers as there are processors.
    pub fn nginx(&self) -> Result<(Process, u16)> {
        let config = self.dir.join("nginx.conf");
        let (dir, root) = (self.dir.display(), self.text("files"));
        std::fs::write(
            &config,
            format!(
                "daemon off;\nuser root;\nworker_processes auto;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx-error.log;\nevents {{ worker_connections 1024; }}\n\
                 http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  open_file_cache max=100;\n  keepalive_requests 1000000000;\n\
                 client_body_temp_path {dir}/t1;\n  proxy_temp_path {dir}/t2;\n  fastcgi_temp_path {dir}/t3;\n  uwsgi_temp_path {dir}/t4;\n  scgi_temp_path {dir}/t5;\n\
                 server {{ listen {SERVER}:{NGINX}; root {root}; }}\n}}\n"
            ),
        )?;
        let command = self.command("nginx").args(["-c", &config.display().to_string()]);
        Ok((self.listening("nginx", command, "tcp", NGINX)?, NGINX))
    }

    /// matchbox, with one group for all.
    pub fn matchbox(&self) -> Result<(Process, u16)> {
        let program = self.built("matchbox")?;
        let data = self.dir.join("matchbox");
        for folder in ["groups", "profiles", "ignition"] {
            std::fs::create_dir_all(data.join(folder))?;
        }
        std::fs::write(
            data.join("groups/all.json"),
            r#"{"id":"all","profile":"any","metadata":{"rack":"r1","node":"box-1"}}"#,
        )?;
        std::fs::write(
            data.join("profiles/any.json"),
            r#"{"id":"any","ignition_id":"any.ign","boot":{"kernel":"/assets/vmlinuz","initrd":["/assets/initrd.img"],"args":["console=ttyS0","ignition.config.url=http://10.77.0.1:8082/ignition?mac=${mac:hexhyp}"]}}"#,
        )?;
        std::fs::write(
            data.join("ignition/any.ign"),
            r#"{"ignition":{"version":"3.3.0"},"storage":{"files":[{"path":"/etc/hostname","mode":420,"contents":{"source":"data:,{{.node}}"}},{"path":"/etc/rack","mode":420,"contents":{"source":"data:,{{.rack}}"}}]}}"#,
        )?;
        let command = self
            .command(program)
            .args([
                "-address".to_owned(),
                format!("{SERVER}:{MATCHBOX}"),
                "-data-path".to_owned(),
                data.display().to_string(),
            ])
            .args(["-assets-path".to_owned(), self.text("files"), "-log-level".to_owned(), "error".to_owned()]);
        Ok((self.listening("matchbox", command, "tcp", MATCHBOX)?, MATCHBOX))
    }

    /// pixiecore in its static mode: the same for every box.
    pub fn pixiecore(&self) -> Result<Process> {
        let program = self.built("pixiecore")?;
        let command = self
            .command(program)
            .args(["boot".to_owned(), self.text("files/vmlinuz"), self.text("files/initrd.img")])
            .args(["--listen-addr", SERVER, "--port", "8083", "--status-port", "8084"]);
        self.listening("pixiecore", command, "udp", 67)
    }

    /// A peer that was built, or that somebody put on the PATH: Go's proxy has no pixiecore.
    fn built(&self, name: &str) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::iter::once(self.go.clone()).chain(std::env::split_paths(&path)).map(|dir| dir.join(name));
        places.find(|program| program.is_file()).with_context(|| format!("{name} is neither built nor on the PATH"))
    }

    fn listening(&self, name: &str, command: Cmd, protocol: &str, port: u16) -> Result<Process> {
        let mut process = self.spawn(name, command)?;
        let flag = if protocol == "udp" { "-lunH" } else { "-ltnH" };
        let result = wait::until(name, Duration::from_secs(10), || {
            process.check()?;
            let sockets = self.command("ss").args([flag]).run()?;
            Ok(sockets.split_whitespace().any(|word| word.ends_with(&format!(":{port}"))).then_some(()))
        });
        result.with_context(|| tail(&process.output(), 10))?;
        Ok(process)
    }
}

/// Builds matchbox, once. If it cannot be built, its lines of the table say so.
pub fn build(progress: &Progress, paths: &Paths) -> Result<PathBuf> {
    let (dir, (module, version)) = (paths.lab().join("peers"), MATCHBOX_MODULE);
    let place = dir.join("matchbox");
    if place.exists() {
        return Ok(dir);
    }
    // A module of our own that requires it: `go install` asks for lists of versions, which not every proxy has.
    let source = dir.join("source");
    std::fs::create_dir_all(&source)?;
    std::fs::write(source.join("go.mod"), format!("module peers\n\ngo 1.24\n\nrequire {module} {version}\n"))?;
    let step = progress.step(format!("building matchbox {version} (once; a minute)"));
    let command = Cmd::new("go")
        .dir(&source)
        .args(["build", "-o", &dir.join("matchbox.new").display().to_string(), &format!("{module}/cmd/matchbox")])
        .env("GOFLAGS", "-mod=mod")
        .env("CGO_ENABLED", "0")
        .timeout(Duration::from_secs(900));
    match command.run_watched(&step, &dir.join("build.log")) {
        Ok(()) => {
            std::fs::rename(dir.join("matchbox.new"), place)?;
            step.done("built");
        }
        Err(error) => drop(step.done(format!("left out: {error:#}").lines().next().unwrap_or_default())),
    }
    Ok(dir)
}

/// Runs `work` on a thread in a namespace.
pub fn within<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    magnetite_e2e::rogue::in_netns(netns, work)
}

fn sum(bytes: &[u8]) -> String {
    magnetite_e2e::stamp::sha256_hex(bytes)
}
