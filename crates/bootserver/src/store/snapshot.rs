//! What was last seen of the cluster, on disk: a boot server starts and serves while the API server is away.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use magnetite_api::{Machine, Profile, Sha256};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use magnetite_daemon::log::chain;

use crate::view::{ConfigMaps, Reader, View};

/// No more often than this is the snapshot written.
const SPACING: Duration = Duration::from_secs(1);

/// When one that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// The snapshot's content.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Machines, with their status: the windows are in it.
    #[serde(with = "shared")]
    pub machines: Vec<Arc<Machine>>,
    /// Profiles.
    #[serde(with = "shared")]
    pub profiles: Vec<Arc<Profile>>,
    /// ConfigMaps.
    #[serde(default)]
    pub config_maps: ConfigMaps,
}

/// Lists of shared objects, written and read as if they were not shared.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(list: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(AsRef::as_ref))
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(reader: D) -> Result<Vec<Arc<T>>, D::Error> {
        Ok(Vec::<T>::deserialize(reader)?.into_iter().map(Arc::new).collect())
    }
}

/// Why a snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading failed.
    #[error("the snapshot {0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not what was written.
    #[error("the snapshot {0} is damaged; it is ignored, and written anew from the cluster")]
    Parse(PathBuf, #[source] serde_json::Error),
    /// Writing failed.
    #[error("{0} cannot be written; is the disk full?")]
    Write(PathBuf, #[source] std::io::Error),
}

/// Where it is.
pub fn path(data: &Path) -> PathBuf {
    data.join("snapshot.json")
}

/// Reads the snapshot; none is no error.
pub fn load(data: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let path = path(data);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| SnapshotError::Parse(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SnapshotError::Read(path, error)),
    }
}

fn bytes(snapshot: &Snapshot) -> Vec<u8> {
    serde_json::to_vec(snapshot).expect("objects from JSON go back to JSON")
}

/// Writes the snapshot when the view changes from the one that the reader has seen, until `stop`; then what was not
/// written yet. The view waits for none of it.
pub async fn keep(data: PathBuf, mut view: Reader, stop: CancellationToken) -> Result<(), SnapshotError> {
    let (mut written, mut failed) = (None, false);
    loop {
        let stopped = tokio::select! {
            // What changed last is written, also when the stop comes with it.
            biased;
            changed = view.changed() => changed.is_err(),
            () = stop.cancelled() => true,
            () = tokio::time::sleep(RETRY), if failed => false,
        };
        if stopped {
            return Ok(());
        }
        let now = of(&view.borrow_and_update());
        let (data, before) = (data.clone(), written.take());
        let saved = tokio::task::spawn_blocking(move || save_if_new(&data, &now, before)).await;
        written = saved.unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "no snapshot was written");
            None
        });
        failed = written.is_none();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(SPACING) => {}
        }
    }
}

/// Writes the snapshot unless it is what was written before; returns the sum of what is on disk now.
fn save_if_new(data: &Path, snapshot: &Snapshot, before: Option<Sha256>) -> Option<Sha256> {
    let bytes = bytes(snapshot);
    let sum = Some(Sha256::of(&bytes));
    if sum == before {
        return before;
    }
    match write_whole(&path(data), &bytes, 0o600) {
        Ok(()) => sum,
        Err(error) => {
            tracing::error!(error = chain(&error), "no snapshot was written");
            None
        }
    }
}

/// Writes a file whole or not at all: beside its place, synced, then renamed into it.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SnapshotError> {
    put(path, bytes, mode, true)
}

/// The same, and unsynced unless `sync`: whole for whoever reads it and whatever process is killed, but not if the power fails.
pub fn put(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> Result<(), SnapshotError> {
    use std::os::unix::fs::OpenOptionsExt;
    let attempt = || -> std::io::Result<()> {
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        let mut file =
            std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if let Some(folder) = path.parent().filter(|_| sync) {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    attempt().map_err(|error| SnapshotError::Write(path.to_owned(), error))
}

/// A snapshot of what is declared now.
fn of(view: &View) -> Snapshot {
    Snapshot {
        machines: view.fleet.machines().cloned().collect(),
        profiles: view.profiles.clone(),
        config_maps: view.config_maps.clone(),
    }
}

#[cfg(test)]
mod tests {
    use magnetite_boot::fleet::Fleet;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        fixtures::{machine, profile},
        store::cluster::from_snapshot,
    };

    fn view(name: &str) -> Arc<View> {
        let fleet = Arc::new(Fleet::index([Arc::new(machine(name))]));
        Arc::new(View { fleet, profiles: vec![Arc::new(profile("p"))], ..View::default() })
    }

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_said() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), None);
        let snapshot = of(&view("box"));
        assert!(save_if_new(folder.path(), &snapshot, None).is_some());
        assert_eq!(load(folder.path()).unwrap(), Some(snapshot));
        std::fs::write(path(folder.path()), b"{\"machines\": [").unwrap();
        assert!(matches!(load(folder.path()), Err(SnapshotError::Parse(..))));
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary file is left");
    }

    #[test]
    fn a_server_starts_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reader) = watch::channel(Arc::new(View::default()));
        let key = magnetite_boot::capability::CapabilityKey::new([7; 32]);
        assert!(!from_snapshot(folder.path(), &key, &writer), "there is none yet");
        assert!(save_if_new(folder.path(), &of(&view("box")), None).is_some());
        assert!(from_snapshot(folder.path(), &key, &writer));
        let now = Arc::clone(&reader.borrow());
        assert_eq!((now.fleet.machines().count(), now.profiles.len()), (1, 1));
        std::fs::write(path(folder.path()), b"{").unwrap();
        assert!(!from_snapshot(folder.path(), &key, &writer), "damaged");
        assert_eq!(reader.borrow().fleet.machines().count(), 1, "what was there stays");
    }

    #[tokio::test]
    async fn it_follows_the_view_and_has_the_last_of_it_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reader) = watch::channel(view("from-disk"));
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(folder.path().to_owned(), reader, stop.clone()));
        tokio::task::yield_now().await;
        writer.send_replace(view("one"));
        writer.send_replace(view("two"));
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), keeper).await.unwrap().unwrap().unwrap();
        assert_eq!(load(folder.path()).unwrap(), Some(of(&view("two"))));
    }
}
