//! Boot windows without a cluster: this server opens and closes them itself, and remembers them on disk.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use magnetite_api::{
    Machine,
    machine::{IntentState, IntentStatus},
    time::seconds,
};

use super::snapshot::{SnapshotError, write_whole};

/// The windows of all Machines of a catalog.
#[derive(Debug)]
pub struct Windows {
    path: PathBuf,
    windows: BTreeMap<String, IntentStatus>,
}

impl Windows {
    /// Reads what is remembered.
    pub fn load(data: &Path) -> Self {
        let path = data.join("intents.json");
        let windows = match std::fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(windows)) => windows,
            Ok(Err(error)) => {
                // To open all windows anew would hand every joined box another boot: better to open none.
                tracing::error!(file = %path.display(), error = &error as &dyn std::error::Error, "the record of boot windows is damaged; set another spec.bootIntent on machines that shall boot");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        Self { path, windows }
    }

    /// Opens a window for every Machine whose intent is new, and closes those whose time is up.
    pub fn update<'a>(
        &mut self,
        machines: impl Iterator<Item = &'a Machine>,
        now: Timestamp,
    ) -> Result<(), SnapshotError> {
        let before = self.windows.clone();
        for machine in machines {
            let window = self.windows.get_mut(&machine.name_any());
            match window {
                Some(window) if window.id == machine.wanted_intent() => {
                    if window.state == IntentState::Open && now >= window.expires_at.0 {
                        window.state = IntentState::Expired;
                    }
                }
                _ => {
                    let length = SignedDuration::from_secs(i64::from(machine.spec.boot_window_seconds));
                    let window = IntentStatus {
                        id: machine.wanted_intent().to_owned(),
                        state: IntentState::Open,
                        opened_at: seconds(now),
                        expires_at: seconds(now.saturating_add(length).unwrap_or(now)),
                    };
                    tracing::info!(machine = machine.name_any(), intent = window.id, "boot window opened");
                    self.windows.insert(machine.name_any(), window);
                }
            }
        }
        self.save_if_changed(&before)
    }

    /// Closes a Machine's window because it did what was wanted.
    pub fn fulfil(&mut self, machine: &str) -> Result<(), SnapshotError> {
        let before = self.windows.clone();
        if let Some(window) = self.windows.get_mut(machine)
            && window.state == IntentState::Open
        {
            window.state = IntentState::Fulfilled;
            tracing::info!(machine, intent = window.id, "boot window closed: fulfilled");
        }
        self.save_if_changed(&before)
    }

    /// All windows.
    pub fn all(&self) -> &BTreeMap<String, IntentStatus> {
        &self.windows
    }

    fn save_if_changed(&self, before: &BTreeMap<String, IntentStatus>) -> Result<(), SnapshotError> {
        if *before == self.windows {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(&self.windows).expect("windows are JSON");
        write_whole(&self.path, &bytes, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_window_outlives_the_process_and_opens_once_an_intent() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Machine::new("box", magnetite_api::MachineSpec::default());
        let state = |windows: &Windows| windows.all()["box"].state;
        let mut windows = Windows::load(folder.path());
        windows.update([&machine].into_iter(), at(0)).unwrap();
        assert_eq!(state(&windows), IntentState::Open);
        windows.fulfil("box").unwrap();
        let mut windows = Windows::load(folder.path());
        windows.update([&machine].into_iter(), at(10)).unwrap();
        assert_eq!(state(&windows), IntentState::Fulfilled, "the same intent opens no second window");
        machine.spec.boot_intent = Some("again".into());
        windows.update([&machine].into_iter(), at(20)).unwrap();
        assert_eq!(state(&windows), IntentState::Open);
        windows.update([&machine].into_iter(), at(20 + 3600)).unwrap();
        assert_eq!(state(&windows), IntentState::Expired);
    }
}
