//! The loaders at hand: those of the folders, read anew when a file changes.
//!
//! A new iPXE is put into its folder and served from then on, by a server that goes on running. What replaces the loaders replaces all of
//! them at once, so that no box gets a shim of one release and the iPXE of another; a transfer that goes on keeps the bytes that it began
//! with; and a file that is not whole leaves the one before it where it is.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use magnetite_boot::{image, ladder::SECURE_BOOT};
use magnetite_daemon::log::chain;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{app::App, folders};

/// Files that are loaders, by how their names end. Nothing else of a folder is served.
const ENDINGS: [&str; 5] = [".efi", ".pxe", ".kpxe", ".kkpxe", ".0"];
/// A loader is a few hundred KiB; what is larger than this is something else.
const LARGEST: u64 = 16 << 20;
/// Network file systems tell nobody of changes.
const LOOK: Duration = Duration::from_secs(5);
/// A change is believed when it is the same after so long. Who writes a loader in pieces with longer pauses renames it into its place.
const SETTLED: Duration = Duration::from_millis(500);

/// What tells one file from another, or from itself before a change.
type Stamp = (u64, u64, (i64, i64), (i64, i64));
/// The files of the folders: name as it is asked for, path, stamp.
type Stamps = BTreeMap<String, (PathBuf, Stamp)>;
type Files = BTreeMap<String, Arc<[u8]>>;

/// The loaders at hand, by name.
#[derive(Debug, Default)]
pub struct Loaders {
    folders: Vec<Folder>,
    files: RwLock<Arc<Files>>,
    seen: Mutex<Seen>,
}

/// Where loaders are.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// What stands before its files' names.
    prefix: String,
    /// Whether that was told: it is looked into every few seconds.
    unreadable: AtomicBool,
}

impl Folder {
    fn new(path: &Path, prefix: &str) -> Self {
        Self { path: path.to_owned(), prefix: prefix.to_owned(), unreadable: AtomicBool::default() }
    }
}

/// What the folders held.
#[derive(Debug, Default)]
struct Seen {
    /// When the loaders were read.
    read: Stamps,
    /// At the last look.
    last: Stamps,
}

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// All is as it was, or as it is now served.
    Settled,
    /// Something is being written: look again soon.
    Changing,
}

impl Loaders {
    /// The loaders that are there, whole: those of the iPXE folder by their names, signed ones by `secure-boot/` and their names.
    pub fn read(ipxe: &Path, secure_boot: Option<&Path>) -> Self {
        let prefix = format!("{SECURE_BOOT}/");
        let signed = secure_boot.map(|folder| Folder::new(folder, &prefix));
        let folders = [Some(Folder::new(ipxe, "")), signed].into_iter().flatten().collect();
        let this = Self { folders, ..Self::default() };
        let stamps = this.stamps(&Stamps::new());
        this.take(stamps);
        let has = |signed| this.now().keys().any(|name| name.starts_with(&prefix) == signed);
        if !has(false) {
            let folder = ipxe.display();
            tracing::warn!(%folder, "no loader is in --ipxe-dir: only boxes that have iPXE in a ROM will boot");
        }
        if let Some(folder) = secure_boot.filter(|_| !has(true)) {
            let folder = folder.display();
            tracing::warn!(%folder, "no loader is in --secure-boot-dir: boxes with Secure Boot will not boot");
        }
        this
    }

    /// All of them, as they are now.
    pub fn now(&self) -> Arc<Files> {
        Arc::clone(&self.files.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether one is at hand.
    pub fn contains_key(&self, name: &str) -> bool {
        self.now().contains_key(name)
    }

    /// The bytes of one. Whoever has them keeps them, whatever becomes of the file.
    pub fn get(&self, name: &str) -> Option<Arc<[u8]>> {
        self.now().get(name).cloned()
    }

    /// Looks into the folders, and takes over what changed and has come to rest.
    pub fn look(&self) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.stamps(&seen.read);
        if stamps == seen.read {
            seen.last = stamps;
            return Look::Settled;
        }
        if stamps != seen.last {
            seen.last = stamps;
            return Look::Changing;
        }
        drop(seen);
        self.take(stamps)
    }

    /// Reads what changed since the last reading, and puts it into place with one move.
    fn take(&self, stamps: Stamps) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.now();
        let mut files = Files::new();
        for (name, (path, stamp)) in &stamps {
            let old = before.get(name);
            if let Some(old) = old.filter(|_| seen.read.get(name) == stamps.get(name)) {
                files.insert(name.clone(), Arc::clone(old));
                continue;
            }
            let kept = if old.is_some() { "the one before it is served" } else { "it is not offered" };
            match whole(path, *stamp) {
                Ok(Some(bytes)) => drop(files.insert(name.clone(), bytes)),
                Ok(None) => return Look::Changing,
                Err(error) => {
                    tracing::error!(file = %path.display(), error = chain(&error), kept, "a loader cannot be used");
                    files.extend(old.map(|old| (name.clone(), Arc::clone(old))));
                }
            }
        }
        let changed: Vec<_> = files.iter().filter(|(name, bytes)| before.get(*name) != Some(bytes)).collect();
        let names: Vec<_> = changed.iter().map(|(name, _)| name.as_str()).collect();
        let gone: Vec<_> = before.keys().filter(|name| !files.contains_key(*name)).collect();
        let differ = !names.is_empty() || !gone.is_empty();
        if differ && !before.is_empty() {
            tracing::info!(changed = ?names, ?gone, "loaders read again");
        }
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(files);
        *seen = Seen { read: stamps.clone(), last: stamps };
        Look::Settled
    }

    /// What the folders hold. One that cannot be read holds what it held.
    fn stamps(&self, before: &Stamps) -> Stamps {
        let mut stamps = Stamps::new();
        for Folder { path: folder, prefix, unreadable } in &self.folders {
            let entries = std::fs::read_dir(folder);
            let told = unreadable.swap(entries.is_err(), Ordering::Relaxed);
            match entries {
                Ok(entries) => stamps.extend(entries.flatten().filter_map(|entry| {
                    let name = entry.file_name().into_string().ok().filter(|name| is_loader(name))?;
                    let meta = entry.path().metadata().ok().filter(|meta| meta.is_file() && meta.len() <= LARGEST)?;
                    Some((format!("{prefix}{name}"), (entry.path(), stamp(&meta))))
                })),
                Err(error) => {
                    if !told {
                        let folder = folder.display();
                        tracing::warn!(%folder, error = chain(&error), "a folder of loaders cannot be read");
                    }
                    let held = before.iter().filter(|(_, (path, _))| path.parent() == Some(folder));
                    stamps.extend(held.map(|(name, held)| (name.clone(), held.clone())));
                }
            }
        }
        stamps
    }
}

/// Why a file is no loader.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    #[error("it is empty")]
    Empty,
    #[error("it is no EFI program, or not whole: {0}")]
    Efi(#[from] image::NotWhole),
}

/// A file's bytes, if it is whole; nothing if it is another by now.
fn whole(path: &Path, expected: Stamp) -> Result<Option<Arc<[u8]>>, Fault> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST + 1).read_to_end(&mut bytes)?;
    if stamp(&file.metadata()?) != expected {
        return Ok(None);
    }
    if bytes.is_empty() {
        return Err(Fault::Empty);
    }
    // Loaders for a BIOS say nowhere how long they are.
    if path.extension().is_some_and(|end| end == "efi") {
        image::whole_pe(&bytes)?;
    }
    Ok(Some(Arc::from(bytes)))
}

fn is_loader(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn stamp(meta: &Metadata) -> Stamp {
    (meta.ino(), meta.size(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
}

/// Looks after the loaders until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) -> Result<(), tokio::task::JoinError> {
    let (poke, mut poked) = mpsc::channel::<()>(1);
    let kept = app.loaders.folders.iter();
    let _watchers: Vec<_> = kept.filter_map(|folder| folders::watch(&folder.path, poke.clone())).collect();
    let mut pause = LOOK;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
            Some(()) = poked.recv() => folders::quiet(&mut poked).await,
        }
        let app = Arc::clone(&app);
        let looked = tokio::task::spawn_blocking(move || app.loaders.look()).await?;
        pause = if looked == Look::Changing { SETTLED } else { LOOK };
    }
}

#[cfg(test)]
impl<const N: usize> From<[(String, Arc<[u8]>); N]> for Loaders {
    fn from(files: [(String, Arc<[u8]>); N]) -> Self {
        Self { files: RwLock::new(Arc::new(files.into())), ..Self::default() }
    }
}

#[cfg(test)]
impl Loaders {
    /// Puts one more there, which is in no folder.
    pub fn insert(&self, name: String, bytes: Arc<[u8]>) -> Option<Arc<[u8]>> {
        let mut files = self.files.write().unwrap();
        Arc::make_mut(&mut files).insert(name, bytes)
    }

    /// Takes them all away.
    pub fn clear(&self) {
        *self.files.write().unwrap() = Arc::default();
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::program;
