//! What a boot server without a cluster remembers of a machine, in its data folder.

use std::path::Path;

use magnetite_api::report::BootRecord;
use serde::Deserialize;

use crate::{error::Error, suggest::nearest};

/// A boot server's file about a machine, `machines/<name>.json`.
#[derive(Debug, Deserialize)]
pub struct Remembered {
    /// Its newest boot, and those before it in brief.
    pub boot: BootRecord,
}

/// Reads a boot server's file about a machine.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn read(data: &Path, name: &str) -> Result<Remembered, Error> {
    let folder = data.join("machines");
    let names = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().filter_map(|entry| name_of(&entry.path())).collect::<Vec<_>>(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NoRecords(data.to_owned())),
        Err(error) => return Err(Error::Read(folder, error)),
    };
    // From the list, so that no name leads out of the folder.
    if !names.iter().any(|known| known == name) {
        return Err(Error::NoRecord { name: name.to_owned(), near: nearest(name, names) });
    }
    let path = folder.join(format!("{name}.json"));
    let bytes = std::fs::read(&path).map_err(|error| Error::Read(path.clone(), error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Parse(path, error))
}

fn name_of(path: &Path) -> Option<String> {
    let json = path.extension().is_some_and(|end| end == "json");
    path.file_stem().filter(|_| json).map(|stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said() {
        let data = tempfile::tempdir().unwrap();
        assert!(matches!(read(data.path(), "box"), Err(Error::NoRecords(_))));
        std::fs::create_dir(data.path().join("machines")).unwrap();
        std::fs::write(data.path().join("machines/box.json"), "{").unwrap();
        std::fs::write(data.path().join("snapshot.json"), "{}").unwrap();
        let near = |name| match read(data.path(), name) {
            Err(Error::NoRecord { near, .. }) => near,
            other => panic!("{other:?}"),
        };
        assert_eq!(near("bax"), ["box"]);
        assert!(near("../snapshot").is_empty());
        assert!(matches!(read(data.path(), "box"), Err(Error::Parse(..))));
    }
}
