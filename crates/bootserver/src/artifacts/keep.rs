//! Keepers: each looks after one file, for as long as a Profile names it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kube::ResourceExt;
use magnetite_api::{Sha256, report::ArtifactState};
use magnetite_boot::image::Image;
use magnetite_daemon::{
    backoff::{Backoff, Retries},
    log::chain,
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    Key, Library, Source, State, artifacts,
    cache::{Lease, Needs},
    check::{self, Checked},
    error::FetchError,
    fetch::{Fetcher, STEP},
    room::Rank,
    target::shown,
};
use crate::view::{Reader, View};

/// Files are looked at again this often: somebody may have copied one into its place, or over it, or made room.
const LOOK: Duration = Duration::from_secs(5);
/// Between two attempts to fetch.
const RETRY: Backoff = Backoff { first: Duration::from_secs(2), ceiling: Duration::from_secs(300) };
/// The longest between two attempts for which there is no room.
const FULL: Duration = Duration::from_secs(10);
/// When files were last used is written down this often.
const NOTE: Duration = Duration::from_secs(60);

/// What all keepers have.
struct Keeper {
    library: Arc<Library>,
    fetcher: Fetcher,
    needs: Arc<dyn Needs>,
}

/// How the fetching of a file went until now.
struct Attempts {
    retries: Retries,
    /// No attempt before this.
    not_before: Instant,
    /// The furthest that one came.
    furthest: u64,
    /// Why there was no room, with the size that the file will have.
    no_room: Option<u64>,
}

impl Library {
    /// Looks after all files that the view's Profiles name, until `stop`.
    ///
    /// # Errors
    /// If the cache's folder cannot be made or read.
    pub async fn run(
        self: Arc<Self>,
        mut view: Reader,
        fetcher: Fetcher,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        self.cache.open()?;
        let needs = Arc::new(Needed { library: Arc::clone(&self), view: view.clone() });
        let keeper = Arc::new(Keeper { library: Arc::clone(&self), fetcher, needs });
        let mut keepers = JoinSet::new();
        let mut kept: HashMap<Key, AbortHandle> = HashMap::new();
        let mut note = tokio::time::interval(NOTE);
        note.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = wanted(&view.borrow_and_update());
            for (_, keeper) in kept.extract_if(|key, _| !wanted.contains(key)) {
                keeper.abort();
            }
            self.files.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| wanted.contains(key));
            for key in wanted {
                kept.entry(key).or_insert_with_key(|key| keepers.spawn(Arc::clone(&keeper).keep(key.clone())));
            }
            loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        self.remember_uses().await;
                        return Ok(());
                    }
                    changed = view.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    _ = note.tick() => self.remember_uses().await,
                }
            }
            // The ends of those that were aborted.
            while keepers.try_join_next().is_some() {}
        }
    }

    async fn remember_uses(&self) {
        let cache = Arc::clone(&self.cache);
        drop(tokio::task::spawn_blocking(move || cache.remember_uses()).await);
    }
}

impl Keeper {
    /// Looks after one file for ever.
    async fn keep(self: Arc<Self>, key: Key) {
        let mut attempts = Attempts { retries: RETRY.start(), not_before: Instant::now(), furthest: 0, no_room: None };
        loop {
            match &key.source {
                Source::File(file) => self.library.check(&key, check::inside(&self.library.folder, file)).await,
                Source::Url(url) => self.look(&key, url, &mut attempts).await,
            }
            let soon = attempts.not_before.saturating_duration_since(Instant::now());
            tokio::time::sleep(if soon.is_zero() { LOOK } else { soon.min(LOOK) }).await;
        }
    }

    /// Sees to it that a file is in the cache.
    async fn look(&self, key: &Key, url: &str, attempts: &mut Attempts) {
        let (library, place) = (&self.library, self.library.cache.place(key.sha256));
        if check::stamp(&place).is_some() {
            // Fetched by an earlier process, for another Profile, or put there by hand: disks rot, so it is summed.
            library.check(key, Some(place.clone())).await;
            match library.state(key) {
                Some(State::Not { state: ArtifactState::WrongSum, .. }) => {
                    drop(tokio::fs::remove_file(&place).await);
                }
                Some(State::Checked(_)) => return attempts.retries.reset(),
                _ => return,
            }
        } else if Instant::now() < attempts.not_before {
            return;
        }
        // Without asking again whoever has it, as long as there is no room.
        if let Some(whole) = attempts.no_room
            && let Err(error) = self.has_room(key, whole).await
        {
            return library.set(key, failed(&error));
        }
        self.fetch(key, url, attempts).await;
    }

    async fn has_room(&self, key: &Key, whole: u64) -> Result<(), FetchError> {
        let (cache, needs, sum) = (Arc::clone(&self.library.cache), Arc::clone(&self.needs), key.sha256);
        let admitted = tokio::task::spawn_blocking(move || cache.admit(sum, whole, &*needs)).await;
        Ok(admitted.unwrap_or(Ok(()))?)
    }

    async fn fetch(&self, key: &Key, url: &str, attempts: &mut Attempts) {
        let (library, cache) = (&self.library, &self.library.cache);
        library.set(key, State::not(ArtifactState::Fetching, format!("being fetched from {}", shown(url))));
        let whole = AtomicU64::new(0);
        let progress = |bytes, total: Option<u64>| {
            whole.store(total.unwrap_or(bytes + STEP), Ordering::Relaxed);
            library.set(key, State::Coming { bytes, total });
        };
        attempts.no_room = None;
        match self.fetcher.fetch(url, key.sha256, cache, &self.needs, progress).await {
            Ok(()) => {
                let place = cache.place(key.sha256);
                let lease = cache.lease(key.sha256);
                lease.touch();
                let checked = check::stamp(&place).and_then(|stamp| Checked::new(&place, stamp, lease).ok());
                let vanished = || State::not(ArtifactState::Fetching, "vanished from the cache");
                attempts.retries.reset();
                library.set(key, checked.map_or_else(vanished, State::Checked));
            }
            Err(error) => {
                if error.got() > attempts.furthest {
                    // A line that breaks again and again gets there too.
                    attempts.furthest = error.got();
                    attempts.retries.reset();
                }
                let mut pause = attempts.retries.next_delay();
                if error.state() == ArtifactState::WrongArchitecture {
                    pause = RETRY.ceiling;
                } else if error.is_full() {
                    attempts.no_room = Some(whole.into_inner());
                    pause = pause.min(FULL);
                }
                attempts.not_before = Instant::now() + pause;
                library.set(key, failed(&error));
            }
        }
    }
}

fn failed(error: &FetchError) -> State {
    match error.state() {
        // Said by the Profile; trying again is no use as long as it says so.
        state @ ArtifactState::WrongArchitecture => State::not(state, error.to_string()),
        state => State::not(state, format!("{}; trying again", chain(error))),
    }
}

fn wanted(view: &View) -> BTreeSet<Key> {
    let all = view.profiles.iter().flat_map(|profile| artifacts(profile));
    all.filter_map(|(_, named)| Key::of(named.artifact)).collect()
}

/// What the view's Profiles and Machines need.
struct Needed {
    library: Arc<Library>,
    view: Reader,
}

impl Needs for Needed {
    fn ranks(&self) -> HashMap<Sha256, Rank> {
        let view = Arc::clone(&self.view.borrow());
        let booted = view.fleet.machines().filter_map(|machine| view.profile(machine).ok());
        let booted = booted.map(|profile| profile.name_any()).chain(self.library.pinned.clone());
        let booted: BTreeSet<String> = booted.collect();
        let mut ranks = HashMap::new();
        for profile in &view.profiles {
            let rank = if booted.contains(&profile.name_any()) { Rank::Pinned } else { Rank::Spare };
            for (_, named) in artifacts(profile) {
                let known = ranks.entry(named.artifact.sha256).or_insert(rank);
                *known = rank.max(*known);
            }
        }
        ranks
    }

    fn refuses(&self, sum: Sha256, image: Image) -> Option<&'static str> {
        let view = Arc::clone(&self.view.borrow());
        let named = view.profiles.iter().flat_map(|profile| artifacts(profile)).map(|(_, named)| named);
        let mut refused = None;
        for named in named.filter(|named| named.artifact.sha256 == sum) {
            refused = Some(image.contradicts(named.kernel_of?)?);
        }
        refused
    }

    fn idle_leases(&self, sum: Sha256) -> usize {
        idle(&self.library.files.read().unwrap_or_else(PoisonError::into_inner), sum)
    }

    fn retire(&self, sum: Sha256, lease: Option<&Arc<Lease>>) -> bool {
        let mut files = self.library.files.write().unwrap_or_else(PoisonError::into_inner);
        if lease.is_some_and(|lease| Arc::strong_count(lease) - 1 > idle(&files, sum)) {
            return false;
        }
        for (_, state) in files.iter_mut().filter(|(key, _)| is_fetched(key, sum)) {
            *state = State::not(ArtifactState::Fetching, "removed to make room for a file that a Machine boots");
        }
        drop(files);
        self.library.changed.notify_one();
        true
    }
}

fn is_fetched(key: &Key, sum: Sha256) -> bool {
    key.sha256 == sum && matches!(key.source, Source::Url(_))
}

/// Leases that say only that a file was checked.
fn idle(files: &BTreeMap<Key, State>, sum: Sha256) -> usize {
    files.iter().filter(|(key, state)| is_fetched(key, sum) && matches!(state, State::Checked(_))).count()
}
