//! Files, written so that a reader sees all of one or none of it, also after the power was cut.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

/// Where things are on the box: below `/`, or below a test's folder.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    state: PathBuf,
}

/// The cluster's certificate authority.
pub const CA: &str = "/etc/kubernetes/pki/ca.crt";
/// How the kubelet finds and talks to the API server.
pub const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// The kubelet's configuration.
pub const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// Where the kubelet keeps its client certificates.
pub const PKI: &str = "/var/lib/kubelet/pki";
/// The one that it uses: a symlink, which it renames a new one over when it rotates.
pub const CURRENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// The new one, for a moment while it rotates.
pub const UPDATED: &str = "/var/lib/kubelet/pki/kubelet-client-updated.pem";

impl Paths {
    /// Everything below `root`; the agent's own files in `state_dir` below it.
    pub fn new(root: &Path, state_dir: &Path) -> Self {
        let mut paths = Self { root: root.to_owned(), state: PathBuf::new() };
        paths.state = paths.at(state_dir);
        paths
    }

    /// Where an absolute path of the box is.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file of the agent's own.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// True if the box is the one that the agent runs on, and not a test's folder.
    pub fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {} failed", path.display())]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Adds to an error what was done to which file.
fn on(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { operation, path: path.to_owned(), source }
}

/// Reads a file; none if it is not there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(on("reading", path)(error)),
    }
}

/// Makes a folder with a mode; those above it are made for all to read. An old one keeps its mode.
pub fn folder(path: &Path, mode: u32) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let made = |path, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
    made(parent, 0o755).and_then(|()| made(path, mode)).map_err(on("making the folder", path))
}

/// Writes a file: a new one beside it, on the disk first, then renamed over it. The new one is made with its mode,
/// so that a key is at no moment readable by others.
pub fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), FileError> {
    let (parent, temporary) = beside(path)?;
    forget(&temporary)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(on("writing", &temporary))?;
    fs::rename(&temporary, path).map_err(on("replacing", path))?;
    sync_folder(&parent)
}

/// Makes or replaces a symlink.
pub fn link(target: &Path, path: &Path) -> Result<(), FileError> {
    let (parent, temporary) = beside(path)?;
    forget(&temporary)?;
    symlink(target, &temporary).map_err(on("linking", &temporary))?;
    fs::rename(&temporary, path).map_err(on("replacing", path))?;
    sync_folder(&parent)
}

/// The folder of a file, made if need be, and a name in it that only the agent uses.
fn beside(path: &Path) -> Result<(PathBuf, PathBuf), FileError> {
    let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
    folder(&parent, 0o755)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.magnetite"));
    Ok((parent, temporary))
}

/// Removes what an agent that was killed may have left.
fn forget(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on("removing", path)(error)),
        _ => Ok(()),
    }
}

/// A rename is on the disk once its folder is.
fn sync_folder(path: &Path) -> Result<(), FileError> {
    fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(on("syncing", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_has_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b/key");
        fs::create_dir_all(folder.path().join("a/b")).expect("a folder");
        fs::write(folder.path().join("a/b/.key.magnetite"), "left by a kill").expect("a leftover");
        write(&path, 0o600, b"one").expect("written");
        write(&path, 0o600, b"two").expect("written again");
        assert_eq!(read(&path).expect("read").as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("a/b")).expect("listed").count(), 1);
    }

    #[test]
    fn only_the_last_folder_is_private() {
        let root = tempfile::tempdir().expect("a folder");
        folder(&root.path().join("var/lib/magnetite"), 0o700).expect("made");
        let mode = |path: &str| fs::metadata(root.path().join(path)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("var/lib"), mode("var/lib/magnetite")), (0o755, 0o700));
    }

    #[test]
    fn a_symlink_replaces_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("current");
        fs::write(&path, "a file").expect("written");
        link(Path::new("target"), &path).expect("linked");
        assert_eq!(fs::read_link(&path).expect("a link"), Path::new("target"));
    }

    #[test]
    fn paths_stay_below_the_root() {
        let paths = Paths::new(Path::new("/tmp/x"), Path::new("/var/lib/magnetite"));
        assert_eq!(paths.at(CA), Path::new("/tmp/x/etc/kubernetes/pki/ca.crt"));
        assert_eq!(paths.state("k"), Path::new("/tmp/x/var/lib/magnetite/k"));
    }
}
