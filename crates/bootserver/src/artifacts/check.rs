//! Whether a file is what it must be, and whether it still is.

use std::{
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use magnetite_api::Sha256;
use magnetite_boot::image::{HEAD, Image};
use sha2::Digest;

use super::cache::Lease;

/// What tells one file from another, or from itself before a change. The time of the last change of the inode is
/// part of it: that of the content can be set back, as `cp -p` and rsync do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A file that was checked: as long as it is the same file, it may be served. Whoever has one keeps the file from being
/// removed to make room for others.
#[derive(Debug, Clone)]
pub struct Checked {
    path: PathBuf,
    stamp: Stamp,
    image: Image,
    lease: Arc<Lease>,
}

impl PartialEq for Checked {
    fn eq(&self, other: &Self) -> bool {
        let Self { path, stamp, image: _, lease: _ } = self;
        other.is(path, *stamp)
    }
}

impl Checked {
    /// A file whose content was found right at this stamp.
    pub fn new(path: &Path, stamp: Stamp, lease: Arc<Lease>) -> std::io::Result<Self> {
        let mut head = Vec::with_capacity(HEAD);
        File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
        Ok(Self { path: path.to_owned(), stamp, image: Image::of(&head), lease })
    }

    /// A file that needs no sum, being our own.
    pub fn trusted(path: &Path) -> std::io::Result<Self> {
        Self::new(path, Stamp::of(&std::fs::metadata(path)?), Arc::default())
    }

    /// What it is for, should it be a kernel.
    pub fn image(&self) -> Image {
        self.image
    }

    /// Its lease.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// True if this was checked.
    pub fn is(&self, path: &Path, stamp: Stamp) -> bool {
        self.path == path && self.stamp == stamp
    }

    /// True if the open file is still the one that was checked.
    pub fn is_same(&self, meta: &Metadata) -> bool {
        self.stamp == Stamp::of(meta)
    }
}

/// The stamp of a regular file; nothing if there is none.
pub fn stamp(path: &Path) -> Option<Stamp> {
    std::fs::metadata(path).ok().filter(Metadata::is_file).map(|meta| Stamp::of(&meta))
}

/// The path of a file below a folder. Nothing if it names one outside, or leads there through a link: that would
/// serve what nobody put into the folder.
pub fn inside(folder: &Path, file: &str) -> Option<PathBuf> {
    let plain = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
    let path = plain.then(|| folder.join(file))?;
    let real = path.canonicalize().ok()?;
    real.starts_with(folder.canonicalize().ok()?).then_some(path)
}

/// SHA-256 of a file's content.
pub fn sum(path: &Path) -> std::io::Result<Sha256> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 18]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Sha256(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
    }
}
