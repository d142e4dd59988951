//! The files that Profiles name: checked before the first byte is served, fetched once where they are far.
//!
//! Each has a keeper of its own in the background, so that a large one that is being fetched holds up no other.

mod args;
mod cache;
mod check;
mod error;
mod fetch;
mod keep;
mod partial;
mod room;
mod target;

#[cfg(test)]
pub mod tests;

pub use args::ArtifactArgs;
pub use check::Checked;
pub use fetch::Fetcher;
pub use target::Rules;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use magnetite_api::{
    Architecture, Profile, Sha256,
    profile::Artifact,
    report::{ArtifactReport, ArtifactState},
};
use magnetite_daemon::log::chain;
use tokio::sync::{Notify, Semaphore};

use crate::record::clean;
use cache::{Cache, Lease};
use check::Stamp;

/// Files that are summed at once: more would only make the disk seek.
const SUMS: usize = 2;

/// Where a file comes from and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    source: Source,
    sha256: Sha256,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Source {
    File(String),
    Url(String),
}

impl Key {
    fn of(artifact: &Artifact) -> Option<Self> {
        let source = match (&artifact.file, &artifact.url) {
            (Some(file), None) => Source::File(file.clone()),
            (None, Some(url)) => Source::Url(url.clone()),
            _ => return None,
        };
        Some(Self { source, sha256: artifact.sha256 })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Checked(Checked),
    /// Being fetched: bytes so far, and in all.
    Coming {
        bytes: u64,
        total: Option<u64>,
    },
    /// Not to be served. `stamp`: of the file that was found wrong, so that it is not summed again and again.
    Not {
        state: ArtifactState,
        message: String,
        stamp: Option<Stamp>,
    },
}

impl State {
    fn not(state: ArtifactState, message: impl Into<String>) -> Self {
        Self::Not { state, message: message.into(), stamp: None }
    }
}

/// Why a file cannot be served now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// True if it is on its way; false if somebody must do something.
    pub on_its_way: bool,
    /// Why, with the field.
    pub message: String,
}

/// All files that are wanted, and how they are.
#[derive(Debug)]
pub struct Library {
    folder: PathBuf,
    cache: Arc<Cache>,
    files: RwLock<BTreeMap<Key, State>>,
    sums: Semaphore,
    /// Told when the state of a file changes.
    pub changed: Notify,
    /// A Profile whose files stay although no Machine boots it.
    pinned: Option<String>,
}

impl Library {
    /// Files are below `folder`; fetched ones are kept in `cache`, as many as `quota` bytes or the disk allow.
    pub fn new(folder: PathBuf, cache: PathBuf, quota: Option<u64>) -> Self {
        let cache = Arc::new(Cache::new(cache, quota));
        let (files, sums, changed) = (RwLock::default(), Semaphore::new(SUMS), Notify::new());
        Self { folder, cache, files, sums, changed, pinned: None }
    }

    /// With a Profile whose files stay although no Machine boots it.
    pub fn pinning(self, profile: Option<&str>) -> Self {
        Self { pinned: profile.map(str::to_owned), ..self }
    }

    /// The file, if it was checked, and is for its architecture. It stays as long as the answer is kept.
    pub fn get<'a>(&self, named: impl Into<Named<'a>>) -> Option<Checked> {
        let named = named.into();
        match self.state(&Key::of(named.artifact)?)? {
            State::Checked(checked) if named.contradiction(&checked).is_some() => None,
            State::Checked(checked) => {
                checked.lease().touch();
                Some(checked)
            }
            State::Coming { .. } | State::Not { .. } => None,
        }
    }

    /// Why a file cannot be served yet; nothing if it can.
    pub fn obstacle<'a>(&self, field: &str, named: impl Into<Named<'a>>) -> Option<Obstacle> {
        let ArtifactReport { state, message, .. } = self.report(field, named);
        let on_its_way = match state {
            ArtifactState::Ready => return None,
            ArtifactState::Fetching => true,
            ArtifactState::Missing
            | ArtifactState::WrongSum
            | ArtifactState::WrongArchitecture
            | ArtifactState::Failed => false,
        };
        Some(Obstacle { on_its_way, message: message.unwrap_or_else(|| format!("{field} is not there yet")) })
    }

    /// The state of a file, for the Profile's condition.
    pub fn report<'a>(&self, field: &str, named: impl Into<Named<'a>>) -> ArtifactReport {
        let named = named.into();
        let (state, bytes, total, message) = match Key::of(named.artifact).and_then(|key| self.state(&key)) {
            Some(State::Checked(checked)) if let Some(name) = named.contradiction(&checked) => {
                (ArtifactState::WrongArchitecture, 0, None, Some(error::kernel(name)))
            }
            Some(State::Checked(checked)) => (ArtifactState::Ready, checked.size(), Some(checked.size()), None),
            Some(State::Coming { bytes, total }) => (ArtifactState::Fetching, bytes, total, None),
            Some(State::Not { state, message, stamp: _ }) => (state, 0, None, Some(message)),
            None => (ArtifactState::Fetching, 0, None, Some("not looked at yet".to_owned())),
        };
        let number = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        let (bytes, total_bytes, sha256) = (number(bytes), total.map(number), named.artifact.sha256);
        let mut report = ArtifactReport { field: clean(field, 128), sha256, state, bytes, total_bytes, message: None };
        let coming = (state == ArtifactState::Fetching).then(|| format!("being fetched: {}", report.progress()));
        let colon = if state == ArtifactState::WrongArchitecture { "" } else { ":" };
        report.message = message.or(coming).map(|message| clean(&format!("{field}{colon} {message}"), 500));
        report
    }

    /// The lease of a file that was fetched; nothing removes the others.
    fn lease(&self, key: &Key) -> Arc<Lease> {
        match key.source {
            Source::Url(_) => self.cache.lease(key.sha256),
            Source::File(_) => Arc::default(),
        }
    }

    /// How many files are in which state.
    pub fn tally(&self) -> (usize, usize) {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let ready = files.values().filter(|state| matches!(state, State::Checked(_))).count();
        (ready, files.len() - ready)
    }

    fn state(&self, key: &Key) -> Option<State> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn set(&self, key: &Key, state: State) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if files.get(key) == Some(&state) {
            return;
        }
        match &state {
            State::Checked(checked) => {
                tracing::info!(file = key.name(), bytes = checked.size(), "artifact ready");
            }
            State::Coming { .. } | State::Not { state: ArtifactState::Fetching, .. } => {}
            State::Not { message, .. } => tracing::error!(file = key.name(), reason = message, "artifact not served"),
        }
        files.insert(key.clone(), state);
        drop(files);
        self.changed.notify_one();
    }

    /// Sums a file, unless it is the one that was summed before.
    async fn check(self: &Arc<Self>, key: &Key, path: Option<PathBuf>) {
        let _place = self.sums.acquire().await;
        let (library, key) = (Arc::clone(self), key.clone());
        let checked = tokio::task::spawn_blocking(move || library.check_now(&key, path.as_deref())).await;
        if let Err(error) = checked {
            tracing::error!(error = chain(&error), "checking a file was cut short");
        }
    }

    fn check_now(&self, key: &Key, path: Option<&Path>) {
        let found = path.and_then(|path| Some((path, check::stamp(path)?)));
        let Some((path, stamp)) = found else {
            let message = format!("there is no file {} in the artifact folder", key.name());
            return self.set(key, State::not(ArtifactState::Missing, message));
        };
        match self.state(key) {
            Some(State::Checked(checked)) if checked.is(path, stamp) => return,
            Some(State::Not { stamp: Some(before), .. }) if before == stamp => return,
            _ => self.set(key, State::not(ArtifactState::Fetching, "being checked")),
        }
        let not = |state, message| State::Not { state, message, stamp: Some(stamp) };
        let state = match check::sum(path) {
            // What changed while it was summed is summed again with the next look.
            _ if check::stamp(path) != Some(stamp) => State::not(ArtifactState::Fetching, "being written"),
            Ok(sum) if sum == key.sha256 => match Checked::new(path, stamp, self.lease(key)) {
                Ok(checked) => State::Checked(checked),
                Err(error) => not(ArtifactState::Failed, format!("cannot be read: {error}")),
            },
            Ok(sum) => {
                not(ArtifactState::WrongSum, format!("the file has SHA-256 {sum}, and {} is declared", key.sha256))
            }
            Err(error) => not(ArtifactState::Failed, format!("cannot be read: {error}")),
        };
        self.set(key, state);
    }
}

impl Key {
    /// As it is logged.
    fn name(&self) -> String {
        match &self.source {
            Source::File(name) => name.clone(),
            Source::Url(url) => target::shown(url),
        }
    }
}

/// A file as a Profile names it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// Where it is, and what.
    pub artifact: &'a Artifact,
    /// Of a kernel: what it must run on.
    pub kernel_of: Option<Architecture>,
}

impl Named<'_> {
    /// What a file is for, if it is a kernel that does not run where it must.
    fn contradiction(self, checked: &Checked) -> Option<&'static str> {
        checked.image().contradicts(self.kernel_of?)
    }
}

/// One that is no kernel.
impl<'a> From<&'a Artifact> for Named<'a> {
    fn from(artifact: &'a Artifact) -> Self {
        Self { artifact, kernel_of: None }
    }
}

/// Every artifact of a Profile, with its field.
pub fn artifacts(profile: &Profile) -> Vec<(String, Named<'_>)> {
    let mut out = Vec::new();
    for (architecture, boot) in profile.spec.boot.architectures() {
        let at = |rest: String| format!("spec.boot.{architecture}.{rest}");
        out.push((at("kernel".to_owned()), Named { artifact: &boot.kernel, kernel_of: Some(architecture) }));
        let initrds = boot.initrds.iter().enumerate();
        out.extend(initrds.map(|(index, initrd)| (at(format!("initrds[{index}]")), initrd.into())));
        out.extend(boot.files.iter().map(|(name, file)| (at(format!("files.{name}")), file.into())));
    }
    out
}

/// The state of every artifact of a Profile.
pub fn reports(library: &Library, profile: &Profile) -> Vec<ArtifactReport> {
    artifacts(profile).into_iter().take(64).map(|(field, named)| library.report(&field, named)).collect()
}
