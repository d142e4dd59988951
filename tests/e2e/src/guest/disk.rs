//! The same system as an image for a disk: what a vendor's image for "install to disk" is to a site. It boots by BIOS and by UEFI.
//!
//! | Partition | What |
//! |---|---|
//! | `ESP`, FAT | kernel and initrd; systemd-boot for UEFI, syslinux for a BIOS |
//! | `OEM`, ext4 | empty: whoever installs the image puts the first boot's Ignition config there, as `/config.ign` |
//! | `root`, ext4 | the guest's root as its squashfs, and room for what is written over it: nothing of that is lost with the power |

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Guest, path};
use crate::paths::Paths;
use crate::proc::Cmd;
use crate::progress::Progress;
use crate::stamp::{self, Recipe};

/// Sizes in MiB; the first partition begins after one.
const ESP: u32 = 64;
const OEM: u32 = 8;
const ROOT: u32 = 320;
const EFI_BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const BIOS_BOOT: &str = "/usr/lib/syslinux/mbr/gptmbr.bin";
/// The file with the first partition's sum.
const FIRST_PARTITION: &str = "first-partition.sha256";
const ARGUMENTS: &str = "console=ttyS0 panic=10 magnetite.disk=root ignition.platform.id=metal";

/// Run with the folder of the pieces as `$1` and the image as `$2`; sizes and arguments by environment.
const ASSEMBLE: &str = r#"set -eu
cd "$1"
truncate -s "${ESP}M" esp
mkfs.vfat -F 32 -n ESP -i 4c414230 esp >/dev/null
mmd -i esp ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
mcopy -i esp "$EFI_BOOT" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i esp "$KERNEL" ::/vmlinuz
mcopy -i esp "$INITRD" ::/initrd.img
printf 'timeout 0\ndefault lab.conf\n' | mcopy -i esp - ::/loader/loader.conf
printf 'title lab\nlinux /vmlinuz\ninitrd /initrd.img\noptions %s\n' "$ARGUMENTS" | mcopy -i esp - ::/loader/entries/lab.conf
printf 'default lab\nlabel lab\n linux /vmlinuz\n initrd /initrd.img\n append %s\n' "$ARGUMENTS" | mcopy -i esp - ::/syslinux.cfg
syslinux --install esp
sha256sum esp >"$FIRST_PARTITION"
truncate -s "${OEM_SIZE}M" oem
mkfs.ext4 -q -m 0 -L OEM oem
truncate -s "${ROOT}M" root.ext4
mkfs.ext4 -q -m 0 -L root -d root root.ext4
truncate -s "$((1 + ESP + OEM_SIZE + ROOT + 1))M" "$2"
sfdisk -q "$2" <<TABLE
label: gpt
start=1MiB, size=${ESP}MiB, type=U, name=ESP, attrs=LegacyBIOSBootable
start=$((1 + ESP))MiB, size=${OEM_SIZE}MiB, type=L, name=OEM
start=$((1 + ESP + OEM_SIZE))MiB, size=${ROOT}MiB, type=L, name=root
TABLE
dd if="$BIOS_BOOT" of="$2" bs=440 count=1 conv=notrunc status=none
dd if=esp of="$2" bs=1M seek=1 conv=notrunc,sparse status=none
dd if=oem of="$2" bs=1M seek=$((1 + ESP)) conv=notrunc,sparse status=none
dd if=root.ext4 of="$2" bs=1M seek=$((1 + ESP + OEM_SIZE)) conv=notrunc,sparse status=none
"#;

/// Run with a folder as `$1`, the image as `$2` and the disk as `$3`. debugfs writes into a file system that is not mounted.
const INSTALL: &str = r#"set -eu
cd "$1"
zstd -q -dc "$2" | dd of="$3" bs=1M iflag=fullblock conv=sparse,notrunc status=none
dd if="$3" of=oem bs=1M skip="$OEM_START" count="$OEM_SIZE" status=none
debugfs -w -R 'write config.ign config.ign' oem 2>debugfs.log
dd if=oem of="$3" bs=1M seek="$OEM_START" conv=notrunc status=none
rm oem config.ign
"#;

/// What a boot server serves to be installed.
#[derive(Debug, Clone)]
pub struct DiskImage {
    /// The image, compressed by zstd. Beside it are the files that machines boot.
    pub file: PathBuf,
    /// The size of what is in it, in bytes.
    pub size: u64,
}

impl DiskImage {
    /// The folder to serve: the image, and the guest that boots in memory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.file.parent().unwrap_or(&self.file)
    }

    /// True if a disk begins as the image does, as far as no system writes once it is installed: the first partition, whose files boot it.
    pub fn boots(&self, disk: &Path) -> Result<bool> {
        let script = "dd if=\"$1\" bs=1M skip=1 count=\"$ESP\" status=none | sha256sum";
        let has = Cmd::new("sh").args(["-c", script, "sh", &path(disk)]).env("ESP", ESP.to_string()).run()?;
        let should = std::fs::read_to_string(self.dir().join(FIRST_PARTITION)).context("read what it should be")?;
        Ok(has.split_whitespace().next() == should.split_whitespace().next())
    }

    /// Installs the image to a disk as a person would, by `dd`, and lays `config` on it for the first boot.
    pub fn install(&self, disk: &Path, config: &str) -> Result<()> {
        let dir = disk.parent().context("a disk's file has a folder")?;
        std::fs::write(dir.join("config.ign"), config)?;
        Cmd::new("sh")
            .args(["-c", INSTALL, "sh", &path(dir), &path(&self.file), &path(disk)])
            .env("OEM_START", (1 + ESP).to_string())
            .env("OEM_SIZE", OEM.to_string())
            .timeout(std::time::Duration::from_secs(300))
            .run()?;
        Ok(())
    }
}

/// Makes the image, unless it is there.
pub fn ensure(progress: &Progress, paths: &Paths, guest: &Guest) -> Result<DiskImage> {
    let dir = paths.guest().join("disk");
    let made_from = std::fs::read_to_string(guest.dir.join(stamp::STAMP)).context("read the guest's stamp")?;
    let sizes = format!("{ESP} {OEM} {ROOT}");
    let recipe = Recipe::default().with(made_from).with(ASSEMBLE).with(ARGUMENTS).with(sizes).hash();
    if !stamp::is_fresh(&dir, &recipe) {
        let step = progress.step("packing the image that is installed to disks");
        stamp::ensure(&dir, &recipe, |dir| {
            let (parts, raw) = (dir.join("parts"), dir.join("disk.raw"));
            std::fs::create_dir_all(&parts)?;
            let root = parts.join("root");
            std::fs::create_dir(&root)?;
            std::fs::hard_link(&guest.rootfs, root.join("root.squashfs"))?;
            step.note("partitions");
            Cmd::new("sh")
                .args(["-c", ASSEMBLE, "sh", &path(&parts), &path(&raw)])
                .env("ESP", ESP.to_string())
                .env("FIRST_PARTITION", path(&dir.join(FIRST_PARTITION)))
                .env("OEM_SIZE", OEM.to_string())
                .env("ROOT", ROOT.to_string())
                .env("EFI_BOOT", EFI_BOOT)
                .env("BIOS_BOOT", BIOS_BOOT)
                .env("KERNEL", path(&guest.kernel))
                .env("INITRD", path(&guest.initrd))
                .env("ARGUMENTS", ARGUMENTS)
                .timeout(std::time::Duration::from_secs(300))
                .run()?;
            std::fs::remove_dir_all(&parts)?;
            step.note("compression");
            std::fs::write(dir.join("size"), std::fs::metadata(&raw)?.len().to_string())?;
            Cmd::new("zstd")
                .args(["-q", "-3", "-T0", "--rm", &path(&raw), "-o", &path(&dir.join("disk.raw.zst"))])
                .timeout(std::time::Duration::from_secs(600))
                .run()?;
            for file in [&guest.kernel, &guest.initrd, &guest.rootfs] {
                let name = file.file_name().context("a file of the guest has a name")?;
                std::fs::hard_link(file, dir.join(name))?;
            }
            Ok(())
        })?;
        step.done(dir.display().to_string());
    }
    let size = std::fs::read_to_string(dir.join("size")).context("read the image's size")?.parse()?;
    Ok(DiskImage { file: dir.join("disk.raw.zst"), size })
}
