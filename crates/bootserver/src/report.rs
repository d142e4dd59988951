//! Brings what was seen to where people look: BootReports in a cluster, files without one. The boot path never
//! waits for this, and what cannot be written now is written later.

mod disk;
mod ledger;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use magnetite_api::{
    BootReport, BootReportSpec, Machine, Profile, names,
    report::{Subject, SubjectKind},
};
use magnetite_daemon::{
    backoff::{Backoff, Retries},
    log::chain,
};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Cluster},
    artifacts,
    http::owner,
    metrics::count,
    record::{Entry, clean},
};

pub use disk::remembered;
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
/// Without news, look again after this long.
const IDLE: Duration = Duration::from_secs(5);
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

/// Writes changes to disk and, if there is one, to the cluster until `stop`; then what is left, so that nothing is lost by an
/// orderly end.
///
/// # Errors
/// If the folder of the records cannot be made.
pub async fn run(app: Arc<App>, data: PathBuf, stop: CancellationToken) -> std::io::Result<()> {
    let disk = disk::Disk::new(Arc::clone(&app), &data)?;
    // Each at its own pace: an API server that is slow, or away, must not keep records from the disk.
    tokio::join!(disk.run(stop.clone()), Publisher::new(app).run(stop));
    Ok(())
}

struct Publisher {
    app: Arc<App>,
    machines: Ledger<u64>,
    profiles: Ledger<String>,
    pace: Interval,
    away: Retries,
    /// The API server is not asked before this.
    away_until: Instant,
}

impl Publisher {
    fn new(app: Arc<App>) -> Self {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (machines, profiles) = (Ledger::default(), Ledger::default());
        Self { app, machines, profiles, pace, away: AWAY.start(), away_until: Instant::now() }
    }

    async fn run(mut self, stop: CancellationToken) {
        let mut news = self.app.records.news.subscribe();
        loop {
            let next = self.publish(&stop).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOKS) => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                _ = news.changed() => {}
                () = self.app.library.changed.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
        self.hurry();
        drop(tokio::time::timeout(LAST, self.publish(&CancellationToken::new())).await);
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
        // An empty view is as a rule one that is not there yet.
        if !machines.is_empty() {
            self.machines.retain(|name| machines.contains_key(name));
        }
        for (name, version, _) in self.app.records.versions() {
            let Some(machine) = machines.get(&name) else { continue };
            if stop.is_cancelled() || !self.machines.is_due(&name, &version, now, &mut next) {
                continue;
            }
            // As it is now: while others were written, more may have happened.
            let Some(entry) = self.app.records.get(&name) else { continue };
            // The record of a Machine that was deleted says nothing of the one that bears its name now.
            if entry.uid != machine.uid().unwrap_or_default() {
                continue;
            }
            let wrote = self.write(&client, machine_report(&self.app, machine, &entry)).await;
            let Some((written, pause)) = self.judge(wrote) else { return self.away_until.min(next) };
            self.machines.mark(name, written.then_some(entry.version), Instant::now() + pause);
            next = next.min(Instant::now() + pause);
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
        next
    }

    /// Whether a report was written, and for how long it is left alone; nothing if the API server is away, when there is no
    /// use in trying the others.
    fn judge(&mut self, wrote: Wrote) -> Option<(bool, Duration)> {
        let (outcome, verdict) = match wrote {
            Wrote::Yes => ("written", Some((true, SPACING))),
            Wrote::Refused => ("refused", Some((false, REFUSED))),
            Wrote::Away => ("failed", None),
        };
        count(&self.app.metrics.reports, outcome);
        if verdict.is_some() {
            if self.away.failures() > 0 {
                tracing::info!("boot reports are written again");
            }
            self.away.reset();
        } else {
            if self.away.failures() == 0 {
                tracing::warn!("the API server does not take boot reports; they are kept, and written when it does");
            }
            self.away_until = Instant::now() + self.away.next_delay();
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
                tracing::error!(
                    report = name,
                    status = status.code,
                    reason = clean(&status.message, 300),
                    "a boot report was refused"
                );
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

fn machine_report(app: &App, machine: &Machine, entry: &Entry) -> BootReport {
    let name = machine.name_any();
    let mut boot = entry.boot.clone();
    boot.server.clone_from(&app.server);
    let spec = BootReportSpec {
        subject: Subject { kind: SubjectKind::Machine, name: name.clone(), uid: machine.uid().unwrap_or_default() },
        server: app.server.clone(),
        boot: Some(boot),
        inventory: entry.inventory.clone(),
        artifacts: Vec::new(),
    };
    let mut report = BootReport::new(&format!("{name}.{}", app.server), spec);
    report.metadata.labels = Some([(names::LABEL_MACHINE.to_owned(), name)].into());
    report.metadata.owner_references = owner(machine).map(|owner| vec![owner]);
    report
}

fn profile_report(app: &App, profile: &Profile) -> BootReport {
    let name = profile.name_any();
    let spec = BootReportSpec {
        subject: Subject { kind: SubjectKind::Profile, name: name.clone(), uid: profile.uid().unwrap_or_default() },
        server: app.server.clone(),
        boot: None,
        inventory: None,
        artifacts: artifacts::reports(&app.library, profile),
    };
    let mut report = BootReport::new(&format!("profile.{name}.{}", app.server), spec);
    report.metadata.labels = Some([(names::LABEL_PROFILE.to_owned(), name)].into());
    report.metadata.owner_references = owner(profile).map(|owner| vec![owner]);
    report
}

#[cfg(test)]
mod tests;
