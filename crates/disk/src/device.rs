//! The disks of a box, as /sys says. Bounded, and nothing here fails: what cannot be read is left out.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// As many disks as are looked at.
const MOST: usize = 256;
/// As many bytes of one file as are looked at.
const FILE_LIMIT: u64 = 16 * 1024;

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// The kernel's name, such as `nvme0n1`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes of a logical sector: what its partition table counts in.
    pub sector: u64,
    /// Serial number.
    pub serial: Option<String>,
    /// World Wide Name.
    pub wwn: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// It turns.
    pub rotational: bool,
    /// It can be pulled out while the box runs: a stick, a card.
    pub removable: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// It is an ATA disk, whatever bus it is behind.
    pub ata: bool,
    /// Names below `/dev/disk/by-path`.
    pub by_path: Vec<String>,
    /// Who uses it or a part of it: where it is mounted, or the device that stands on it.
    pub used_by: Vec<String>,
}

impl Disk {
    /// The disk in a sentence: name, size, model and serial number.
    pub fn words(&self) -> String {
        let size = magnetite_api::report::size_of(self.bytes);
        let model = self.model.as_deref().map_or(String::new(), |model| format!(", {model}"));
        let serial = self.serial.as_deref().map_or(String::new(), |serial| format!(", serial {serial}"));
        format!("{} ({size}{model}{serial})", self.name)
    }
}

/// The disks of a box whose `/sys`, `/proc` and `/dev` are below `root`, in the order of names. A disk is a block device with hardware behind it,
/// unlike a loop or a RAID, and with a size, unlike an empty reader.
pub fn disks(root: &Path) -> Vec<Disk> {
    let mounts = mounts(root);
    entries(&root.join("sys/block")).iter().filter_map(|path| disk(root, path, &mounts)).take(MOST).collect()
}

fn disk(root: &Path, path: &Path, mounts: &[(String, String)]) -> Option<Disk> {
    let name = path.file_name()?.to_str()?.to_owned();
    // Optical drives, floppies, and the boot and key areas of eMMC are no place for a system.
    let skipped = name.starts_with("sr") || name.starts_with("fd") || name.contains("boot") || name.contains("rpmb");
    if skipped || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) || !path.join("device").exists() {
        return None;
    }
    let number = |file: &str| text(&path.join(file)).and_then(|text| text.parse::<u64>().ok());
    // The kernel counts in 512 bytes here, whatever the disk's own sectors are.
    let bytes = number("size")?.checked_mul(512).filter(|bytes| *bytes > 0)?;
    let serial = text(&path.join("device/serial")).or_else(|| text(&path.join("serial"))).or_else(|| {
        // SCSI: page 0x80 of the vital product data, behind a head of four bytes.
        read(&path.join("device/vpd_pg80")).and_then(|page| clean(&String::from_utf8_lossy(page.get(4..)?)))
    });
    let wwn = text(&path.join("wwid")).or_else(|| text(&path.join("device/wwid")));
    Some(Disk {
        bytes,
        sector: number("queue/logical_block_size").filter(|size| matches!(size, 512..=65536)).unwrap_or(512),
        serial,
        wwn,
        model: text(&path.join("device/model")),
        rotational: number("queue/rotational") == Some(1),
        removable: number("removable") == Some(1),
        read_only: number("ro") == Some(1),
        ata: text(&path.join("device/vendor")).as_deref() == Some("ATA"),
        by_path: links(&root.join("dev/disk/by-path"), &name),
        used_by: users(path, &name, mounts),
        name,
    })
}

/// Where the disk and its partitions are mounted, and which devices stand on them.
fn users(path: &Path, name: &str, mounts: &[(String, String)]) -> Vec<String> {
    let partitions: Vec<PathBuf> =
        entries(path).into_iter().filter(|entry| entry.join("partition").is_file()).collect();
    let mut found = Vec::new();
    for device in std::iter::once(path.to_owned()).chain(partitions) {
        let device_name = device.file_name().and_then(|name| name.to_str()).unwrap_or(name).to_owned();
        let mounted = mounts.iter().filter(|(source, _)| *source == device_name);
        found.extend(mounted.map(|(_, place)| format!("mounted at {place}")));
        let holders = entries(&device.join("holders"));
        let names = holders.iter().filter_map(|holder| holder.file_name()?.to_str().map(str::to_owned));
        found.extend(names.map(|holder| format!("{holder} stands on it")));
    }
    found
}

/// Devices by name and the places where they are mounted, swap included.
fn mounts(root: &Path) -> Vec<(String, String)> {
    let device = |source: &str| source.strip_prefix("/dev/").map(str::to_owned);
    let table = raw(&root.join("proc/self/mounts")).unwrap_or_default();
    let mounted = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((device(words.next()?)?, words.next()?.to_owned()))
    });
    let swaps = raw(&root.join("proc/swaps")).unwrap_or_default();
    let swapped =
        swaps.lines().skip(1).filter_map(|line| Some((device(line.split_whitespace().next()?)?, "swap".to_owned())));
    mounted.chain(swapped).collect()
}

/// Names of links in a folder that lead to a device of this name.
fn links(folder: &Path, name: &str) -> Vec<String> {
    let leads = |path: &PathBuf| {
        fs::read_link(path).ok().and_then(|to| Some(to.file_name()?.to_str()? == name)).unwrap_or_default()
    };
    let named = |path: PathBuf| path.file_name()?.to_str().map(str::to_owned);
    entries(folder).into_iter().filter(leads).filter_map(named).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(FILE_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn raw(path: &Path) -> Option<String> {
    read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn text(path: &Path) -> Option<String> {
    clean(&raw(path)?)
}

/// At most 128 characters that can be printed; none if nothing is left.
fn clean(text: &str) -> Option<String> {
    let printable: String = text.chars().filter(|c| !c.is_control()).collect();
    let clean = printable.trim().chars().take(128).collect::<String>().trim_end().to_owned();
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn disks_are_read_with_who_uses_them() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        for (path, text) in [
            ("sys/block/nvme0n1/size", "2097152\n"),
            ("sys/block/nvme0n1/device/serial", "  NV-1  \n"),
            ("sys/block/nvme0n1/device/model", "Example \u{1b}[31mNVMe\n"),
            ("sys/block/nvme0n1/wwid", "eui.0025388b710c1d2a\n"),
            ("sys/block/nvme0n1/queue/logical_block_size", "4096\n"),
            ("sys/block/sda/size", "4194304\n"),
            ("sys/block/sda/ro", "1\n"),
            ("sys/block/sda/removable", "1\n"),
            ("sys/block/sda/device/vendor", "ATA     \n"),
            ("sys/block/sda/device/vpd_pg80", "\0\u{80}\0\u{6}SCSI-2"),
            ("sys/block/sda/queue/rotational", "1\n"),
            ("sys/block/sda/sda1/partition", "1\n"),
            ("sys/block/sda/sda1/holders/md0/uevent", ""),
            ("sys/block/loop0/size", "100\n"),
            ("sys/block/sr0/size", "100\n"),
            ("sys/block/sr0/device/model", "DVD\n"),
            ("sys/block/sdb/size", "0\n"),
            ("sys/block/sdb/device/model", "empty reader\n"),
            ("proc/self/mounts", "/dev/sda1 /boot ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n"),
            ("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1 partition 1 0 -2\n"),
        ] {
            file(root, path, text);
        }
        fs::create_dir_all(root.join("dev/disk/by-path")).expect("made");
        symlink("../../nvme0n1", root.join("dev/disk/by-path/pci-0000:01:00.0-nvme-1")).expect("linked");
        let found = disks(root);
        let names: Vec<_> = found.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["nvme0n1", "sda"]);
        let nvme = &found[0];
        assert_eq!((nvme.bytes, nvme.sector, nvme.serial.as_deref()), (1 << 30, 4096, Some("NV-1")));
        assert_eq!(nvme.model.as_deref(), Some("Example [31mNVMe"));
        assert_eq!(nvme.by_path, ["pci-0000:01:00.0-nvme-1"]);
        assert_eq!(nvme.used_by, ["mounted at swap"]);
        let sda = &found[1];
        assert!(sda.read_only && sda.removable && sda.rotational && sda.ata, "{sda:?}");
        assert_eq!(sda.serial.as_deref(), Some("SCSI-2"));
        assert_eq!(sda.used_by, ["mounted at /boot", "md0 stands on it"]);
        assert_eq!(disks(&root.join("nothing")), []);
    }
}
