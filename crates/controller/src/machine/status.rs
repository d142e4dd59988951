//! The conditions from which everything else about a Machine follows. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use magnetite_api::{
    claim::Decision,
    conditions::{
        self, BMC_REACHABLE, BOOTED, CLAIMED, HARDWARE_AS_BEFORE, IDENTITY_UNIQUE, JOINED, MAINTENANCE, PROFILE_READY,
        Status,
        Status::{False, True, Unknown},
        UNCONTESTED, UP_TO_DATE, WINDOW_OPEN, reason,
    },
    machine::{HardwareChange, IntentState, IntentStatus, MachineStatus, MaintenanceStatus},
    profile::JoinMode,
    report::{BootRecord, BootStepName},
    time::seconds,
    update::UpdateStatus,
};

use super::{
    maintenance,
    observe::{ClaimSeen, Observed, Turn},
    update,
};
use crate::node::{NodeSeen, Readiness, SKEW};

/// How many of a list are named in a message.
const NAMED: usize = 4;

type Says = (Status, &'static str, String);

impl Observed {
    /// What the Machine's status says so far.
    pub fn before(&self) -> Option<&MachineStatus> {
        self.machine.status.as_ref()
    }

    /// How it joins; not known without a Profile.
    pub fn join(&self) -> Option<JoinMode> {
        self.profile.as_ref().ok().map(|profile| profile.join)
    }

    /// Its Node, if the Node is its own.
    pub fn own_node(&self) -> Option<&NodeSeen> {
        let identity = self.before().and_then(|status| status.identity.as_ref());
        let uid = self.machine.metadata.uid.as_deref();
        self.node.as_ref().filter(|node| node.belongs_to(uid, identity))
    }

    /// The newest boot, if it was heard of in this intent.
    pub fn boot_of(&self, intent: &IntentStatus) -> Option<&BootRecord> {
        self.boot.as_ref().filter(|boot| boot.last_seen.0 + SKEW >= intent.opened_at.0)
    }

    /// True if a key is bound in this intent.
    pub fn is_claimed(&self, intent: &IntentStatus) -> bool {
        self.before().and_then(|status| status.identity.as_ref()).is_some_and(|identity| identity.intent == intent.id)
    }

    /// True if everything that the intent asked for is so: the Node is Ready with the certificate of this intent,
    /// or the system booted where there is nothing to join.
    pub fn fulfils(&self, intent: &IntentStatus) -> bool {
        match self.join() {
            None => false,
            Some(JoinMode::Certificate) => {
                let identity = self.before().and_then(|status| status.identity.as_ref());
                let issued = identity.filter(|identity| identity.intent == intent.id);
                let issued = issued.and_then(|identity| identity.issued_at.as_ref());
                // A Node keeps its last word for most of a minute: it must be the word of the new kubelet.
                issued.is_some_and(|issued| {
                    self.own_node().is_some_and(|node| node.readiness == Readiness::Ready && node.heard_since(issued.0))
                })
            }
            Some(JoinMode::None) => self.boot.as_ref().is_some_and(|boot| {
                let booted = boot.step(BootStepName::SystemBooted);
                booted.is_some_and(|step| step.last_at.0 + SKEW >= intent.opened_at.0)
            }),
        }
    }

    /// The newest refusal of a claim in this intent.
    pub fn refusal(&self, intent: &IntentStatus) -> Option<&ClaimSeen> {
        let refused = |claim: &&ClaimSeen| claim.intent == intent.id && claim.decision == Some(Decision::Denied);
        self.claims.iter().filter(refused).max_by_key(|claim| claim.decided_at)
    }
}

/// All conditions but Ready, for the intent as it will be.
pub fn conditions(
    seen: &Observed,
    intent: &IntentStatus,
    hardware: Option<&HardwareChange>,
    now: Timestamp,
) -> Vec<Condition> {
    let before = seen.before().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let generation = seen.machine.metadata.generation;
    let now = seconds(now);
    let mut each = vec![
        (IDENTITY_UNIQUE, unique(seen)),
        (PROFILE_READY, profile(seen)),
        (WINDOW_OPEN, window(seen, intent)),
        (BOOTED, booted(seen, intent)),
        (HARDWARE_AS_BEFORE, as_before(seen, hardware)),
        (CLAIMED, claimed(seen, intent)),
        (UNCONTESTED, uncontested(seen, intent)),
        (JOINED, joined(seen, before)),
    ];
    if seen.machine.spec.bmc.is_some() {
        each.push((BMC_REACHABLE, bmc(seen)));
    }
    let condition = |(kind, (status, reason, message)): (&str, Says)| {
        conditions::condition(before, kind, status, reason, message, generation, &now)
    };
    each.into_iter().map(condition).collect()
}

/// Whether it runs what it should, and whether it is out of service where it should be.
pub fn service(
    seen: &Observed,
    intent: &IntentStatus,
    (booted, update): (Option<&str>, Option<&UpdateStatus>),
    maintenance: Option<&MaintenanceStatus>,
    now: Timestamp,
) -> Vec<Condition> {
    let before = seen.before().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let generation = seen.machine.metadata.generation;
    let each = [
        Some((UP_TO_DATE, update::up_to_date(seen, booted, update))),
        maintenance::condition(seen, intent, update, maintenance, now).map(|says| (MAINTENANCE, says)),
    ];
    let condition = |(kind, (status, reason, message)): (&str, Says)| {
        conditions::condition(before, kind, status, reason, message, generation, &seconds(now))
    };
    each.into_iter().flatten().map(condition).collect()
}

pub(super) fn unique(seen: &Observed) -> Says {
    if seen.conflicts.is_empty() {
        return (True, reason::AS_DECLARED, "no other Machine declares its identifiers".to_owned());
    }
    let each = seen.conflicts.iter().take(NAMED);
    let mut each: Vec<_> = each.map(|c| format!("{} is also that of the Machine {}", c.field, c.other)).collect();
    if seen.conflicts.len() > NAMED {
        each.push(format!("and {} more", seen.conflicts.len() - NAMED));
    }
    let message = format!("{}; neither may boot until one of them is changed", each.join("; "));
    (False, reason::DUPLICATE_IDENTITY, message)
}

fn profile(seen: &Observed) -> Says {
    match &seen.profile {
        Err(trouble) => (False, trouble.reason, trouble.message.clone()),
        Ok(profile) => match &profile.trouble {
            Some(trouble) => (False, trouble.reason, trouble.message.clone()),
            // The machine may try: the boot server serves nothing that it has not checked.
            None if profile.unreported => {
                (True, reason::NOT_REPORTED, "no boot server reported on the Profile's files yet".to_owned())
            }
            None => (True, reason::AS_DECLARED, format!("the Profile {} renders", profile.name)),
        },
    }
}

fn window(seen: &Observed, intent: &IntentStatus) -> Says {
    let IntentStatus { id, state, opened_at: _, expires_at } = intent;
    let until = &expires_at.0;
    let declared = seen.machine.declared_intent();
    if let Some(Turn { before: _, limit }) = seen.reinstall.filter(|turn| turn.waits() && id != declared) {
        // Not how many come first: each of them that is done would be news to all that wait.
        let message = format!(
            "the window of intent {declared} waits: others are installed anew first, at most {limit} at once (--reinstalls-at-once of the \
             controller)"
        );
        return (False, reason::REINSTALL_PENDING, message);
    }
    match state {
        // Nothing but its wiping opens one then.
        IntentState::Open if seen.machine.metadata.deletion_timestamp.is_some() => {
            (True, reason::INTENT_OPEN, "the box may boot to be wiped, and for nothing else".to_owned())
        }
        _ if seen.machine.metadata.deletion_timestamp.is_some() => {
            (False, reason::DELETING, "the Machine is being deleted".to_owned())
        }
        IntentState::Open => {
            (True, reason::INTENT_OPEN, format!("the boot window of intent {id} is open until {until}"))
        }
        IntentState::Fulfilled => {
            (False, reason::INTENT_FULFILLED, format!("intent {id} is fulfilled; set spec.bootIntent to open another"))
        }
        IntentState::Expired => (
            False,
            reason::WINDOW_EXPIRED,
            format!("the boot window of intent {id} expired at {until}; set spec.bootIntent to open another"),
        ),
        IntentState::Frozen => (
            False,
            reason::CLAIM_CONFLICT,
            format!(
                "two keys claimed this machine in intent {id}, and its join is frozen. Both sides, and how to settle it: \
                 kubectl magnetite conflict {}",
                seen.machine.metadata.name.as_deref().unwrap_or_default()
            ),
        ),
    }
}

fn booted(seen: &Observed, intent: &IntentStatus) -> Says {
    let reached = seen.boot_of(intent).and_then(BootRecord::furthest).map(|step| step.name);
    if reached.is_some_and(|step| step >= BootStepName::AgentStarted) {
        return (True, reason::AGENT_STARTED, "the agent runs".to_owned());
    }
    if seen.own_node().is_some_and(|node| node.readiness == Readiness::Ready) {
        return (True, reason::NODE_READY, "the Node is Ready".to_owned());
    }
    match reached {
        Some(step) => (False, reason::WAITING, format!("the last step of the boot is {}", step.as_str())),
        None => (False, reason::NOT_SEEN, format!("the box has not been seen since intent {} opened", intent.id)),
    }
}

fn as_before(seen: &Observed, change: Option<&HardwareChange>) -> Says {
    match (change, &seen.inventory) {
        (Some(HardwareChange { at, changes }), _) => {
            let told = changes.join("; ");
            (False, reason::HARDWARE_CHANGED, format!("since the boot before, as seen at {}: {told}", at.0))
        }
        (None, Some(_)) => (True, reason::AS_DECLARED, "the box is made of what it was before".to_owned()),
        (None, None) => (Status::Unknown, reason::NOT_TOLD, "no agent has told yet what the box is made of".to_owned()),
    }
}

fn claimed(seen: &Observed, intent: &IntentStatus) -> Says {
    if seen.join() == Some(JoinMode::None) {
        return (False, reason::BOOTED_WITHOUT_JOIN, "the Profile joins no cluster".to_owned());
    }
    let identity = seen.before().and_then(|status| status.identity.as_ref());
    if let Some(identity) = identity.filter(|identity| identity.intent == intent.id) {
        let key: String = identity.claim_key.chars().take(10).collect();
        return (True, reason::KEY_BOUND, format!("the key {key} was bound at {}", identity.bound_at.0));
    }
    if let Some(refusal) = seen.refusal(intent) {
        let message = format!("claim {} refused ({}): {}", refusal.name, refusal.reason, refusal.message);
        return (False, reason::CLAIM_REFUSED, message);
    }
    let pending = seen.claims.iter().rfind(|claim| claim.intent == intent.id && claim.decision.is_none());
    if let Some(claim) = pending.filter(|claim| claim.reason == reason::AWAITING_APPROVAL) {
        return (False, reason::AWAITING_APPROVAL, claim.message.clone());
    }
    let message = match pending {
        Some(claim) if !claim.message.is_empty() => format!("claim {} waits: {}", claim.name, claim.message),
        Some(claim) => format!("claim {} is being decided", claim.name),
        None => format!("no claim has come in intent {}", intent.id),
    };
    (False, reason::NOT_CLAIMED, message)
}

/// Whether a second key came. It stays so until a person says which is right: the box that was first may be the rogue.
fn uncontested(seen: &Observed, intent: &IntentStatus) -> Says {
    let rivals = seen.claims.iter().filter(|claim| claim.intent == intent.id && claim.is_rival());
    let rivals: Vec<_> =
        rivals.filter_map(|claim| Some(format!("{} from {}", claim.fingerprint?, claim.address))).collect();
    match (rivals.split_first(), seen.machine.spec.approved_fingerprint) {
        (None, _) => (True, reason::AS_DECLARED, format!("no second key claimed it in intent {}", intent.id)),
        (Some(_), Some(approved)) => (
            True,
            reason::AS_DECLARED,
            format!("{} other keys came; {approved} is the one that was approved", rivals.len()),
        ),
        (Some((first, more)), None) => {
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            let name = seen.machine.metadata.name.as_deref().unwrap_or_default();
            let message = format!(
                "another key claimed this machine in intent {} and was refused: {first}{more}. Both sides, and how to \
                 settle it: kubectl magnetite conflict {name}",
                intent.id
            );
            (False, reason::CLAIM_CONFLICT, message)
        }
    }
}

/// What the power reconciler wrote down, as a condition.
pub(super) fn bmc(seen: &Observed) -> Says {
    let power = seen.before().and_then(|status| status.power.as_deref());
    let said = power.and_then(|power| Some((power.reason.as_deref()?, power.message.clone().unwrap_or_default())));
    match (said, power.and_then(|power| power.state)) {
        (Some((reason, message)), _) => (False, bmc_reason(reason), message),
        (None, Some(state)) => (True, reason::AS_DECLARED, format!("the BMC answers; the box is {}", state.as_str())),
        (None, None) => (Unknown, reason::BMC_NOT_ASKED, "the BMC has not been asked yet".to_owned()),
    }
}

/// The word, if it is one of those that there are: a status can be written by others.
fn bmc_reason(word: &str) -> &'static str {
    let all = [
        reason::BMC_UNAUTHORIZED,
        reason::BMC_UNREACHABLE,
        reason::BMC_CERTIFICATE,
        reason::BMC_REFUSED,
        reason::BMC_UNINTELLIGIBLE,
        reason::BMC_SYSTEM_NOT_FOUND,
        reason::BMC_NO_EFFECT,
        reason::BMC_SECRET_MISSING,
        reason::BMC_SHARED,
        reason::BMC_TOOL_MISSING,
    ];
    all.into_iter().find(|known| *known == word).unwrap_or(reason::BMC_UNREACHABLE)
}

fn joined(seen: &Observed, before: &[Condition]) -> Says {
    if seen.join() == Some(JoinMode::None) {
        return (False, reason::BOOTED_WITHOUT_JOIN, "the Profile joins no cluster".to_owned());
    }
    let name = seen.machine.node_name();
    if seen.own_node().is_some() {
        return (True, reason::NODE_REGISTERED, format!("the Node {name} is registered"));
    }
    let identity = seen.before().and_then(|status| status.identity.as_ref());
    let uid = seen.machine.metadata.uid.as_deref();
    if seen.node.as_ref().is_some_and(|node| node.owner.is_none() || node.owner.as_deref() != uid) {
        let message = format!(
            "a Node {name} exists and is not this Machine's: remove that Node, or delete this Machine and create it \
             with another spec.nodeName"
        );
        return (False, reason::NODE_NAME_TAKEN, message);
    }
    let was = conditions::find(before, JOINED).map(|condition| condition.reason.as_str());
    match identity {
        None => (False, reason::WAITING, "the box has not claimed its identity".to_owned()),
        Some(identity) if identity.issued_at.is_none() => {
            (False, reason::CERTIFICATE_PENDING, "the certificate is not issued yet".to_owned())
        }
        Some(_) if was.is_some_and(|was| [reason::NODE_REGISTERED, reason::NODE_GONE].contains(&was)) => {
            let message = format!(
                "the Node {name} was registered and is gone: restart its kubelet, or set spec.bootIntent to provision \
                 the box again"
            );
            (False, reason::NODE_GONE, message)
        }
        Some(_) => {
            (False, reason::CERTIFICATE_ISSUED, format!("the certificate is issued; the Node {name} is not registered"))
        }
    }
}
