//! The root file system: the base, our few files, the kubelet binary and the kernel's modules, as a
//! squashfs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::base::Base;
use super::{TEST_IMAGE, archive, path};
use crate::proc::Cmd;
use crate::progress::Step;

const PAUSE_IMAGE: &str = "magnetite.test/pause:1";

/// As process 1 of a container a shell has no default action for SIGTERM: without the trap, each
/// deletion of a pod takes its whole grace period.
const IDLE: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";

macro_rules! ours {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../guest/rootfs/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = ours![
    "etc/cni/net.d/10-lab.conflist",
    "etc/containerd/config.toml",
    "etc/modprobe.d/lab.conf",
    "etc/modules-load.d/containers.conf",
    "etc/sysctl.d/90-containers.conf",
    "etc/systemd/journald.conf.d/console.conf",
    "etc/systemd/system.conf.d/console.conf",
    "etc/systemd/network/10-lab.network",
    "etc/systemd/network/99-default.link",
    "etc/systemd/system/load-images.service",
    "etc/systemd/system/state-disk.service",
    "etc/systemd/system/var-lib-containerd.mount",
    "usr/local/libexec/state-disk",
];

/// Run with the new root as `$1`.
const ARRANGE: &str = r#"set -eu
root=$1
unit() { ln -sf "$2" "$root/etc/systemd/system/$1"; }
mkdir -p "$root"/etc/systemd/system/multi-user.target.wants \
         "$root"/etc/systemd/system/network-online.target.wants \
         "$root"/etc/systemd/system/containerd.service.requires
unit default.target /usr/lib/systemd/system/multi-user.target
unit multi-user.target.wants/load-images.service ../load-images.service
unit multi-user.target.wants/state-disk.service ../state-disk.service
unit multi-user.target.wants/systemd-networkd.service /usr/lib/systemd/system/systemd-networkd.service
unit network-online.target.wants/systemd-networkd-wait-online.service /usr/lib/systemd/system/systemd-networkd-wait-online.service
unit containerd.service.requires/var-lib-containerd.mount ../var-lib-containerd.mount
# Units that this system has no use for are removed, not masked: at a first boot Debian's presets
# enable all that there is, and a masked unit is an error to them. A getty would take the serial
# console from the journal, firstboot would ask it questions, the rest costs seconds under emulation.
(
  cd "$root/usr/lib/systemd/system"
  rm -rf apt-daily* dpkg-db-backup* e2scrub* fstrim* fsck* quota* rpcbind* sys-fs-fuse* \
    *getty* console-* debug-shell* cni-dhcp* x11-common* cryptdisks* initrd* \
    systemd-firstboot* systemd-hibernate* systemd-hybrid* systemd-suspend* systemd-pcr* systemd-tpm2* \
    systemd-logind* systemd-hwdb* systemd-homed* systemd-boot* systemd-sysupdate* systemd-ask-password* \
    systemd-battery* systemd-bless* systemd-creds* systemd-confext* systemd-sysext* systemd-mute* \
    systemd-quota* systemd-rfkill* systemd-pstore* systemd-timedated* systemd-localed* systemd-hostnamed* \
    systemd-network-generator* systemd-networkd-persistent* systemd-initctl* systemd-binfmt* systemd-journald-audit* systemd-journal-catalog* \
    proc-sys-fs-binfmt* sys-kernel-debug* sys-kernel-tracing* dev-hugepages* dev-mqueue*
  find . -xtype l -delete
)
find "$root/etc/systemd/system" -xtype l -lname '/*' | while read -r link; do
  [ -e "$root$(readlink "$link")" ] || rm -f "$link"
done
# Not a machine yet: systemd takes this for a first boot, so Ignition's presets count, and makes an
# id of its own (from the firmware's UUID).
echo uninitialized >"$root/etc/machine-id"
rm -f "$root/etc/hostname" "$root/var/lib/dbus/machine-id"
: >"$root/etc/resolv.conf"
# What the image needs neither to boot nor to run pods. containerd's other shims and CNI's other
# plugins are 70 MB of binaries that a machine would hold in memory.
rm -rf "$root"/boot "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log \
       "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale "$root"/usr/share/bash-completion \
       "$root"/usr/lib/udev/hwdb.d "$root"/usr/lib/udev/hwdb.bin
rm -f "$root"/usr/bin/containerd-shim "$root"/usr/bin/containerd-shim-runc-v1 "$root"/usr/bin/containerd-stress
for plugin in "$root"/usr/lib/cni/*; do
  case ${plugin##*/} in bridge | host-local | loopback | portmap) ;; *) rm -f "$plugin" ;; esac
done
# Nothing is newer than /usr: no hardware database, no linker cache, no users to be made at boot.
touch "$root/etc/.updated" "$root/var/.updated"
"#;

pub(super) fn recipe() -> String {
    let files: String = FILES.iter().map(|(name, text)| format!("{name}\n{text}\n")).collect();
    format!("{files}{ARRANGE}{IDLE}{PAUSE_IMAGE}{TEST_IMAGE} v1")
}

pub(super) fn build(base: &Base, kubelet: &Path, dir: &Path, step: &Step, log: &Path) -> Result<()> {
    let root = dir.join("root");
    Cmd::new("cp").args(["-a", "--reflink=auto", &path(&base.root()), &path(&root)]).run()?;
    let images = root.join("opt/images");
    std::fs::create_dir_all(&images)?;
    let busybox = root.join("usr/bin/busybox");
    // One archive: under emulation each start of `ctr` takes a second.
    archive::write(&images.join("lab.tar"), &[PAUSE_IMAGE, TEST_IMAGE], &busybox, IDLE)?;
    for (name, text) in FILES {
        let place = root.join(name);
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&place, text).with_context(|| format!("write {name}"))?;
        let mode = if name.contains("libexec") { 0o755 } else { 0o644 };
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode))?;
    }
    let kubelet_place = path(&root.join("usr/local/bin/kubelet"));
    Cmd::new("install").args(["-m755", &path(kubelet), &kubelet_place]).run()?;
    let modules = path(&base.extra().join("usr/lib/modules"));
    Cmd::new("cp").args(["-a", &modules, &path(&root.join("usr/lib/"))]).run()?;
    Cmd::new("depmod").args(["-b", &path(&root), &base.kernel_version()?]).run()?;
    Cmd::new("sh").args(["-c", ARRANGE, "sh", &path(&root)]).run()?;
    Cmd::new("mksquashfs")
        .args([path(&root), path(&dir.join("rootfs.squashfs"))])
        .args(["-comp", "zstd", "-Xcompression-level", "9", "-noappend", "-quiet", "-no-progress"])
        .run_watched(step, log)?;
    std::fs::remove_dir_all(&root).context("remove what the root was made from")
}
