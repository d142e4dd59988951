//! What we stand on: a list of it for who receives a release (SBOM), and whether it may be what it is (`deny.toml`).
//!
//! Neither is part of `cargo xtask test`: the tools are built from source first, which takes minutes, and the advisories are fetched.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use magnetite_e2e::{paths::Paths, progress::Progress};

use crate::build;

/// A program that is installed from the registry, with the versions that its own lock file names.
struct Tool {
    name: &'static str,
    version: &'static str,
}

const CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9" };
const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// What a release is made of, each with a list of its own.
const SHIPPED: [&str; 4] = ["magnetite-controller", "magnetite-bootserver", "magnetite-agent", "kubectl-magnetite"];
/// How CycloneDX files are named.
const ENDING: &str = ".cdx.json";

impl Tool {
    /// Its path. Installs it first, if it is not there in this version.
    fn ready(&self, progress: &Progress) -> Result<PathBuf> {
        let Self { name, version } = self;
        let folder = target()?.join("tools").join(format!("{name}-{version}"));
        let binary = folder.join("bin").join(name);
        if !binary.exists() {
            progress.line(format!(
                "installing {name} {version} into {} (cargo; minutes the first time) …",
                folder.display()
            ));
            let mut install = Command::new("cargo");
            // Debug: what it saves in minutes of building it loses in seconds of running.
            install.args(["install", "--debug", "--locked", "--root"]).arg(&folder).arg(format!("{name}@{version}"));
            build::run(&mut install)?;
        }
        Ok(binary)
    }
}

fn target() -> Result<PathBuf> {
    let paths = Paths::find()?;
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => paths.workspace().join(dir),
        None => paths.workspace().join("target"),
    })
}

/// Writes an SBOM of each program that is shipped, as CycloneDX, to `target/sbom`.
pub fn sbom() -> Result<()> {
    let tool = CYCLONEDX.ready(&Progress::new())?;
    let (root, folder) = (build::root()?, target()?.join("sbom"));
    let mut command = Command::new(tool);
    command.current_dir(&root).args(["cyclonedx", "--format", "json", "--all", "--target", &build::host()?]);
    build::run(&mut command)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    // It leaves a file beside each Cargo.toml of the workspace.
    let written = beside_manifests(&root)?;
    for package in SHIPPED {
        let name = format!("{package}{ENDING}");
        let file = written.iter().find(|path| path.file_name().is_some_and(|file| *file == *name));
        let file = file.with_context(|| format!("{} wrote no {name}", CYCLONEDX.name))?;
        std::fs::copy(file, folder.join(&name)).with_context(|| format!("copy {}", file.display()))?;
        println!("{}", folder.join(&name).display());
    }
    for path in written {
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// The SBOMs in the folders of the workspace's packages.
fn beside_manifests(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for parent in ["", "crates", "tests"] {
        let folder = root.join(parent);
        for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.join("Cargo.toml").exists() {
                let files = std::fs::read_dir(&path)?.flatten().map(|entry| entry.path());
                found.extend(files.filter(|path| path.to_string_lossy().ends_with(ENDING)));
            }
        }
    }
    Ok(found)
}

/// Licences, bans, duplicates and sources by deny.toml; then the advisories, if their database can be had.
pub fn deny() -> Result<()> {
    let tool = DENY.ready(&Progress::new())?;
    let call = |args: &[&str]| -> Result<Command> {
        let mut command = Command::new(&tool);
        command.current_dir(build::root()?).args(["deny", "--workspace", "--locked"]).args(args);
        Ok(command)
    };
    build::run(&mut call(&["check", "licenses", "bans", "sources"])?)?;
    let fetched = call(&["fetch", "db"])?.status().context("start cargo-deny")?;
    if !fetched.success() {
        println!("advisories were NOT checked: their database cannot be reached from here");
        return Ok(());
    }
    let checked = call(&["check", "--disable-fetch", "advisories"])?.status().context("start cargo-deny")?;
    if !checked.success() {
        bail!("an advisory is open: update the crate, or give it a line in deny.toml with its reason and a day");
    }
    Ok(())
}
