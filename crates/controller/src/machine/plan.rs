//! What to do about a Machine: from what was observed to actions and a status. No await, no client, no
//! clock, no log.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{
    Phase,
    conditions::{self, READY, Status},
    machine::{DeletionPolicy, IntentState, IntentStatus, MachineStatus, MaintenanceStatus},
    names::FINALIZER,
    time::seconds,
    update::UpdateStatus,
};

use super::{
    hardware, held, maintenance,
    observe::{ClaimSeen, Observed},
    phase::{self, Facts},
    status,
    update::{self, Next},
    wipe,
};
use crate::{discovery::rules::Approval, drain::PodSeen, node::marks::Marks};

/// Hardware changes without telling: a Machine is looked at again at least this often.
pub const REST: Duration = Duration::from_secs(300);
/// Until the next look at those that come first.
pub const QUEUE: Duration = Duration::from_secs(15);
/// Decided claims that are kept, for people to read.
const DECIDED: usize = 10;
/// Undecided claims that are kept. The first ones are: first come, first served.
const UNDECIDED: usize = 20;

/// One change of the world. Each may be done again without harm.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Our finalizer, before anything else: no window opens for a Machine that could vanish unseen.
    AddFinalizer,
    /// Labels and annotations of the Machine's Node.
    MarkNode {
        /// The Node.
        node: String,
        /// Its UID.
        uid: String,
        /// All that are ours.
        marks: Marks,
    },
    /// Removes a claim that nobody will ask for again.
    DeleteClaim {
        /// The claim.
        name: String,
    },
    /// Denies a certificate request of a Machine that is being deleted.
    DenyRequest {
        /// The request.
        name: String,
    },
    /// Removes the Node object, where the spec says so.
    RemoveNode {
        /// The Node.
        node: String,
        /// Its UID.
        uid: String,
    },
    /// Keeps new Pods away from the Machine's Node.
    Cordon {
        /// The Node.
        node: String,
        /// Its UID.
        uid: String,
    },
    /// Lets the Machine's Node take Pods again.
    Uncordon {
        /// The Node.
        node: String,
        /// Its UID.
        uid: String,
    },
    /// Asks Pods to leave the Node.
    Evict {
        /// The Pods.
        pods: Vec<PodSeen>,
    },
    /// Asks the agent to restart the box, or takes that back.
    Restart {
        /// The Node.
        node: String,
        /// Its UID.
        uid: String,
        /// For what, and which boot is to end.
        id: Option<String>,
    },
    /// Makes of a Machine that is held what a rule says.
    Approve {
        /// What that is.
        approval: Box<Approval>,
    },
    /// Lets the Machine go.
    RemoveFinalizer,
}

/// Actions in their order, the status that should be, and when to look again.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to do first.
    pub actions: Vec<Action>,
    /// What the status should say. Absent: leave it.
    pub status: Option<MachineStatus>,
    /// When to look again, if nothing happens before.
    pub requeue: Option<Duration>,
}

/// Decides.
pub fn plan(seen: &Observed, now: Timestamp) -> Plan {
    let metadata = &seen.machine.metadata;
    let ours = metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    match (metadata.deletion_timestamp.is_some(), ours) {
        (true, false) => Plan { actions: vec![], status: None, requeue: None },
        (true, true) => leave(seen, now),
        // The change itself brings us back here.
        (false, false) => Plan { actions: vec![Action::AddFinalizer], status: None, requeue: Some(REST) },
        (false, true) => live(seen, now),
    }
}

fn live(seen: &Observed, now: Timestamp) -> Plan {
    if seen.machine.spec.hold {
        return held::plan(seen, now);
    }
    if let Some(plan) = maintenance::plan(seen, now) {
        return plan;
    }
    let queued = queued_behind(seen);
    let present = queued.clone().unwrap_or_else(|| intent(seen, seen.machine.unqueued_intent(), now));
    let booted = update::booted_revision(seen, &present);
    let Next { update, until: moves } = match &queued {
        // What was decided before goes on once it is clear what it is to be: the wish may be a slip, and be taken back.
        Some(_) if seen.update().is_none_or(|update| !update.stage.is_active()) => {
            Next { update: seen.update().cloned().map(Box::new), until: None }
        }
        Some(_) | None => update::next(seen, &present, booted.as_deref(), now),
    };
    // An update that gets so far opens a window of its own, in the same write.
    let wanted = update.as_deref().map_or(seen.machine.declared_intent(), |update| update.intent.as_str());
    let intent = queued.clone().unwrap_or_else(|| intent(seen, wanted, now));
    let out_of_service = maintenance::begin(seen, &intent, update.as_deref(), now);
    let mut actions: Vec<Action> = stale(&seen.claims, seen).collect();
    actions.extend(update::at_the_node(seen, update.as_deref()));
    let (status, until) = next_status(seen, &intent, booted, update, out_of_service, now);
    let until = until.into_iter().chain(moves).min();
    if let (Some(node), Ok(profile)) = (seen.own_node(), &seen.profile)
        && !node.carries(&profile.marks)
    {
        let marks = profile.marks.clone();
        actions.push(Action::MarkNode { node: node.name.clone(), uid: node.uid.clone(), marks });
    }
    let wait = until.map(|until| until.duration_since(now).max(SignedDuration::ZERO) + SignedDuration::from_secs(1));
    let wait = wait.and_then(|wait| Duration::try_from(wait).ok());
    let wait = wait.map_or(REST, |wait| wait.min(REST));
    let far = seen.reinstall.is_some_and(|turn| turn.before >= turn.limit.saturating_mul(2));
    let wait = if queued.is_some() && !far { wait.min(QUEUE) } else { wait };
    let wait = if seen.drains() && seen.pods.as_ref().is_none_or(|drain| !drain.pods.is_empty()) {
        wait.min(update::DRAIN_PAUSE)
    } else {
        wait
    };
    Plan { actions, status: Some(status), requeue: Some(wait) }
}

/// A Machine that is being deleted: its window closes before anything else, so that no claim slips in. Where it is to be wiped, it goes once its
/// box was.
fn leave(seen: &Observed, now: Timestamp) -> Plan {
    if seen.machine.spec.deletion_policy == DeletionPolicy::Wipe
        && let Some(plan) = wipe::plan(seen, now)
    {
        return plan;
    }
    if let Some(intent) = seen.before().and_then(|status| status.intent.clone())
        && intent.state == IntentState::Open
    {
        let closed = IntentStatus { state: IntentState::Expired, ..intent };
        let before = seen.before().cloned().unwrap_or_default();
        let (status, _) = next_status(seen, &closed, before.booted_revision, before.update, None, now);
        return Plan { actions: vec![], status: Some(status), requeue: Some(Duration::from_secs(1)) };
    }
    let forgotten = forget(seen);
    let remove = match seen.machine.spec.deletion_policy {
        DeletionPolicy::Retain => false,
        DeletionPolicy::RemoveNode | DeletionPolicy::Wipe => true,
    };
    let node = seen.own_node().filter(|_| remove);
    let node = node.map(|node| Action::RemoveNode { node: node.name.clone(), uid: node.uid.clone() });
    // Nobody is left who would let it take Pods again, or take back what its agent was asked for.
    let actions = forgotten
        .chain(uncordon(seen))
        .chain(restart_no_more(seen))
        .chain(node)
        .chain([Action::RemoveFinalizer])
        .collect();
    Plan { actions, status: None, requeue: None }
}

/// Lets its Node take Pods again, if it was kept from that.
pub(super) fn uncordon(seen: &Observed) -> Option<Action> {
    let node = seen.own_node().filter(|node| node.cordoned)?;
    Some(Action::Uncordon { node: node.name.clone(), uid: node.uid.clone() })
}

/// Takes back what its agent was asked for.
pub(super) fn restart_no_more(seen: &Observed) -> Option<Action> {
    update::by_agent(seen, seen.own_node()?, None)
}

/// What ends for a Machine that leaves, whatever becomes of its box: nobody gets a certificate in its name.
pub(super) fn forget(seen: &Observed) -> impl Iterator<Item = Action> + '_ {
    let deny = seen.open_requests.iter().map(|name| Action::DenyRequest { name: name.clone() });
    deny.chain(seen.claims.iter().map(|claim| Action::DeleteClaim { name: claim.name.clone() }))
}

/// The intent as it should be: opened when the spec, or an update, names another, closed by success or by time.
fn intent(seen: &Observed, wanted: &str, now: Timestamp) -> IntentStatus {
    let known = seen.before().and_then(|status| status.intent.clone()).filter(|intent| intent.id == wanted);
    let Some(intent) = known else {
        let window = SignedDuration::from_secs(seen.machine.spec.boot_window_seconds.into());
        return IntentStatus {
            id: wanted.to_owned(),
            state: IntentState::Open,
            opened_at: seconds(now),
            expires_at: seconds(now + window),
        };
    };
    let state = match intent.state {
        IntentState::Open | IntentState::Expired if seen.fulfils(&intent) => IntentState::Fulfilled,
        IntentState::Open if now >= intent.expires_at.0 => IntentState::Expired,
        IntentState::Open => IntentState::Open,
        IntentState::Expired => IntentState::Expired,
        IntentState::Fulfilled => IntentState::Fulfilled,
        // A person said which of the two keys is right, so that the box which has it may go on.
        IntentState::Frozen if seen.machine.spec.approved_fingerprint.is_some() && now < intent.expires_at.0 => {
            IntentState::Open
        }
        IntentState::Frozen => IntentState::Frozen,
    };
    IntentStatus { state, ..intent }
}

/// The intent of before, closed, as long as others come first whose disks are overwritten by another `spec.bootIntent`.
fn queued_behind(seen: &Observed) -> Option<IntentStatus> {
    seen.reinstall.filter(|turn| turn.waits())?;
    let before = seen.before()?.intent.clone().filter(|intent| intent.id != seen.machine.declared_intent())?;
    Some(match before.state {
        IntentState::Open => IntentStatus { state: IntentState::Expired, ..before },
        IntentState::Fulfilled | IntentState::Expired | IntentState::Frozen => before,
    })
}

pub(super) fn next_status(
    seen: &Observed,
    intent: &IntentStatus,
    booted_revision: Option<String>,
    update: Option<Box<UpdateStatus>>,
    maintenance: Option<MaintenanceStatus>,
    now: Timestamp,
) -> (MachineStatus, Option<Timestamp>) {
    let before = seen.before().cloned().unwrap_or_default();
    let hardware_change = hardware::change(
        before.hardware_change.as_ref(),
        before.inventory.as_deref(),
        seen.inventory.as_ref(),
        seen.boot.as_ref(),
        now,
    );
    let mut conditions = status::conditions(seen, intent, hardware_change.as_ref(), now);
    let runs = (booted_revision.as_deref(), update.as_deref());
    conditions.extend(status::service(seen, intent, runs, maintenance.as_ref(), now));
    let in_memory = maintenance.is_some();
    let verdict = phase::derive(&Facts { seen, conditions: &conditions, intent, in_memory, now });
    let ready = verdict.phase == Phase::Ready;
    let generation = seen.machine.metadata.generation;
    conditions.push(conditions::condition(
        &before.conditions,
        READY,
        if ready { Status::True } else { Status::False },
        &verdict.reason,
        verdict.message.clone(),
        generation,
        &seconds(now),
    ));
    let profile = seen.profile.as_ref().ok();
    let status = MachineStatus {
        phase: Some(verdict.phase),
        reason: (!ready).then_some(verdict.reason),
        message: (!ready).then_some(verdict.message),
        observed_generation: generation,
        node_name: seen.own_node().map(|node| node.name.clone()),
        profile: profile.map(|profile| profile.name.clone()),
        profile_revision: profile.map(|profile| profile.revision.clone()),
        booted_revision,
        update,
        maintenance: maintenance.map(Box::new),
        queued: queued_behind(seen).map(|_| seen.machine.declared_intent().to_owned()),
        intent: Some(intent.clone()),
        // These three are the claim's to write. What was read is written back, and the resourceVersion sees to it
        // that it is still what is there.
        identity: before.identity,
        addresses: before.addresses,
        tpm: before.tpm,
        // And this is the power reconciler's.
        power: before.power,
        boot: seen.boot.clone().map(Box::new),
        inventory: seen.inventory.clone().map(Box::new),
        hardware_change,
        install: seen.install.clone().map(Box::new),
        // Only a Machine that leaves has one, and what it says is `wipe::plan`'s.
        wipe: before.wipe,
        conditions,
    };
    (status, verdict.until)
}

/// Claims that nobody will ask for again: the oldest decided ones, and the youngest of too many others. And those of the
/// approved key that were refused before it was: the box that has it asks again, and a claim is decided once.
fn stale<'a>(claims: &'a [ClaimSeen], seen: &'a Observed) -> impl Iterator<Item = Action> + 'a {
    use magnetite_api::claim::Decision;
    let winner = seen.before().and_then(|status| status.identity.as_ref()).map(|identity| identity.claim.as_str());
    let is_decided = |claim: &&ClaimSeen| claim.decision.is_some_and(Decision::is_final);
    let decided = claims.iter().rev().filter(is_decided).skip(DECIDED);
    let undecided = claims.iter().filter(move |claim| !is_decided(claim)).skip(UNDECIDED);
    let approved = seen.machine.spec.approved_fingerprint;
    let refused =
        move |claim: &&ClaimSeen| claim.is_rival() && claim.fingerprint.is_some_and(|key| Some(key) == approved);
    let (anew, decided): (Vec<_>, Vec<_>) =
        (claims.iter().filter(refused).collect(), decided.filter(move |claim| !refused(claim)).collect());
    let spare =
        anew.into_iter().chain(decided).chain(undecided).filter(move |claim| Some(claim.name.as_str()) != winner);
    spare.map(|claim| Action::DeleteClaim { name: claim.name.clone() })
}
