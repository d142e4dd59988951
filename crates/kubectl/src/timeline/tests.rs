//! What a person reads, on the record of a real boot in the lab (`records/uefi.json`, as the boot server wrote it) and on
//! what it would have been had it stopped.

use k8s_openapi::api::core::v1::ObjectReference;
use magnetite_api::{
    BootReport, BootReportSpec, MachineSpec, MachineStatus,
    conditions::{CLAIMED, Status, condition, reason},
    machine::IntentState,
    report::{
        BootFailure,
        BootStepName::{self, AgentStarted, Claiming, FirmwareSeen, LoaderSent},
        Subject, SubjectKind,
    },
    time::seconds,
};
use rstest::rstest;

use super::*;
use crate::style::Style;

fn uefi() -> BootRecord {
    serde_json::from_str::<Remembered>(include_str!("records/uefi.json")).unwrap().boot
}

/// The boot as it was after one of its steps.
fn until(step: BootStepName) -> BootRecord {
    let mut boot = uefi();
    boot.steps.retain(|each| each.name <= step);
    boot.last_seen = boot.steps.iter().map(|step| step.last_at.clone()).max_by_key(|at| at.0).unwrap();
    boot
}

fn after(boot: &BootRecord, second: i64) -> Timestamp {
    boot.started_at.0 + jiff::SignedDuration::from_secs(second)
}

/// A boot whose loaders fail in turn, as in the two boots before it.
fn loader_loop() -> BootRecord {
    let mut boot = until(LoaderSent);
    let last = after(&boot, 64);
    (boot.loader, boot.failed_loaders) = (Some("snponly.efi".into()), vec!["snponly.efi".into(), "ipxe.efi".into()]);
    for (step, count) in [(FirmwareSeen, 2), (LoaderSent, 1)] {
        let step = boot.steps.iter_mut().find(|each| each.name == step).unwrap();
        (step.count, step.last_at) = (count, seconds(last));
    }
    boot.last_seen = seconds(last);
    let mut earlier = [900, 1800].map(|before| {
        let mut earlier = until(LoaderSent).in_brief();
        earlier.started_at = seconds(earlier.started_at.0 - jiff::SignedDuration::from_secs(before));
        earlier.last_seen = seconds(earlier.last_seen.0 - jiff::SignedDuration::from_secs(before));
        earlier
    });
    let (step, at) = (LoaderSent, earlier[1].last_seen.clone());
    let (reason, message) = ("TransferCut".into(), "snponly.efi was cut off after 1468 of 173792 bytes".into());
    earlier[1].failure = Some(BootFailure { step, reason, message, at });
    (earlier[0].loader, earlier[1].loader) = (Some("ipxe.efi".into()), Some("snponly.efi".into()));
    boot.previous = earlier.to_vec();
    boot
}

fn text(timeline: &Timeline, now: Timestamp) -> String {
    timeline.text(Style::PLAIN, now)
}

fn of(boot: BootRecord, second: i64) -> (Timeline, Timestamp) {
    let now = after(&boot, second);
    (Timeline::of_record("r7-u01", Remembered { boot }, now), now)
}

#[test]
fn a_boot_that_went_well() {
    let (timeline, now) = of(uefi(), 600);
    assert!(!timeline.is_stopped());
    insta::assert_snapshot!("well", text(&timeline, now));
    // The page that a program reads has all of it, and can be read back.
    let value = serde_json::to_value(&timeline).unwrap();
    assert_eq!(value["diagnosis"]["reason"], "Running");
    assert_eq!(serde_json::from_value::<BootRecord>(value["boot"].clone()).unwrap(), uefi());
}

#[test]
fn loaders_that_fail_in_turn() {
    let (timeline, now) = of(loader_loop(), 70);
    assert!(timeline.is_stopped());
    insta::assert_snapshot!("loader_silent", text(&timeline, now));
}

#[test]
fn a_boot_under_way() {
    let (timeline, now) = of(until(BootStepName::InitrdFetched), 12);
    assert!(!timeline.is_stopped());
    insta::assert_snapshot!("under_way", text(&timeline, now));
}

#[test]
fn colour_is_for_terminals() {
    let (timeline, now) = of(loader_loop(), 70);
    let coloured = timeline.text(Style::COLOURED, now);
    assert!(coloured.contains("\u{1b}[31mStopped at LoaderSent: LoaderSilent\u{1b}[0m"));
    assert!(!text(&timeline, now).contains('\u{1b}'));
}

/// The Machine of the real boot, in a cluster.
fn machine(phase: Phase, word: &str, message: &str) -> Machine {
    let opened = after(&uefi(), -30);
    let mut machine = Machine::new("r7-u01", MachineSpec::default());
    machine.metadata.uid = Some("0cb793e4".to_owned());
    machine.status = Some(MachineStatus {
        phase: Some(phase),
        reason: Some(word.to_owned()),
        message: Some(message.to_owned()),
        profile: Some("node".to_owned()),
        intent: Some(IntentStatus {
            id: "created".to_owned(),
            state: IntentState::Open,
            opened_at: seconds(opened),
            expires_at: seconds(opened + jiff::SignedDuration::from_hours(1)),
        }),
        ..MachineStatus::default()
    });
    machine
}

fn report(server: &str, mut boot: BootRecord) -> BootReport {
    boot.server = server.to_owned();
    let subject = Subject { kind: SubjectKind::Machine, name: "r7-u01".into(), uid: "0cb793e4".into() };
    let spec = BootReportSpec {
        subject,
        server: server.into(),
        boot: Some(boot),
        inventory: None,
        install: None,
        wipe: None,
        artifacts: vec![],
    };
    BootReport::new(&format!("r7-u01.{server}"), spec)
}

fn event(second: i64, warning: bool, word: &str, message: &str) -> Event {
    Event {
        event_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(after(&uefi(), second))),
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(word.to_owned()),
        message: Some(message.to_owned()),
        involved_object: ObjectReference::default(),
        ..Event::default()
    }
}

fn refused() -> Known {
    let message = "claim r7-u01-5be8a1 refused (FactsMismatch): the box has none of the Machine's MACs";
    let mut machine = machine(Phase::Failed, reason::CLAIM_REFUSED, message);
    let told = condition(&[], CLAIMED, Status::False, reason::CLAIM_REFUSED, message, None, &uefi().started_at);
    machine.status.as_mut().unwrap().conditions.push(told);
    let mut served = until(AgentStarted);
    let (reason, message) = ("FactsMismatch".into(), "the box has\u{1b}[2J none of the Machine's MACs".into());
    served.failure = Some(BootFailure { step: Claiming, reason, message, at: seconds(served.last_seen.0) });
    let events = vec![
        event(61, true, "Failed", message_of_refusal()),
        event(-30, false, "WindowOpened", "Boot window of intent created is open"),
    ];
    let reports = vec![report("rack-7", served), report("rack-8", until(FirmwareSeen))];
    Known { machine, reports, events, missing: vec![] }
}

fn message_of_refusal() -> &'static str {
    "ClaimRefused: the box has none of the Machine's MACs"
}

#[test]
fn a_claim_that_was_refused() {
    let now = after(&uefi(), 90);
    let timeline = Timeline::of_cluster(refused(), false, now);
    assert!(timeline.is_stopped());
    insta::assert_snapshot!("claim_refused", text(&timeline, now));
    insta::assert_snapshot!("claim_refused_all", text(&Timeline::of_cluster(refused(), true, now), now));
}

#[test]
fn a_box_that_was_never_seen() {
    let machine = machine(Phase::Pending, reason::NOT_SEEN, "the boot window is open");
    let missing = vec!["you may not read Events: events is forbidden".to_owned()];
    let known = || Known { machine: machine.clone(), reports: vec![], events: vec![], missing: missing.clone() };
    let soon = after(&uefi(), 0);
    assert!(!Timeline::of_cluster(known(), false, soon).is_stopped(), "somebody must power it on first");
    let late = after(&uefi(), 1200);
    let timeline = Timeline::of_cluster(known(), false, late);
    assert!(timeline.is_stopped());
    insta::assert_snapshot!("never_seen", text(&timeline, late));
}

#[test]
fn few_events_unless_all_are_wanted() {
    let known = || {
        let events = (0..20).rev().map(|second| event(second, false, "Booting", &format!("event {second}"))).collect();
        Known { events, ..refused() }
    };
    let now = after(&uefi(), 90);
    let told: Vec<_> =
        Timeline::of_cluster(known(), false, now).events.into_iter().map(|event| event.message).collect();
    assert_eq!((told.len(), told[0].as_str(), told[7].as_str()), (8, "event 12", "event 19"), "the newest, in order");
    assert_eq!(Timeline::of_cluster(known(), true, now).events.len(), 20);
}

#[rstest]
#[case(0, "0 B")]
#[case(1023, "1023 B")]
#[case(173_792, "169.7 KiB")]
#[case(131_534_848, "125.4 MiB")]
#[case(5_368_709_120, "5.0 GiB")]
fn sizes(#[case] bytes: i64, #[case] words: &str) {
    assert_eq!(super::text::size(bytes), words);
}

#[rstest]
#[case(0, "0s")]
#[case(119, "119s")]
#[case(120, "2m00s")]
#[case(7325, "2h02m")]
#[case(200_000, "2d07h")]
fn spans(#[case] seconds: i64, #[case] words: &str) {
    assert_eq!(super::text::span(seconds), words);
}
