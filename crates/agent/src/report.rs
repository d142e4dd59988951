//! Says to the boot server how far the box came. Reports go their own way behind the join and never hold it up: each
//! is tried a few times and then dropped, in the order in which they were said.

use std::time::Duration;

use jiff::Timestamp;
use magnetite_api::{
    install::WipedDisk,
    join::{ReportRequest, ReportedFailure},
    report::{BootStepName, Inventory},
};
use magnetite_daemon::{
    backoff::{Backoff, jittered},
    log::chain,
};
use reqwest::StatusCode;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{server::BootServer, sign::Signer};

/// How long one attempt may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often a report is tried.
const ATTEMPTS: u32 = 4;
/// How often it is tried when nothing else is left to do, so that the agent ends soon also without a boot server.
const LAST_ATTEMPTS: u32 = 2;
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(8) };
/// How many reports may wait. A whole join has about eight.
const QUEUE: usize = 32;

/// Where reports are said.
#[derive(Debug)]
pub struct Reporter {
    queue: mpsc::Sender<ReportRequest>,
    server_time: watch::Receiver<Option<Timestamp>>,
}

/// A place to say reports, and the work of sending them, which ends after the place is dropped and all is sent.
pub fn reporter(server: BootServer, signer: Signer) -> (Reporter, impl Future<Output = ()>) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let (clock, server_time) = watch::channel(None);
    (Reporter { queue, server_time }, send_all(server, signer, waiting, clock))
}

impl Reporter {
    /// A step was reached.
    pub fn reached(&self, step: BootStepName, detail: Option<&str>) {
        let detail = detail.map(|text| plain(text, 200));
        self.say(ReportRequest { step, detail, failure: None, inventory: None, wiped: Vec::new(), signature: None });
    }

    /// The first report of a boot: the agent runs, and this is what the box is made of.
    pub fn started(&self, inventory: &Inventory) {
        let detail = Some(concat!("magnetite-agent ", env!("CARGO_PKG_VERSION")).to_owned());
        let inventory = Some(inventory.clone());
        let step = BootStepName::AgentStarted;
        self.say(ReportRequest { step, detail, failure: None, inventory, wiped: Vec::new(), signature: None });
    }

    /// All disks are wiped, and how.
    pub fn wiped(&self, disks: Vec<WipedDisk>) {
        let detail = Some(format!("{} disks", disks.len()));
        let step = BootStepName::Wiped;
        self.say(ReportRequest { step, detail, failure: None, inventory: None, wiped: disks, signature: None });
    }

    /// A step failed, and why.
    pub fn failed(&self, step: BootStepName, reason: &str, message: &str) {
        let failure = ReportedFailure { reason: plain(reason, 64), message: plain(message, 512) };
        self.say(ReportRequest {
            step,
            detail: None,
            failure: Some(failure),
            inventory: None,
            wiped: Vec::new(),
            signature: None,
        });
    }

    /// The boot server's time, from its first answer, if that comes soon.
    pub async fn server_time(&mut self, limit: Duration) -> Option<Timestamp> {
        let first = timeout(limit, self.server_time.wait_for(Option::is_some)).await;
        first.ok()?.ok().and_then(|time| *time)
    }

    fn say(&self, report: ReportRequest) {
        if let Err(error) = self.queue.try_send(report) {
            tracing::warn!(error = chain(&error), "report dropped");
        }
    }
}

async fn send_all(
    server: BootServer,
    mut signer: Signer,
    mut waiting: mpsc::Receiver<ReportRequest>,
    clock: watch::Sender<Option<Timestamp>>,
) {
    while let Some(mut report) = waiting.recv().await {
        let mut retries = BACKOFF.start();
        loop {
            // Now, and not when it was said: meanwhile there may be a key, and the machine may be its own.
            if report.signature.is_none() {
                report = signer.sign(report);
            }
            let (wait, why) = match send(&server, &report, &clock).await {
                Sent::Done => break,
                Sent::Later(asked, why) => (asked, why),
            };
            let delay = retries.next_delay();
            if retries.failures() >= if waiting.is_closed() { LAST_ATTEMPTS } else { ATTEMPTS } {
                tracing::warn!(step = report.step.as_str(), error = why, "report given up");
                break;
            }
            sleep(wait.map_or(delay, jittered)).await;
        }
    }
}

enum Sent {
    Done,
    /// After this long, if the server said; and why.
    Later(Option<Duration>, String),
}

/// One attempt.
async fn send(server: &BootServer, report: &ReportRequest, clock: &watch::Sender<Option<Timestamp>>) -> Sent {
    let step = report.step.as_str();
    match server.post("report", report, LIMIT).await {
        Ok(answer) => {
            clock.send_replace(answer.server_time);
            match answer.status {
                status if status.is_success() => {
                    tracing::debug!(step, "reported");
                    Sent::Done
                }
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    let wait = answer.retry_after.map(|wait| wait.min(LIMIT));
                    Sent::Later(wait, format!("the boot server answered with status {}", status.as_u16()))
                }
                status => {
                    tracing::warn!(step, status = status.as_u16(), "report refused");
                    Sent::Done
                }
            }
        }
        Err(error) => {
            tracing::debug!(step, error = chain(&error), "report failed");
            Sent::Later(None, chain(&error))
        }
    }
}

/// One line without control characters, at most so long.
pub fn plain(text: &str, most: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_plain_line() {
        assert_eq!(plain("a\n\u{1b}[31mb  c", 200), "a [31mb c");
        assert_eq!(plain(&"ä".repeat(300), 200).chars().count(), 200);
    }
}
