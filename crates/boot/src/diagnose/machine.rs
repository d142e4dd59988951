//! The same for a Machine of a cluster, whose status knows what no boot record does: the Profile, the claim, the Node.

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{
    Machine, MachineStatus, Phase,
    conditions::{self, PROFILE_READY, reason},
    report::{BootRecord, BootStepName},
};

use super::{Diagnosis, Progress, Reason, diagnose, unseen};
use crate::history::SKEW;

/// How long a box may take from the word to its firmware's first packet.
const POWER_ON: SignedDuration = SignedDuration::from_mins(10);

/// Where a Machine is, and why it is there. `boot` is its newest boot, if there was one.
pub fn diagnose_machine(machine: &Machine, boot: Option<&BootRecord>, now: Timestamp) -> Diagnosis {
    let Some(status) = machine.status.as_ref() else {
        return boot.map_or_else(nobody_looked, |boot| diagnose(boot, now));
    };
    // What the box did before it was told to boot anew says nothing of whether it does.
    let opened = status.intent.as_ref().map(|intent| intent.opened_at.0);
    let boot = boot.filter(|boot| opened.is_none_or(|opened| boot.last_seen.0 + SKEW >= opened));
    let of_boot = boot.map(|boot| diagnose(boot, now));
    let message = || status.message.clone().unwrap_or_default();
    let reached = boot.and_then(BootRecord::furthest).map(|step| step.name);
    if status.phase == Some(Phase::Ready) {
        return Diagnosis::new(Progress::Done, reached, Reason::Running, ready(status));
    }
    if let Some(profile) = conditions::find(&status.conditions, PROFILE_READY).filter(|found| found.status == "False")
        && let Some((progress, reason)) = of_profile(&profile.reason)
    {
        return Diagnosis::new(progress, reached, reason, &profile.message);
    }
    let word = status.reason.as_deref().unwrap_or_default();
    if word == reason::AWAITING_APPROVAL {
        let step = Some(BootStepName::Claiming);
        return Diagnosis::new(Progress::Stopped, step, Reason::AwaitingApproval, message());
    }
    let failed = status.phase == Some(Phase::Failed);
    match of_status(word).filter(|_| failed) {
        // The window is what ended last; where the boot stopped is why.
        Some(Reason::WindowExpired) => match of_boot.filter(|of_boot| of_boot.progress == Progress::Stopped) {
            Some(mut of_boot) => {
                of_boot
                    .message
                    .push_str("; the boot window has expired since, so set spec.bootIntent before the next try");
                of_boot
            }
            None => Diagnosis::new(Progress::Stopped, reached, Reason::WindowExpired, message()),
        },
        Some(reason) => Diagnosis::new(Progress::Stopped, step_of(reason).or(reached), reason, message()),
        None => of_boot.unwrap_or_else(|| waiting(status, now)),
    }
}

fn ready(status: &MachineStatus) -> String {
    match &status.node_name {
        Some(node) => format!("the Node {node} is Ready"),
        None => "the system booted".to_owned(),
    }
}

/// Without a status there is no window either.
fn nobody_looked() -> Diagnosis {
    let mut found = unseen();
    found.message.push_str(", and no controller has looked at its Machine: does one run?");
    found
}

/// Nobody saw the box. Before it can be expected somebody must power it on, and a server's firmware takes minutes.
fn waiting(status: &MachineStatus, now: Timestamp) -> Diagnosis {
    let Some(intent) = &status.intent else { return unseen() };
    let expected = intent.opened_at.0 + POWER_ON;
    let mut waiting = unseen();
    waiting.message = format!("no boot server has heard of this box since its window opened at {}", intent.opened_at.0);
    if now < expected {
        (waiting.progress, waiting.until) = (Progress::UnderWay, Some(expected));
    }
    waiting
}

fn of_profile(word: &str) -> Option<(Progress, Reason)> {
    Some(match word {
        reason::ARTIFACT_FAILED => (Progress::Stopped, Reason::ArtifactFailed),
        reason::RENDER_FAILED | reason::CONFIG_MAP_MISSING => (Progress::Stopped, Reason::RenderFailed),
        reason::ARTIFACT_FETCHING => (Progress::UnderWay, Reason::ScriptWaits),
        reason::NOT_REPORTED => return None,
        _ => (Progress::Stopped, Reason::ProfileNotReady),
    })
}

fn of_status(word: &str) -> Option<Reason> {
    Some(match word {
        reason::DUPLICATE_IDENTITY => Reason::DuplicateIdentity,
        reason::CLAIM_REFUSED => Reason::ClaimRefused,
        reason::CLAIM_CONFLICT => Reason::ClaimConflict,
        reason::NODE_NAME_TAKEN => Reason::NodeNameTaken,
        reason::CERTIFICATE_PENDING => Reason::CertificateNotIssued,
        reason::CERTIFICATE_ISSUED | reason::NODE_GONE => Reason::NodeNotRegistered,
        reason::NODE_REGISTERED | reason::NODE_NOT_READY => Reason::NodeNotReady,
        reason::WINDOW_EXPIRED => Reason::WindowExpired,
        _ => return None,
    })
}

/// The step that a reason is about, which is as a rule the one after the last.
fn step_of(reason: Reason) -> Option<BootStepName> {
    match reason {
        Reason::ClaimRefused | Reason::ClaimConflict | Reason::NodeNameTaken => Some(BootStepName::Claiming),
        Reason::CertificateNotIssued => Some(BootStepName::CertificateReceived),
        Reason::NodeNotRegistered => Some(BootStepName::NodeRegistered),
        Reason::NodeNotReady => Some(BootStepName::NodeReady),
        _ => None,
    }
}
