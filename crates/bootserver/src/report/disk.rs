//! What machines did, on disk: for the next process and, without a cluster, for people.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use magnetite_api::discovery::box_mac;
use magnetite_boot::{
    discovery::{identify, manifest},
    fleet::Found,
};
use magnetite_daemon::log::chain;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{IDLE, LAST, ledger::Ledger, pause};
use crate::{
    app::{App, Cluster},
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
/// The same of a box that nobody ever declared.
const STRANGER: Duration = Duration::from_hours(1);
/// So many files may be written at once: enough that those of different machines seldom wait for each other.
const TURNS: usize = 64;
/// Between two looks for such machines.
const GONE: Duration = Duration::from_mins(1);

/// Where records are. What a box is told to be remembered is written beside the passes of [`Disk`], so the writers of one file take turns: two
/// at once would write into one another, or the older record over the newer.
#[derive(Debug, Clone)]
pub struct RecordFolder {
    path: PathBuf,
    turns: Arc<[Mutex<()>]>,
}

impl RecordFolder {
    /// That of a boot server's data.
    pub fn of(data: &Path) -> Self {
        Self { path: data.join("machines"), turns: std::iter::repeat_with(Mutex::default).take(TURNS).collect() }
    }

    /// Where Machines are laid that could be declared, for boxes that were found.
    fn found(&self) -> PathBuf {
        self.path.with_file_name("discovered")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.json"))
    }

    fn turn(&self, name: &str) -> Option<&Mutex<()>> {
        let number = name.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        self.turns.get(number % TURNS)
    }

    /// Writes a machine's record as it is now, from a thread that may wait for the disk. Says which version that is; none if nothing is known.
    pub async fn write(&self, app: &App, name: &str, synced: bool) -> Result<Option<u64>, SnapshotError> {
        let _turn = match self.turn(name) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let Some(mut entry) = app.records.get(name) else { return Ok(None) };
        entry.boot.server.clone_from(&app.server);
        let (path, bytes) = (self.file(name), serde_json::to_vec_pretty(&entry).unwrap_or_default());
        let write = move || put(&path, &bytes, 0o644, synced);
        let written = tokio::task::spawn_blocking(write)
            .await
            .unwrap_or_else(|error| Err(SnapshotError::Write(self.file(name), std::io::Error::other(error))));
        written.map(|()| Some(entry.version))
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
        std::fs::create_dir_all(&app.folder.path)?;
        if app.discovery.profile().is_some() {
            std::fs::create_dir_all(app.folder.found())?;
        }
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
        self.lay_out(&name).await;
        let written = self.app.folder.write(&self.app, &name, synced).await;
        match &written {
            Ok(None) => return,
            Err(error) if !self.failing => {
                tracing::error!(
                    error = chain(error),
                    "boot records are not remembered, until the disk takes them again"
                );
            }
            Ok(Some(_)) if self.failing => tracing::info!("boot records are remembered again"),
            Ok(Some(_)) | Err(_) => {}
        }
        self.failing = written.is_err();
        self.files.mark(name, written.ok().flatten(), Instant::now() + SPACING);
    }

    /// Lays a file where people find it, of a box that was found.
    async fn lay_out(&self, name: &str) {
        let Some((path, text)) = self.found(name) else { return };
        let put = move || put(&path, text.as_bytes(), 0o644, false);
        if let Err(error) = tokio::task::spawn_blocking(put).await.unwrap_or(Ok(())) {
            tracing::warn!(machine = name, error = chain(&error), "what was found of a box is not written for people");
        }
    }

    /// A Machine to be declared of a box that was found where there is no cluster, and its file.
    fn found(&self, name: &str) -> Option<(PathBuf, String)> {
        let Cluster::None(_) = self.app.cluster else { return None };
        // First what costs nothing: this is asked of every machine whose record is written.
        let mac = box_mac(name)?;
        let view = self.app.view();
        if view.fleet.of_mac(mac) != Found::Unknown {
            return None;
        }
        let entry = self.app.records.get(name)?;
        let inventory = entry.inventory.as_ref()?;
        let known = identify(mac, Some(&entry.boot), inventory, None, view.fleet.machines().map(|machine| &**machine));
        Some((self.app.folder.found().join(format!("{name}.yaml")), manifest(name, &known, inventory)))
    }

    /// Forgets machines that nobody declares any more, after a day: a file of the catalog may be broken for a while.
    fn forget(&mut self, known: Vec<String>, now: Instant) {
        let view = self.app.view();
        // A file that somebody took over, or whose box was declared in another way.
        for file in std::fs::read_dir(self.app.folder.found()).into_iter().flatten().flatten() {
            let mac = file.file_name().to_str().and_then(|name| box_mac(name.strip_suffix(".yaml")?));
            if mac.is_some_and(|mac| view.fleet.of_mac(mac) != Found::Unknown) {
                drop(std::fs::remove_file(file.path()));
            }
        }
        let declared: HashSet<_> = view.fleet.machines().map(|machine| machine.name_any()).collect();
        self.undeclared.retain(|name, _| !declared.contains(name));
        for name in known.into_iter().filter(|name| !declared.contains(name)) {
            let stranger = box_mac(&name).is_some();
            // An empty view is as a rule one that is not there yet. Of boxes that nobody declared there is nothing in it anyway.
            if declared.is_empty() && !stranger {
                continue;
            }
            let kept = if stranger { STRANGER } else { KEPT };
            if now.duration_since(*self.undeclared.entry(name.clone()).or_insert(now)) > kept {
                self.undeclared.remove(&name);
                self.app.records.forget(&name);
                self.files.forget(&name);
                drop(std::fs::remove_file(self.app.folder.file(&name)));
                drop(std::fs::remove_file(self.app.folder.found().join(format!("{name}.yaml"))));
            }
        }
    }
}
