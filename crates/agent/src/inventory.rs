//! What the box is made of, from /sys and /proc. Bounded as the schema of `api::report` says: a box says this of
//! itself, and a strange board must not make its own report unsendable.
//!
//! What cannot be read is left out. Nothing here fails.

use std::{
    fs,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use magnetite_api::{
    join::IdentityFacts,
    report::{Disk, Inventory, Nic, PciDevice, SwitchPort},
    types::serial_is_bogus,
};
use magnetite_wire::lldp::Neighbour;

use crate::files::Paths;

/// As many of one kind as the schema takes.
const MOST: usize = 64;
/// As many bytes of one file as are looked at.
const FILE_LIMIT: u64 = 64 * 1024;

/// What the box is made of.
pub fn inventory(paths: &Paths) -> Inventory {
    let dmi = |name: &str| text(&paths.at("/sys/class/dmi/id").join(name), 128);
    let tree = |name: &str| text(&paths.at("/proc/device-tree").join(name), 128);
    let (bios, version) = (dmi("bios_vendor"), dmi("bios_version"));
    let cpuinfo = raw(&paths.at("/proc/cpuinfo")).unwrap_or_default();
    Inventory {
        manufacturer: dmi("sys_vendor"),
        product: dmi("product_name").or_else(|| tree("model")),
        serial: dmi("product_serial").or_else(|| tree("serial-number")),
        bmc_address: None,
        uuid: dmi("product_uuid").and_then(|uuid| uuid.parse().ok()),
        firmware_version: bios
            .into_iter()
            .chain(version)
            .reduce(|vendor, version| clean(&format!("{vendor} {version}"), 128)),
        firmware: firmware(paths),
        kernel: text(&paths.at("/proc/sys/kernel/osrelease"), 128),
        cpu_model: cpuinfo.lines().find_map(|line| value(line, "model name")).map(|model| clean(model, 128)),
        cpus: text(&paths.at("/sys/devices/system/cpu/online"), 4096).map_or(0, |list| count(&list)),
        memory_bytes: memory(&raw(&paths.at("/proc/meminfo")).unwrap_or_default()),
        disks: entries(&paths.at("/sys/block")).iter().filter_map(|disk| self::disk(disk)).take(MOST).collect(),
        nics: entries(&paths.at("/sys/class/net")).iter().filter_map(|nic| self::nic(nic, paths)).take(MOST).collect(),
        gpus: entries(&paths.at("/sys/bus/pci/devices")).iter().filter_map(|gpu| self::gpu(gpu)).take(MOST).collect(),
    }
}

/// The address that the BMC says it has, asked by the program for that over the box's own bus. None without program, driver or BMC.
pub fn bmc_address(ipmitool: &Path) -> Option<String> {
    let said =
        Command::new(ipmitool).args(["lan", "print"]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    bmc_address_of(&String::from_utf8_lossy(&said.stdout))
}

/// `IP Address              : 10.0.8.21`, among lines such as `IP Address Source       : Static Address`.
fn bmc_address_of(said: &str) -> Option<String> {
    let address: IpAddr = said.lines().find_map(|line| value(line, "IP Address"))?.parse().ok()?;
    (!address.is_unspecified()).then(|| address.to_string())
}

/// What a claim says of the box. Values that many boards share name none of them, so they are left out.
pub fn facts(inventory: &Inventory) -> IdentityFacts {
    IdentityFacts {
        macs: inventory.nics.iter().filter_map(|nic| nic.mac).filter(|mac| !mac.is_bogus()).collect(),
        uuid: inventory.uuid.filter(|uuid| !uuid.is_bogus()),
        serial: inventory.serial.clone().filter(|serial| !serial_is_bogus(serial)),
    }
}

/// The kernel's name for this boot, new each time. The Node's status carries it too.
pub fn boot_id(paths: &Paths) -> Option<String> {
    text(&paths.at("/proc/sys/kernel/random/boot_id"), 64)
}

fn firmware(paths: &Paths) -> Option<String> {
    if paths.at("/sys/firmware/efi").is_dir() {
        return Some("UEFI".to_owned());
    }
    // A board with a device tree and no SMBIOS has neither.
    paths.at("/sys/class/dmi/id").is_dir().then(|| "BIOS".to_owned())
}

fn memory(meminfo: &str) -> i64 {
    let kilobytes = meminfo.lines().find_map(|line| value(line, "MemTotal")?.split_whitespace().next()?.parse().ok());
    kilobytes.map_or(0, |kilobytes: i64| kilobytes.saturating_mul(1024))
}

/// How many processors a list such as `0-3,8` names.
fn count(list: &str) -> i32 {
    let span = |range: &str| -> Option<i32> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.trim().parse::<i32>().ok()?.checked_sub(first.trim().parse().ok()?)?.checked_add(1)
    };
    list.split(',').filter_map(span).fold(0, i32::saturating_add)
}

/// A disk is a block device with a device below it, unlike a loop or a RAID, with a size, unlike an empty reader.
fn disk(path: &Path) -> Option<Disk> {
    let name = name(path)?;
    let skipped = name.starts_with("sr") || name.starts_with("fd") || name.contains("boot") || name.contains("rpmb");
    if skipped || !path.join("device").exists() {
        return None;
    }
    // The kernel counts in 512 bytes here, whatever the disk's own sectors are.
    let size = text(&path.join("size"), 32)?.parse::<i64>().ok()?.saturating_mul(512);
    let serial = text(&path.join("device/serial"), 128)
        .or_else(|| text(&path.join("serial"), 128))
        // SCSI: page 0x80 of the vital product data, behind a head of four bytes.
        .or_else(|| {
            read(&path.join("device/vpd_pg80")).and_then(|page| some(&String::from_utf8_lossy(page.get(4..)?), 128))
        });
    (size > 0).then(|| Disk {
        name,
        size_bytes: size,
        model: text(&path.join("device/model"), 128),
        serial,
        rotational: text(&path.join("queue/rotational"), 4).as_deref() == Some("1"),
    })
}

/// A physical card has a device, unlike a bridge, a bond or a tunnel; a virtual function's device says whose it is.
fn nic(path: &Path, paths: &Paths) -> Option<Nic> {
    let device = path.join("device");
    if !device.exists() || device.join("physfn").exists() {
        return None;
    }
    // A card in a bond carries the bond's address; its own is here.
    let mac = text(&path.join("bonding_slave/perm_hwaddr"), 64).or_else(|| text(&path.join("address"), 64));
    let driver = fs::read_link(device.join("driver")).ok();
    Some(Nic {
        name: name(path)?,
        mac: mac.and_then(|mac| mac.parse().ok()),
        link: text(&path.join("carrier"), 4).as_deref() == Some("1"),
        speed_mbps: text(&path.join("speed"), 16).and_then(|speed| speed.parse().ok()).filter(|speed| *speed > 0),
        driver: driver.and_then(|driver| some(&driver.file_name()?.to_string_lossy(), 64)),
        switch: text(&path.join("ifindex"), 16)
            .and_then(|index| read(&paths.at("/run/systemd/netif/lldp").join(index)))
            .and_then(|frames| switch(&frames)),
    })
}

/// The first neighbour of those that systemd-networkd keeps for a card: frames as they came, the length of each before it in eight
/// bytes, the lowest first.
fn switch(mut frames: &[u8]) -> Option<SwitchPort> {
    while let Some((length, rest)) = frames.split_first_chunk() {
        let (frame, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        if let Ok(Neighbour { chassis, port, port_description, system_name }) = Neighbour::decode(frame) {
            return Some(SwitchPort {
                name: clean(&system_name.unwrap_or(chassis), 128),
                port: clean(&port, 128),
                description: port_description.and_then(|text| some(&text, 128)),
            });
        }
        frames = rest;
    }
    None
}

/// Display controllers (class 0x03) and accelerators (class 0x12).
fn gpu(path: &Path) -> Option<PciDevice> {
    let hex = |file: &str, digits: usize| {
        text(&path.join(file), 16).map(|id| id.trim_start_matches("0x").chars().take(digits).collect::<String>())
    };
    let class = hex("class", 6)?;
    (class.starts_with("03") || class.starts_with("12")).then_some(())?;
    Some(PciDevice {
        address: clean(&name(path)?, 16),
        vendor: hex("vendor", 4).unwrap_or_default(),
        device: hex("device", 4).unwrap_or_default(),
        class,
    })
}

/// What is in a folder, in the order of names.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn name(path: &Path) -> Option<String> {
    some(&path.file_name()?.to_string_lossy(), 64)
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (name, value) = line.split_once(':')?;
    (name.trim() == key).then(|| value.trim())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(FILE_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn raw(path: &Path) -> Option<String> {
    read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A file's text, without what a board's maker should not have put there; none if that leaves nothing.
fn text(path: &Path, most: usize) -> Option<String> {
    some(&raw(path)?, most)
}

fn some(text: &str, most: usize) -> Option<String> {
    Some(clean(text, most)).filter(|text| !text.is_empty())
}

fn clean(text: &str, most: usize) -> String {
    let printable: String = text.chars().filter(|c| !c.is_control()).collect();
    printable.trim().chars().take(most).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Paths {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boxes").join(name);
        Paths::new(&root, Path::new("/var/lib/magnetite"))
    }

    #[test]
    fn a_server_with_uefi_two_cards_three_disks_and_an_accelerator() {
        let found = inventory(&fixture("server"));
        assert_eq!(found.manufacturer.as_deref(), Some("Example Systems"));
        assert_eq!(found.product.as_deref(), Some("R1 gen 2"));
        assert_eq!(found.serial.as_deref(), Some("EX-0017"));
        assert_eq!(found.uuid.map(|uuid| uuid.to_string()).as_deref(), Some("3f0d2c5e-0000-4000-8000-000000000010"));
        assert_eq!(found.firmware.as_deref(), Some("UEFI"));
        assert_eq!(found.firmware_version.as_deref(), Some("Example BIOS 1.2.3"));
        assert_eq!(found.kernel.as_deref(), Some("6.12.0-example"));
        assert_eq!(found.cpu_model.as_deref(), Some("Example CPU @ 2.00GHz"));
        assert_eq!((found.cpus, found.memory_bytes), (9, 16_384_000 * 1024));
        let disks: Vec<_> = found.disks.iter().map(|d| (d.name.as_str(), d.size_bytes, d.rotational)).collect();
        assert_eq!(disks, [("nvme0n1", 1 << 30, false), ("sda", 2 << 30, true), ("vda", 1 << 30, false)]);
        let serials: Vec<_> = found.disks.iter().map(|d| d.serial.as_deref()).collect();
        assert_eq!(serials, [Some("NV-1"), Some("SCSI-2"), None]);
        let nics: Vec<_> = found.nics.iter().map(|n| (n.name.as_str(), n.link, n.speed_mbps)).collect();
        assert_eq!(nics, [("eno1", true, Some(10_000)), ("eno2", false, None)]);
        assert_eq!(found.nics[0].driver.as_deref(), Some("ixgbe"));
        assert_eq!(found.nics[1].mac.map(|mac| mac.to_string()).as_deref(), Some("52:54:00:30:00:11"));
        let gpus: Vec<_> = found.gpus.iter().map(|g| (g.vendor.as_str(), g.class.as_str())).collect();
        assert_eq!(gpus, [("1a03", "030000"), ("10de", "120000")]);
        let facts = facts(&found);
        assert_eq!((facts.macs.len(), facts.uuid.is_some(), facts.serial.is_some()), (2, true, true));
    }

    #[test]
    fn a_board_with_placeholders_names_nothing_and_still_reports() {
        let found = inventory(&fixture("placeholders"));
        assert_eq!(found.firmware.as_deref(), Some("BIOS"));
        assert_eq!(found.product.as_deref().map(|name| name.chars().count()), Some(128));
        assert_eq!(found.manufacturer.as_deref(), Some("Evil[31mMaker"), "control characters are gone");
        assert_eq!(facts(&found), IdentityFacts::default());
    }

    #[test]
    fn a_box_that_says_nothing_is_an_empty_inventory() {
        assert_eq!(inventory(&fixture("no-such-box")), Inventory::default());
    }

    #[test]
    fn the_first_switch_that_can_be_read_is_told() {
        let head =
            [&[1, 0x80, 0xc2, 0, 0, 0xe, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..], &[0x02, 7, 4, 2, 0, 0, 0, 0, 9]].concat();
        let kept = |frame: &[u8]| [&(frame.len() as u64).to_le_bytes()[..], frame].concat();
        let named = kept(&[&head[..], b"\x04\x05\x05swp7\x0a\x04leaf\x08\x03\x1br7"].concat());
        let want = SwitchPort { name: "leaf".into(), port: "swp7".into(), description: Some("r7".into()) };
        assert_eq!(switch(&[kept(b"no frame"), named.clone()].concat()), Some(want));
        let nameless = kept(&[&head[..], b"\x04\x05\x05swp7"].concat());
        assert_eq!(switch(&nameless).map(|switch| switch.name).as_deref(), Some("02:00:00:00:00:09"));
        for broken in [&named[..20], &[0xff; 30], b""] {
            assert_eq!(switch(broken), None);
        }
    }

    #[test]
    fn the_bmc_tells_its_address() {
        let said = "Set in Progress         : Set Complete\nIP Address Source       : Static Address\nIP Address              : 10.0.8.21\n";
        assert_eq!(bmc_address_of(said).as_deref(), Some("10.0.8.21"));
        assert_eq!(bmc_address_of("IP Address              : 0.0.0.0\n"), None);
        assert_eq!(bmc_address_of("Could not open device at /dev/ipmi0\n"), None);
        assert_eq!(bmc_address(Path::new("/no/such/ipmitool")), None);
    }

    #[test]
    fn processors_are_counted_from_ranges() {
        assert_eq!((count("0-3,8"), count("0"), count(""), count("9-x")), (5, 1, 0, 0));
    }
}
