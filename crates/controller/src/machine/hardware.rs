//! How a box differs from what it was in an earlier boot. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use magnetite_api::{
    machine::HardwareChange,
    report::{BootRecord, BootStepName, Disk, Inventory, Nic, PciDevice},
    time::seconds,
};

/// As many changes as are told.
const MOST: usize = 16;
/// Memory that the kernel can use differs a little from boot to boot: this part of it does not count.
const MEMORY_PART: i64 = 32;

/// What should stand in the status: a new change, the one that is known, or nothing once a later boot found nothing new.
pub fn change(
    known: Option<&HardwareChange>,
    before: Option<&Inventory>,
    now_is: Option<&Inventory>,
    boot: Option<&BootRecord>,
    now: Timestamp,
) -> Option<HardwareChange> {
    if let (Some(before), Some(after)) = (before, now_is) {
        let changes = differences(before, after);
        if !changes.is_empty() {
            return Some(HardwareChange { at: seconds(now), changes });
        }
    }
    let told_since = |known: &HardwareChange| {
        let told = boot.and_then(|boot| Some((boot.started_at.0, boot.step(BootStepName::AgentStarted)?.last_at.0)));
        told.is_some_and(|(began, told)| began > known.at.0 && told > known.at.0)
    };
    known.filter(|known| !told_since(known)).cloned()
}

/// What differs, a sentence each.
pub fn differences(before: &Inventory, after: &Inventory) -> Vec<String> {
    let mut all = Vec::new();
    let text = |name: &str, before: &Option<String>, after: &Option<String>| {
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        (before != after).then(|| format!("{name} was {}, is {}", said(before), said(after)))
    };
    all.extend(text("the product", &before.product, &after.product));
    all.extend(text("the serial number", &before.serial, &after.serial));
    let uuid = |inventory: &Inventory| inventory.uuid.map(|uuid| uuid.to_string());
    all.extend(text("the UUID", &uuid(before), &uuid(after)));
    all.extend(text("the processor", &before.cpu_model, &after.cpu_model));
    if before.cpus != after.cpus {
        all.push(format!("there were {} processors, there are {}", before.cpus, after.cpus));
    }
    let (was, is) = (before.memory_bytes, after.memory_bytes);
    if was.abs_diff(is) > was.max(is).max(0).unsigned_abs() / MEMORY_PART.unsigned_abs() {
        all.push(format!("there were {} of memory, there are {}", mebibytes(was), mebibytes(is)));
    }
    all.extend(sets("disk", before.disks.iter().map(disk).collect(), after.disks.iter().map(disk).collect()));
    all.extend(sets("network card", before.nics.iter().map(nic).collect(), after.nics.iter().map(nic).collect()));
    all.extend(sets("accelerator", before.gpus.iter().map(gpu).collect(), after.gpus.iter().map(gpu).collect()));
    all.truncate(MOST);
    all
}

fn mebibytes(bytes: i64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn sets(kind: &str, before: BTreeSet<String>, after: BTreeSet<String>) -> Vec<String> {
    let gone = before.difference(&after).map(|one| format!("{kind} gone: {one}"));
    let new = after.difference(&before).map(|one| format!("{kind} new: {one}"));
    gone.chain(new).collect()
}

/// A disk by its serial number: the kernel may name it otherwise each time. One without is known by its name and size.
fn disk(disk: &Disk) -> String {
    let Disk { name, size_bytes, model, serial, rotational: _ } = disk;
    let model = model.as_deref().unwrap_or("no model");
    match serial {
        Some(serial) => format!("{model} {serial} ({})", mebibytes(*size_bytes)),
        None => format!("{model} {name} ({})", mebibytes(*size_bytes)),
    }
}

/// A card by its address. Whether it has a link, and how fast, is no property of the box.
fn nic(nic: &Nic) -> String {
    let Nic { name, mac, link: _, speed_mbps: _, driver: _, switch: _ } = nic;
    mac.map_or_else(|| name.clone(), |mac| mac.to_string())
}

fn gpu(gpu: &PciDevice) -> String {
    let PciDevice { address, vendor, device, class: _ } = gpu;
    format!("{vendor}:{device} at {address}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::t;

    fn disk_of(name: &str, serial: Option<&str>) -> Disk {
        Disk { name: name.into(), size_bytes: 1 << 30, serial: serial.map(Into::into), ..Disk::default() }
    }

    fn server() -> Inventory {
        let nic = |mac: &str| Nic { name: "eno1".into(), mac: mac.parse().ok(), link: true, ..Nic::default() };
        Inventory {
            cpus: 8,
            memory_bytes: 32 << 30,
            disks: vec![disk_of("sda", Some("A")), disk_of("sdb", Some("B"))],
            nics: vec![nic("52:54:00:00:00:01")],
            ..Inventory::default()
        }
    }

    fn boot(began: i64, told: Option<i64>) -> BootRecord {
        let steps: Vec<_> = told.map(|at| (BootStepName::AgentStarted, at)).into_iter().collect();
        crate::machine::tests::boot(began, &steps)
    }

    #[test]
    fn names_links_and_a_little_memory_are_no_change() {
        let mut after = server();
        after.disks = vec![disk_of("sdc", Some("B")), disk_of("sda", Some("A"))];
        after.nics[0].link = false;
        after.memory_bytes -= 64 << 20;
        after.kernel = Some("7.0".into());
        assert_eq!(differences(&server(), &after), Vec::<String>::new());
    }

    #[test]
    fn each_change_is_told_by_what_a_person_finds_in_the_rack() {
        let mut after = server();
        after.disks[1] = disk_of("sdb", Some("C"));
        after.nics[0].mac = "52:54:00:00:00:02".parse().ok();
        after.memory_bytes = 24 << 30;
        after.cpus = 4;
        let want = [
            "there were 8 processors, there are 4",
            "there were 32768 MiB of memory, there are 24576 MiB",
            "disk gone: no model B (1024 MiB)",
            "disk new: no model C (1024 MiB)",
            "network card gone: 52:54:00:00:00:01",
            "network card new: 52:54:00:00:00:02",
        ];
        assert_eq!(differences(&server(), &after), want);
    }

    #[test]
    fn many_changes_are_cut() {
        let many = |letter: char| (0..60).map(|n| disk_of("x", Some(&format!("{letter}{n}")))).collect();
        let (before, after) = (Inventory { disks: many('a'), ..server() }, Inventory { disks: many('b'), ..server() });
        assert_eq!(differences(&before, &after).len(), MOST);
    }

    #[test]
    fn a_change_stands_until_a_later_boot_found_nothing_new() {
        let other = Inventory { cpus: 4, ..server() };
        let seen = |known: Option<&HardwareChange>, before: &Inventory, after: &Inventory, boot: &BootRecord, at| {
            change(known, Some(before), Some(after), Some(boot), t(at))
        };
        assert_eq!(change(None, None, Some(&server()), None, t(5)), None, "the first time is no change");
        let found = seen(None, &server(), &other, &boot(0, Some(5)), 6).unwrap();
        assert_eq!((&found.at, found.changes.len()), (&seconds(t(6)), 1));
        let known = Some(&found);
        assert_eq!(seen(known, &other, &other, &boot(0, Some(20)), 21), Some(found.clone()), "the same boot");
        assert_eq!(seen(known, &other, &other, &boot(30, None), 31), Some(found.clone()), "its agent told nothing yet");
        assert_eq!(seen(known, &other, &other, &boot(30, Some(40)), 41), None);
    }
}
