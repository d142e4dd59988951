//! What each machine did: the steps of its boot. In memory, and cheap to add to: the boot path never waits
//! for whoever reads it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use magnetite_api::{
    Machine, Sha256,
    conditions::reason,
    install::{InstallState, InstallStatus, WipeState, WipeStatus, WipedDisk},
    report::{BootFailure, BootRecord, BootStep, BootStepName, Inventory},
    time::seconds,
};
use magnetite_boot::{client::Request, diagnose::TRANSFER_CUT, plan::Answer};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A firmware's request this long after the last sign of life begins another boot.
const SILENCE: SignedDuration = SignedDuration::from_mins(10);
/// Firmware that asks this long after it had its whole loader has given up on that. Before it, what asks may be a packet that was sent twice.
/// No more than that: EDK2 refuses a binary at once, and a box that tries it again every few seconds would never be given another one.
const LOADER_TIME: SignedDuration = SignedDuration::from_secs(2);

/// All records.
#[derive(Debug, Default)]
pub struct Records {
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Told of every change. Those who write it down each have an end of it.
    pub news: watch::Sender<()>,
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
    /// What its agent said of its installation. It outlives boots: an intent that is installed is not installed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<InstallStatus>,
    /// What its agent said of the wiping of its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<WipeStatus>,
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
    /// Revision of the Profile that was served.
    pub revision: Option<String>,
}

impl Detail {
    /// Words only.
    pub fn words(words: impl Into<String>) -> Self {
        Self { words: Some(words.into()), ..Self::default() }
    }

    /// Bytes sent.
    pub fn bytes(bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..Self::default() }
    }

    /// With the revision that was served.
    pub fn of_revision(mut self, revision: &str) -> Self {
        self.revision = Some(revision.to_owned());
        self
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

    /// Changes a machine's entry, which begins with its first sign of life. One that was deleted and created again
    /// is another machine.
    fn change<T>(&self, machine: &Machine, now: Timestamp, change: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.lock();
        let entry = entries.entry(machine.name_any()).or_insert_with(|| begin(machine, now));
        if entry.uid != machine.uid().unwrap_or_default() {
            *entry = Entry { version: entry.version, ..begin(machine, now) };
        }
        let result = change(entry);
        entry.boot.last_seen = seconds(now);
        entry.version += 1;
        drop(entries);
        self.news.send_replace(());
        result
    }

    /// The firmware, or iPXE, asked for something to boot, and is answered what `choose` says, given the loaders that failed on the box.
    /// Begins a boot unless one has just begun. True beside the answer if it is not what the box was told last.
    pub fn asked(
        &self,
        machine: &Machine,
        request: &Request,
        now: Timestamp,
        choose: impl FnOnce(&[String]) -> Answer,
    ) -> (Answer, bool) {
        self.change(machine, now, |entry| {
            let lost = lost_loader(&entry.boot, request, now);
            if lost.is_some() || is_over(&entry.boot, now) {
                let mut failed = std::mem::take(&mut entry.boot.failed_loaders);
                // The newest failure last, each loader once.
                failed.retain(|name| Some(name) != lost.as_ref());
                failed.extend(lost.clone());
                // One that says nothing is no boot that anybody would look for.
                let empty = entry.boot.steps.is_empty() && entry.boot.failure.is_none();
                let previous = if empty { Vec::new() } else { entry.boot.history() };
                entry.boot = BootRecord { failed_loaders: failed, previous, ..begin(machine, now).boot };
            }
            let boot = &mut entry.boot;
            let answer = choose(&boot.failed_loaders);
            (boot.mac, boot.uuid) = (request.identity.mac.or(boot.mac), request.identity.uuid.or(boot.uuid));
            let news = boot.step(BootStepName::FirmwareSeen).is_none();
            let (platform, loader) = match &answer {
                Answer::Loader { platform, file } => (platform, Some(file)),
                Answer::Script { platform } => (platform, None),
                Answer::Ignore(_) => {
                    let arches = &request.arches;
                    let message = format!("no loader is at hand for this firmware (option 93: {arches:?}); see netboot, --ipxe-dir and --secure-boot-dir");
                    set_failure(machine, boot, BootStepName::FirmwareSeen, reason::NO_LOADER, &message, now);
                    return (answer, false);
                }
            };
            // iPXE that a loader started asks again, as iPXE: what it runs on was known before.
            boot.firmware = boot.firmware.or(Some(platform.firmware));
            boot.architecture = Some(platform.architecture);
            boot.loader = loader.or(boot.loader.as_ref()).cloned();
            let detail =
                lost.map(|lost| format!("{lost} was fetched and never asked for the script")).map(Detail::words);
            add(machine, boot, BootStepName::FirmwareSeen, detail.unwrap_or_default(), now);
            (answer, news)
        })
    }

    /// A step was reached. Clears a failure of the same step, and of those before it.
    pub fn step(&self, machine: &Machine, name: BootStepName, detail: Detail, now: Timestamp) {
        self.change(machine, now, |entry| add(machine, &mut entry.boot, name, detail, now));
    }

    /// A step failed. That it was reached once more, or one after it, clears it.
    pub fn fail(&self, machine: &Machine, step: BootStepName, reason: &str, message: &str, now: Timestamp) {
        self.change(machine, now, |entry| set_failure(machine, &mut entry.boot, step, reason, message, now));
    }

    /// A file was not sent to its end. Of no matter if the box came further meanwhile: a client may stop to answer once it
    /// has all, and that is known only later.
    pub fn cut(&self, machine: &Machine, step: BootStepName, message: &str, now: Timestamp) {
        let passed = |entry: &Entry| entry.boot.furthest().is_some_and(|furthest| furthest.name > step);
        if !self.lock().get(&machine.name_any()).is_some_and(passed) {
            self.fail(machine, step, TRANSFER_CUT, message, now);
        }
    }

    /// The agent said what the box is made of.
    pub fn inventory(&self, machine: &Machine, inventory: Inventory, now: Timestamp) {
        self.change(machine, now, |entry| entry.inventory = Some(inventory));
    }

    /// The agent said how its installation goes. That it is done is not undone by what is said later in the same intent.
    pub fn install(
        &self,
        machine: &Machine,
        state: InstallState,
        disk: Option<String>,
        why: Option<String>,
        image: Option<Sha256>,
        now: Timestamp,
    ) {
        self.change(machine, now, |entry| {
            let intent = machine.wanted_intent().to_owned();
            let before = entry.install.take().filter(|before| before.intent == intent);
            let done = before.as_ref().is_some_and(|before| before.is_done_in(&intent));
            let same = before.as_ref().filter(|before| before.state == state).map(|before| before.at.clone());
            entry.install = if done && state != InstallState::Installed {
                before
            } else {
                Some(InstallStatus {
                    intent,
                    state,
                    disk: disk.map(|disk| clean(&disk, 200)),
                    image,
                    at: same.unwrap_or_else(|| seconds(now)),
                    message: why.map(|why| clean(&why, 512)),
                })
            };
        });
    }

    /// The agent said how the wiping of its disks goes.
    pub fn wipe(
        &self,
        machine: &Machine,
        state: WipeState,
        disks: Vec<WipedDisk>,
        why: Option<String>,
        now: Timestamp,
    ) {
        self.change(machine, now, |entry| {
            let intent = machine.wanted_intent().to_owned();
            let before = entry.wipe.take().filter(|before| before.intent == intent);
            let done = before.as_ref().is_some_and(|before| before.state == WipeState::Wiped);
            let same = before.as_ref().filter(|before| before.state == state).map(|before| before.at.clone());
            entry.wipe = if done {
                before
            } else {
                let (at, message) = (same.unwrap_or_else(|| seconds(now)), why.map(|why| clean(&why, 512)));
                Some(WipeStatus { intent, state, disks, at, message })
            };
        });
    }

    /// True if the system of a Machine's wanted intent is on its disk, by what its agent said here.
    pub fn is_installed(&self, machine: &Machine) -> bool {
        let entries = self.lock();
        let entry = entries.get(&machine.name_any()).filter(|entry| entry.uid == machine.uid().unwrap_or_default());
        let install = entry.and_then(|entry| entry.install.as_ref());
        install.is_some_and(|install| install.is_done_in(machine.wanted_intent()))
    }

    /// Every name with the version of its entry, and when the machine was last heard of: cheap, since nothing else
    /// is copied while the boot path may want the lock.
    pub fn versions(&self) -> Vec<(String, u64, Timestamp)> {
        self.lock().iter().map(|(name, entry)| (name.clone(), entry.version, entry.boot.last_seen.0)).collect()
    }

    /// A copy of one entry.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.lock().get(name).cloned()
    }

    /// A copy of everything.
    #[cfg(test)]
    pub fn all(&self) -> BTreeMap<String, Entry> {
        self.lock().clone()
    }

    /// Drops an entry.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
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
        loader: None,
        revision: None,
        failed_loaders: Vec::new(),
        previous: Vec::new(),
    };
    Entry { uid: machine.uid().unwrap_or_default(), boot, inventory: None, install: None, wipe: None, version: 0 }
}

/// True if a firmware's request now is another boot: the last one had got as far as its script, or is long ago.
fn is_over(boot: &BootRecord, now: Timestamp) -> bool {
    let past_script = boot.furthest().is_some_and(|step| step.name >= BootStepName::ScriptServed);
    past_script || now.duration_since(boot.last_seen.0) > SILENCE
}

/// The loader that the box fetched in this boot and that then never asked for the script: now its firmware asks again. What asks within a
/// moment is the same boot.
fn lost_loader(boot: &BootRecord, request: &Request, now: Timestamp) -> Option<String> {
    let sent = boot.step(BootStepName::LoaderSent).filter(|_| !request.ipxe)?;
    let back = boot.furthest().is_some_and(|step| step.name >= BootStepName::ScriptServed);
    let again = now.duration_since(sent.last_at.0) > LOADER_TIME;
    boot.loader.clone().filter(|_| again && !back)
}

fn set_failure(
    machine: &Machine,
    boot: &mut BootRecord,
    step: BootStepName,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let (reason, message) = (clean(reason, 64), clean(message, 512));
    let before = boot.failure.as_ref().map(|failure| (failure.step, failure.reason.as_str()));
    if before != Some((step, reason.as_str())) {
        let step = step.as_str();
        tracing::warn!(machine = machine.name_any(), step, reason, detail = message, "boot step failed");
    }
    boot.failure = Some(BootFailure { step, reason, message, at: seconds(now) });
}

fn add(machine: &Machine, boot: &mut BootRecord, name: BootStepName, detail: Detail, now: Timestamp) {
    let Detail { bytes, words, address, revision } = detail;
    boot.address = address.or(boot.address.take());
    boot.revision = served(boot.revision.take(), name, revision);
    let bytes = bytes.and_then(|bytes| i64::try_from(bytes).ok());
    let words = words.map(|words| clean(&words, 200));
    let (machine, step) = (machine.name_any(), name.as_str());
    match boot.steps.iter_mut().find(|step| step.name == name) {
        Some(known) => {
            tracing::debug!(machine, step, bytes, detail = words, address = boot.address, "boot step again");
            (known.last_at, known.count) = (seconds(now), known.count.saturating_add(1));
            (known.bytes, known.detail) = (bytes.or(known.bytes), words.or(known.detail.take()));
        }
        None => {
            tracing::info!(machine, step, bytes, detail = words, address = boot.address, "boot step");
            let at = seconds(now);
            boot.steps.push(BootStep { name, first_at: at.clone(), last_at: at, count: 1, bytes, detail: words });
        }
    }
    if boot.failure.as_ref().is_some_and(|failure| failure.step <= name) {
        boot.failure = None;
    }
}

/// The revision that a box boots. The script begins it (and one that boots the box locally serves none); a config of another
/// revision than the script's makes a mixture, which is no revision's machine.
fn served(before: Option<String>, step: BootStepName, revision: Option<String>) -> Option<String> {
    match (before, revision) {
        (_, revision) if step == BootStepName::ScriptServed => revision,
        (None, revision) => revision,
        (Some(before), Some(revision)) if !before.split('+').any(|part| part == revision) => {
            let first = before.split('+').next().unwrap_or_default();
            Some(format!("{first}+{revision}"))
        }
        (Some(before), _) => Some(before),
    }
}

/// What a box says is not to be believed, and not to break a terminal: no control characters, and bounded.
pub fn clean(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

#[cfg(test)]
mod tests {
    use BootStepName::{
        AgentStarted, CertificateReceived, Claiming, ConfigFetched, FirmwareSeen, LoaderSent, ScriptServed,
    };
    use magnetite_api::{netboot::NetbootSpec, report::Firmware};
    use magnetite_boot::{client::ClientClass, fleet::Identity, ladder, plan::Ignored};
    use rstest::rstest;

    use super::*;
    use crate::fixtures::{at, machine};

    fn steps(records: &Records) -> Vec<(BootStepName, i32)> {
        records.get("box").unwrap().boot.steps.iter().map(|step| (step.name, step.count)).collect()
    }

    /// A request of UEFI, or of iPXE, that is answered as the ladder says.
    fn seen(records: &Records, second: i64, ipxe: bool) -> Answer {
        let request =
            Request { class: ClientClass::Pxe, arches: vec![7], ipxe, https: false, identity: Identity::default() };
        let platform = ladder::platform(&request).unwrap();
        let choose = |failed: &[String]| match ipxe {
            true => Answer::Script { platform },
            false => Answer::Loader {
                platform,
                file: ladder::loader(platform, &NetbootSpec::default(), failed, |_| true).unwrap(),
            },
        };
        records.asked(&machine("box"), &request, at(second), choose).0
    }

    fn file(answer: Answer) -> String {
        match answer {
            Answer::Loader { file, .. } => file,
            other => panic!("{other:?}"),
        }
    }

    /// What was reached before, how long ago in seconds, and whether the firmware's next request is another boot.
    #[rstest]
    #[case::retry(&[FirmwareSeen], 4, false)]
    #[case::loader_asks_as_ipxe(&[FirmwareSeen, LoaderSent], 9, false)]
    #[case::slow_but_alive(&[FirmwareSeen, LoaderSent], 600, false)]
    #[case::long_silence(&[FirmwareSeen, LoaderSent], 601, true)]
    #[case::had_its_script(&[FirmwareSeen, ScriptServed], 5, true)]
    #[case::was_running(&[FirmwareSeen, ScriptServed, AgentStarted], 300, true)]
    #[case::agent_of_a_boot_elsewhere(&[AgentStarted], 5, true)]
    fn when_a_boot_begins(#[case] before: &[BootStepName], #[case] later: i64, #[case] another: bool) {
        let records = Records::default();
        for step in before {
            records.step(&machine("box"), *step, Detail::default(), at(0));
        }
        seen(&records, later, true);
        let began = records.get("box").unwrap().boot.started_at;
        assert_eq!(began, seconds(at(if another { later } else { 0 })));
        assert_eq!(another, steps(&records) == [(FirmwareSeen, 1)]);
    }

    #[test]
    fn steps_are_counted_and_the_firmware_is_the_one_below_ipxe() {
        let records = Records::default();
        seen(&records, 0, false);
        seen(&records, 4, false);
        records.step(&machine("box"), LoaderSent, Detail::words("snponly.efi").at_peer("10.0.0.9"), at(5));
        seen(&records, 9, true);
        records.step(&machine("box"), LoaderSent, Detail::bytes(7), at(10));
        assert_eq!(steps(&records), [(FirmwareSeen, 3), (LoaderSent, 2)]);
        let boot = records.get("box").unwrap().boot;
        assert_eq!((boot.firmware, boot.address.as_deref()), (Some(Firmware::Uefi), Some("10.0.0.9")));
        let sent = boot.step(LoaderSent).unwrap();
        assert_eq!((&sent.first_at, &sent.last_at), (&seconds(at(5)), &seconds(at(10))));
        assert_eq!((sent.bytes, sent.detail.as_deref()), (Some(7), Some("snponly.efi")), "what is new, over what was");
    }

    #[test]
    fn a_loader_that_never_came_back_is_followed_by_the_next() {
        let records = Records::default();
        let fetched = |second| records.step(&machine("box"), LoaderSent, Detail::default(), at(second));
        assert_eq!(file(seen(&records, 0, false)), "snponly.efi");
        fetched(1);
        assert_eq!(file(seen(&records, 2, false)), "snponly.efi", "a packet that came twice");
        assert_eq!(file(seen(&records, 60, false)), "ipxe.efi", "it had its time");
        let boot = records.get("box").unwrap().boot;
        assert_eq!((boot.started_at.clone(), boot.failed_loaders.len()), (seconds(at(60)), 1));
        assert!(boot.step(FirmwareSeen).unwrap().detail.as_ref().unwrap().starts_with("snponly.efi was fetched"));
        fetched(61);
        assert_eq!(file(seen(&records, 120, false)), "snponly.efi", "both failed: the one that failed longer ago");
        fetched(121);
        assert_eq!(file(seen(&records, 180, false)), "ipxe.efi");
        fetched(181);
        seen(&records, 185, true);
        records.step(&machine("box"), ScriptServed, Detail::default(), at(190));
        assert_eq!(file(seen(&records, 900, false)), "ipxe.efi", "what worked stays");
    }

    /// As EDK2 does without a person: it refuses the binary at once, and goes round its list of devices.
    #[test]
    fn firmware_that_is_back_within_seconds_is_not_given_the_same_for_ever() {
        let records = Records::default();
        assert_eq!(file(seen(&records, 0, false)), "snponly.efi");
        records.step(&machine("box"), LoaderSent, Detail::default(), at(1));
        assert_eq!(file(seen(&records, 4, false)), "ipxe.efi");
    }

    #[test]
    fn firmware_for_which_there_is_no_loader_is_a_boot_that_failed() {
        let records = Records::default();
        let request = Request {
            class: ClientClass::Pxe,
            arches: vec![6],
            ipxe: false,
            https: false,
            identity: Identity::default(),
        };
        records.asked(&machine("box"), &request, at(0), |_| Answer::Ignore(Ignored::NoLoader));
        let failure = records.get("box").unwrap().boot.failure.unwrap();
        assert_eq!((failure.step, failure.reason.as_str()), (FirmwareSeen, "NoLoader"));
    }

    #[test]
    fn the_revision_is_the_one_that_was_served() {
        let records = Records::default();
        let serve = |step, revision: Option<&str>| {
            let detail = revision.map_or(Detail::default(), |revision| Detail::default().of_revision(revision));
            records.step(&machine("box"), step, detail, at(0));
            records.get("box").unwrap().boot.revision
        };
        assert_eq!(serve(ScriptServed, Some("a")).as_deref(), Some("a"));
        assert_eq!(serve(AgentStarted, None).as_deref(), Some("a"));
        assert_eq!(serve(ConfigFetched, Some("b")).as_deref(), Some("a+b"), "the Profile changed in mid-boot");
        assert_eq!(serve(ConfigFetched, Some("c")).as_deref(), Some("a+c"));
        assert_eq!(serve(ScriptServed, Some("b")).as_deref(), Some("b"), "it began anew");
        assert_eq!(serve(ScriptServed, None), None, "sent on to its disk");
    }

    #[test]
    fn a_failure_stays_until_its_step_is_passed() {
        let records = Records::default();
        records.fail(&machine("box"), Claiming, "ClaimRefused", "no\nway\u{1b}[31m", at(0));
        let failure = || records.get("box").unwrap().boot.failure;
        assert_eq!(failure().unwrap().message, "no way [31m");
        records.step(&machine("box"), AgentStarted, Detail::default(), at(1));
        assert!(failure().is_some());
        records.step(&machine("box"), CertificateReceived, Detail::default(), at(2));
        assert!(failure().is_none());
    }

    #[test]
    fn a_transfer_that_was_cut_off_is_no_failure_of_a_box_that_went_on() {
        let records = Records::default();
        let failure = || records.get("box").unwrap().boot.failure.map(|failure| failure.reason);
        seen(&records, 0, false);
        records.cut(&machine("box"), LoaderSent, "snponly.efi was cut off", at(1));
        assert_eq!(failure().as_deref(), Some(TRANSFER_CUT));
        records.step(&machine("box"), LoaderSent, Detail::default(), at(3));
        records.step(&machine("box"), ScriptServed, Detail::default(), at(5));
        records.cut(&machine("box"), LoaderSent, "snponly.efi was cut off", at(6));
        assert_eq!(failure(), None, "the box has its script");
    }

    #[test]
    fn the_boots_before_are_kept_in_brief() {
        let records = Records::default();
        for boot in 0..9 {
            seen(&records, boot * 100, false);
            records.step(&machine("box"), ScriptServed, Detail::default(), at(boot * 100 + 5));
        }
        let previous = records.get("box").unwrap().boot.previous;
        let starts: Vec<_> = previous.iter().map(|boot| boot.started_at.clone()).collect();
        assert_eq!(starts, [700, 600, 500, 400, 300].map(|second| seconds(at(second))), "five, newest first");
        assert!(previous.iter().all(|boot| boot.furthest == Some(ScriptServed) && boot.failure.is_none()));
    }

    /// R8: what is installed stays so for its intent and its Machine, whatever comes later; and counts for no other.
    #[test]
    fn an_installed_intent_stays_installed() {
        let records = Records::default();
        let mut machine = machine("box");
        let say = |machine: &Machine, state, second| records.install(machine, state, None, None, None, at(second));
        say(&machine, InstallState::Installing, 0);
        say(&machine, InstallState::Failed, 1);
        assert!(!records.is_installed(&machine));
        say(&machine, InstallState::Installed, 2);
        say(&machine, InstallState::Failed, 3);
        seen(&records, 9000, false);
        assert!(records.is_installed(&machine));
        assert_eq!(records.get("box").unwrap().install.unwrap().at, seconds(at(2)));
        machine.spec.boot_intent = Some("again".into());
        assert!(!records.is_installed(&machine));
        say(&machine, InstallState::Installed, 9001);
        assert!(records.is_installed(&machine));
        machine.metadata.uid = Some("another".into());
        assert!(!records.is_installed(&machine));
    }

    #[test]
    fn a_machine_made_anew_takes_over_nothing() {
        let records = Records::default();
        let mut machine = machine("box");
        records.inventory(&machine, Inventory::default(), at(0));
        records.step(&machine, AgentStarted, Detail::default(), at(1));
        let version = records.get("box").unwrap().version;
        machine.metadata.uid = Some("another".to_owned());
        records.step(&machine, ScriptServed, Detail::default(), at(2));
        let entry = records.get("box").unwrap();
        assert_eq!(steps(&records), [(ScriptServed, 1)]);
        assert!(entry.inventory.is_none());
        assert!(entry.version > version, "and is written anew");
    }
}
