//! What was last seen of the cluster, on disk: a boot server starts and serves while the API server is away.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use magnetite_api::{Machine, Profile};
use serde::{Deserialize, Serialize};

use crate::view::ConfigMaps;

/// The snapshot's content.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Machines, with their status: the windows are in it.
    pub machines: Vec<Machine>,
    /// Profiles.
    pub profiles: Vec<Profile>,
    /// ConfigMaps.
    #[serde(default)]
    pub config_maps: ConfigMaps,
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

/// Writes the snapshot.
pub fn save(data: &Path, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    let bytes = serde_json::to_vec(snapshot).expect("objects from JSON go back to JSON");
    write_whole(&path(data), &bytes, 0o600)
}

/// Writes a file whole or not at all: beside its place, synced, then renamed into it.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SnapshotError> {
    use std::os::unix::fs::OpenOptionsExt;
    let attempt = || -> std::io::Result<()> {
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        let mut file =
            std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    attempt().map_err(|error| SnapshotError::Write(path.to_owned(), error))
}

/// A snapshot of what is declared now.
pub fn of(machines: &[Arc<Machine>], profiles: &[Arc<Profile>], config_maps: &ConfigMaps) -> Snapshot {
    Snapshot {
        machines: machines.iter().map(|machine| (**machine).clone()).collect(),
        profiles: profiles.iter().map(|profile| (**profile).clone()).collect(),
        config_maps: config_maps.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_said() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), None);
        let snapshot = Snapshot {
            machines: vec![Machine::new("box", magnetite_api::MachineSpec::default())],
            ..Snapshot::default()
        };
        save(folder.path(), &snapshot).unwrap();
        assert_eq!(load(folder.path()).unwrap(), Some(snapshot));
        std::fs::write(path(folder.path()), b"{\"machines\": [").unwrap();
        assert!(matches!(load(folder.path()), Err(SnapshotError::Parse(..))));
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary file is left");
    }
}
