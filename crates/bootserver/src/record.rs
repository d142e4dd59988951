//! What each machine did: the steps of its boot. In memory, and cheap to add to: the boot path never waits
//! for whoever reads it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use magnetite_api::{
    Architecture, Machine,
    report::{BootFailure, BootRecord, BootStep, BootStepName, Firmware, Inventory},
    time::seconds,
};
use magnetite_boot::fleet::Identity;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// A firmware's request this long after the last sign of life begins another boot.
const SILENCE: SignedDuration = SignedDuration::from_mins(10);

/// All records.
#[derive(Debug, Default)]
pub struct Records {
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Told of every change.
    pub changed: Notify,
}

/// What is known of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its UID; empty without a cluster.
    pub uid: String,
    /// Its newest boot.
    pub boot: BootRecord,
    /// What its agent found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// Counts changes.
    #[serde(skip)]
    pub version: u64,
}

/// More about a step.
#[derive(Debug, Clone, Default)]
pub struct Detail {
    /// Bytes sent.
    pub bytes: Option<u64>,
    /// Words for a person.
    pub words: Option<String>,
    /// IP address of the peer.
    pub address: Option<String>,
}

impl Detail {
    /// Words only.
    pub fn words(words: impl Into<String>) -> Self {
        Self { words: Some(words.into()), ..Self::default() }
    }

    /// With the peer's address.
    pub fn at_peer(mut self, address: impl ToString) -> Self {
        self.address = Some(address.to_string());
        self
    }
}

impl Records {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The firmware, or a ROM's iPXE, asked for something to boot. Begins a boot unless one has just begun.
    pub fn firmware(
        &self,
        machine: &Machine,
        identity: &Identity,
        firmware: Firmware,
        architecture: Architecture,
        now: Timestamp,
    ) {
        let mut entries = self.lock();
        let entry = entries.entry(machine.name_any()).or_insert_with(|| begin(machine, now));
        if is_over(&entry.boot, now) || entry.uid != machine.uid().unwrap_or_default() {
            let (inventory, version) = (entry.inventory.take(), entry.version);
            *entry = Entry { inventory, version, ..begin(machine, now) };
        }
        let boot = &mut entry.boot;
        // iPXE that a loader started asks again, as iPXE: what it runs on was known before.
        boot.firmware = boot.firmware.or(Some(firmware));
        boot.architecture = Some(architecture);
        (boot.mac, boot.uuid) = (identity.mac.or(boot.mac), identity.uuid.or(boot.uuid));
        add(entry, BootStepName::FirmwareSeen, Detail::default(), now);
        drop(entries);
        self.changed.notify_one();
    }

    /// A step was reached.
    pub fn step(&self, machine: &Machine, name: BootStepName, detail: Detail, now: Timestamp) {
        let mut entries = self.lock();
        let entry = entries.entry(machine.name_any()).or_insert_with(|| begin(machine, now));
        add(entry, name, detail, now);
        drop(entries);
        self.changed.notify_one();
    }

    /// A step failed. A later step clears it.
    pub fn fail(&self, machine: &Machine, step: BootStepName, reason: &str, message: &str, now: Timestamp) {
        let mut entries = self.lock();
        let entry = entries.entry(machine.name_any()).or_insert_with(|| begin(machine, now));
        let failure = BootFailure { step, reason: clean(reason, 64), message: clean(message, 512), at: seconds(now) };
        entry.boot.failure = Some(failure);
        entry.boot.last_seen = seconds(now);
        entry.version += 1;
        drop(entries);
        self.changed.notify_one();
    }

    /// The agent said what the box is made of.
    pub fn inventory(&self, machine: &Machine, inventory: Inventory, now: Timestamp) {
        let mut entries = self.lock();
        let entry = entries.entry(machine.name_any()).or_insert_with(|| begin(machine, now));
        entry.inventory = Some(inventory);
        entry.version += 1;
        drop(entries);
        self.changed.notify_one();
    }

    /// A copy of everything.
    pub fn all(&self) -> BTreeMap<String, Entry> {
        self.lock().clone()
    }

    /// Takes over what an earlier process remembered.
    pub fn restore(&self, entries: BTreeMap<String, Entry>) {
        self.lock().extend(entries);
    }
}

fn begin(machine: &Machine, now: Timestamp) -> Entry {
    let boot = BootRecord {
        started_at: seconds(now),
        last_seen: seconds(now),
        server: String::new(),
        firmware: None,
        architecture: None,
        mac: None,
        uuid: None,
        address: None,
        steps: Vec::new(),
        failure: None,
    };
    Entry { uid: machine.uid().unwrap_or_default(), boot, inventory: None, version: 1 }
}

/// True if a firmware's request now is another boot: the last one had got as far as its script, or is long ago.
fn is_over(boot: &BootRecord, now: Timestamp) -> bool {
    let past_script = boot.furthest().is_some_and(|step| step.name >= BootStepName::ScriptServed);
    past_script || now.duration_since(boot.last_seen.0) > SILENCE
}

fn add(entry: &mut Entry, name: BootStepName, detail: Detail, now: Timestamp) {
    let Detail { bytes, words, address } = detail;
    let boot = &mut entry.boot;
    (boot.last_seen, boot.address) = (seconds(now), address.or(boot.address.take()));
    let bytes = bytes.and_then(|bytes| i64::try_from(bytes).ok());
    let words = words.map(|words| clean(&words, 200));
    match boot.steps.iter_mut().find(|step| step.name == name) {
        Some(step) => {
            (step.last_at, step.count) = (seconds(now), step.count.saturating_add(1));
            (step.bytes, step.detail) = (bytes.or(step.bytes), words.or(step.detail.take()));
        }
        None => {
            let at = seconds(now);
            boot.steps.push(BootStep { name, first_at: at.clone(), last_at: at, count: 1, bytes, detail: words });
        }
    }
    if boot.failure.as_ref().is_some_and(|failure| failure.step <= name) {
        boot.failure = None;
    }
    entry.version += 1;
}

/// What a box says is not to be believed, and not to break a terminal: no control characters, and bounded.
pub fn clean(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn steps(records: &Records) -> Vec<(BootStepName, i32)> {
        records.all()["box"].boot.steps.iter().map(|step| (step.name, step.count)).collect()
    }

    #[test]
    fn a_boot_begins_when_the_last_one_had_its_script() {
        use BootStepName::{FirmwareSeen, LoaderSent, ScriptServed};
        let (records, machine) = (Records::default(), Machine::new("box", magnetite_api::MachineSpec::default()));
        let seen = |second, firmware| {
            records.firmware(&machine, &Identity::default(), firmware, Architecture::X86_64, at(second));
        };
        seen(0, Firmware::Uefi);
        seen(4, Firmware::Uefi);
        records.step(&machine, LoaderSent, Detail::words("snponly.efi"), at(5));
        seen(9, Firmware::Bios); // the loader's iPXE asks
        records.step(&machine, ScriptServed, Detail::default(), at(10));
        assert_eq!(steps(&records), [(FirmwareSeen, 3), (LoaderSent, 1), (ScriptServed, 1)]);
        assert_eq!(records.all()["box"].boot.firmware, Some(Firmware::Uefi));
        seen(60, Firmware::Uefi);
        assert_eq!(steps(&records), [(FirmwareSeen, 1)]);
        assert_eq!(records.all()["box"].boot.started_at, seconds(at(60)));
        seen(60 + 601, Firmware::Uefi);
        assert_eq!(records.all()["box"].boot.started_at, seconds(at(661)), "long silence");
    }

    #[test]
    fn a_failure_stays_until_its_step_is_passed() {
        let (records, machine) = (Records::default(), Machine::new("box", magnetite_api::MachineSpec::default()));
        records.fail(&machine, BootStepName::Claiming, "ClaimRefused", "no\nway\u{1b}[31m", at(0));
        assert_eq!(records.all()["box"].boot.failure.as_ref().unwrap().message, "no way [31m");
        records.step(&machine, BootStepName::AgentStarted, Detail::default(), at(1));
        assert!(records.all()["box"].boot.failure.is_some());
        records.step(&machine, BootStepName::CertificateReceived, Detail::default(), at(2));
        assert!(records.all()["box"].boot.failure.is_none());
    }
}
