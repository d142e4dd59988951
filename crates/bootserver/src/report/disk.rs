//! What machines did, on disk: for the next process and, without a cluster, for people.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use magnetite_daemon::{clock, log::chain};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{IDLE, LAST, LOOKS, ledger::Ledger};
use crate::{app::App, record::Entry, store::snapshot::replace};

/// Between two writes of one machine's file.
const SPACING: Duration = Duration::from_millis(500);
/// Between two files: one costs half a millisecond, and while thousands of machines boot, that must not take the processor which
/// answers them. A killed process forgets the last second of forty machines, and the last minute of five thousand.
const PACE: Duration = Duration::from_millis(10);
/// How long the record of a machine that nobody declares any more is kept.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Reads what an earlier process remembered.
pub fn remembered(data: &Path) -> BTreeMap<String, Entry> {
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

/// Keeps the records of `data`.
pub struct Disk {
    app: Arc<App>,
    folder: PathBuf,
    files: Ledger<u64>,
    pace: Duration,
}

impl Disk {
    /// Makes the folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(app: Arc<App>, data: &Path) -> std::io::Result<Self> {
        let folder = data.join("machines");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { app, folder, files: Ledger::default(), pace: PACE })
    }

    /// Until `stop`; then what is left, without a pause.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut news = self.app.records.news.subscribe();
        loop {
            let next = self.write(&stop).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOKS) => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                _ = news.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
        self.pace = Duration::ZERO;
        self.files.hurry(Instant::now());
        drop(tokio::time::timeout(LAST, self.write(&CancellationToken::new())).await);
    }

    /// Writes what changed and may be written. Returns when to come again without further news.
    pub async fn write(&mut self, stop: &CancellationToken) -> Instant {
        let now = Instant::now();
        let mut next = now + IDLE;
        let versions = self.app.records.versions();
        for (name, version, _) in &versions {
            if !stop.is_cancelled() && self.files.is_due(name, version, now, &mut next) {
                self.remember(name).await;
                next = next.min(Instant::now() + SPACING);
                if !self.pace.is_zero() {
                    tokio::time::sleep(self.pace).await;
                }
            }
        }
        self.forget(&versions);
        next
    }

    async fn remember(&mut self, name: &str) {
        let Some(mut entry) = self.app.records.get(name) else { return };
        entry.boot.server.clone_from(&self.app.server);
        let (path, version) = (self.folder.join(format!("{name}.json")), entry.version);
        let bytes = serde_json::to_vec_pretty(&entry).unwrap_or_default();
        // Not synced: who loses power loses the last moments of a boot's history, and no more.
        let written = tokio::task::spawn_blocking(move || replace(&path, &bytes, 0o644)).await;
        let version = match written {
            Ok(Ok(())) => Some(version),
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "a boot record is not remembered");
                None
            }
            Err(_) => None,
        };
        self.files.mark(name.to_owned(), version, Instant::now() + SPACING);
    }

    /// Forgets machines that nobody declares any more, after a day: a file of the catalog may be broken for a while.
    fn forget(&mut self, versions: &[(String, u64, Timestamp)]) {
        let now = clock::now();
        let silent: Vec<_> = versions.iter().filter(|(.., seen)| now.duration_since(*seen) > KEPT).collect();
        let view = self.app.view();
        // An empty view is as a rule one that is not there yet.
        if silent.is_empty() || view.fleet.machines().next().is_none() {
            return;
        }
        let declared: HashSet<_> = view.fleet.machines().map(|machine| machine.name_any()).collect();
        let gone: HashSet<_> =
            silent.into_iter().map(|(name, ..)| name.clone()).filter(|name| !declared.contains(name)).collect();
        for name in &gone {
            self.app.records.forget(name);
            drop(std::fs::remove_file(self.folder.join(format!("{name}.json"))));
        }
        self.files.retain(|name| !gone.contains(name));
    }
}
