//! What a run leaves for whoever wants to know what happened: serial consoles, captures, logs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::proc::Cmd;

/// Runs that are kept; older ones are removed when a new one starts.
const KEPT: usize = 20;

/// `target/lab/runs/NAME-TIME`, with `latest` pointing to it.
#[derive(Debug, Clone)]
pub struct RunDir {
    dir: PathBuf,
}

impl RunDir {
    /// Makes a folder for a run of this name.
    pub fn create(paths: &Paths, name: &str) -> Result<Self> {
        let runs = paths.runs();
        std::fs::create_dir_all(&runs)?;
        prune(&runs);
        let time = Cmd::new("date").args(["-u", "+%Y%m%d-%H%M%S"]).run()?;
        let base = format!("{name}-{}", time.trim());
        let dir = (1..100)
            .map(|n| if n == 1 { runs.join(&base) } else { runs.join(format!("{base}-{n}")) })
            .find(|dir| std::fs::create_dir(dir).is_ok())
            .with_context(|| format!("create {base} in {}", runs.display()))?;
        // A link that another lab changes at the same moment is not worth an error.
        let latest = runs.join("latest");
        drop(std::fs::remove_file(&latest));
        drop(std::os::unix::fs::symlink(&dir, &latest));
        Ok(Self { dir })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A file or folder in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The folder of the processes' logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }
}

fn prune(runs: &Path) {
    let Ok(entries) = std::fs::read_dir(runs) else { return };
    let mut dirs: Vec<(std::time::SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    dirs.sort();
    let extra = dirs.len().saturating_sub(KEPT);
    for (_, dir) in dirs.into_iter().take(extra) {
        drop(std::fs::remove_dir_all(dir));
    }
}
