//! What the real boot server stands in here: a network and mounts of its own, a server that it fetches from, a folder.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use magnetite_api::{Machine, MachineSpec, Sha256};
use magnetite_boot::capability::{CapabilityKey, Purpose, machine_key};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const INSIDE: &str = "MAGNETITE_TEST_INSIDE";

/// True inside of namespaces of this test's own, where ports and disks are nobody else's. Outside, runs the test there.
pub fn inside(test: &str, addresses: u8) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        for number in 1..=addresses {
            run("ip", &["address", "add", &format!("{}/24", address(number)), "dev", "lo"]);
        }
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{test} is left out: it needs root, for a network and mounts of its own");
        return false;
    }
    let this = std::env::current_exe().unwrap();
    let mut again = Command::new("unshare");
    again.args(["--net", "--mount", "--"]).arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    assert!(again.status().unwrap().success(), "{test} failed in its namespaces");
    false
}

/// The addresses that [`inside`] makes.
pub fn address(number: u8) -> String {
    format!("10.99.0.{number}")
}

pub fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

/// Waits for a value that another thread changes.
#[derive(Debug, Default)]
pub struct Watched<T>(Mutex<T>, Condvar);

impl<T> Watched<T> {
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.lock());
        self.1.notify_all();
        changed
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }

    pub fn wait(&self, what: &str, ready: impl Fn(&T) -> bool) {
        let (guard, timeout) = self.1.wait_timeout_while(self.lock(), PATIENCE, |value| !ready(value)).unwrap();
        drop(guard);
        assert!(!timeout.timed_out(), "waited in vain for {what}");
    }
}

/// How far the server that files are fetched from is.
#[derive(Debug, Default)]
pub struct Line {
    /// It stops after so many bytes from the beginning of what is asked for, until this is none.
    pub stop_after: Option<usize>,
    /// It stopped, or sent all.
    pub stopped: bool,
    /// The boot server has the file.
    pub ready: bool,
    /// Requests that were answered; those for a part; bytes of the bodies.
    pub answers: usize,
    pub parts: usize,
    pub sent: usize,
}

/// A server that has one file, knows ranges, and stops where it is told to.
pub struct Upstream {
    pub url: String,
    pub line: Arc<Watched<Line>>,
}

impl Upstream {
    pub fn start(address: &str, file: Arc<Vec<u8>>) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let line = Arc::<Watched<Line>>::default();
        let shared = Arc::clone(&line);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (file, line) = (Arc::clone(&file), Arc::clone(&shared));
                // It breaks whenever the other side is killed.
                std::thread::spawn(move || drop(answer(connection, &file, &line)));
            }
        });
        Self { url, line }
    }
}

fn answer(mut connection: TcpStream, file: &[u8], line: &Watched<Line>) -> std::io::Result<()> {
    let mut start = 0;
    for header in BufReader::new(connection.try_clone()?).lines() {
        let header = header?.to_ascii_lowercase();
        if let Some(range) = header.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
        if header.is_empty() {
            break;
        }
    }
    let (total, length) = (file.len(), file.len() - start);
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    let range = format!("content-range: bytes {start}-{}/{total}\r\n", total - 1);
    let head = format!("HTTP/1.1 {status}\r\netag: \"1\"\r\nconnection: close\r\ncontent-length: {length}\r\n");
    let mut sent = 0;
    let this = line.change(|line| {
        (line.answers, line.parts) = (line.answers + 1, line.parts + usize::from(start > 0));
        (line.stopped, line.sent) = (false, line.sent + length);
        line.answers
    });
    let halt = |sent: usize| {
        if line.change(|line| {
            line.stopped |= line.stop_after == Some(sent);
            line.stopped
        }) {
            let gone_on = |line: &Line| line.stop_after.is_none_or(|stop| stop > sent) || line.answers > this;
            line.wait("the line to go on", gone_on);
        }
    };
    halt(0);
    connection.write_all(format!("{head}{}\r\n", if start > 0 { &range } else { "" }).as_bytes())?;
    while sent < length {
        let until = line.change(|line| line.stop_after).filter(|stop| *stop > sent).unwrap_or(length).min(length);
        let chunk = (until - sent).min(64 << 10);
        connection.write_all(&file[start + sent..start + sent + chunk])?;
        sent += chunk;
        halt(sent);
    }
    line.change(|line| line.stopped = true);
    Ok(())
}

/// A boot server's folder, with a catalog of one Machine and its Profile.
pub struct Site {
    pub folder: PathBuf,
    address: String,
}

impl Site {
    /// `kernel` is a file of the site's own, `initrd` is fetched.
    pub fn new(folder: &Path, address: &str, kernel: &[u8], url: &str, initrd: Sha256) -> Self {
        for name in ["catalog", "data", "files"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        std::fs::write(folder.join("files/kernel"), kernel).unwrap();
        let kernel = Sha256::of(kernel);
        let catalog = format!(
            r#"{{apiVersion: magnetite.dev/v1alpha1, kind: Profile, metadata: {{name: p}}, spec: {{join: {{mode: None}}, boot: {{x86_64: {{
                kernel: {{file: kernel, sha256: "{kernel}"}}, initrds: [{{url: "{url}", sha256: "{initrd}"}}]}}}}}}}}
---
{{apiVersion: magnetite.dev/v1alpha1, kind: Machine, metadata: {{name: box}}, spec: {{macs: ["52:54:00:00:00:01"], profile: p}}}}
"#
        );
        std::fs::write(folder.join("catalog/site.yaml"), catalog).unwrap();
        Self { folder: folder.to_owned(), address: address.to_owned() }
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.join("data/cache")
    }

    pub fn start(&self, upstream: &Upstream) -> Server {
        let path = |name: &str| self.folder.join(name).into_os_string().into_string().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_magnetite-bootserver"));
        command.args(["--interface", "lo", "--dhcp", "off", "--cache-quota", "1Gi", "--log-format", "json"]);
        command.args(["--address", &self.address, "--admin-addr", &format!("{}:9090", self.address)]);
        command.args(["--catalog", &path("catalog"), "--data-dir", &path("data"), "--artifacts-dir", &path("files")]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (lines, read) = (Arc::<Watched<Vec<String>>>::default(), BufReader::new(child.stderr.take().unwrap()));
        let (shared, line, url) = (Arc::clone(&lines), Arc::clone(&upstream.line), upstream.url.clone());
        std::thread::spawn(move || {
            for text in read.lines().map_while(Result::ok) {
                if text.contains("artifact ready") && text.contains(&url) {
                    line.change(|line| line.ready = true);
                }
                shared.change(|all| all.push(text));
            }
        });
        Server { child, lines }
    }

    /// What the machine's box gets: the status, and the body.
    pub fn get(&self, what: &str) -> (String, Vec<u8>) {
        let key =
            CapabilityKey::new(std::fs::read(self.folder.join("data/capability.key")).unwrap().try_into().unwrap());
        let machine = Machine::new("box", MachineSpec::default());
        let cap = key.mint(Purpose::Boot, &machine_key(&machine), machine.wanted_intent(), u64::from(u32::MAX));
        let mut connection = TcpStream::connect((self.address.as_str(), 8080)).unwrap();
        let path = format!("/m/{}/{cap}/x86_64/{what}", key.machine_id(&machine));
        write!(connection, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let status = String::from_utf8_lossy(&answer[..answer.iter().position(|b| *b == b'\r').unwrap()]).into_owned();
        (status, answer[head + 4..].to_vec())
    }

    /// Every file that bears a sum has it. Returns whether there is one.
    pub fn no_wrong_byte(&self) -> bool {
        let mut whole = false;
        for entry in std::fs::read_dir(self.cache()).into_iter().flatten() {
            let path = entry.unwrap().path();
            if let Ok(sum) = path.file_name().unwrap().to_str().unwrap().parse::<Sha256>() {
                assert_eq!(Sha256::of(&std::fs::read(&path).unwrap()), sum, "{} is wrong", path.display());
                whole = true;
            }
        }
        whole
    }
}

/// A boot server that runs, and what it logged.
pub struct Server {
    child: Child,
    lines: Arc<Watched<Vec<String>>>,
}

impl Server {
    /// Waits for a line of the log with all of these words, after so many lines. Returns how long that took.
    pub fn logs(&self, after: usize, words: &[&str]) -> Duration {
        let began = Instant::now();
        let found =
            |lines: &Vec<String>| lines.iter().skip(after).any(|line| words.iter().all(|word| line.contains(word)));
        self.lines.wait(&format!("{words:?} in the log"), found);
        began.elapsed()
    }

    /// Lines so far.
    pub fn lines(&self) -> usize {
        self.lines.change(|lines| lines.len())
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
