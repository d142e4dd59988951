//! The first stage of the guest: a Debian root with packages, as mmdebstrap leaves it, with the
//! kernel and Ignition unpacked beside it (installed, they would pull in an initramfs generator).

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::path;
use crate::apt;
use crate::paths::Paths;
use crate::proc::Cmd;
use crate::progress::Progress;
use crate::stamp::{self, Recipe};

const SUITE: &str = "trixie";

const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "udev",
    "kmod",
    "mount",
    "util-linux",
    "procps",
    "iproute2",
    "ca-certificates",
    // what the kubelet and CNI call
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "conntrack",
    "ethtool",
    // the state disk
    "e2fsprogs",
    // the initrd, and the container images
    "busybox-static",
];

const OPTIONS: &[&str] = &[
    "--variant=minbase",
    "--mode=root",
    "--format=directory",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--aptopt=APT::Install-Recommends \"false\"",
    "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// Runs with the new root as `$1` while its package lists are there. `linux-image-cloud-amd64` is
/// only a pointer to the package that holds the kernel.
const FETCH: &str = r#"set -eu
cd "$DEBS"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
apt-get download -q "$kernel" ignition
mkdir ../extra
for deb in *.deb; do dpkg-deb -x "$deb" ../extra; done
"#;

pub(super) struct Base {
    dir: PathBuf,
    recipe: String,
}

impl Base {
    pub(super) fn recipe(&self) -> &str {
        &self.recipe
    }

    /// The installed root. To be copied, not changed.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The kernel's and Ignition's files.
    pub(super) fn extra(&self) -> PathBuf {
        self.dir.join("extra")
    }

    pub(super) fn kernel(&self) -> Result<PathBuf> {
        Ok(self.extra().join("boot").join(format!("vmlinuz-{}", self.kernel_version()?)))
    }

    pub(super) fn kernel_version(&self) -> Result<String> {
        let dir = self.extra().join("usr/lib/modules");
        let first = std::fs::read_dir(&dir)
            .with_context(|| format!("read {}", dir.display()))?
            .next()
            .context("the kernel package has no modules")??;
        Ok(first.file_name().to_string_lossy().into_owned())
    }

    pub(super) fn ignition(&self) -> PathBuf {
        self.extra().join("usr/lib/dracut/modules.d/30ignition/ignition")
    }
}

pub(super) fn ensure(progress: &Progress, paths: &Paths) -> Result<Base> {
    let recipe = Recipe::default().with(SUITE).with(PACKAGES.join(",")).with(OPTIONS.join("\n")).with(FETCH).hash();
    let base = Base { dir: paths.guest().join("base"), recipe };
    if stamp::is_fresh(&base.dir, &base.recipe) {
        return Ok(base);
    }
    std::fs::create_dir_all(paths.guest())?;
    let mirror = apt::debian_mirror()?;
    let step = progress.step(format!("installing Debian {SUITE} for the machines (once; a minute)"));
    stamp::ensure(&base.dir, &base.recipe, |dir| {
        let debs = dir.join("debs");
        let hook = dir.join("fetch");
        std::fs::create_dir(&debs)?;
        std::fs::write(&hook, FETCH)?;
        Cmd::new("mmdebstrap")
            .args(OPTIONS.iter().copied())
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(format!("--customize-hook=sh '{}' \"$1\"", hook.display()))
            .env("DEBS", path(&debs))
            .args([SUITE.to_owned(), path(&dir.join("root")), format!("deb {mirror} {SUITE} main")])
            .run_watched(&step, &paths.guest().join("base.log"))?;
        std::fs::remove_dir_all(&debs)?;
        // For modprobe's `-d`, as in a merged-usr system.
        std::os::unix::fs::symlink("usr/lib", dir.join("extra/lib")).context("link lib")
    })?;
    step.done(base.kernel_version()?);
    Ok(base)
}
