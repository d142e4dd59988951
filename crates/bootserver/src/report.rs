//! Brings what was seen to where people look: BootReports in a cluster, files without one. The boot path never
//! waits for this, and what cannot be written now is written later.

mod disk;
mod ledger;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use magnetite_api::{
    BootReport, BootReportSpec, Machine, Profile,
    discovery::box_mac,
    names,
    report::{Subject, SubjectKind},
};
use magnetite_boot::fleet::Found;
use magnetite_daemon::{
    backoff::{Backoff, Retries},
    clock,
    log::chain,
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Cluster},
    artifacts,
    http::owner,
    metrics::count,
    record::{Entry, clean},
};

use disk::Disk;
pub use disk::{RecordFolder, remembered};
use ledger::Ledger;

/// Between two writes about one object: a boot of a minute then costs few writes, and `kubectl get -w` still lives.
const SPACING: Duration = Duration::from_secs(2);
/// Between two writes of all: 50 a second at most.
const PACE: Duration = Duration::from_millis(20);
/// Between two looks at what changed: each goes over all machines, and while a site powers on something changes with every packet.
const LOOKS: Duration = Duration::from_millis(200);
/// How long the API server may take for one write.
const CALL: Duration = Duration::from_secs(10);
/// When a report that the API server refused is tried again: it may be refused for what another object says.
const REFUSED: Duration = Duration::from_secs(30);
/// Between two attempts while the API server is away.
const AWAY: Backoff = Backoff { first: Duration::from_millis(500), ceiling: Duration::from_secs(5) };
/// So many may fail, one after the other, before the API server counts as away.
const ALONE: u32 = 2;
/// So many reports are written before it is looked again which are due: what boots now must not wait for all that booted before.
const A_PASS: usize = 50;
/// Without news, look again after this long.
const IDLE: Duration = Duration::from_secs(5);
/// A box that nobody declares is told of for so long after its last word.
const STRANGER: jiff::SignedDuration = jiff::SignedDuration::from_mins(2);
/// How long the last writes may take once the process stops.
const LAST: Duration = Duration::from_secs(5);

/// How a write went.
enum Wrote {
    Yes,
    /// The API server says no to this one.
    Refused,
    /// It does not answer.
    Away,
}

/// Waits until there is reason to look again: `news`, `other` news, or that `next` has come; but for a moment in any case. False if it is
/// `stop` that came.
async fn pause(
    news: &mut watch::Receiver<()>,
    other: impl Future<Output = ()>,
    next: Instant,
    stop: &CancellationToken,
) -> bool {
    let reason = async {
        tokio::time::sleep(LOOKS).await;
        tokio::select! {
            _ = news.changed() => {}
            () = other => {}
            () = tokio::time::sleep_until(next) => {}
        }
    };
    stop.run_until_cancelled(reason).await.is_some()
}

/// Who writes down what was seen.
pub struct Reports {
    // Each at its own pace: an API server that is slow, or away, must not keep records from the disk.
    disk: Mutex<Disk>,
    publisher: Mutex<Publisher>,
}

impl Reports {
    /// Writes nothing yet.
    ///
    /// # Errors
    /// If the folder of the records cannot be made.
    pub fn new(app: &Arc<App>) -> std::io::Result<Self> {
        let (disk, publisher) = (Disk::new(Arc::clone(app))?, Publisher::new(Arc::clone(app)));
        Ok(Self { disk: Mutex::new(disk), publisher: Mutex::new(publisher) })
    }

    /// Writes changes to disk and, if there is one, to the cluster until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> std::io::Result<()> {
        let disk = async { self.disk.lock().await.run(&stop).await };
        let publisher = async { self.publisher.lock().await.run(&stop).await };
        tokio::join!(disk, publisher);
        Ok(())
    }

    /// Writes what is left, once nobody is served any more: an orderly end loses nothing, if the API server is there.
    pub async fn finish(&self) {
        let disk = async { self.disk.lock().await.finish().await };
        let publisher = async { self.publisher.lock().await.finish().await };
        tokio::join!(disk, publisher);
    }
}

struct Publisher {
    app: Arc<App>,
    machines: Ledger<u64>,
    profiles: Ledger<String>,
    pace: Interval,
    away: Retries,
    /// The API server is not asked before this.
    away_until: Instant,
    failed_in_a_row: u32,
    /// When a refusal was last told: without the right to write, all reports are refused.
    told: Option<Instant>,
}

impl Publisher {
    fn new(app: Arc<App>) -> Self {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (machines, profiles) = (Ledger::default(), Ledger::default());
        Self {
            app,
            machines,
            profiles,
            pace,
            away: AWAY.start(),
            away_until: Instant::now(),
            failed_in_a_row: 0,
            told: None,
        }
    }

    async fn run(&mut self, stop: &CancellationToken) {
        let mut news = self.app.records.news.subscribe();
        loop {
            let next = self.publish(stop).await;
            if !pause(&mut news, self.app.library.changed.notified(), next, stop).await {
                return;
            }
        }
    }

    async fn finish(&mut self) {
        self.hurry();
        let all = async { while self.publish(&CancellationToken::new()).await <= Instant::now() {} };
        if tokio::time::timeout(LAST, all).await.is_err() {
            tracing::warn!("not all boot reports were written in time; the next process writes them");
        }
    }

    fn hurry(&mut self) {
        let now = Instant::now();
        self.machines.hurry(now);
        self.profiles.hurry(now);
        self.away_until = now;
    }

    /// Writes what changed and may be written. Returns when to come again without further news.
    async fn publish(&mut self, stop: &CancellationToken) -> Instant {
        let now = Instant::now();
        let mut next = now + IDLE;
        let view = self.app.view();
        self.gauges(view.fleet.machines().count(), view.profiles.len());
        let Cluster::Client(client) = self.app.cluster.clone() else { return next };
        if self.away_until > now {
            return self.away_until.min(next);
        }
        let machines: HashMap<_, _> = view.fleet.machines().map(|machine| (machine.name_any(), machine)).collect();
        let app = Arc::clone(&self.app);
        // A box that nobody declares, until there is a Machine of its address, under whatever name.
        let is_stranger = |name: &str| {
            let mac = box_mac(name).filter(|_| app.discovery.profile().is_some());
            mac.is_some_and(|mac| view.fleet.of_mac(mac) == Found::Unknown)
        };
        // An empty view is as a rule one that is not there yet.
        if !machines.is_empty() {
            self.machines.retain(|name| machines.contains_key(name) || is_stranger(name));
        }
        for profile in &view.profiles {
            let report = profile_report(&self.app, profile);
            let (name, text) = (profile.name_any(), serde_json::to_string(&report.spec).unwrap_or_default());
            if stop.is_cancelled() || !self.profiles.is_due(&name, &text, now, &mut next) {
                continue;
            }
            let wrote = self.write(&client, report).await;
            let Some((written, pause)) = self.judge(wrote) else { return self.away_until.min(next) };
            self.profiles.mark(name, written.then_some(text), Instant::now() + pause);
            next = next.min(Instant::now() + pause);
        }
        let versions = self.app.records.versions().into_iter();
        let versions = versions
            .filter(|(name, ..)| machines.contains_key(name) || is_stranger(name))
            .map(|(name, version, _)| (name, version));
        let (due, more) = self.machines.due(versions, A_PASS, now, &mut next);
        for name in due {
            // As it is now: while others were written, more may have happened.
            let Some(entry) = self.app.records.get(&name) else { continue };
            if stop.is_cancelled() {
                break;
            }
            // The record of a Machine that was deleted says nothing of the one that bears its name now.
            let machine = machines.get(&name);
            let told = match machine {
                Some(machine) => entry.uid == machine.uid().unwrap_or_default(),
                // Of a box nothing is to be told before it says what it is made of, or once it is silent: it may be one whose Machine was
                // deleted, and must not come back by what it said long ago.
                None => entry.uid.is_empty() && entry.inventory.is_some() && is_there(&entry),
            };
            if !told {
                self.machines.mark(name, Some(entry.version), now);
                continue;
            }
            let report = match machine {
                Some(machine) => machine_report(&self.app, machine, &entry),
                None => box_report(&self.app, &name, &entry),
            };
            let wrote = self.write(&client, report).await;
            let Some((written, pause)) = self.judge(wrote) else { return self.away_until.min(next) };
            self.machines.mark(name, written.then_some(entry.version), Instant::now() + pause);
            next = next.min(Instant::now() + pause);
        }
        if more { now } else { next }
    }

    /// Whether a report was written, and for how long it is left alone; nothing if the API server is away, when there is no
    /// use in trying the others. It is away if several in a row fail: one may fail by itself, as where a webhook does.
    fn judge(&mut self, wrote: Wrote) -> Option<(bool, Duration)> {
        let (outcome, verdict) = match wrote {
            Wrote::Yes => ("written", Some((true, SPACING))),
            Wrote::Refused => ("refused", Some((false, REFUSED))),
            Wrote::Away if self.failed_in_a_row < ALONE => ("failed", Some((false, SPACING))),
            Wrote::Away => ("failed", None),
        };
        count(&self.app.metrics.reports, outcome);
        self.failed_in_a_row = if outcome == "failed" { self.failed_in_a_row.saturating_add(1) } else { 0 };
        if outcome != "failed" {
            if self.away.failures() > 0 {
                tracing::info!("boot reports are written again");
            }
            self.away.reset();
        } else if verdict.is_none() {
            if self.away.failures() == 0 {
                tracing::warn!("the API server does not take boot reports; they are kept, and written when it does");
            }
            self.away_until = Instant::now() + self.away.next_delay();
            // Those that failed first are as late as all others now.
            self.machines.hurry(self.away_until);
            self.profiles.hurry(self.away_until);
        }
        verdict
    }

    async fn write(&mut self, client: &Client, report: BootReport) -> Wrote {
        self.pace.tick().await;
        let api: Api<BootReport> = Api::all(client.clone());
        let name = report.name_any();
        let parameters = PatchParams::apply(names::MANAGER_BOOTSERVER).force();
        match tokio::time::timeout(CALL, api.patch(&name, &parameters, &Patch::Apply(&report))).await {
            Ok(Ok(_)) => Wrote::Yes,
            // One report that is refused must not hold up the others.
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                if self.told.is_none_or(|told| told.elapsed() >= REFUSED) {
                    self.told = Some(Instant::now());
                    let (status, reason) = (status.code, clean(&status.message, 300));
                    tracing::error!(report = name, status, reason, "a boot report was refused, and perhaps others");
                }
                Wrote::Refused
            }
            Ok(Err(error)) => {
                tracing::debug!(report = name, error = chain(&error), "a boot report is put off");
                Wrote::Away
            }
            Err(_) => Wrote::Away,
        }
    }

    fn gauges(&self, machines: usize, profiles: usize) {
        let (ready, not_ready) = self.app.library.tally();
        let metrics = &self.app.metrics;
        for (kind, number) in [
            ("machines", machines),
            ("profiles", profiles),
            ("artifacts_ready", ready),
            ("artifacts_not_ready", not_ready),
        ] {
            metrics.set(kind, number);
        }
    }
}

/// A box that waits asks every quarter of a minute.
fn is_there(entry: &Entry) -> bool {
    clock::now().duration_since(entry.boot.last_seen.0) < STRANGER
}

fn machine_report(app: &App, machine: &Machine, entry: &Entry) -> BootReport {
    let name = machine.name_any();
    let subject = Subject { kind: SubjectKind::Machine, name: name.clone(), uid: machine.uid().unwrap_or_default() };
    let mut report = BootReport::new(&format!("{name}.{}", app.server), told(app, subject, entry));
    report.metadata.labels = Some([(names::LABEL_MACHINE.to_owned(), name)].into());
    report.metadata.owner_references = owner(machine).map(|owner| vec![owner]);
    report
}

/// Of a box that no Machine declares. The controller makes one of it.
fn box_report(app: &App, name: &str, entry: &Entry) -> BootReport {
    let subject = Subject { kind: SubjectKind::Box, name: name.to_owned(), uid: String::new() };
    BootReport::new(&format!("{name}.discovery.{}", app.server), told(app, subject, entry))
}

fn told(app: &App, subject: Subject, entry: &Entry) -> BootReportSpec {
    let mut boot = entry.boot.clone();
    boot.server.clone_from(&app.server);
    BootReportSpec {
        subject,
        server: app.server.clone(),
        boot: Some(boot),
        inventory: entry.inventory.clone(),
        install: entry.install.clone(),
        wipe: entry.wipe.clone(),
        artifacts: Vec::new(),
    }
}

fn profile_report(app: &App, profile: &Profile) -> BootReport {
    let name = profile.name_any();
    let spec = BootReportSpec {
        subject: Subject { kind: SubjectKind::Profile, name: name.clone(), uid: profile.uid().unwrap_or_default() },
        server: app.server.clone(),
        boot: None,
        inventory: None,
        install: None,
        wipe: None,
        artifacts: artifacts::reports(&app.library, profile),
    };
    let mut report = BootReport::new(&format!("profile.{name}.{}", app.server), spec);
    report.metadata.labels = Some([(names::LABEL_PROFILE.to_owned(), name)].into());
    report.metadata.owner_references = owner(profile).map(|owner| vec![owner]);
    report
}

#[cfg(test)]
mod tests;
