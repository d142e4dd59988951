//! From boot reports to a Machine's boot record and inventory. Reports are hostile input: what goes into a
//! status is cut and stripped here, whatever the schema let through (threats.md, S20).

use magnetite_api::{
    BootReport, Machine,
    install::{InstallState, InstallStatus, WipeState, WipeStatus, WipedDisk},
    report::{
        BootFailure, BootRecord, BootStep, Disk, EarlierBoot, Inventory, MOST_PREVIOUS, Nic, PciDevice, SubjectKind,
        SwitchPort,
    },
    time::{Time, seconds},
};
use magnetite_boot::history;

const STEPS: usize = 32;
/// The same of loaders that failed.
const LOADERS: usize = 8;
const LIST: usize = 64;

/// A stranger's text: without control characters and without those that turn the order of writing around,
/// at most `limit` characters.
pub fn clean(text: &str, limit: usize) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { c }).filter(|c| !hidden(*c)).take(limit).collect()
}

/// True if a report is about this very Machine, not about one of its name that was deleted.
pub fn is_about(report: &BootReport, machine: &Machine) -> bool {
    let subject = &report.spec.subject;
    subject.kind == SubjectKind::Machine
        && machine.metadata.name.as_ref() == Some(&subject.name)
        && machine.metadata.uid.as_ref() == Some(&subject.uid)
}

/// The newest boot of a Machine, from all boot servers and from what its status kept.
pub fn newest_boot(machine: &Machine, reports: &[impl AsRef<BootReport>]) -> Option<BootRecord> {
    let kept = machine.status.as_ref().and_then(|status| status.boot.clone());
    let reported = reports.iter().filter_map(|report| report.as_ref().spec.boot.clone()).collect();
    history::newest(kept.map(|kept| *kept), reported).map(boot)
}

/// The inventory that came with the newest boot; without one, what the status kept.
pub fn inventory_of(machine: &Machine, reports: &[impl AsRef<BootReport>]) -> Option<Inventory> {
    let specs = reports.iter().map(|report| &report.as_ref().spec).filter(|spec| spec.inventory.is_some());
    let newest = specs.max_by_key(|spec| spec.boot.as_ref().map(|boot| boot.started_at.0));
    let reported = newest.and_then(|spec| spec.inventory.clone()).map(inventory);
    reported.or_else(|| machine.status.as_ref()?.inventory.as_deref().cloned())
}

/// What is known of a Machine's installation: of the wanted intent before all others, that it is done before all else, and what is newer.
/// What the status kept of an earlier intent stays until something is known of this one: it is what is on the disk.
pub fn install_of(machine: &Machine, reports: &[impl AsRef<BootReport>]) -> Option<InstallStatus> {
    let kept = machine.status.as_ref().and_then(|status| status.install.as_deref().cloned());
    let reported = reports.iter().filter_map(|report| report.as_ref().spec.install.clone()).map(install);
    let wanted = machine.wanted_intent();
    let rank =
        |install: &InstallStatus| (install.intent == wanted, install.state == InstallState::Installed, install.at.0);
    // Of two that are alike the one that was kept: a status does not change without news.
    reported.chain(kept).max_by_key(rank)
}

fn install(install: InstallStatus) -> InstallStatus {
    let InstallStatus { intent, state, disk, image, at, message } = install;
    InstallStatus {
        intent: clean(&intent, 63),
        state,
        disk: disk.map(|text| clean(&text, 200)),
        image,
        at: moment(at),
        message: message.map(|text| clean(&text, 300)),
    }
}

/// What was said of the wiping that is wanted now: that it is done before all else, and what is newer.
pub fn wipe_of(machine: &Machine, reports: &[impl AsRef<BootReport>]) -> Option<WipeStatus> {
    let wanted = machine.wanted_wipe()?;
    let reported = reports.iter().filter_map(|report| report.as_ref().spec.wipe.clone());
    let newest = reported
        .filter(|wipe| wipe.intent == wanted.intent)
        .max_by_key(|wipe| (wipe.state == WipeState::Wiped, wipe.at.0))?;
    let WipeStatus { intent, state, disks, at, message } = newest;
    let text = |text: Option<String>| text.map(|text| clean(&text, 128));
    let disk = |disk: WipedDisk| {
        let WipedDisk { name, serial, model, mut methods, bytes, seconds, verified_bytes } = disk;
        methods.truncate(4);
        let (name, serial, model) = (clean(&name, 64), text(serial), text(model));
        WipedDisk { name, serial, model, methods, bytes, seconds, verified_bytes }
    };
    let disks = disks.into_iter().take(LIST).map(disk).collect();
    Some(WipeStatus { intent, state, disks, at: moment(at), message: message.map(|text| clean(&text, 300)) })
}

fn moment(time: Time) -> Time {
    seconds(time.0)
}

fn boot(record: BootRecord) -> BootRecord {
    let BootRecord {
        started_at,
        last_seen,
        server,
        firmware,
        architecture,
        mac,
        uuid,
        address,
        mut steps,
        failure,
        loader,
        mut failed_loaders,
        revision,
        previous,
    } = record;
    steps.truncate(STEPS);
    failed_loaders.truncate(LOADERS);
    BootRecord {
        started_at: moment(started_at),
        last_seen: moment(last_seen),
        server: clean(&server, 253),
        firmware,
        architecture,
        mac,
        uuid,
        address: address.and_then(|text| text.parse::<std::net::IpAddr>().ok()).map(|address| address.to_string()),
        steps: steps.into_iter().map(step).collect(),
        failure: failure.map(failure_of),
        loader: loader.map(|name| clean(&name, 128)),
        failed_loaders: failed_loaders.iter().map(|name| clean(name, 128)).collect(),
        revision: revision.map(|text| clean(&text, 32)),
        previous: previous.into_iter().take(MOST_PREVIOUS).map(earlier).collect(),
    }
}

fn earlier(boot: EarlierBoot) -> EarlierBoot {
    let EarlierBoot { started_at, last_seen, furthest, revision, loader, failure } = boot;
    EarlierBoot {
        started_at: moment(started_at),
        last_seen: moment(last_seen),
        furthest,
        revision: revision.map(|text| clean(&text, 32)),
        loader: loader.map(|name| clean(&name, 128)),
        failure: failure.map(failure_of),
    }
}

fn step(step: BootStep) -> BootStep {
    let BootStep { name, first_at, last_at, count, bytes, detail } = step;
    BootStep {
        name,
        first_at: moment(first_at),
        last_at: moment(last_at),
        count: count.max(1),
        bytes,
        detail: detail.map(|text| clean(&text, 200)),
    }
}

fn failure_of(failure: BootFailure) -> BootFailure {
    let BootFailure { step, reason, message, at } = failure;
    let word = |c: &char| c.is_ascii_alphanumeric();
    let reason: String = reason.chars().filter(word).take(64).collect();
    BootFailure { step, reason, message: clean(&message, 300), at: moment(at) }
}

/// What a box says that it is made of, cut and stripped.
pub fn inventory(inventory: Inventory) -> Inventory {
    let text = |text: Option<String>, limit| text.map(|text| clean(&text, limit));
    let Inventory {
        manufacturer,
        product,
        serial,
        bmc_address,
        uuid,
        firmware_version,
        firmware,
        kernel,
        cpu_model,
        cpus,
        memory_bytes,
        disks,
        nics,
        gpus,
    } = inventory;
    Inventory {
        manufacturer: text(manufacturer, 128),
        product: text(product, 128),
        serial: text(serial, 128),
        // An address, or nothing.
        bmc_address: bmc_address.filter(|text| text.parse::<std::net::IpAddr>().is_ok()),
        uuid,
        firmware_version: text(firmware_version, 128),
        firmware: text(firmware, 16),
        kernel: text(kernel, 128),
        cpu_model: text(cpu_model, 128),
        cpus,
        memory_bytes,
        disks: disks.into_iter().take(LIST).map(disk).collect(),
        nics: nics.into_iter().take(LIST).map(nic).collect(),
        gpus: gpus.into_iter().take(LIST).map(device).collect(),
    }
}

fn disk(disk: Disk) -> Disk {
    let Disk { name, size_bytes, model, serial, rotational } = disk;
    let text = |text: Option<String>| text.map(|text| clean(&text, 128));
    Disk { name: clean(&name, 64), size_bytes, model: text(model), serial: text(serial), rotational }
}

fn nic(nic: Nic) -> Nic {
    let Nic { name, mac, link, speed_mbps, driver, switch } = nic;
    let driver = driver.map(|text| clean(&text, 64));
    let switch = switch.map(|SwitchPort { name, port, description }| SwitchPort {
        name: clean(&name, 128),
        port: clean(&port, 128),
        description: description.map(|text| clean(&text, 128)),
    });
    Nic { name: clean(&name, 64), mac, link, speed_mbps, driver, switch }
}

fn device(device: PciDevice) -> PciDevice {
    let PciDevice { address, vendor, device, class } = device;
    PciDevice {
        address: clean(&address, 16),
        vendor: clean(&vendor, 4),
        device: clean(&device, 4),
        class: clean(&class, 6),
    }
}
