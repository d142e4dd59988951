//! The files that Profiles name: checked before the first byte is served, fetched once where they are far.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use kube::ResourceExt;
use magnetite_api::{
    Profile, Sha256,
    profile::Artifact,
    report::{ArtifactReport, ArtifactState},
};
use sha2::Digest;
use tokio::{io::AsyncWriteExt, sync::Notify};
use tokio_util::sync::CancellationToken;

use crate::{record::clean, view::Reader};

/// Files are looked at again this often: somebody may have copied one into its place, or over it.
const LOOK: Duration = Duration::from_secs(5);

/// Where a file comes from and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: Source,
    sha256: Sha256,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

/// A file that was checked: as long as it is the same file, it may be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, as of the check.
    pub modified: SystemTime,
}

impl Checked {
    /// True if the open file is still the one that was checked.
    pub fn is_same(&self, meta: &std::fs::Metadata) -> bool {
        meta.len() == self.size && meta.modified().is_ok_and(|modified| modified == self.modified)
    }
}

#[derive(Debug, Clone)]
enum State {
    Checked(Checked),
    Not { state: ArtifactState, bytes: u64, message: String, looked: Option<(u64, SystemTime)> },
}

/// All files that are wanted, and how they are.
#[derive(Debug)]
pub struct Library {
    folder: PathBuf,
    cache: PathBuf,
    files: RwLock<BTreeMap<Key, State>>,
    /// Told when the state of a file changes.
    pub changed: Notify,
}

impl Library {
    /// Files are below `folder`; fetched ones are kept in `cache`.
    pub fn new(folder: PathBuf, cache: PathBuf) -> Self {
        Self { folder, cache, files: RwLock::default(), changed: Notify::new() }
    }

    /// The file, if it was checked.
    pub fn get(&self, artifact: &Artifact) -> Option<Checked> {
        match self.state(&Key::of(artifact)?)? {
            State::Checked(checked) => Some(checked),
            State::Not { .. } => None,
        }
    }

    /// Why a file cannot be served yet; nothing if it can.
    pub fn obstacle(&self, field: &str, artifact: &Artifact) -> Option<String> {
        let report = self.report(field, artifact);
        (report.state != ArtifactState::Ready)
            .then(|| report.message.unwrap_or_else(|| format!("{field} is not there yet")))
    }

    /// The state of a file, for the Profile's condition.
    pub fn report(&self, field: &str, artifact: &Artifact) -> ArtifactReport {
        let (state, bytes, message) = match Key::of(artifact).and_then(|key| self.state(&key)) {
            Some(State::Checked(checked)) => (ArtifactState::Ready, checked.size, None),
            Some(State::Not { state, bytes, message, looked: _ }) => {
                (state, bytes, Some(format!("{field}: {message}")))
            }
            None => (ArtifactState::Fetching, 0, Some(format!("{field}: not looked at yet"))),
        };
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let message = message.map(|message| clean(&message, 500));
        ArtifactReport { field: field.to_owned(), sha256: artifact.sha256, state, bytes, message }
    }

    fn state(&self, key: &Key) -> Option<State> {
        self.files.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(key).cloned()
    }

    fn set(&self, key: &Key, state: State) {
        let changed = !matches!(
            (self.state(key), &state),
            (Some(State::Checked(a)), State::Checked(b)) if a == *b
        );
        self.files.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key.clone(), state);
        if changed {
            self.changed.notify_one();
        }
    }

    /// Looks after all files that the view's Profiles name, until `stop`.
    pub async fn run(self: Arc<Self>, mut view: Reader, stop: CancellationToken) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.cache)?;
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            // A redirect could lead anywhere; a Profile names the file itself.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        loop {
            let wanted: Vec<Key> = view
                .borrow_and_update()
                .profiles
                .iter()
                .flat_map(|profile| artifacts(profile))
                .filter_map(|(_, artifact)| Key::of(artifact))
                .collect();
            self.files.write().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|key, _| wanted.contains(key));
            let work = async {
                for key in &wanted {
                    self.look_after(key, &client).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // A new Profile does not wait for the fetches of an old one: they are resumed afterwards.
                changed = async { work.await; tokio::time::timeout(LOOK, view.changed()).await } => {
                    if let Ok(Err(_)) = changed { return Ok(()); }
                }
            }
        }
    }

    async fn look_after(self: &Arc<Self>, key: &Key, client: &reqwest::Client) {
        match &key.source {
            Source::File(file) => {
                let (library, key, path) = (Arc::clone(self), key.clone(), self.folder.join(file));
                let checked = tokio::task::spawn_blocking(move || library.check_file(&key, path)).await;
                if let Err(error) = checked {
                    tracing::error!(error = &error as &dyn std::error::Error, "checking a file was cut short");
                }
            }
            Source::Url(url) => self.fetch(key, url, client).await,
        }
    }

    /// Sums a file, unless it is the one that was summed before.
    fn check_file(&self, key: &Key, path: PathBuf) {
        let not = |state, message: String, looked| State::Not { state, bytes: 0, message, looked };
        // A link out of the folder would serve what nobody put there.
        let inside = path
            .canonicalize()
            .ok()
            .zip(self.folder.canonicalize().ok())
            .is_none_or(|(path, folder)| path.starts_with(folder));
        let meta = std::fs::metadata(&path).ok().filter(|meta| meta.is_file() && inside);
        let Some((meta, modified)) = meta.and_then(|meta| Some((meta.clone(), meta.modified().ok()?))) else {
            let message = format!(
                "there is no file {} in the artifact folder",
                path.strip_prefix(&self.folder).unwrap_or(&path).display()
            );
            return self.set_if_new(key, not(ArtifactState::Missing, message, None));
        };
        match self.state(key) {
            Some(State::Checked(checked)) if checked.path == path && checked.is_same(&meta) => return,
            Some(State::Not { looked: Some(looked), .. }) if looked == (meta.len(), modified) => return,
            _ => self.set_if_new(key, not(ArtifactState::Fetching, "being checked".to_owned(), None)),
        }
        let state = match sum(&path) {
            Ok(sum) if sum == key.sha256 => State::Checked(Checked { path, size: meta.len(), modified }),
            Ok(sum) => {
                let message = format!("the file has SHA-256 {sum}, and {} is declared", key.sha256);
                not(ArtifactState::WrongSum, message, Some((meta.len(), modified)))
            }
            Err(error) => not(ArtifactState::Failed, format!("cannot be read: {error}"), None),
        };
        if let State::Not { message, .. } = &state {
            tracing::error!(file = %self.folder.join(match &key.source { Source::File(file) | Source::Url(file) => file }).display(), reason = message, "artifact refused");
        }
        self.set(key, state);
    }

    fn set_if_new(&self, key: &Key, state: State) {
        let same = match (self.state(key), &state) {
            (Some(State::Not { state: a, message: b, .. }), State::Not { state: c, message: d, .. }) => {
                a == *c && b == *d
            }
            _ => false,
        };
        if !same {
            self.set(key, state);
        }
    }

    /// Fetches a file into the cache: beside its place, summed on the way, and renamed into it if the sum is right.
    async fn fetch(&self, key: &Key, url: &str, client: &reqwest::Client) {
        let path = self.cache.join(key.sha256.to_string());
        if let Ok(meta) = std::fs::metadata(&path)
            && let Ok(modified) = meta.modified()
        {
            // What bears the sum as its name was checked before it got the name.
            return self.set(key, State::Checked(Checked { path, size: meta.len(), modified }));
        }
        let failed = |state, message: String| State::Not { state, bytes: 0, message, looked: None };
        let result = self.download(key, url, client, &path).await;
        let state = match result {
            Ok(state) => state,
            Err(error) => failed(ArtifactState::Failed, format!("{url}: {error:#}; trying again")),
        };
        if let State::Not { message, .. } = &state {
            tracing::error!(url, reason = message, "artifact not fetched");
        }
        self.set(key, state);
    }

    async fn download(&self, key: &Key, url: &str, client: &reqwest::Client, path: &Path) -> anyhow::Result<State> {
        let response = client.get(url).send().await?.error_for_status()?;
        anyhow::ensure!(
            response.status().is_success(),
            "the server answers {}; name the file's own URL",
            response.status()
        );
        let total = response.content_length();
        let temporary = path.with_extension("part");
        let mut file = tokio::fs::File::create(&temporary).await?;
        let (mut hasher, mut bytes, mut told) = (sha2::Sha256::new(), 0u64, 0u64);
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
            bytes += chunk.len() as u64;
            if bytes - told > 16 << 20 || told == 0 {
                told = bytes;
                let of = total.map_or(String::new(), |total| format!(" of {total}"));
                let message = format!("being fetched: {bytes}{of} bytes");
                self.set(key, State::Not { state: ArtifactState::Fetching, bytes, message, looked: None });
            }
        }
        file.sync_all().await?;
        let sum = Sha256(hasher.finalize().into());
        if sum != key.sha256 {
            tokio::fs::remove_file(&temporary).await?;
            let message = format!("{url} has SHA-256 {sum}, and {} is declared", key.sha256);
            return Ok(State::Not { state: ArtifactState::WrongSum, bytes: 0, message, looked: None });
        }
        tokio::fs::rename(&temporary, path).await?;
        let meta = tokio::fs::metadata(path).await?;
        Ok(State::Checked(Checked { path: path.to_owned(), size: meta.len(), modified: meta.modified()? }))
    }
}

fn sum(path: &Path) -> std::io::Result<Sha256> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 18]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Sha256(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// Every artifact of a Profile, with its field.
pub fn artifacts(profile: &Profile) -> Vec<(String, &Artifact)> {
    let mut out = Vec::new();
    for (architecture, boot) in profile.spec.boot.architectures() {
        let at = |rest: String| format!("spec.boot.{architecture}.{rest}");
        out.push((at("kernel".to_owned()), &boot.kernel));
        out.extend(boot.initrds.iter().enumerate().map(|(index, initrd)| (at(format!("initrds[{index}]")), initrd)));
        out.extend(boot.files.iter().map(|(name, file)| (at(format!("files.{name}")), file)));
    }
    out
}

/// The state of every artifact of a Profile.
pub fn reports(library: &Library, profile: &Profile) -> Vec<ArtifactReport> {
    artifacts(profile).into_iter().take(64).map(|(field, artifact)| library.report(&field, artifact)).collect()
}

/// A Profile's name and UID, for its report.
pub fn subject(profile: &Profile) -> (String, String) {
    (profile.name_any(), profile.uid().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(file: &str, sum: Sha256) -> Artifact {
        Artifact { url: None, file: Some(file.to_owned()), sha256: sum }
    }

    #[test]
    fn only_what_was_checked_is_served_and_only_while_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::new(folder.path().join("files"), folder.path().join("cache"));
        std::fs::create_dir_all(folder.path().join("files")).unwrap();
        let path = folder.path().join("files/kernel");
        let right = artifact("kernel", Sha256::of(b"linux"));
        let key = Key::of(&right).unwrap();
        let look = || library.check_file(&key, path.clone());

        look();
        assert_eq!(library.report("f", &right).state, ArtifactState::Missing);
        std::fs::write(&path, b"linus").unwrap();
        look();
        let report = library.report("spec.boot.x86_64.kernel", &right);
        assert_eq!(report.state, ArtifactState::WrongSum);
        assert!(report.message.unwrap().starts_with("spec.boot.x86_64.kernel: the file has SHA-256"));
        assert_eq!(library.get(&right), None);
        std::fs::write(&path, b"linux").unwrap();
        // The same size: the time of change tells them apart.
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        look();
        let checked = library.get(&right).unwrap();
        assert!(checked.is_same(&std::fs::metadata(&path).unwrap()));
        std::fs::write(&path, b"linux, changed").unwrap();
        assert!(!checked.is_same(&std::fs::metadata(&path).unwrap()));
        look();
        assert_eq!(library.get(&right), None);
    }

    #[test]
    fn a_link_out_of_the_folder_is_no_file_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(folder.path().join("secret"), b"secret").unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret"), files.join("link")).unwrap();
        let library = Library::new(files.clone(), folder.path().join("cache"));
        let link = artifact("link", Sha256::of(b"secret"));
        library.check_file(&Key::of(&link).unwrap(), files.join("link"));
        assert_eq!(library.report("f", &link).state, ArtifactState::Missing);
    }
}
