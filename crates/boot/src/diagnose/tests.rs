//! Every reason, by a record that shows it.

use BootStepName::{
    AgentFetched, AgentStarted, CertificateReceived, Claiming, ConfigFetched, FileFetched, FirmwareSeen, InitrdFetched,
    KernelFetched, KubeletStarted, LoaderSent, NodeReady, NodeRegistered, ScriptServed, SystemBooted,
};
use magnetite_api::{
    Machine, MachineStatus, Phase,
    conditions::{PROFILE_READY, Status, condition},
    machine::{IntentState, IntentStatus},
    time::seconds,
};
use rstest::rstest;

use super::*;
use crate::fixtures::{at, boot, machine, step};

/// Steps with the second and the count of each, all in one boot.
fn record(steps: &[(BootStepName, i64, i32)]) -> BootRecord {
    let each: Vec<_> = steps.iter().map(|(name, at, count)| BootStep { count: *count, ..step(*name, *at) }).collect();
    boot(0, &each)
}

fn says(mut record: BootRecord, name: BootStepName, words: &str) -> BootRecord {
    record.steps.iter_mut().find(|step| step.name == name).unwrap().detail = Some(words.to_owned());
    record
}

fn fails(mut record: BootRecord, step: BootStepName, reason: &str, message: &str) -> BootRecord {
    let (reason, message, at) = (reason.to_owned(), message.to_owned(), record.last_seen.clone());
    record.failure = Some(BootFailure { step, reason, message, at });
    record
}

const LATER: i64 = 3000;

/// The chain as far as each step, and what an hour of silence after it means.
#[rstest]
#[case(&[], Reason::NeverAsked, "no boot server has heard")]
#[case(&[(FirmwareSeen, 0, 5)], Reason::OfferNotTaken, "asked 5 times, was answered, and never asked for the loader")]
#[case(&[(FirmwareSeen, 0, 1), (LoaderSent, 5, 1)], Reason::LoaderSilent, "the loader was sent, and the script was never")]
#[case(&[(LoaderSent, 5, 1), (ScriptServed, 9, 2)], Reason::ScriptNotBooted, "served 2 times, and the kernel was never")]
#[case(&[(ScriptServed, 9, 1), (KernelFetched, 12, 1)], Reason::KernelOnly, "no initrd was asked for")]
#[case(&[(KernelFetched, 12, 1), (InitrdFetched, 15, 2)], Reason::ConfigNotFetched, "the Ignition config was never")]
#[case(&[(InitrdFetched, 15, 2), (FileFetched, 30, 1)], Reason::ConfigNotFetched, "so that its network works")]
#[case(&[(InitrdFetched, 15, 1), (ConfigFetched, 30, 1)], Reason::AgentNeverStarted, "the agent was not fetched")]
#[case(&[(ConfigFetched, 30, 1), (AgentFetched, 31, 1)], Reason::AgentNeverStarted, "the agent never reported")]
#[case(&[(AgentFetched, 31, 1), (AgentStarted, 40, 1)], Reason::AgentSilent, "neither claimed")]
#[case(&[(AgentStarted, 40, 1), (Claiming, 41, 9)], Reason::CertificateNotIssued, "9 times and has no certificate")]
#[case(&[(Claiming, 41, 1), (CertificateReceived, 43, 1)], Reason::NodeNotRegistered, "kubelet was not started")]
#[case(&[(CertificateReceived, 43, 1), (KubeletStarted, 44, 1)], Reason::NodeNotRegistered, "did not register")]
#[case(&[(KubeletStarted, 44, 1), (NodeRegistered, 50, 1)], Reason::NodeNotReady, "not Ready")]
fn silence(#[case] steps: &[(BootStepName, i64, i32)], #[case] reason: Reason, #[case] words: &str) {
    let record = record(steps);
    let found = diagnose(&record, at(LATER));
    assert_eq!((found.progress, found.reason), (Progress::Stopped, reason), "{}", found.message);
    assert!(found.message.contains(words), "{}", found.message);
    assert_eq!(found.stopped_at, steps.iter().map(|(name, ..)| *name).max());
    // A moment after its last word it is only on its way, and `until` is when that ends.
    let Some((.., last, _)) = steps.last().filter(|(.., count)| *count < 3) else { return };
    let fresh = diagnose(&record, at(last + 1));
    assert_eq!((fresh.progress, fresh.reason), (Progress::UnderWay, Reason::UnderWay), "{}", fresh.message);
    let until = fresh.until.unwrap();
    assert_eq!(diagnose(&record, until - SignedDuration::from_secs(1)).progress, Progress::UnderWay);
    assert_eq!(diagnose(&record, until), found);
}

#[rstest]
#[case(NodeReady, "the Node is Ready since")]
#[case(SystemBooted, "the system booted since")]
fn what_ended_well_stays_so(#[case] last: BootStepName, #[case] words: &str) {
    let found = diagnose(&record(&[(AgentStarted, 40, 1), (last, 60, 1)]), at(LATER));
    assert_eq!((found.progress, found.reason, found.until), (Progress::Done, Reason::Running, None));
    assert!(found.message.starts_with(words), "{}", found.message);
}

/// Failures that were told, by whoever told them.
#[rstest]
#[case(FirmwareSeen, FirmwareSeen, "NoLoader", Reason::NoLoader)]
#[case(FirmwareSeen, LoaderSent, TRANSFER_CUT, Reason::LoaderNotFinished)]
#[case(ScriptServed, ScriptServed, "ArtifactFailed", Reason::ArtifactFailed)]
#[case(InitrdFetched, ConfigFetched, "RenderFailed", Reason::RenderFailed)]
#[case(ScriptServed, KernelFetched, TRANSFER_CUT, Reason::FileNotFinished)]
#[case(ConfigFetched, AgentFetched, TRANSFER_CUT, Reason::FileNotFinished)]
#[case(AgentStarted, Claiming, "FactsMismatch", Reason::ClaimRefused)]
#[case(AgentStarted, Claiming, "ClaimConflict", Reason::ClaimConflict)]
#[case(AgentStarted, Claiming, "NodeNameTaken", Reason::NodeNameTaken)]
#[case(AgentStarted, Claiming, "WrongServerKey", Reason::AgentFailed)]
#[case(AgentStarted, KubeletStarted, "KubeletNotFound", Reason::AgentFailed)]
#[case(KubeletStarted, NodeRegistered, "ApiServerUnreachable", Reason::NodeNotRegistered)]
#[case(NodeRegistered, NodeReady, "NodeNotReady", Reason::NodeNotReady)]
fn failures(#[case] reached: BootStepName, #[case] step: BootStepName, #[case] word: &str, #[case] reason: Reason) {
    let record = fails(record(&[(reached, 20, 1)]), step, word, "what was said");
    let found = diagnose(&record, at(21));
    assert_eq!((found.progress, found.reason, found.stopped_at), (Progress::Stopped, reason, Some(step)));
    assert!(found.message.ends_with("what was said"), "{}", found.message);
    // One that the box got past is of no matter any more.
    let mut past = record;
    past.steps[0].last_at = seconds(at(22));
    past.last_seen = seconds(at(22));
    assert_eq!(diagnose(&past, at(23)).reason, Reason::UnderWay);
}

#[test]
fn a_script_that_does_not_boot_says_why() {
    let served = |words: &str| says(record(&[(ScriptServed, 20, 30)]), ScriptServed, words);
    let waits = served(&format!("{WAITS}no boot window yet"));
    let found = diagnose(&waits, at(30));
    assert_eq!((found.progress, found.reason), (Progress::UnderWay, Reason::ScriptWaits));
    assert!(found.message.ends_with("until it may boot: no boot window yet"), "{}", found.message);
    assert_eq!(diagnose(&waits, at(LATER)).progress, Progress::Stopped, "it does not ask any more");
    let local = diagnose(&served(&format!("{LOCAL}: no window is open")), at(LATER));
    assert_eq!((local.progress, local.reason), (Progress::Done, Reason::LocalBoot));
}

#[test]
fn what_goes_round_is_known_before_it_is_silent() {
    let looping =
        says(record(&[(FirmwareSeen, 0, 6), (LoaderSent, 20, 3)]), LoaderSent, "ipxe.efi, 2 packets sent again");
    let found = diagnose(&looping, at(21));
    assert_eq!(found.reason, Reason::LoaderSilent);
    assert_eq!(found.message, "ipxe.efi was sent 3 times, and the script was never asked for");
    // Four questions within two seconds are an ordinary boot: twice on 67, on 4011, and again as iPXE.
    let mut asking = record(&[(FirmwareSeen, 0, 4)]);
    asking.steps[0].last_at = seconds(at(2));
    assert_eq!(diagnose(&asking, at(3)).reason, Reason::UnderWay);
    asking.steps[0].last_at = seconds(at(12));
    assert_eq!(diagnose(&asking, at(13)).reason, Reason::OfferNotTaken);
}

#[test]
fn the_next_loader_is_named_and_the_last_is_the_end() {
    let mut record = record(&[(FirmwareSeen, 0, 1)]);
    record.previous = boot(-60, &[step(FirmwareSeen, -60), step(LoaderSent, -58)]).history();
    (record.loader, record.failed_loaders) = (Some("ipxe.efi".to_owned()), vec!["snponly.efi".to_owned()]);
    let found = diagnose(&record, at(1));
    assert_eq!(found.reason, Reason::UnderWay);
    assert!(
        found.message.ends_with("snponly.efi never asked for its script, so ipxe.efi is tried"),
        "{}",
        found.message
    );
    record.failed_loaders.push("ipxe.efi".to_owned());
    let found = diagnose(&record, at(1));
    assert_eq!((found.progress, found.reason), (Progress::Stopped, Reason::LoaderSilent));
    assert!(found.message.contains("(snponly.efi, ipxe.efi), and none asked"), "{}", found.message);
    // It failed long ago, and worked since.
    record.previous[0].furthest = Some(NodeReady);
    assert_eq!(diagnose(&record, at(1)).reason, Reason::UnderWay);
}

#[test]
fn a_box_without_a_loader_is_no_box_that_never_asked() {
    let nothing = fails(record(&[]), FirmwareSeen, "NoLoader", "no loader is at hand");
    assert_eq!(diagnose(&nothing, at(LATER)).reason, Reason::NoLoader);
}

#[test]
fn boots_that_ended_at_the_same_step_are_counted() {
    let mut record = record(&[(FirmwareSeen, 0, 1), (LoaderSent, 5, 1)]);
    for start in [-400, -300, -200] {
        record.previous = boot(start, &[step(FirmwareSeen, start), step(LoaderSent, start + 5)]).history();
    }
    let message = diagnose(&record, at(LATER)).message;
    assert!(message.ends_with("; the boot before ended there too"), "{message}");
    record.previous = [record.previous.clone(), record.previous].concat();
    let message = diagnose(&record, at(LATER)).message;
    assert!(message.ends_with("; the 2 boots before ended there too"), "{message}");
}

fn status(phase: Phase, word: &str, state: IntentState) -> Machine {
    let mut machine = Machine::clone(&machine("box").mac("52:54:00:30:00:10").arc());
    let intent =
        IntentStatus { id: "created".into(), state, opened_at: seconds(at(-60)), expires_at: seconds(at(3540)) };
    machine.status = Some(MachineStatus {
        phase: Some(phase),
        reason: Some(word.to_owned()).filter(|word| !word.is_empty()),
        message: Some(format!("{word} is so")),
        intent: Some(intent),
        ..MachineStatus::default()
    });
    machine
}

/// What the status knows and a boot record does not.
#[rstest]
#[case("DuplicateIdentity", Reason::DuplicateIdentity)]
#[case("ClaimRefused", Reason::ClaimRefused)]
#[case("ClaimConflict", Reason::ClaimConflict)]
#[case("NodeNameTaken", Reason::NodeNameTaken)]
#[case("CertificatePending", Reason::CertificateNotIssued)]
#[case("CertificateIssued", Reason::NodeNotRegistered)]
#[case("NodeGone", Reason::NodeNotRegistered)]
#[case("NodeNotReady", Reason::NodeNotReady)]
#[case("WindowExpired", Reason::WindowExpired)]
fn a_status_that_failed(#[case] word: &str, #[case] reason: Reason) {
    let failed = status(Phase::Failed, word, IntentState::Open);
    let running = record(&[(AgentStarted, 40, 1), (Claiming, 41, 1)]);
    let found = diagnose_machine(&failed, Some(&running), at(50));
    assert_eq!((found.progress, found.reason), (Progress::Stopped, reason), "{}", found.message);
    assert_eq!(found.message, format!("{word} is so"));
    let bare = diagnose_machine(&failed, None, at(50));
    assert_eq!((bare.progress, bare.reason), (Progress::Stopped, reason));
}

#[test]
fn an_expired_window_does_not_hide_where_the_boot_stopped() {
    let expired = status(Phase::Failed, "WindowExpired", IntentState::Expired);
    let found = diagnose_machine(&expired, Some(&record(&[(FirmwareSeen, 0, 2), (LoaderSent, 5, 1)])), at(LATER));
    assert_eq!((found.reason, found.stopped_at), (Reason::LoaderSilent, Some(LoaderSent)));
    assert!(found.message.ends_with("set spec.bootIntent before the next try"), "{}", found.message);
}

#[test]
fn before_the_box_was_seen() {
    let created = machine("box").mac("52:54:00:30:00:10").arc();
    assert!(diagnose_machine(&created, None, at(0)).message.contains("no controller has looked"));
    assert_eq!(
        diagnose_machine(&created, Some(&record(&[(LoaderSent, 5, 1)])), at(LATER)).reason,
        Reason::LoaderSilent
    );
    let open = status(Phase::Pending, "NotSeen", IntentState::Open);
    let soon = diagnose_machine(&open, None, at(0));
    assert_eq!((soon.progress, soon.reason), (Progress::UnderWay, Reason::NeverAsked));
    assert_eq!(diagnose_machine(&open, None, soon.until.unwrap()).progress, Progress::Stopped);
    // A boot of the time before this window is not this window's.
    let old = boot(-500, &[step(NodeReady, -400)]);
    assert_eq!(diagnose_machine(&open, Some(&old), at(0)), soon);
    assert_eq!(
        diagnose_machine(&status(Phase::Ready, "", IntentState::Fulfilled), Some(&old), at(0)).reason,
        Reason::Running
    );
}

#[rstest]
#[case("NoProfile", Progress::Stopped, Reason::ProfileNotReady)]
#[case("AmbiguousProfile", Progress::Stopped, Reason::ProfileNotReady)]
#[case("RenderFailed", Progress::Stopped, Reason::RenderFailed)]
#[case("ConfigMapMissing", Progress::Stopped, Reason::RenderFailed)]
#[case("ArtifactFailed", Progress::Stopped, Reason::ArtifactFailed)]
#[case("ArtifactFetching", Progress::UnderWay, Reason::ScriptWaits)]
fn a_profile_that_is_not_ready(#[case] word: &str, #[case] progress: Progress, #[case] reason: Reason) {
    let mut pending = status(Phase::Failed, word, IntentState::Open);
    let told = condition(&[], PROFILE_READY, Status::False, word, "as the condition says", None, &seconds(at(0)));
    pending.status.as_mut().unwrap().conditions.push(told);
    let found = diagnose_machine(&pending, Some(&record(&[(ScriptServed, 5, 1)])), at(9));
    assert_eq!((found.progress, found.reason, found.message.as_str()), (progress, reason, "as the condition says"));
}

/// The page that every diagnosis points to has a section for each reason, and none for what does not exist.
#[test]
fn every_reason_has_its_section_in_the_page() {
    let page = include_str!("../../../../docs/my-machine-does-not-boot.md");
    let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(sections, reasons, "the page's sections, in the order of the chain");
    for reason in Reason::ALL {
        assert!(page.contains(&format!("](#{})", reason.anchor())), "nothing in the page leads to {}", reason.as_str());
    }
}
