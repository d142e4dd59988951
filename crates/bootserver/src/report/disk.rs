//! What machines did, on disk: for the next process and, without a cluster, for people.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use magnetite_daemon::log::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{IDLE, LAST, ledger::Ledger, pause};
use crate::{
    app::App,
    record::Entry,
    store::snapshot::{SnapshotError, put},
};

/// Between two writes of one machine's file.
const SPACING: Duration = Duration::from_millis(500);
/// Between two files: one costs half a millisecond, and while thousands of machines boot, that must not take the processor which
/// answers them. A killed process forgets the last second of forty machines, and the last minute of five thousand.
const PACE: Duration = Duration::from_millis(10);
/// So many files are written before it is looked again which are due.
const A_PASS: usize = 100;
/// So few are synced: whoever loses power then loses nothing. Of more, some file systems may lose those of the last seconds whole.
const SYNCED: usize = 8;
/// How long the record of a machine that nobody declares any more is kept.
const KEPT: Duration = Duration::from_hours(24);
/// Between two looks for such machines.
const GONE: Duration = Duration::from_mins(1);

/// Where records are.
#[derive(Debug, Clone)]
pub struct RecordFolder(PathBuf);

impl RecordFolder {
    /// That of a boot server's data.
    pub fn of(data: &Path) -> Self {
        Self(data.join("machines"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }

    /// Writes a machine's record, from a thread that may wait for the disk.
    pub async fn write(&self, app: &App, name: &str, mut entry: Entry, synced: bool) -> Result<(), SnapshotError> {
        entry.boot.server.clone_from(&app.server);
        let (path, bytes) = (self.file(name), serde_json::to_vec_pretty(&entry).unwrap_or_default());
        let write = move || put(&path, &bytes, 0o644, synced);
        tokio::task::spawn_blocking(write)
            .await
            .unwrap_or_else(|error| Err(SnapshotError::Write(self.file(name), std::io::Error::other(error))))
    }
}

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
            Some(entry) => drop(out.insert(name.to_owned(), Entry { version: 0, ..entry })),
            None => tracing::warn!(file = %path.display(), "a boot record is damaged and is forgotten"),
        }
    }
    out
}

/// Keeps the records.
pub struct Disk {
    app: Arc<App>,
    files: Ledger<u64>,
    pace: Duration,
    /// Machines that nobody declares, and since when that is so.
    undeclared: HashMap<String, Instant>,
    look_for_gone: Instant,
    /// The disk takes nothing: said once.
    failing: bool,
}

impl Disk {
    /// Makes the folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(app: Arc<App>) -> std::io::Result<Self> {
        std::fs::create_dir_all(&app.folder.0)?;
        let (files, undeclared) = (Ledger::default(), HashMap::new());
        Ok(Self { app, files, pace: PACE, undeclared, look_for_gone: Instant::now(), failing: false })
    }

    /// Until `stop`.
    pub async fn run(&mut self, stop: &CancellationToken) {
        let mut news = self.app.records.news.subscribe();
        loop {
            let next = self.write(stop).await;
            if !pause(&mut news, pending(), next, stop).await {
                return;
            }
        }
    }

    /// Writes what is left, without a pause.
    pub async fn finish(&mut self) {
        self.pace = Duration::ZERO;
        self.files.hurry(Instant::now());
        let all = async { while self.write(&CancellationToken::new()).await <= Instant::now() {} };
        if tokio::time::timeout(LAST, all).await.is_err() {
            tracing::warn!("not all boot records were written in time; what is missing is forgotten");
        }
    }

    /// Writes what changed and may be written. Returns when to come again without further news.
    pub async fn write(&mut self, stop: &CancellationToken) -> Instant {
        let now = Instant::now();
        let mut next = now + IDLE;
        let versions = self.app.records.versions();
        // Version 0 is what was read from these files.
        let news = versions.iter().filter(|(_, version, _)| *version > 0);
        let news = news.map(|(name, version, _)| (name.clone(), *version));
        let (due, more) = self.files.due(news, A_PASS, now, &mut next);
        let synced = due.len() <= SYNCED;
        for name in due {
            if stop.is_cancelled() {
                break;
            }
            self.remember(name, synced).await;
            next = next.min(Instant::now() + SPACING);
            if !self.pace.is_zero() {
                tokio::time::sleep(self.pace).await;
            }
        }
        if self.look_for_gone <= now {
            self.look_for_gone = now + GONE;
            self.forget(versions.into_iter().map(|(name, ..)| name).collect(), now);
        }
        if more { now } else { next }
    }

    async fn remember(&mut self, name: String, synced: bool) {
        let Some(entry) = self.app.records.get(&name) else { return };
        let version = entry.version;
        let written = self.app.folder.write(&self.app, &name, entry, synced).await;
        match &written {
            Err(error) if !self.failing => {
                tracing::error!(
                    error = chain(error),
                    "boot records are not remembered, until the disk takes them again"
                );
            }
            Ok(()) if self.failing => tracing::info!("boot records are remembered again"),
            Ok(()) | Err(_) => {}
        }
        self.failing = written.is_err();
        self.files.mark(name, written.is_ok().then_some(version), Instant::now() + SPACING);
    }

    /// Forgets machines that nobody declares any more, after a day: a file of the catalog may be broken for a while.
    fn forget(&mut self, known: Vec<String>, now: Instant) {
        let view = self.app.view();
        // An empty view is as a rule one that is not there yet.
        if view.fleet.machines().next().is_none() {
            return;
        }
        let declared: HashSet<_> = view.fleet.machines().map(|machine| machine.name_any()).collect();
        self.undeclared.retain(|name, _| !declared.contains(name));
        for name in known.into_iter().filter(|name| !declared.contains(name)) {
            if now.duration_since(*self.undeclared.entry(name.clone()).or_insert(now)) > KEPT {
                self.undeclared.remove(&name);
                self.app.records.forget(&name);
                self.files.forget(&name);
                drop(std::fs::remove_file(self.app.folder.file(&name)));
            }
        }
    }
}
