//! Where the lab keeps its things.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders of the lab. All of them are below `target/lab`, or below `MAGNETITE_LAB_DIR` for
/// those who share one lab's artefacts between several checkouts.
#[derive(Debug, Clone)]
pub struct Paths {
    workspace: PathBuf,
    lab: PathBuf,
}

impl Paths {
    /// Finds the workspace: from the crate that cargo runs, else from the working directory, up.
    pub fn find() -> Result<Self> {
        let from = match std::env::var_os("CARGO_MANIFEST_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => std::env::current_dir().context("read the working directory")?,
        };
        let workspace = from
            .ancestors()
            .find(|dir| is_workspace(dir))
            .with_context(|| format!("no cargo workspace at or above {}", from.display()))?
            .to_owned();
        let lab = match std::env::var_os("MAGNETITE_LAB_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => match std::env::var_os("CARGO_TARGET_DIR") {
                Some(dir) => workspace.join(dir).join("lab"),
                None => workspace.join("target/lab"),
            },
        };
        std::fs::create_dir_all(&lab).with_context(|| format!("create {}", lab.display()))?;
        Ok(Self { workspace, lab })
    }

    /// The root of the source tree.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// `target/lab`.
    #[must_use]
    pub fn lab(&self) -> &Path {
        &self.lab
    }

    /// The Kubernetes binaries.
    #[must_use]
    pub fn kube(&self) -> PathBuf {
        self.lab.join("kube")
    }

    /// Other tools that the lab builds (Helm).
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.lab.join("bin")
    }

    /// What machines boot.
    #[must_use]
    pub fn guest(&self) -> PathBuf {
        self.lab.join("guest")
    }

    /// One folder a run: consoles, captures, logs.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.lab.join("runs")
    }
}

fn is_workspace(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]"))
}
