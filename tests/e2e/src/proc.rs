//! Processes of the lab. Three promises: each runs in the namespace it is meant for; what it says
//! is kept; and it does not outlive the lab, however the lab ends.
//!
//! * A value that is dropped ends its process, by process id.
//! * `setpriv --pdeathsig KILL` covers the lab being killed: the kernel then ends the child. That
//!   signal is tied to the *thread* that forked, so one thread, which lives as long as the lab,
//!   forks all children.
//! * Children are in process groups of their own, so that a Ctrl-C reaches only the lab, which then
//!   ends them in order.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt;
use crate::progress::Step;

/// A command line, and where it runs.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    netns: Option<String>,
    dir: Option<PathBuf>,
    input: Option<Vec<u8>>,
    timeout: Duration,
}

impl Cmd {
    /// A program by name or path.
    #[must_use]
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().display().to_string(),
            args: Vec::new(),
            env: Vec::new(),
            netns: None,
            dir: None,
            input: None,
            timeout: Duration::from_secs(120),
        }
    }

    /// One argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Several arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The network namespace to run in.
    #[must_use]
    pub fn netns(mut self, netns: impl Into<String>) -> Self {
        self.netns = Some(netns.into());
        self
    }

    /// The working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What the program reads from its standard input, which is empty otherwise.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// How long [`Cmd::run`] may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(netns) = &self.netns {
            // `ip netns exec` replaces itself by the program, so the pid stays the program's.
            command.args(["ip", "netns", "exec", netns]);
        }
        command.arg(&self.program).args(&self.args);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.process_group(0).stdin(Stdio::null());
        command
    }

    /// Runs to the end and returns what it wrote to its standard output. A failure carries what it
    /// wrote to its standard error.
    pub fn run(&self) -> Result<String> {
        let (status, out, err) = self.ask()?;
        if !status.success() {
            bail!("{self}: {status}\n{}{}", tail(&out, 20), tail(&err, 20));
        }
        Ok(out)
    }

    /// Runs to the end and returns how it ended, and what it wrote to its standard output and error.
    pub fn ask(&self) -> Result<(ExitStatus, String, String)> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = Guard(fork(command).with_context(|| format!("start {self}"))?);
        let feeder = child.0.stdin.take().zip(self.input.clone()).map(|(mut pipe, input)| {
            // A program that does not read all of its input says so by its exit code.
            std::thread::spawn(move || drop(pipe.write_all(&input)))
        });
        let out = child.0.stdout.take().map(drain);
        let err = child.0.stderr.take().map(drain);
        let status = child.wait(self.timeout).with_context(|| format!("run {self}"))?;
        if let Some(feeder) = feeder {
            drop(feeder.join());
        }
        let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
            let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Ok((status, text(out), text(err)))
    }

    /// Runs something long to the end: its output goes to `log`, its last line to the heartbeat.
    pub fn run_watched(&self, step: &Step, log: &Path) -> Result<()> {
        let mut command = self.command();
        let file = open_log(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let mut child = Guard(fork(command).with_context(|| format!("start {self}"))?);
        let status = loop {
            if let Some(status) = child.0.try_wait()? {
                break status;
            }
            interrupt::check()?;
            if let Some(line) = last_line(log) {
                step.note(line);
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        if !status.success() {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            bail!("{self}: {status} (see {})\n{}", log.display(), tail(&said, 30));
        }
        Ok(())
    }

    /// Starts something that stays. Its output goes to `log`.
    pub fn spawn(&self, name: impl Into<String>, log: &Path) -> Result<Process> {
        let mut command = self.command();
        let file = open_log(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = Guard(fork(command).with_context(|| format!("start {self}"))?);
        Ok(Process { name: name.into(), log: log.to_owned(), grace: Duration::from_secs(5), child })
    }
}

impl std::fmt::Display for Cmd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.program.rsplit('/').next().unwrap_or(&self.program);
        write!(f, "`{name}")?;
        for arg in self.args.iter().take(8) {
            // Scripts are known by their first line.
            let line = arg.lines().next().unwrap_or_default();
            write!(f, " {}", line.chars().take(80).collect::<String>())?;
        }
        f.write_str(if self.args.len() > 8 { " …`" } else { "`" })
    }
}

/// A process that stays until it is stopped or this value is dropped.
pub struct Process {
    name: String,
    log: PathBuf,
    grace: Duration,
    child: Guard,
}

impl Process {
    /// How long the process may take to end after SIGTERM, before SIGKILL. Zero for those whose
    /// state nobody wants.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Everything it has said so far.
    #[must_use]
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Where its output is.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.0.try_wait().ok().flatten()
    }

    /// An error, with its last words, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                bail!("{} has ended: {status}\n{}", self.name, tail(&self.output(), 30))
            }
        }
    }

    /// Sends a signal to the process (not to its group).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a pid fits")?;
        nix::sys::signal::kill(Pid::from_raw(pid), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Ends the process and waits until it is gone.
    pub fn stop(mut self) -> Option<ExitStatus> {
        self.child.end(self.grace)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.end(self.grace);
    }
}

/// A child that is ended when it is dropped.
struct Guard(Child);

impl Guard {
    fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            interrupt::check()?;
            if start.elapsed() > timeout {
                bail!("not done after {} s", timeout.as_secs());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn end(&mut self, grace: Duration) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.0.try_wait() {
            return Some(status);
        }
        // The group, because a build has children of its own.
        let group = Pid::from_raw(i32::try_from(self.0.id()).ok()?);
        if !grace.is_zero() {
            let _ = killpg(group, Signal::SIGTERM);
            let start = Instant::now();
            while start.elapsed() < grace {
                if let Ok(Some(status)) = self.0.try_wait() {
                    return Some(status);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = killpg(group, Signal::SIGKILL);
        self.0.wait().ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end(Duration::from_secs(5));
    }
}

/// Forks on the one thread that lives as long as the lab (see the module's text).
fn fork(command: Command) -> Result<Child> {
    type Job = (Command, Sender<std::io::Result<Child>>);
    static FORKER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
        let (jobs, queue) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                // Whoever asked is gone: its child, if any, is dropped with the answer.
                drop(answer.send(command.spawn()));
            }
        });
        Mutex::new(jobs)
    });
    let (answer, result) = channel();
    FORKER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .ok()
        .context("the forking thread is gone")?;
    Ok(result.recv().context("the forking thread is gone")??)
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is all that there is.
        drop(pipe.read_to_end(&mut bytes));
        bytes
    })
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::options().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

fn last_line(path: &Path) -> Option<String> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2048))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.split(['\n', '\r']).rfind(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(90).collect())
}

/// The last lines of a text, each ended.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.iter().skip(from).map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_last_words() {
        let error = Cmd::new("sh").args(["-c", "echo no disk >&2; exit 3"]).run();
        let text = format!("{:#}", error.expect_err("fails"));
        assert!(text.contains("no disk") && text.contains("exit status: 3"), "{text}");
    }

    #[test]
    fn input_is_read_and_output_returned() {
        let out = Cmd::new("cat").input("a\nb\n").run().expect("runs");
        assert_eq!(out, "a\nb\n");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let log = std::env::temp_dir().join(format!("magnetite-proc-{}", std::process::id()));
        let process = Cmd::new("sleep").arg("1000").spawn("sleeper", &log).expect("starts");
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
        std::fs::remove_file(&log).expect("clean up");
    }
}
