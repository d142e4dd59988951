//! The Kubernetes binaries and Helm.
//!
//! Machines with envtest's assets or a package have Kubernetes already; if the version is right,
//! those are taken. Otherwise it is built from source through Go's module proxy. Upstream does not
//! support that as it is (`k8s.io/kubernetes` requires its staging modules at v0.0.0 and replaces
//! them by paths), so a module of our own requires it and replaces each staging module by its
//! published version.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths::Paths;
use crate::proc::Cmd;
use crate::progress::{Progress, Step};

/// The version of Kubernetes that the lab runs.
pub const KUBERNETES: &str = "v1.36.3";
/// The version of Helm that the lab uses.
pub const HELM: &str = "v4.3.1";

const BINARIES: &[&str] = &["kube-apiserver", "kube-controller-manager", "kubelet", "kubectl"];

/// The Kubernetes binaries, all of version [`KUBERNETES`].
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// kube-apiserver
    pub apiserver: PathBuf,
    /// kube-controller-manager
    pub controller_manager: PathBuf,
    /// kubelet; it runs in the machines, not here
    pub kubelet: PathBuf,
    /// kubectl
    pub kubectl: PathBuf,
}

/// Finds or builds the Kubernetes binaries.
pub fn kubernetes(progress: &Progress, paths: &Paths) -> Result<Kubernetes> {
    let [apiserver, controller_manager, kubelet, kubectl] = BINARIES else {
        bail!("the list of binaries has changed");
    };
    let get = |name: &str| match find(name, paths) {
        Some(path) => Ok(path),
        None => build(name, progress, paths),
    };
    Ok(Kubernetes {
        apiserver: get(apiserver)?,
        controller_manager: get(controller_manager)?,
        kubelet: get(kubelet)?,
        kubectl: get(kubectl)?,
    })
}

/// A binary of the right version: one that we built, else envtest's, else one on the PATH. The
/// version that it prints is its stamp: a build is renamed into place only when it is whole.
fn find(name: &str, paths: &Paths) -> Option<PathBuf> {
    let mut dirs = vec![paths.kube()];
    dirs.extend(std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from));
    dirs.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.is_file() && version_is_right(name, path))
}

fn version_is_right(name: &str, path: &Path) -> bool {
    let args: &[&str] = if name == "kubectl" { &["version", "--client"] } else { &["--version"] };
    let said = Cmd::new(path).args(args.iter().copied()).timeout(Duration::from_secs(20)).run();
    said.is_ok_and(|text| text.split_whitespace().any(|word| word == KUBERNETES))
}

fn build(name: &str, progress: &Progress, paths: &Paths) -> Result<PathBuf> {
    let step = progress.step(format!("building {name} {KUBERNETES} (once; minutes)"));
    let source = paths.lab().join("kube-src");
    let log = source.join(format!("{name}.log"));
    module(&source, &step)?;
    let number = KUBERNETES.trim_start_matches('v');
    let (major, minor) = match number.split('.').collect::<Vec<_>>().as_slice() {
        [major, minor, _] => ((*major).to_owned(), (*minor).to_owned()),
        _ => bail!("{KUBERNETES} is not a version"),
    };
    // Without these the binaries report v0.0.0, which kubectl and the API server refuse to serve.
    let mut flags = "-s -w".to_owned();
    for (field, value) in [
        ("gitVersion", KUBERNETES),
        ("gitMajor", &major),
        ("gitMinor", &minor),
        ("gitTreeState", "clean"),
        ("gitCommit", "unknown"),
        ("buildDate", "2026-01-01T00:00:00Z"),
    ] {
        write!(flags, " -X k8s.io/component-base/version.{field}={value}")?;
    }
    let package = format!("k8s.io/kubernetes/cmd/{name}");
    let place = paths.kube().join(name);
    go_to_place(&place, |out| {
        go(&source).args(["build", "-trimpath", "-ldflags", &flags, "-o", out, &package]).run_watched(&step, &log)
    })?;
    if !version_is_right(name, &place) {
        bail!("{} is not {KUBERNETES}", place.display());
    }
    step.done(place.display().to_string());
    Ok(place)
}

/// Writes the module that requires Kubernetes, unless it is there.
fn module(dir: &Path, step: &Step) -> Result<()> {
    let done = dir.join(format!(".{KUBERNETES}"));
    if done.is_file() && dir.join("go.sum").is_file() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    let log = dir.join("module.log");
    step.note("reading Kubernetes' go.mod");
    let info = go(dir)
        .args(["mod", "download", "-json", &format!("k8s.io/kubernetes@{KUBERNETES}")])
        .timeout(Duration::from_secs(900))
        .run()?;
    let info: Value = serde_json::from_str(&info).context("read what go says")?;
    let upstream = info["GoMod"].as_str().context("go names no go.mod")?;
    let upstream = std::fs::read_to_string(upstream).context("read Kubernetes' go.mod")?;
    std::fs::write(dir.join("go.mod"), our_module(&upstream)?)?;
    let imports: String = BINARIES.iter().map(|name| format!("import _ \"k8s.io/kubernetes/cmd/{name}\"\n")).collect();
    // The imports are of main packages, which only `go mod tidy` looks at, and only under a tag.
    std::fs::write(dir.join("tools.go"), format!("//go:build tools\n\npackage tools\n\n{imports}"))?;
    go(dir).args(["mod", "tidy"]).run_watched(step, &log)?;
    std::fs::write(done, "")?;
    Ok(())
}

/// Our go.mod: upstream's go and godebug lines, Kubernetes itself, and each staging module at the
/// version that was published with it.
fn our_module(upstream: &str) -> Result<String> {
    let staging_version = KUBERNETES.replacen("v1.", "v0.", 1);
    let go_version =
        upstream.lines().find_map(|line| line.strip_prefix("go ")).context("Kubernetes' go.mod names no Go version")?;
    let mut text = format!(
        "module magnetite.dev/lab/kubernetes\n\ngo {go_version}\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\nreplace (\n"
    );
    let mut staging: Vec<&str> = upstream
        .lines()
        .filter(|line| line.contains("=> ./staging/"))
        .filter_map(|line| line.trim().trim_start_matches("replace ").split_whitespace().next())
        .collect();
    if staging.is_empty() {
        // The published go.mod has no replaces; the modules at v0.0.0 are the staging ones.
        staging = upstream
            .lines()
            .map(|line| line.trim().trim_start_matches("require "))
            .filter_map(|line| line.strip_suffix(" v0.0.0").or_else(|| line.strip_suffix(" v0.0.0 // indirect")))
            .collect();
    }
    if staging.is_empty() {
        bail!("Kubernetes' go.mod names no staging modules");
    }
    for name in staging {
        writeln!(text, "\t{name} => {name} {staging_version}")?;
    }
    text.push_str(")\n");
    Ok(text)
}

/// Finds or builds Helm.
pub fn helm(progress: &Progress, paths: &Paths) -> Result<PathBuf> {
    let place = paths.bin().join("helm");
    let right = |path: &Path| {
        let said = Cmd::new(path).args(["version", "--template", "{{.Version}}"]).run();
        said.is_ok_and(|text| text.trim() == HELM)
    };
    if place.is_file() && right(&place) {
        return Ok(place);
    }
    let step = progress.step(format!("building Helm {HELM} (once; minutes)"));
    let source = paths.lab().join("helm-src");
    std::fs::create_dir_all(&source)?;
    let log = source.join("helm.log");
    let flags = format!("-s -w -X helm.sh/helm/v4/internal/version.version={HELM}");
    go_to_place(&place, |out| {
        let bin = Path::new(out).with_extension("dir");
        std::fs::create_dir_all(&bin)?;
        go(&source)
            .env("GOBIN", bin.display().to_string())
            .args(["install", "-trimpath", "-ldflags", &flags])
            .arg(format!("helm.sh/helm/v4/cmd/helm@{HELM}"))
            .run_watched(&step, &log)?;
        std::fs::rename(bin.join("helm"), out)?;
        Ok(std::fs::remove_dir(bin)?)
    })?;
    if !right(&place) {
        bail!("{} is not {HELM}", place.display());
    }
    step.done(place.display().to_string());
    Ok(place)
}

/// Go, with what every build here wants. Go's caches stay where they are by default: they are
/// shared with whatever else this machine builds.
fn go(dir: &Path) -> Cmd {
    Cmd::new("go").dir(dir).env("GOFLAGS", "-mod=mod -buildvcs=false").env("CGO_ENABLED", "0")
}

/// Builds beside the place and renames into it.
fn go_to_place(place: &Path, build: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let dir = place.parent().context("a place has a folder")?;
    std::fs::create_dir_all(dir)?;
    let name = place.file_name().and_then(|name| name.to_str()).context("a place has a name")?;
    let beside = dir.join(format!(".{name}.making"));
    build(beside.to_str().context("the path of the lab is not UTF-8")?)?;
    std::fs::rename(&beside, place).with_context(|| format!("move {name} into place"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_replaced_by_their_published_versions() {
        let upstream = "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\n\
                        replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let ours = our_module(upstream).expect("is written");
        assert!(ours.contains("\tk8s.io/api => k8s.io/api v0.36.3\n"), "{ours}");
        assert!(ours.contains("\ngo 1.26.0\n"), "{ours}");
    }
}
