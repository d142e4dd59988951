//! What machines boot: a kernel, an initrd and a root file system. It stands for the operating
//! system image that a real site would take from its vendor: Debian with systemd, containerd and a
//! kubelet binary, and the real Ignition in the initrd. So it holds no trace of a cluster (no
//! kubelet unit, no kubelet configuration, no keys): all of that must come from Magnetite.
//!
//! It is made in two stages, because the first takes a minute and rarely changes: [`base`] is a
//! Debian with packages, the rest is packed from it in seconds whenever a file of ours changes.

mod archive;
mod base;
pub mod disk;
mod initrd;
mod rootfs;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::proc::Cmd;
use crate::progress::Progress;
use crate::stamp::{self, Recipe};

/// A container image that every machine has, for test workloads (`imagePullPolicy: Never`).
pub const TEST_IMAGE: &str = "magnetite.test/busybox:1";

/// The files that a boot server serves.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The folder that holds the three files.
    pub dir: PathBuf,
    /// Linux.
    pub kernel: PathBuf,
    /// The initrd: see `guest/initrd/init` for the kernel arguments that it understands.
    pub initrd: PathBuf,
    /// The root file system, for `magnetite.root=URL`.
    pub rootfs: PathBuf,
}

/// Makes the guest, unless it is there.
pub fn ensure(progress: &Progress, paths: &Paths, kubelet: &Path) -> Result<Guest> {
    let base = base::ensure(progress, paths)?;
    let dir = paths.guest().join("image");
    let recipe = Recipe::default()
        .with(base.recipe())
        .with(rootfs::recipe())
        .with(initrd::recipe())
        .with(identity(kubelet)?)
        .hash();
    let guest = Guest {
        kernel: dir.join("vmlinuz"),
        initrd: dir.join("initrd.img"),
        rootfs: dir.join("rootfs.squashfs"),
        dir: dir.clone(),
    };
    if stamp::is_fresh(&dir, &recipe) {
        return Ok(guest);
    }
    let step = progress.step("packing the image that machines boot");
    stamp::ensure(&dir, &recipe, |dir| {
        let log = paths.guest().join("image.log");
        Cmd::new("cp").args([path(&base.kernel()?), path(&dir.join("vmlinuz"))]).run()?;
        step.note("initrd");
        initrd::build(&base, &dir.join("initrd.img"))?;
        step.note("root file system");
        rootfs::build(&base, kubelet, dir, &step, &log)
    })?;
    let mib = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len() >> 20);
    step.done(format!("initrd {} MiB, root {} MiB", mib(&guest.initrd), mib(&guest.rootfs)));
    Ok(guest)
}

/// Which kubelet this is, without reading its 80 MB.
fn identity(kubelet: &Path) -> Result<String> {
    let meta = std::fs::metadata(kubelet).with_context(|| format!("find {}", kubelet.display()))?;
    let version = Cmd::new(kubelet).arg("--version").run()?;
    Ok(format!("{version} {}", meta.len()))
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
