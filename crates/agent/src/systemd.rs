//! systemctl, and what it says.

use std::{path::PathBuf, process::Output, time::Duration};

use magnetite_daemon::log::chain;
use tokio::{process::Command, time::timeout};

use crate::{kubelet::UNIT, report::plain};

/// How long systemctl may take: a unit that says when it is ready may take 90 s.
const LIMIT: Duration = Duration::from_secs(120);

/// Why systemctl did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SystemctlError {
    /// It could not be run.
    #[error("systemctl {0} could not be run")]
    Run(&'static str, #[source] std::io::Error),
    /// It took too long.
    #[error("systemctl {0} took longer than {LIMIT:?}")]
    Slow(&'static str),
    /// It said no.
    #[error("systemctl {verb} failed: {said}")]
    Failed {
        /// What was asked.
        verb: &'static str,
        /// What it said.
        said: String,
    },
}

/// What becomes of a box after its agent did what a system in memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It is switched off.
    Off,
    /// It boots again, and is told what to do.
    Restart,
}

/// systemctl, for the kubelet's unit.
#[derive(Debug, Clone)]
pub struct Systemctl(pub PathBuf);

impl Systemctl {
    /// True if the system knows a unit for the kubelet, whoever wrote it.
    pub async fn knows_unit(&self) -> Result<bool, SystemctlError> {
        Ok(self.run("cat", &[UNIT]).await?.status.success())
    }

    /// True if the kubelet runs.
    pub async fn is_active(&self) -> Result<bool, SystemctlError> {
        Ok(self.run("is-active", &["--quiet", UNIT]).await?.status.success())
    }

    /// Restarts the box.
    pub async fn restart_box(&self) -> Result<(), SystemctlError> {
        self.must("reboot", &[]).await
    }

    /// Switches the box off.
    pub async fn switch_off(&self) -> Result<(), SystemctlError> {
        self.must("poweroff", &[]).await
    }

    /// Reads changed units, enables ours until the next boot (then an agent runs again, and decides), and starts it
    /// with what is in its files now.
    pub async fn start_anew(&self) -> Result<(), SystemctlError> {
        self.must("daemon-reload", &[]).await?;
        // Some units cannot be enabled (generated ones); that they run is what counts.
        if let Err(error) = self.must("enable", &["--runtime", UNIT]).await {
            tracing::warn!(error = chain(&error), "kubelet not enabled");
        }
        // A unit that failed too often is not started again without this; one that did not is no error of ours.
        self.run("reset-failed", &[UNIT]).await?;
        self.must("restart", &[UNIT]).await
    }

    /// Restarts the box.
    pub async fn reboot(&self) -> Result<(), SystemctlError> {
        self.must("reboot", &[]).await
    }

    /// How the kubelet's unit is, and the last that it said: for a failure's message.
    pub async fn condition(&self) -> String {
        let state = self.run("is-active", &[UNIT]).await.map(|output| said(&output.stdout)).unwrap_or_default();
        let arguments = ["--no-pager", "--lines=4", "--output=cat", UNIT];
        let status = self.run("status", &arguments).await.map(|output| output.stdout).unwrap_or_default();
        let status = String::from_utf8_lossy(&status).into_owned();
        // What the unit said comes after an empty line; what is before it is about the unit.
        let lines = status.split_once("\n\n").map_or("", |(_, lines)| lines);
        match discreet(&plain(lines, 300)) {
            lines if lines.is_empty() => format!("kubelet.service is {state}"),
            lines => format!("kubelet.service is {state} and said: {lines}"),
        }
    }

    async fn must(&self, verb: &'static str, arguments: &[&str]) -> Result<(), SystemctlError> {
        let output = self.run(verb, arguments).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(SystemctlError::Failed { verb, said: discreet(&said(&output.stderr)) })
    }

    async fn run(&self, verb: &'static str, arguments: &[&str]) -> Result<Output, SystemctlError> {
        let output = Command::new(&self.0).arg(verb).args(arguments).kill_on_drop(true).output();
        match timeout(LIMIT, output).await {
            Ok(output) => output.map_err(|error| SystemctlError::Run(verb, error)),
            Err(_) => Err(SystemctlError::Slow(verb)),
        }
    }
}

fn said(output: &[u8]) -> String {
    plain(&String::from_utf8_lossy(output), 200)
}

/// Hides what looks like a token or a key: a report is read by more people than the box's journal.
fn discreet(text: &str) -> String {
    let secret = |word: &&str| {
        let run = word.split(|c: char| !(c.is_ascii_alphanumeric() || "-_+/=.".contains(c)));
        run.into_iter()
            .any(|part| part.len() >= 40 && part.bytes().any(|b| b.is_ascii_digit()) && !part.starts_with('/'))
    };
    text.split(' ').map(|word| if secret(&word) { "[hidden]" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_token_is_hidden() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06bm9kZTpib3gtMSJ9.c2lnbmF0dXJl";
        assert_eq!(discreet(&format!("E1121 failed: Bearer {token} x")), "E1121 failed: Bearer [hidden] x");
        let path = "/var/lib/kubelet/pods/3f0d2c5e-0000-4000-8000-000000000010/volumes";
        assert_eq!(discreet(path), path);
    }
}
