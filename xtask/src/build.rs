//! Calls cargo for the product: always for the same target and with the same flags, so that tests and
//! binaries share what they are built from.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use magnetite_e2e::{magnetite::Binaries, paths::Paths, progress::Progress};

/// The workspace's root.
pub fn root() -> Result<PathBuf> {
    Ok(Paths::find()?.workspace().to_owned())
}

/// The machine's own target triple. Naming it keeps `crt-static` away from build scripts and macros.
pub fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc; install Rust by https://rustup.rs")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// `cargo SUBCOMMAND`, for static binaries: an agent must run on a system whose libraries nobody knows.
pub fn cargo(subcommand: &str) -> Result<Command> {
    let host = host()?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?).arg(subcommand).args(["--target", &host]);
    command.env(rustflags_variable(&host), "-C target-feature=+crt-static");
    Ok(command)
}

/// The variable with the compiler's flags for one target: build scripts and macros are built without them.
pub fn rustflags_variable(host: &str) -> String {
    format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_"))
}

/// Runs a command whose output people see.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{status}: {shown}");
    }
    Ok(())
}

/// Builds the three binaries, and the plugin of kubectl.
pub fn binaries(progress: &Progress) -> Result<Binaries> {
    // Cargo's own progress follows, so no heartbeat of ours.
    progress
        .line("building magnetite-controller, magnetite-bootserver, magnetite-agent and kubectl-magnetite (cargo) …");
    let mut command = cargo("build")?;
    command.args(["-p", "magnetite-controller", "-p", "magnetite-bootserver", "-p", "magnetite-agent"]);
    command.args(["-p", "kubectl-magnetite"]);
    run(&mut command)?;
    Ok(Binaries { dir: target()?.join("debug") })
}

/// Builds a binary as it is released.
pub fn release(progress: &Progress, package: &str) -> Result<PathBuf> {
    progress.line(format!("building {package} for release (cargo; minutes the first time) …"));
    run(cargo("build")?.args(["--release", "-p", package]))?;
    Ok(target()?.join("release").join(package))
}

/// Where cargo puts what it builds for the machine's own target.
fn target() -> Result<PathBuf> {
    let paths = Paths::find()?;
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => paths.workspace().join(dir),
        None => paths.workspace().join("target"),
    };
    Ok(target.join(host()?))
}
