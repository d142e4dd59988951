//! UEFI firmware that is newer than this machine's Debian. The TLS of Debian's builds up to 2025.02 offers no elliptic curves (its
//! ClientHello was looked at), without which our server speaks to nobody; 2026.08 does.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::apt;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::stamp::{self, Recipe};

/// The first suite that has one with elliptic curves.
const SUITE: &str = "sid";

/// Its files.
#[derive(Debug, Clone)]
pub struct Ovmf {
    /// The firmware itself.
    pub code: PathBuf,
    /// Its variables, as they come.
    pub variables: PathBuf,
}

/// Fetches it, or finds it fetched.
pub fn ensure(progress: &Progress, paths: &Paths) -> Result<Ovmf> {
    let dir = paths.lab().join("ovmf");
    let recipe = Recipe::default().with(SUITE).with(include_str!("ovmf.rs")).hash();
    if !stamp::is_fresh(&dir, &recipe) {
        let step = progress.step("fetching newer UEFI firmware");
        stamp::ensure(&dir, &recipe, |dir| {
            let root = dir.join("root");
            apt::download(SUITE, &["ovmf-generic"], &dir.join("apt"), &root)?;
            for file in ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"] {
                std::fs::copy(root.join("usr/share/OVMF").join(file), dir.join(file)).context("find OVMF")?;
            }
            std::fs::remove_dir_all(&root).context("remove what is not needed")
        })?;
        step.done(dir.display().to_string());
    }
    Ok(Ovmf { code: dir.join("OVMF_CODE_4M.fd"), variables: dir.join("OVMF_VARS_4M.fd") })
}
