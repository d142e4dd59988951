//! What must hold of the source: format, lints, the crate graph, that what is generated is up to date, and that the tests which the
//! security documents name are there.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, generate, requirements};

/// Crates that must never be among what a crate stands on: the rule of docs/architecture.md, held to.
const LAYERS: [(&str, &[&str]); 10] = [
    ("magnetite-wire", &["tokio", "serde", "kube", "magnetite-api", "magnetite-boot", "magnetite-daemon"]),
    ("magnetite-api", &["tokio", "kube-client", "kube-runtime", "hyper", "magnetite-wire", "magnetite-boot"]),
    (
        "magnetite-request",
        &["tokio", "kube-client", "kube-runtime", "hyper", "magnetite-wire", "magnetite-boot", "magnetite-daemon"],
    ),
    ("magnetite-tpm", &["tokio", "serde", "kube-core", "magnetite-api", "magnetite-wire", "magnetite-daemon"]),
    ("magnetite-bmc", &["kube-core", "magnetite-api", "magnetite-boot", "magnetite-wire", "aws-lc-rs", "openssl"]),
    ("magnetite-disk", &["tokio", "hyper", "kube-client", "magnetite-wire", "magnetite-boot", "magnetite-daemon"]),
    ("magnetite-boot", &["tokio", "kube-client", "kube-runtime", "hyper", "magnetite-wire", "magnetite-daemon"]),
    ("magnetite-catalog", &["tokio", "kube-client", "kube-runtime", "hyper", "magnetite-wire", "magnetite-daemon"]),
    ("kubectl-magnetite", &["kube-runtime", "magnetite-bootserver", "magnetite-controller", "aws-lc-rs", "openssl"]),
    ("magnetite-agent", &["kube-client", "kube-runtime", "magnetite-boot", "magnetite-controller", "rsa"]),
];

/// Runs every check.
pub fn run() -> Result<()> {
    let root = build::root()?;
    build::run(Command::new("cargo").current_dir(&root).args(["fmt", "--all", "--check"]))?;
    layers()?;
    generate::run(&root, true)?;
    requirements::check(&root)?;
    build::run(build::cargo("clippy")?.args(["--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// Compares the crate graph with the rule.
pub fn layers() -> Result<()> {
    for (package, forbidden) in LAYERS {
        let output = Command::new("cargo")
            .current_dir(build::root()?)
            .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
            .output()
            .context("run cargo tree")?;
        if !output.status.success() {
            bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        }
        let tree = String::from_utf8_lossy(&output.stdout);
        let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        if let Some(bad) = forbidden.iter().find(|name| names.contains(*name)) {
            bail!(
                "{package} stands on {bad}, which docs/architecture.md forbids; `cargo tree -p {package} -i {bad}` says how"
            );
        }
    }
    Ok(())
}
