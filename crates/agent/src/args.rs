//! The agent's flags. Each has the name of a line in `/etc/magnetite/agent.env`, which Ignition writes.

use std::{path::PathBuf, time::Duration};

use clap::{CommandFactory, Parser, error::ErrorKind};
use magnetite_daemon::log::LogArgs;
use reqwest::Url;

use crate::tls::Pin;

const MORE: &str = "\
Example (what the unit magnetite-agent.service does with the environment that Ignition wrote):
  magnetite-agent \\
    --server https://172.30.0.1:8443/a/0123456789abcdef/AbCd... \\
    --pin sha256/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \\
    --machine box-1 --node-name box-1 --intent created --join certificate

Exit codes:
  0  the Profile joins nothing, or a signal asked to stop; with --restart-poll 0 also: the Node is Ready
  1  failed too often in a row; start it again, it goes on where it was
  2  the arguments are wrong
  3  the claim was refused for good, or the boot server has another key than the pinned one";

/// Joins this machine to its cluster: says what the box is made of, claims its identity from the boot server,
/// writes the kubelet's files, starts it, and waits until the Node is Ready. Then it stays, to restart the box when the cluster asks.
#[derive(Parser, Debug, Clone)]
#[command(name = "magnetite-agent", version, after_long_help = MORE)]
pub struct Args {
    /// Where to claim and report: the boot server's URL for this machine.
    #[arg(long, env = "MAGNETITE_SERVER", value_name = "URL", value_parser = parse_server, hide_env_values = true)]
    pub server: Url,
    /// The boot server's key: SHA-256 of its SubjectPublicKeyInfo. Only a server with this key is believed.
    #[arg(long, env = "MAGNETITE_PIN", value_name = "sha256/HEX")]
    pub pin: Pin,
    /// Name of the Machine that this box is.
    #[arg(long, env = "MAGNETITE_MACHINE", value_name = "NAME", value_parser = parse_name)]
    pub machine: String,
    /// UID of the Machine: one that was deleted and made again gets other keys.
    #[arg(long, env = "MAGNETITE_MACHINE_UID", value_name = "UID", default_value = "")]
    pub machine_uid: String,
    /// Name of the Node that this box becomes. Needed to join.
    #[arg(long, env = "MAGNETITE_NODE_NAME", value_name = "NAME", default_value = "")]
    pub node_name: String,
    /// The intent in whose window this box boots.
    #[arg(long, env = "MAGNETITE_INTENT", value_name = "ID")]
    pub intent: String,
    /// How to join.
    #[arg(long, env = "MAGNETITE_JOIN", value_enum, default_value_t = JoinMode::Certificate)]
    pub join: JoinMode,
    /// What the system that the agent runs in is for.
    #[arg(long, env = "MAGNETITE_TASK", value_enum, default_value_t = Task::Join)]
    pub task: Task,
    /// Whether the box has to prove its TPM 2.0.
    #[arg(long, env = "MAGNETITE_TPM", value_enum, default_value_t = TpmUse::No)]
    pub tpm: TpmUse,
    /// Where the agent keeps its keys and the answer to its claim. On a disk, if the box shall be the same Node
    /// after a reboot; one with a TPM 2.0 has the same keys again without.
    #[arg(long, env = "MAGNETITE_STATE_DIR", value_name = "FOLDER", default_value = "/var/lib/magnetite")]
    pub state_dir: PathBuf,
    /// The kubelet's program. Default: looked for in /usr/local/bin, /opt/bin, /usr/bin, then in $PATH.
    #[arg(long, env = "MAGNETITE_KUBELET", value_name = "FILE")]
    pub kubelet: Option<PathBuf>,
    /// All files are read and written below this folder. With any other than `/` the clock is left alone.
    #[arg(long, value_name = "FOLDER", default_value = "/", help_heading = "Tests")]
    pub root: PathBuf,
    /// The systemctl to use.
    #[arg(long, value_name = "FILE", default_value = "systemctl", help_heading = "Tests")]
    pub systemctl: PathBuf,
    /// Timing.
    #[command(flatten)]
    pub timing: Timing,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// Where else the kubelet may be.
    #[arg(long = "path", env = "PATH", default_value = "", hide = true)]
    pub search_path: String,
}

/// How long to wait and how often to try.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Timing")]
pub struct Timing {
    /// Seconds to wait after a refused claim: a person may open a new window meanwhile.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub refused_pause: Duration,
    /// The longest wait between two tries of anything else.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    pub retry_ceiling: Duration,
    /// Failures in a row after which the agent exits, for systemd to start it again.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub attempts: u32,
    /// Seconds in which the Node has to become Ready; after that it is reported as failed, and still watched.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_seconds)]
    pub ready_within: Duration,
    /// Seconds between two looks whether a file with a secret changed, where the Profile has such files.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub refresh: Duration,
    /// Seconds between two looks whether the cluster asks for a restart of the box. With 0 it is never restarted that way.
    #[arg(long, env = "MAGNETITE_RESTART_POLL", value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    pub restart_poll: Duration,
}

/// How the Profile joins.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinMode {
    /// The controller issues a certificate for the kubelet.
    Certificate,
    /// Not at all: the system boots, and that is all.
    None,
}

/// What the agent is to do.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The system is to stay: it joins as its Profile says.
    Join,
    /// The system lives in memory: it writes the Profile's own to a disk, and restarts the box.
    Install,
    /// The system lives in memory: it tells what the box is made of, and waits until the box is to be something.
    Inventory,
    /// The system lives in memory: it wipes the box's disks, and switches the box off.
    Wipe,
}

/// Whether the TPM is used.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmUse {
    /// It is not touched.
    No,
    /// The box claims with a proof by its TPM, and not without.
    Required,
}

impl Args {
    /// Reads and checks the arguments; ends the process with code 2 and a message if they are wrong.
    pub fn read() -> Self {
        let args = Self::parse();
        args.check().unwrap_or_else(|error| error.exit());
        args
    }

    /// What clap cannot express: a node name is needed only by a box that joins.
    fn check(&self) -> Result<(), clap::Error> {
        match (self.join, self.task) {
            (JoinMode::None, _) | (_, Task::Install | Task::Inventory | Task::Wipe) => Ok(()),
            (JoinMode::Certificate, Task::Join) => parse_name(&self.node_name).map(drop).map_err(|why| {
                let text = format!("--node-name (MAGNETITE_NODE_NAME) is needed with --join certificate: {why}");
                Self::command().error(ErrorKind::MissingRequiredArgument, text)
            }),
        }
    }
}

/// A name as Kubernetes allows it. It becomes part of paths, URLs and a systemd unit, so nothing else is let in.
fn parse_name(text: &str) -> Result<String, String> {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let ok =
        text.len() <= 253 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().next_back());
    if ok { Ok(text.to_owned()) } else { Err("write lower-case letters, digits, '-' and '.'".to_owned()) }
}

fn parse_server(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    match url.scheme() {
        "https" if plain && url.has_host() => Ok(url),
        _ => Err("write https://<address>:<port>/a/<id>/<capability>".to_owned()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parse(extra: &[&str]) -> Result<Args, clap::Error> {
        let pin = format!("sha256/{}", "ab".repeat(32));
        let base = ["magnetite-agent", "--server", "https://192.0.2.1:8443/a/1/c", "--pin", &pin, "--machine", "box-1"];
        let args = Args::try_parse_from(base.iter().chain(["--intent", "created"].iter()).chain(extra))?;
        args.check()?;
        Ok(args)
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_node_name_is_needed_only_to_join() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--join", "none"]).is_ok());
        assert!(parse(&["--task", "install"]).is_ok());
        assert!(parse(&["--node-name", "box-1.lab"]).is_ok());
    }

    #[rstest]
    #[case("--node-name", "../x")]
    #[case("--node-name", "-a")]
    #[case("--node-name", "Box")]
    #[case("--server", "http://192.0.2.1/a/1/c")]
    #[case("--pin", "sha256/12")]
    #[case("--refused-pause", "-1")]
    fn what_is_wrong_is_refused(#[case] flag: &str, #[case] value: &str) {
        assert!(parse(&[flag, value]).is_err());
    }
}
