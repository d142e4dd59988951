//! A file that is half fetched: beside its place, named by its sum, and private to one fetch at a time. It outlives a
//! broken connection and a killed process, so that the next fetch asks for the rest only.

use std::{
    fs::{File, TryLockError},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use magnetite_api::Sha256;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::store::snapshot::{SnapshotError, write_whole};

/// What nobody went on with for so long is not gone on with any more.
const STALE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the bytes so far are the beginning of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where they came from, without what may be secret.
    pub url: String,
    /// The server's name for this version of the file, as `If-Range` takes it.
    pub validator: String,
    /// How long the whole is, if the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// The bytes so far. They are locked: no other fetch, not even one of another process, writes to them.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl Partial {
    /// What is there of a file, or nothing yet. None if another fetch is at it.
    pub fn open(cache: &Path, sum: Sha256) -> std::io::Result<Option<Self>> {
        let path = cache.join(format!("{sum}.part"));
        let mut file = File::options().read(true).append(true).create(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Before it was locked, the fetch that had it may have renamed it into its place: then it is not ours.
        let ours = file.metadata()?;
        let still = std::fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        if !still {
            return Ok(None);
        }
        let (mut hasher, mut bytes, mut buffer) = (sha2::Sha256::new(), 0, vec![0; 1 << 18]);
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(Some(Self { path, file, hasher, bytes }));
            }
            hasher.update(&buffer[..read]);
            bytes += read as u64;
        }
    }

    fn origin_path(&self) -> PathBuf {
        self.path.with_extension("origin")
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What they are the beginning of, if there are any and it is known.
    pub fn origin(&self) -> Option<Origin> {
        let text = std::fs::read(self.origin_path()).ok().filter(|_| self.bytes > 0)?;
        serde_json::from_slice(&text).ok()
    }

    /// Forgets the bytes so far; those that come now are the beginning of something else. In this order: bytes never
    /// stand beside an origin that they are not from.
    pub fn restart(&mut self, origin: Option<&Origin>) -> std::io::Result<()> {
        self.file.set_len(0)?;
        (self.hasher, self.bytes) = (sha2::Sha256::new(), 0);
        match origin.and_then(|origin| serde_json::to_vec(origin).ok()) {
            Some(text) => write_whole(&self.origin_path(), &text, 0o600).map_err(|error| match error {
                // Whether the disk is full is to be seen.
                SnapshotError::Write(_, error) => error,
                other @ (SnapshotError::Read(..) | SnapshotError::Parse(..)) => std::io::Error::other(other),
            }),
            None => gone(std::fs::remove_file(self.origin_path())),
        }
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// SHA-256 of the bytes so far.
    pub fn sum(&self) -> Sha256 {
        Sha256(self.hasher.clone().finalize().into())
    }

    /// Puts the file into its place, whole and on the disk, or not at all.
    pub fn finish(&self, place: &Path) -> std::io::Result<()> {
        self.file.sync_all()?;
        if self.file.metadata()?.len() != self.bytes {
            return Err(std::io::Error::other("another process wrote to it"));
        }
        std::fs::rename(&self.path, place)?;
        gone(std::fs::remove_file(self.origin_path()))?;
        File::open(place.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Removes it: what is there is of no use.
    pub fn discard(&self) {
        drop(std::fs::remove_file(&self.path));
        drop(std::fs::remove_file(self.origin_path()));
    }
}

fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Removes what killed processes left that is of no use: temporary files, partial files that were not gone on with,
/// and origins of nothing.
pub fn sweep(cache: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((sum, end)) = name.split_once('.').filter(|(sum, _)| sum.parse::<Sha256>().is_ok()) else { continue };
        let useless = match end {
            "part" => is_stale(&path),
            "origin" => !cache.join(format!("{sum}.part")).exists(),
            // `write_whole` names them so; the other is how they were named before they were gone on with.
            _ => end.starts_with("tmp") || end.ends_with(".part"),
        };
        if useless {
            gone(std::fs::remove_file(&path))?;
        }
    }
    Ok(())
}

fn is_stale(path: &Path) -> bool {
    let age =
        std::fs::metadata(path).and_then(|meta| meta.modified()).map(|then| SystemTime::now().duration_since(then));
    matches!(age, Ok(Ok(age)) if age > STALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { url: "http://files.example/x".into(), validator: "\"v1\"".into(), total: Some(6) }
    }

    #[test]
    fn what_is_there_is_taken_up_by_the_next_and_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let sum = Sha256::of(b"linux!");
        let open = || Partial::open(folder.path(), sum).unwrap();
        let mut first = open().unwrap();
        assert_eq!((first.bytes(), first.origin()), (0, None));
        first.restart(Some(&origin())).unwrap();
        first.write(b"lin").unwrap();
        assert!(open().is_none(), "one at a time");
        drop(first);
        let mut second = open().unwrap();
        assert_eq!((second.bytes(), second.origin()), (3, Some(origin())));
        second.write(b"ux!").unwrap();
        assert_eq!(second.sum(), sum);
        let place = folder.path().join(sum.to_string());
        second.finish(&place).unwrap();
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!((names.as_slice(), std::fs::read(&place).unwrap().as_slice()), (&[place][..], &b"linux!"[..]));
    }

    #[test]
    fn bytes_never_stand_beside_an_origin_that_they_are_not_from() {
        let folder = tempfile::tempdir().unwrap();
        let mut partial = Partial::open(folder.path(), Sha256::of(b"x")).unwrap().unwrap();
        partial.restart(Some(&origin())).unwrap();
        assert_eq!(partial.origin(), None, "of no bytes there is none");
        partial.write(b"abc").unwrap();
        partial.restart(None).unwrap();
        partial.write(b"xyz").unwrap();
        assert_eq!((partial.origin(), partial.sum()), (None, Sha256::of(b"xyz")));
    }

    #[test]
    fn only_what_is_of_no_use_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let (sum, other) = (Sha256::of(b"a"), Sha256::of(b"b"));
        let names = [
            (format!("{sum}"), true),
            (format!("{sum}.part"), true),
            (format!("{sum}.origin"), true),
            (format!("{sum}.tmp77"), false),
            (format!("{sum}.0123456789abcdef.part"), false),
            (format!("{other}.part"), false),
            (format!("{other}.origin"), true),
            (format!("{}.origin", Sha256::of(b"c")), false),
            ("README.part".to_owned(), true),
        ];
        names.iter().for_each(|(name, _)| std::fs::write(folder.path().join(name), b"x").unwrap());
        let old = File::options().write(true).open(folder.path().join(format!("{other}.part"))).unwrap();
        old.set_modified(SystemTime::now() - STALE * 2).unwrap();
        sweep(folder.path()).unwrap();
        for (name, stays) in &names[..names.len()] {
            // The origin of a partial file goes with the next sweep, if not with this.
            if name != &format!("{other}.origin") {
                assert_eq!(folder.path().join(name).exists(), *stays, "{name}");
            }
        }
        sweep(folder.path()).unwrap();
        assert!(!folder.path().join(format!("{other}.origin")).exists());
    }
}
