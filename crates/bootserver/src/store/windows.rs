//! Boot windows without a cluster: this server opens and closes them itself, and remembers them on disk.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use magnetite_api::{
    Machine,
    machine::{IntentState, IntentStatus},
    time::seconds,
};
use tokio::sync::Notify;

use magnetite_daemon::log::chain;

use super::snapshot::{SnapshotError, write_whole};

/// The windows of all Machines of a catalog. One whose file is taken away is kept: putting it back must not install
/// the machine anew.
#[derive(Debug)]
pub struct Windows {
    path: PathBuf,
    inner: Mutex<Inner>,
    /// Told when a window closes by something else than time.
    pub changed: Notify,
}

#[derive(Debug)]
struct Inner {
    windows: BTreeMap<String, IntentStatus>,
    /// What was remembered is lost, so that nobody knows which of the Machines are there already.
    lost: bool,
}

impl Windows {
    /// Reads what is remembered.
    pub fn load(data: &Path) -> Self {
        let path = data.join("intents.json");
        let (windows, lost) = match std::fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(windows)) => (windows, false),
            Ok(Err(error)) => {
                let aside = path.with_extension("json.damaged");
                drop(std::fs::copy(&path, &aside));
                tracing::error!(file = %path.display(), copy = %aside.display(), error = chain(&error), "the record of boot windows is damaged, and no window opens; set another spec.bootIntent on machines that shall boot");
                (BTreeMap::new(), true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (BTreeMap::new(), false),
            Err(error) => {
                tracing::error!(file = %path.display(), error = chain(&error), "the record of boot windows cannot be read, and no window opens");
                (BTreeMap::new(), true)
            }
        };
        Self { path, inner: Mutex::new(Inner { windows, lost }), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a window for every Machine whose intent is new, and closes those whose time is up. Writes to the disk.
    ///
    /// # Errors
    /// If that fails. The windows are as they should be in memory all the same.
    pub fn update<'a>(&self, machines: impl Iterator<Item = &'a Machine>, now: Timestamp) -> Result<(), SnapshotError> {
        let mut inner = self.lock();
        let (before, lost) = (inner.windows.clone(), inner.lost);
        // One that is held has none: the day on which it is to be something opens it.
        for machine in machines.filter(|machine| !machine.spec.hold) {
            let (name, id) = (machine.name_any(), machine.wanted_intent().to_owned());
            match inner.windows.get_mut(&name) {
                Some(window) if window.id == id => {
                    if window.state == IntentState::Open && now >= window.expires_at.0 {
                        window.state = IntentState::Expired;
                        tracing::info!(machine = name, intent = id, "boot window closed: its time is up");
                    }
                }
                // To open all windows anew would install every machine of the site again: better none.
                None if lost => drop(inner.windows.insert(name, closed(id, now))),
                _ => {
                    tracing::info!(machine = name, intent = id, "boot window opened");
                    let length = SignedDuration::from_secs(i64::from(machine.spec.boot_window_seconds));
                    let expires_at = seconds(now.saturating_add(length).unwrap_or(now));
                    let window = IntentStatus { state: IntentState::Open, expires_at, ..closed(id, now) };
                    inner.windows.insert(name, window);
                }
            }
        }
        // Those that come later are new, whatever was lost.
        inner.lost = false;
        self.save_if_changed(&before, &inner.windows)
    }

    /// Closes a Machine's window because it did what was wanted. Writes to the disk.
    ///
    /// # Errors
    /// If that fails.
    pub fn fulfil(&self, machine: &str) -> Result<(), SnapshotError> {
        let mut inner = self.lock();
        let before = inner.windows.clone();
        if let Some(window) = inner.windows.get_mut(machine)
            && window.state == IntentState::Open
        {
            window.state = IntentState::Fulfilled;
            tracing::info!(machine, intent = window.id, "boot window closed: fulfilled");
            self.changed.notify_one();
        }
        self.save_if_changed(&before, &inner.windows)
    }

    /// All windows.
    pub fn all(&self) -> BTreeMap<String, IntentStatus> {
        self.lock().windows.clone()
    }

    fn save_if_changed(
        &self,
        before: &BTreeMap<String, IntentStatus>,
        windows: &BTreeMap<String, IntentStatus>,
    ) -> Result<(), SnapshotError> {
        if before == windows {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(windows).expect("windows are JSON");
        write_whole(&self.path, &bytes, 0o600)
    }
}

fn closed(id: String, now: Timestamp) -> IntentStatus {
    IntentStatus { id, state: IntentState::Expired, opened_at: seconds(now), expires_at: seconds(now) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{at, machine};

    fn state(windows: &Windows) -> IntentState {
        windows.all()["box"].state
    }

    #[test]
    fn a_window_outlives_the_process_and_opens_once_an_intent() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = machine("box");
        let windows = Windows::load(folder.path());
        windows.update([&machine].into_iter(), at(0)).unwrap();
        assert_eq!(state(&windows), IntentState::Open);
        windows.fulfil("box").unwrap();
        let windows = Windows::load(folder.path());
        windows.update([&machine].into_iter(), at(10)).unwrap();
        assert_eq!(state(&windows), IntentState::Fulfilled, "the same intent opens no second window");
        windows.update([].into_iter(), at(11)).unwrap();
        windows.update([&machine].into_iter(), at(12)).unwrap();
        assert_eq!(state(&windows), IntentState::Fulfilled, "nor does its file that comes back");
        machine.spec.boot_intent = Some("again".into());
        windows.update([&machine].into_iter(), at(20)).unwrap();
        assert_eq!(state(&windows), IntentState::Open);
        windows.update([&machine].into_iter(), at(20 + 3599)).unwrap();
        assert_eq!(state(&windows), IntentState::Open);
        windows.update([&machine].into_iter(), at(20 + 3600)).unwrap();
        assert_eq!(state(&windows), IntentState::Expired);
    }

    #[test]
    fn a_damaged_record_opens_no_window() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("intents.json"), b"{").unwrap();
        let windows = Windows::load(folder.path());
        windows.update([&machine("box")].into_iter(), at(0)).unwrap();
        assert_eq!(state(&windows), IntentState::Expired);
        windows.update([&machine("box"), &machine("new")].into_iter(), at(1)).unwrap();
        assert_eq!(windows.all()["new"].state, IntentState::Open, "one that is declared later is new");
        assert!(folder.path().join("intents.json.damaged").exists());
        let again = Windows::load(folder.path());
        assert_eq!(again.all(), windows.all(), "and is not damaged any more");
    }
}
