//! The folder of fetched files: how much is in it, what may go, and when each was last used.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use magnetite_api::Sha256;
use magnetite_boot::image::Image;
use magnetite_daemon::{clock, log::chain};

use super::room::{Bound, Held, Rank, Shortage, make_room};
use crate::store::snapshot::write_whole;

/// With a quota, so much of the disk is left to boot records and the snapshot, or a sixteenth of a small disk.
const RESERVE: u64 = 64 << 20;
/// Without one, this part of the disk is left free: the kubelet puts Pods out where a tenth is left.
const SHARE: u64 = 10;
/// When each file was last used, by its sum.
const LAST_USED: &str = "last-used.json";

/// Whoever holds one reads a file, which must stay as long.
#[derive(Debug, Default)]
pub struct Lease {
    used: AtomicBool,
}

impl Lease {
    /// Remembers that the file was used. All that the boot path does for the order in which files go.
    pub fn touch(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}

/// The folder.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    quota: Option<u64>,
    state: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Files that are being fetched, with the size that they will have.
    coming: BTreeMap<Sha256, u64>,
    leases: HashMap<Sha256, Arc<Lease>>,
    last_used: BTreeMap<String, i64>,
}

/// A file that is being fetched. The room that it will need is kept for it as long as this lives.
#[derive(Debug)]
pub struct Coming<'a> {
    cache: &'a Cache,
    sum: Sha256,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.cache.lock().coming.remove(&self.sum);
    }
}

/// Who needs what.
pub trait Needs: Send + Sync {
    /// How much each file is needed that is needed at all.
    fn ranks(&self) -> HashMap<Sha256, Rank>;
    /// What an image is for, if it is for none of the fields that name this sum.
    fn refuses(&self, sum: Sha256, image: Image) -> Option<&'static str>;
    /// How many of a file's leases are not for reading it.
    fn idle_leases(&self, sum: Sha256) -> usize;
    /// Sees to it that nobody begins to read a file. False if somebody has.
    fn retire(&self, sum: Sha256, lease: Option<&Arc<Lease>>) -> bool;
}

impl Cache {
    /// A folder, and how many bytes may be in it. Without a quota the disk decides.
    pub fn new(folder: PathBuf, quota: Option<u64>) -> Self {
        Self { folder, quota, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a file is, once it was fetched.
    pub fn place(&self, sum: Sha256) -> PathBuf {
        self.folder.join(sum.to_string())
    }

    /// The lease of a file.
    pub fn lease(&self, sum: Sha256) -> Arc<Lease> {
        Arc::clone(self.lock().leases.entry(sum).or_default())
    }

    /// Makes the folder, clears away what is of no use, and reads when files were last used.
    pub fn open(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        super::partial::sweep(&self.folder)?;
        let text = std::fs::read(self.folder.join(LAST_USED)).unwrap_or_default();
        // Without it, the time at which each was fetched will do.
        self.lock().last_used = serde_json::from_slice(&text).unwrap_or_default();
        Ok(())
    }

    /// Writes down which files were used since the last time.
    pub fn remember_uses(&self) {
        let now = clock::now().as_second();
        let (mut state, mut news) = (self.lock(), false);
        let Inside { coming: _, leases, last_used } = &mut *state;
        for (sum, lease) in leases {
            if lease.used.swap(false, Ordering::Relaxed) {
                last_used.insert(sum.to_string(), now);
                news = true;
            }
        }
        last_used.retain(|sum, _| self.folder.join(sum).exists());
        let text = serde_json::to_vec(&*last_used).unwrap_or_default();
        drop(state);
        if news && let Err(error) = write_whole(&self.folder.join(LAST_USED), &text, 0o600) {
            tracing::warn!(error = chain(&error), "when files were last used is not remembered");
        }
    }

    /// Announces a file that is going to be fetched.
    pub fn expect(&self, sum: Sha256) -> Coming<'_> {
        self.lock().coming.entry(sum).or_insert(0);
        Coming { cache: self, sum }
    }

    /// Makes room for a file that will have so many bytes, of which some may be there.
    ///
    /// # Errors
    /// How much is missing. Nothing was removed then.
    pub fn admit(&self, sum: Sha256, whole: u64, needs: &dyn Needs) -> Result<(), Shortage> {
        let mut state = self.lock();
        let mut stay = BTreeSet::from([sum]);
        loop {
            let go = self.plan(&state, sum, whole, needs, &stay)?;
            if go.is_empty() {
                break;
            }
            for old in go {
                // Somebody may just have begun to read it: then another goes.
                if needs.retire(old, state.leases.get(&old)) && self.remove(old) {
                    tracing::info!(file = %old, "removed from the cache to make room");
                    state.leases.remove(&old);
                } else {
                    stay.insert(old);
                }
            }
        }
        if let Some(bytes) = state.coming.get_mut(&sum) {
            *bytes = whole;
        }
        Ok(())
    }

    fn remove(&self, sum: Sha256) -> bool {
        let place = self.place(sum);
        let paths = [place.with_extension("part"), place.with_extension("origin"), place];
        paths.iter().all(|path| match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::error!(file = %path.display(), error = chain(&error), "not removed from the cache");
                false
            }
            _ => true,
        })
    }

    fn plan(
        &self,
        state: &Inside,
        sum: Sha256,
        whole: u64,
        needs: &dyn Needs,
        stay: &BTreeSet<Sha256>,
    ) -> Result<Vec<Sha256>, Shortage> {
        let files = self.files();
        let there = |sum: &Sha256| files.get(&Some(*sum)).map_or(0, |file| file.bytes);
        let promised =
            |(other, bytes): (&Sha256, &u64)| if *other == sum { 0 } else { bytes.saturating_sub(there(other)) };
        let promised: u64 = state.coming.iter().map(promised).sum();
        let need = whole.saturating_sub(there(&sum));
        let (free, bound) = self.free(files.values().map(|file| file.bytes).sum(), promised);
        if free >= i128::from(need) {
            return Ok(Vec::new());
        }
        let ranks = needs.ranks();
        let rank = |sum: Sha256| ranks.get(&sum).copied().unwrap_or(Rank::Left);
        let held = files.iter().filter_map(|(name, file)| {
            let name = (*name)?;
            let readers = state.leases.get(&name).map_or(0, |lease| Arc::strong_count(lease) - 1);
            if stay.contains(&name) || state.coming.contains_key(&name) || readers > needs.idle_leases(name) {
                return None;
            }
            let last_used = state.last_used.get(&name.to_string()).copied().unwrap_or(file.modified);
            Some(Held { sum: name, bytes: file.bytes, rank: rank(name), last_used })
        });
        make_room(held.collect(), need, free, rank(sum), bound)
    }

    /// Bytes that may still be written, and what bounds them.
    fn free(&self, held: u64, promised: u64) -> (i128, Bound) {
        let promised = i128::from(promised);
        let quota = self.quota.map(|quota| (i128::from(quota) - i128::from(held) - promised, Bound::Quota(quota)));
        let disk = nix::sys::statvfs::statvfs(&self.folder).ok().map(|disk| {
            let (size, free) = (disk.blocks() * disk.fragment_size(), disk.blocks_available() * disk.fragment_size());
            let share = self.quota.is_none();
            let reserve = if share { size / SHARE } else { RESERVE.min(size / 16) };
            (i128::from(free) - i128::from(reserve) - promised, Bound::Disk(self.folder.clone(), share))
        });
        let bounds = quota.into_iter().chain(disk).min_by_key(|(free, _)| *free);
        bounds.unwrap_or((i128::MAX, Bound::Disk(self.folder.clone(), false)))
    }

    /// The files of the folder: each of ours by its sum, half fetched or whole; all others together.
    fn files(&self) -> BTreeMap<Option<Sha256>, Stored> {
        let mut files = BTreeMap::<_, Stored>::new();
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for (name, meta) in entries.filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?))) {
            if !Metadata::is_file(&meta) {
                continue;
            }
            let sum = name.to_str().and_then(|name| name.strip_suffix(".part").unwrap_or(name).parse().ok());
            let stored = files.entry(sum).or_default();
            stored.bytes += meta.size();
            stored.modified = stored.modified.max(meta.mtime());
        }
        files
    }
}

#[derive(Debug, Default)]
struct Stored {
    bytes: u64,
    modified: i64,
}
