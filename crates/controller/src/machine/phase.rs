//! Phase, reason and message: what a person sees first. Derived from the conditions, the boot record and what
//! the Node says; nothing reads the result back.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use magnetite_api::{
    Phase,
    conditions::{self, CLAIMED, IDENTITY_UNIQUE, JOINED, MAINTENANCE, PROFILE_READY, WINDOW_OPEN, reason},
    machine::{IntentState, IntentStatus},
    power::{PowerState, PowerWanted},
    profile::JoinMode,
    report::{BootFailure, BootRecord, BootStepName},
};
use magnetite_boot::diagnose::{Diagnosis, Progress, Reason, diagnose};

use super::observe::Observed;
use crate::node::{NodeSeen, Readiness};

/// From the certificate to a Ready node; a kubelet needs a minute, so this is long.
pub const JOIN_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// A reboot of a joined machine counts as under way for this long after its last sign.
pub const REBOOT_LIMIT: SignedDuration = SignedDuration::from_mins(15);

/// Where a machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The phase.
    pub phase: Phase,
    /// Why it is so, in a word.
    pub reason: String,
    /// Why it is so, in a sentence with what to do.
    pub message: String,
    /// When time alone will change it.
    pub until: Option<Timestamp>,
}

fn verdict(phase: Phase, reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { phase, reason: reason.to_owned(), message: message.into(), until: None }
}

impl Verdict {
    /// It changes at a moment, or sooner if that was said before.
    fn until(self, moment: Timestamp) -> Self {
        Self { until: Some(self.until.map_or(moment, |sooner| sooner.min(moment))), ..self }
    }
}

/// What the derivation may look at.
pub struct Facts<'a> {
    /// What was observed.
    pub seen: &'a Observed,
    /// All conditions but Ready.
    pub conditions: &'a [Condition],
    /// The intent, as it will be.
    pub intent: &'a IntentStatus,
    /// Whether its box runs a system in memory, out of service, or is on its way there.
    pub in_memory: bool,
    /// The moment.
    pub now: Timestamp,
}

/// Derives.
pub fn derive(facts: &Facts<'_>) -> Verdict {
    let Facts { seen, conditions, intent, in_memory, now } = *facts;
    if seen.machine.metadata.deletion_timestamp.is_some() {
        return verdict(Phase::Pending, reason::DELETING, "the Machine is being deleted; its window is closed");
    }
    if in_memory {
        return from(conditions, MAINTENANCE, Phase::Maintenance);
    }
    if seen.join() == Some(JoinMode::None) && intent.state == IntentState::Fulfilled {
        return rebooting(facts, None).unwrap_or_else(|| {
            verdict(Phase::Ready, reason::BOOTED_WITHOUT_JOIN, "the system booted; its Profile joins nothing")
        });
    }
    if conditions::is_true(conditions, JOINED)
        && seen.is_claimed(intent)
        && let Some(node) = seen.own_node()
    {
        return joined(facts, node);
    }
    for kind in [IDENTITY_UNIQUE, PROFILE_READY] {
        if let Some(condition) = conditions::find(conditions, kind).filter(|condition| condition.status != "True") {
            let waits = condition.reason == reason::ARTIFACT_FETCHING;
            let phase = if waits { Phase::Pending } else { Phase::Failed };
            return verdict(phase, &condition.reason, &condition.message);
        }
    }
    if let Some(stopped) = stopped(conditions) {
        return stopped;
    }
    match intent.state {
        IntentState::Frozen => from(conditions, WINDOW_OPEN, Phase::Failed),
        _ if seen.is_claimed(intent) => joining(facts),
        IntentState::Expired => expired(facts),
        IntentState::Fulfilled => from(conditions, WINDOW_OPEN, Phase::Pending),
        IntentState::Open => open(facts).until(intent.expires_at.0.max(now)),
    }
}

fn from(conditions: &[Condition], kind: &str, phase: Phase) -> Verdict {
    let found = conditions::find(conditions, kind);
    found.map_or_else(|| verdict(phase, reason::WAITING, ""), |found| verdict(phase, &found.reason, &found.message))
}

/// The conditions about the Node that no boot can get past.
fn stopped(conditions: &[Condition]) -> Option<Verdict> {
    let joined = conditions::find(conditions, JOINED)?;
    let ends = [reason::NODE_NAME_TAKEN, reason::NODE_GONE].contains(&joined.reason.as_str());
    // A Node that is gone matters no more once the box is told to boot anew.
    let open = conditions::is_true(conditions, WINDOW_OPEN);
    let ends = ends && !(open && joined.reason == reason::NODE_GONE);
    ends.then(|| verdict(Phase::Failed, &joined.reason, &joined.message))
}

/// A machine with a Node and the certificate of this intent.
fn joined(facts: &Facts<'_>, node: &NodeSeen) -> Verdict {
    let Facts { seen, conditions, intent, in_memory: _, now } = *facts;
    if let Some(rebooting) = rebooting(facts, node.heartbeat) {
        return rebooting;
    }
    let issued = seen.before().and_then(|status| status.identity.as_ref()?.issued_at.clone());
    let fresh = issued.as_ref().is_none_or(|issued| node.heard_since(issued.0));
    match node.readiness {
        Readiness::Ready if fresh => {
            verdict(Phase::Ready, reason::NODE_READY, format!("the Node {} is Ready", node.name))
        }
        // Two boxes, one name: that matters more than which of them is slow.
        Readiness::NotReady | Readiness::Silent if intent.state == IntentState::Frozen => {
            from(conditions, WINDOW_OPEN, Phase::Failed)
        }
        Readiness::Ready | Readiness::NotReady | Readiness::Silent => {
            let deadline = issued.map(|issued| issued.0 + JOIN_LIMIT).filter(|deadline| now < *deadline);
            // Once it was Ready, there is no waiting for the first time any more.
            let first_time = matches!(intent.state, IntentState::Open | IntentState::Expired);
            if let Some(deadline) = deadline.filter(|_| first_time) {
                let message = format!("the Node {} is registered and not Ready yet{}", node.name, says(node));
                return verdict(Phase::Joining, reason::NODE_REGISTERED, message).until(deadline);
            }
            let message = format!(
                "the Node {} is not Ready{}; look at the kubelet on the box, or set spec.bootIntent to provision it \
                 again",
                node.name,
                says(node)
            );
            verdict(Phase::Failed, reason::NODE_NOT_READY, message)
        }
    }
}

fn says(node: &NodeSeen) -> String {
    let text = super::fold::clean(&node.message, 200);
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// A joined machine that boots again: from its firmware's first word until its kubelet's next one.
fn rebooting(facts: &Facts<'_>, heartbeat: Option<Timestamp>) -> Option<Verdict> {
    let Facts { seen, conditions: _, intent, in_memory: _, now } = *facts;
    let boot = seen.boot_of(intent)?;
    let ends = boot.last_seen.0 + REBOOT_LIMIT;
    let (since, last) = match seen.join() {
        // The box was heard of as a node after this boot began, so this boot is over.
        Some(JoinMode::Certificate) | None => {
            let identity = seen.before().and_then(|status| status.identity.as_ref());
            (identity?.issued_at.clone()?.0.max(heartbeat?), BootStepName::NodeReady)
        }
        Some(JoinMode::None) => (intent.opened_at.0, BootStepName::SystemBooted),
    };
    if boot.started_at.0 <= since || boot.step(last).is_some() || now >= ends {
        return None;
    }
    Some(under_way(boot, Some("the machine is rebooting"), now).until(ends))
}

/// A key is bound in this intent, and the Node is not there yet.
fn joining(facts: &Facts<'_>) -> Verdict {
    let Facts { seen, conditions, intent, in_memory: _, now } = *facts;
    let identity = seen.before().and_then(|status| status.identity.as_ref());
    let bound = identity.map(|identity| identity.bound_at.0);
    let after = seen.boot_of(intent).filter(|boot| bound.is_some_and(|bound| boot.last_seen.0 >= bound));
    if let Some(boot) = after
        && let Some(failure) = boot.standing_failure()
    {
        return failed(boot, failure, now);
    }
    let waiting = from(conditions, JOINED, Phase::Joining);
    match bound.map(|bound| bound + JOIN_LIMIT) {
        Some(deadline) if now >= deadline => {
            let message = format!(
                "{}, {} minutes after the box claimed its identity; look at the kubelet on the box, or set \
                 spec.bootIntent to provision it again",
                waiting.message,
                JOIN_LIMIT.as_mins()
            );
            verdict(Phase::Failed, &waiting.reason, message)
        }
        Some(deadline) => waiting.until(deadline),
        None => waiting,
    }
}

/// The window's time ran out and no key was bound.
fn expired(facts: &Facts<'_>) -> Verdict {
    let Facts { seen, conditions: _, intent, in_memory: _, now } = *facts;
    let last = match seen.boot_of(intent) {
        None => format!("the box was never seen: {}{}", Reason::NeverAsked.hint(), bmc_says(seen)),
        Some(boot) => match boot.standing_failure() {
            Some(failure) => format!("{} failed: {}: {}", failure.step.as_str(), failure.reason, failure.message),
            None => format!("last step: {}{}", last_step(boot), says_why(&diagnose(boot, now))),
        },
    };
    let still = seen.own_node().map_or(String::new(), |node| format!("; the Node {} runs on as before", node.name));
    let message = format!(
        "boot window of intent {} expired at {}; {last}{still}; set spec.bootIntent to open another",
        intent.id, intent.expires_at.0
    );
    verdict(Phase::Failed, reason::WINDOW_EXPIRED, message)
}

/// The window is open and no key is bound.
fn open(facts: &Facts<'_>) -> Verdict {
    let Facts { seen, conditions, intent, in_memory: _, now } = *facts;
    let Some(boot) = seen.boot_of(intent) else {
        let node = seen.own_node();
        let update = seen.update().filter(|update| update.stage.is_active() && update.intent == intent.id);
        let still = match (update, node) {
            (Some(update), _) => update.message.clone().unwrap_or_default(),
            (None, Some(node)) => format!("power-cycle the box; the Node {} runs on as before", node.name),
            (None, None) => "power the box on".to_owned(),
        };
        let message = format!("the boot window is open until {}: {still}{}", intent.expires_at.0, bmc_says(seen));
        return verdict(Phase::Pending, reason::NOT_SEEN, message);
    };
    if let Some(claimed) = conditions::find(conditions, CLAIMED).filter(|c| c.reason == reason::CLAIM_REFUSED) {
        // A boot that began after the refusal is another try.
        let refused = seen.refusal(intent).and_then(|refusal| refusal.decided_at);
        if refused.is_some_and(|refused| boot.started_at.0 < refused) {
            return verdict(Phase::Failed, reason::CLAIM_REFUSED, &claimed.message);
        }
    }
    match boot.standing_failure() {
        Some(failure) => failed(boot, failure, now),
        // The box has come as far as it can; the next step is a person's.
        None => match conditions::find(conditions, CLAIMED).filter(|c| c.reason == reason::AWAITING_APPROVAL) {
            Some(waits) => verdict(Phase::Provisioning, reason::AWAITING_APPROVAL, &waits.message),
            None => under_way(boot, None, now),
        },
    }
}

/// What the BMC says about a box that was not seen, where that explains it.
fn bmc_says(seen: &Observed) -> String {
    let Some(power) = seen.before().and_then(|status| status.power.as_deref()) else { return String::new() };
    let will = seen.machine.spec.power == Some(PowerWanted::On);
    match (&power.message, power.state) {
        (Some(message), _) => format!("; {message}"),
        (None, Some(PowerState::Off)) if will => {
            "; its BMC says that it is off, and is told to switch it on".to_owned()
        }
        (None, Some(PowerState::Off)) => "; its BMC says that it is off: spec.power: On switches it on".to_owned(),
        (None, Some(PowerState::On)) => {
            "; its BMC says that it is on: a new spec.restart.id restarts it, from the network".to_owned()
        }
        (None, Some(PowerState::PoweringOn | PowerState::PoweringOff) | None) => String::new(),
    }
}

fn failed(boot: &BootRecord, failure: &BootFailure, now: Timestamp) -> Verdict {
    let BootFailure { step, reason: why, message, at } = failure;
    let message = format!("{} failed at {}: {why}: {message}", step.as_str(), at.0);
    verdict(Phase::Failed, diagnose(boot, now).reason.as_str(), message)
}

fn under_way(boot: &BootRecord, prefix: Option<&str>, now: Timestamp) -> Verdict {
    let Some(step) = boot.furthest() else {
        return verdict(Phase::Booting, reason::WAITING, "the box was seen");
    };
    let phase = match step.name {
        BootStepName::FirmwareSeen
        | BootStepName::LoaderSent
        | BootStepName::ScriptServed
        | BootStepName::KernelFetched
        | BootStepName::InitrdFetched
        | BootStepName::FileFetched => Phase::Booting,
        BootStepName::ConfigFetched
        | BootStepName::AgentFetched
        | BootStepName::AgentStarted
        | BootStepName::Inventoried
        | BootStepName::Installing
        | BootStepName::Installed
        | BootStepName::Wiping
        | BootStepName::Wiped
        | BootStepName::Claiming
        | BootStepName::SystemBooted => Phase::Provisioning,
        BootStepName::CertificateReceived
        | BootStepName::KubeletStarted
        | BootStepName::NodeRegistered
        | BootStepName::NodeReady => Phase::Joining,
    };
    let prefix = prefix.map_or(String::new(), |prefix| format!("{prefix}; "));
    let diagnosis = diagnose(boot, now);
    // A box that was sent to its own disk does as it should, and one that is on its way too.
    let why = diagnosis.progress == Progress::Stopped || diagnosis.reason == Reason::ScriptWaits;
    let reason = if why { diagnosis.reason.as_str() } else { step.name.as_str() };
    let message =
        format!("{prefix}last step: {}{}", last_step(boot), if why { says_why(&diagnosis) } else { String::new() });
    let verdict = verdict(phase, reason, message);
    diagnosis.until.map_or(verdict.clone(), |until| verdict.until(until))
}

fn last_step(boot: &BootRecord) -> String {
    match boot.furthest() {
        Some(step) => format!("{} at {}", step.name.as_str(), step.last_at.0),
        None => format!("seen at {}", boot.last_seen.0),
    }
}

/// What a boot that does not go on stopped at, and what to look at.
fn says_why(diagnosis: &Diagnosis) -> String {
    match diagnosis.reason {
        Reason::UnderWay => String::new(),
        _ => format!("; {}: {}", diagnosis.message, diagnosis.hint()),
    }
}
