//! The initrd: busybox, the drivers between firmware and root file system, Debian's Ignition.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::base::Base;
use super::path;
use crate::proc::Cmd;

/// Path in the initrd, content. All of them are programs.
const FILES: &[(&str, &str)] = &[
    ("init", include_str!("../../guest/initrd/init")),
    ("etc/udhcpc.script", include_str!("../../guest/initrd/udhcpc.script")),
    ("bin/setfiles", include_str!("../../guest/initrd/setfiles")),
];

/// Some of these are built into the kernel of the day; asking for them costs nothing.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "e1000",
    "e1000e",
    "virtio_blk",
    "virtio_rng",
    "loop",
    "squashfs",
    "overlay",
    "qemu_fw_cfg",
    "ext4",
];

const LIBRARIES: &[&str] = &["lib64/ld-linux-x86-64.so.2", "libc.so.6", "libblkid.so.1"];

pub(super) fn recipe() -> String {
    let files: String = FILES.iter().map(|(name, text)| format!("{name}\n{text}\n")).collect();
    format!("{files}{MODULES:?}{LIBRARIES:?} v1")
}

pub(super) fn build(base: &Base, out: &Path) -> Result<()> {
    let root = out.with_extension("making");
    for dir in [
        "bin",
        "sbin",
        "proc",
        "sys",
        "dev",
        "run",
        "etc",
        "lib",
        "lib64",
        "usr/bin",
        "lower",
        "rw",
        "sysroot",
        "media",
        "tmp",
        "lib/modules",
    ] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    busybox(base, &root)?;
    for (name, text) in FILES {
        let place = root.join(name);
        std::fs::write(&place, text)?;
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755))?;
    }
    modules(base, &root)?;
    ignition(base, &root)?;
    Cmd::new("sh")
        .args(["-ec", "find . | cpio -o -H newc --quiet | zstd -9 -q -T0 -o \"$1\"", "sh", &path(out)])
        .dir(&root)
        .run()?;
    std::fs::remove_dir_all(&root).context("remove what the initrd was made from")
}

fn busybox(base: &Base, root: &Path) -> Result<()> {
    let busybox = root.join("bin/busybox");
    std::fs::copy(base.root().join("usr/bin/busybox"), &busybox).context("copy busybox")?;
    for applet in Cmd::new(&busybox).arg("--list").run()?.lines() {
        let link = root.join("bin").join(applet);
        if link.symlink_metadata().is_err() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}

/// Unpacks the drivers, in the order in which they must be loaded, into /etc/modules.list.
fn modules(base: &Base, root: &Path) -> Result<()> {
    let version = base.kernel_version()?;
    let extra = path(&base.extra());
    Cmd::new("depmod").args(["-b", &extra, &version]).run()?;
    let mut files: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let depends = Cmd::new("modprobe")
            .args(["-d", &extra, "-S", &version, "--show-depends", module])
            .run()
            .unwrap_or_default();
        for line in depends.lines() {
            if let Some(file) = line.strip_prefix("insmod ") {
                let file = PathBuf::from(file.trim());
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
    }
    let mut list = String::new();
    for file in &files {
        let name = file.file_name().and_then(|name| name.to_str()).context("a module has a name")?;
        let place = format!("lib/modules/{}", name.trim_end_matches(".xz"));
        let target = path(&root.join(&place));
        match name.ends_with(".xz") {
            true => Cmd::new("sh").args(["-ec", "xz -dc \"$1\" >\"$2\"", "sh", &path(file), &target]),
            false => Cmd::new("cp").args([path(file), target]),
        }
        .run()?;
        list.push_str(&format!("/{place}\n"));
    }
    if !list.contains("virtio_net") {
        bail!("the kernel {version} has no virtio_net module where modprobe looks");
    }
    std::fs::write(root.join("etc/modules.list"), list).context("write the list of modules")
}

fn ignition(base: &Base, root: &Path) -> Result<()> {
    std::fs::copy(base.ignition(), root.join("usr/bin/ignition")).context("copy ignition")?;
    for library in LIBRARIES {
        let (from, to) = match library.contains('/') {
            true => (base.root().join(library), root.join(library)),
            false => (base.root().join("usr/lib/x86_64-linux-gnu").join(library), root.join("lib").join(library)),
        };
        std::fs::copy(&from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    // A library that is missing shows here, and not in a machine without a screen.
    let version = Cmd::new("chroot").args([path(root).as_str(), "/usr/bin/ignition", "--version"]).run()?;
    if !version.contains("Ignition") {
        bail!("ignition says {version:?}");
    }
    Ok(())
}
