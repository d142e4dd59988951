//! Brings what was seen to where people look: BootReports in a cluster, files without one. The boot path never
//! waits for this, and what cannot be written now is written later.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
};
use magnetite_api::{
    BootReport, BootReportSpec, Profile, names,
    report::{Subject, SubjectKind},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Cluster},
    artifacts,
    http::owner,
    metrics::count,
    record::Entry,
    store::snapshot::write_whole,
};

/// Between two writes about one object: a boot of a minute then costs few writes, and `kubectl get -w` still lives.
const SPACING: Duration = Duration::from_secs(2);
/// Between two writes of all: 50 a second at most.
const PACE: Duration = Duration::from_millis(20);
/// How long the API server may take for one write.
const CALL: Duration = Duration::from_secs(10);

/// What was last written about an object.
struct Written {
    at: Instant,
    version: u64,
}

/// Publishes changes until `stop`; then once more, so that nothing is lost by an orderly end.
pub async fn run(app: Arc<App>, data: PathBuf, stop: CancellationToken) -> anyhow::Result<()> {
    let folder = data.join("machines");
    std::fs::create_dir_all(&folder)?;
    let mut publisher =
        Publisher { app, folder, machines: HashMap::new(), profiles: HashMap::new(), files: HashMap::new() };
    loop {
        let waiting = publisher.publish().await;
        let app = Arc::clone(&publisher.app);
        tokio::select! {
            () = stop.cancelled() => break,
            () = app.records.changed.notified() => {}
            () = app.library.changed.notified() => {}
            // Something was too fresh, or could not be written: try it again.
            () = tokio::time::sleep(if waiting { Duration::from_millis(250) } else { Duration::from_secs(5) }) => {}
        }
    }
    publisher.machines.clear();
    drop(tokio::time::timeout(Duration::from_secs(5), publisher.publish()).await);
    Ok(())
}

/// Reads what an earlier process remembered.
pub fn remembered(data: &std::path::Path) -> BTreeMap<String, Entry> {
    let mut out = BTreeMap::new();
    for file in std::fs::read_dir(data.join("machines")).into_iter().flatten().flatten() {
        let path = file.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"))
        else {
            continue;
        };
        let entry = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
        match entry {
            Some(entry) => drop(out.insert(name.to_owned(), Entry { version: 1, ..entry })),
            None => tracing::warn!(file = %path.display(), "a boot record is damaged and is forgotten"),
        }
    }
    out
}

struct Publisher {
    app: Arc<App>,
    folder: PathBuf,
    machines: HashMap<String, Written>,
    profiles: HashMap<String, (Instant, String)>,
    files: HashMap<String, u64>,
}

impl Publisher {
    /// Writes what changed. True if something is left to write.
    async fn publish(&mut self) -> bool {
        let mut waiting = false;
        let view = self.app.view();
        for (name, entry) in self.app.records.all() {
            self.remember(&name, &entry);
            let Cluster::Client(client) = &self.app.cluster else { continue };
            let Some(machine) = view.fleet.machines().find(|machine| machine.name_any() == name) else { continue };
            match self.machines.get(&name) {
                Some(written) if written.version == entry.version => continue,
                Some(written) if written.at.elapsed() < SPACING => {
                    waiting = true;
                    continue;
                }
                _ => {}
            }
            let report = self.machine_report(machine, &entry);
            match write(client, report).await {
                Ok(()) => {
                    count(&self.app.metrics.reports, "written");
                    self.machines.insert(name, Written { at: Instant::now(), version: entry.version });
                }
                Err(Refused::ForGood(error)) => {
                    count(&self.app.metrics.reports, "refused");
                    tracing::warn!(machine = name, error = %error, "a boot report was refused; the next change is tried again");
                    self.machines.insert(name, Written { at: Instant::now(), version: entry.version });
                }
                Err(Refused::ForNow(error)) => {
                    count(&self.app.metrics.reports, "failed");
                    tracing::debug!(machine = name, error = %error, "a boot report is put off");
                    // The API server is away: no use in trying the others now.
                    return true;
                }
            }
            tokio::time::sleep(PACE).await;
        }
        let gone = |name: &str| view.fleet.machines().any(|machine| machine.name_any() == name);
        self.machines.retain(|name, _| gone(name));
        if let Cluster::Client(client) = self.app.cluster.clone() {
            waiting |= self.publish_profiles(&client, &view.profiles).await;
        }
        waiting
    }

    async fn publish_profiles(&mut self, client: &Client, profiles: &[Arc<Profile>]) -> bool {
        for profile in profiles {
            let report = self.profile_report(profile);
            let text = serde_json::to_string(&report.spec).unwrap_or_default();
            let name = profile.name_any();
            match self.profiles.get(&name) {
                Some((_, before)) if *before == text => continue,
                Some((at, _)) if at.elapsed() < SPACING => return true,
                _ => {}
            }
            match write(client, report).await {
                Ok(()) => drop(self.profiles.insert(name, (Instant::now(), text))),
                Err(Refused::ForGood(error)) => {
                    count(&self.app.metrics.reports, "refused");
                    tracing::warn!(profile = name, error = %error, "an artifact report was refused");
                    self.profiles.insert(name, (Instant::now(), text));
                }
                Err(Refused::ForNow(error)) => {
                    tracing::debug!(profile = name, error = %error, "an artifact report is put off");
                    return true;
                }
            }
        }
        false
    }

    /// Keeps a record on disk, for the next process and, without a cluster, for people.
    fn remember(&mut self, name: &str, entry: &Entry) {
        if self.files.get(name) == Some(&entry.version) {
            return;
        }
        let mut entry = entry.clone();
        entry.boot.server.clone_from(&self.app.server);
        let bytes = serde_json::to_vec_pretty(&entry).unwrap_or_default();
        match write_whole(&self.folder.join(format!("{name}.json")), &bytes, 0o644) {
            Ok(()) => drop(self.files.insert(name.to_owned(), entry.version)),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "a boot record is not remembered"),
        }
    }

    fn machine_report(&self, machine: &magnetite_api::Machine, entry: &Entry) -> BootReport {
        let name = machine.name_any();
        let mut boot = entry.boot.clone();
        boot.server.clone_from(&self.app.server);
        let spec = BootReportSpec {
            subject: Subject { kind: SubjectKind::Machine, name: name.clone(), uid: machine.uid().unwrap_or_default() },
            server: self.app.server.clone(),
            boot: Some(boot),
            inventory: entry.inventory.clone(),
            artifacts: Vec::new(),
        };
        let mut report = BootReport::new(&format!("{name}.{}", self.app.server), spec);
        report.metadata.labels = Some([(names::LABEL_MACHINE.to_owned(), name)].into());
        report.metadata.owner_references = owner(machine).map(|owner| vec![owner]);
        report
    }

    fn profile_report(&self, profile: &Profile) -> BootReport {
        let (name, uid) = artifacts::subject(profile);
        let spec = BootReportSpec {
            subject: Subject { kind: SubjectKind::Profile, name: name.clone(), uid },
            server: self.app.server.clone(),
            boot: None,
            inventory: None,
            artifacts: artifacts::reports(&self.app.library, profile),
        };
        let mut report = BootReport::new(&format!("profile.{name}.{}", self.app.server), spec);
        report.metadata.labels = Some([(names::LABEL_PROFILE.to_owned(), name)].into());
        report.metadata.owner_references = owner(profile).map(|owner| vec![owner]);
        report
    }
}

/// Why a report was not written.
enum Refused {
    /// The API server does not answer, or not now.
    ForNow(anyhow::Error),
    /// It will not take this one, ever.
    ForGood(kube::Error),
}

async fn write(client: &Client, mut report: BootReport) -> Result<(), Refused> {
    let api: Api<BootReport> = Api::all(client.clone());
    let name = report.name_any();
    report.metadata = ObjectMeta { managed_fields: None, ..report.metadata };
    let parameters = PatchParams::apply(names::MANAGER_BOOTSERVER).force();
    let patch = Patch::Apply(&report);
    match tokio::time::timeout(CALL, api.patch(&name, &parameters, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if [400, 403, 404, 422].contains(&status.code) => {
            Err(Refused::ForGood(kube::Error::Api(status)))
        }
        Ok(Err(error)) => Err(Refused::ForNow(error.into())),
        Err(late) => Err(Refused::ForNow(late.into())),
    }
}
