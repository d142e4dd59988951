//! Puts the config of the first boot into a partition of an installed system.
//!
//! By its place on the disk, through a loop device: the partition table is not there yet. The kernel mounts it such that nothing of it can be run or
//! be a device; `mount` of the running system sets the loop up, since an `ioctl` would take `unsafe`.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
    process::Command,
};

use nix::{fcntl::OFlag, mount::umount};

use crate::partitions::Partition;

/// Why the config is not in its place.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no folder to mount at.
    #[error("{} could not be made", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// There is no program to mount with.
    #[error("mount could not be run; the in-memory system needs util-linux")]
    NoMount(#[source] io::Error),
    /// It cannot be mounted.
    #[error("the partition {label:?} could not be mounted: {said}")]
    Mount {
        /// The partition's label.
        label: String,
        /// What mount said.
        said: String,
    },
    /// A folder of the path leads elsewhere.
    #[error("{0} of the image is a link: nothing is written through it")]
    Link(String),
    /// It cannot be written.
    #[error("{path} could not be written in the partition {label:?}")]
    Write {
        /// The path.
        path: String,
        /// The partition's label.
        label: String,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// It cannot be unmounted, so nobody knows whether all of it is on the disk.
    #[error("the partition {label:?} could not be unmounted")]
    Unmount {
        /// The partition's label.
        label: String,
        /// What was said.
        #[source]
        source: io::Error,
    },
}

/// File systems that systems keep such files on.
const KINDS: &str = "vfat,ext4,ext3,ext2,xfs,btrfs";

/// Writes a file of mode 0600 to `path` below the root of a partition of `device`, which is mounted at `place` meanwhile.
pub fn put(device: &Path, partition: &Partition, path: &str, bytes: &[u8], place: &Path) -> Result<(), ConfigError> {
    let Partition { label, kind: _, start, length } = partition;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(place)
        .map_err(|source| ConfigError::Folder(place.to_owned(), source))?;
    // What an agent that was killed left.
    while umount(place).is_ok() {}
    let options = format!("loop,offset={start},sizelimit={length},rw,nosuid,nodev,noexec,nosymfollow");
    let mount =
        |options: &str| Command::new("mount").args(["-t", KINDS, "-o", options, "--"]).arg(device).arg(place).output();
    let mut done = mount(&options).map_err(ConfigError::NoMount)?;
    if !done.status.success() {
        // Kernels before 5.10 do not know the last one.
        done = mount(options.trim_end_matches(",nosymfollow")).map_err(ConfigError::NoMount)?;
    }
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(ConfigError::Mount { label: label.clone(), said: said.chars().take(300).collect() });
    }
    let written = write_below(place, path, bytes).map_err(|error| match error {
        Refused::Link(link) => ConfigError::Link(link),
        Refused::Io(source) => ConfigError::Write { path: path.to_owned(), label: label.clone(), source },
    });
    let unmounted = umount(place).map_err(|error| ConfigError::Unmount { label: label.clone(), source: error.into() });
    written.and(unmounted)
}

enum Refused {
    Link(String),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes a file below a folder whose contents are somebody else's.
fn write_below(root: &Path, path: &str, bytes: &[u8]) -> Result<(), Refused> {
    let names: Vec<_> = Path::new(path)
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let Some((file, folders)) = names.split_last() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    };
    let mut at = root.to_owned();
    for folder in folders {
        at.push(folder);
        match at.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(Refused::Link(at.strip_prefix(root).unwrap_or(&at).display().to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new().mode(0o755).create(&at)?,
            Err(error) => return Err(error.into()),
        }
    }
    let folder = at.clone();
    at.push(file);
    if at.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(Refused::Link(path.to_owned()));
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&at)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_written_through_a_link_of_the_image() {
        let (root, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        symlink(elsewhere.path(), root.path().join("ignition")).expect("linked");
        symlink(elsewhere.path().join("x"), root.path().join("config.ign")).expect("linked");
        assert!(matches!(write_below(root.path(), "/ignition/config.ign", b"{}"), Err(Refused::Link(_))));
        assert!(matches!(write_below(root.path(), "/config.ign", b"{}"), Err(Refused::Link(_))));
        assert!(write_below(root.path(), "/..", b"{}").is_err());
        assert_eq!(std::fs::read_dir(elsewhere.path()).expect("listed").count(), 0);
        assert!(write_below(root.path(), "/a/b/config.ign", b"{}").is_ok());
        assert!(write_below(root.path(), "/a/b/config.ign", b"[]").is_ok());
        assert_eq!(std::fs::read(root.path().join("a/b/config.ign")).expect("read"), b"[]");
    }
}
