//! A machine that is out of service: its Node is emptied, and where the spec says so its box runs a system in memory until it is to come
//! back. Pure.
//!
//! The box is sent there by what the status says, not by the spec: a controller that ends in between goes on where it was, and the box comes
//! back only once the window is prepared by which it is let in again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{
    MachineStatus,
    conditions::{
        Status,
        Status::{False, True, Unknown},
        reason,
    },
    machine::{IntentState, IntentStatus, MaintenanceMode, MaintenanceStage, MaintenanceStatus},
    report::BootStepName,
    time::seconds,
    update::{UpdateStage, UpdateStatus},
};

use super::{
    observe::Observed,
    plan::{Action, Plan, REST, next_status},
    update::{RESTART_LIMIT, by_agent, cordon, waits_for},
};
use crate::node::Readiness;

/// A heartbeat from before a restart that is read so much later is no sign of life.
const LATE_WORD: SignedDuration = SignedDuration::from_secs(60);

/// What the condition says.
type Says = (Status, &'static str, String);

/// Where a machine that is to run a system in memory stands, as long as it has not begun to restart for it: begun once its Node is empty, no
/// update is under way, and no window is open in which the box is still on its way.
pub fn begin(
    seen: &Observed,
    intent: &IntentStatus,
    update: Option<&UpdateStatus>,
    now: Timestamp,
) -> Option<MaintenanceStatus> {
    let wanted = seen.machine.spec.maintenance == Some(MaintenanceMode::InMemory);
    let free = hindrance(seen, intent, update).is_none();
    // Pods are looked at once the Node is closed: before that nobody knows that it is empty.
    let closed = seen.own_node().is_none_or(|node| node.unschedulable);
    (wanted && free && closed && waits_for(seen).is_none()).then(|| MaintenanceStatus {
        id: id(now),
        stage: MaintenanceStage::Restarting,
        since: seconds(now),
    })
}

/// What comes first, in a sentence.
fn hindrance(seen: &Observed, intent: &IntentStatus, update: Option<&UpdateStatus>) -> Option<String> {
    if let Some(update) = update.filter(|update| update.stage.is_active()) {
        return Some(format!("its update to revision {} ends first", update.revision));
    }
    match intent.state {
        IntentState::Open => return Some(format!("the box boots by intent {} first, whose window is open", intent.id)),
        // To come back it may need a window, and that would forget that nobody said which key is right.
        IntentState::Frozen => return Some("two keys claimed it, and a person says first which is right".to_owned()),
        IntentState::Fulfilled | IntentState::Expired => {}
    }
    if let Some(conflict) = seen.conflicts.first() {
        return Some(format!("{} is also that of the Machine {}", conflict.field, conflict.other));
    }
    if seen.profile.as_ref().is_ok_and(|profile| profile.boots_an_installer) {
        return Some(
            "its Profile boots an installer that asks for templates, and no system in which an agent waits".to_owned(),
        );
    }
    let trouble = seen.profile.as_ref().map_or_else(Some, |profile| profile.trouble.as_ref());
    trouble.map(|trouble| format!("its Profile has to boot it: {}", trouble.message))
}

/// What to do while the box is in memory, or on its way there; nothing, if it is not.
pub fn plan(seen: &Observed, now: Timestamp) -> Option<Plan> {
    let maintenance = seen.machine.maintenance()?;
    let before = seen.before()?;
    let intent = before.intent.clone()?;
    let booted = before.booted_revision.clone();
    let next = advance(seen, maintenance, now);
    if seen.machine.spec.maintenance != Some(MaintenanceMode::InMemory)
        && let Some(update) = way_back(seen, before, &next, now)
    {
        let (status, _) = next_status(seen, &intent, booted, update, None, now);
        return Some(Plan { actions: vec![], status: Some(status), requeue: Some(Duration::from_secs(1)) });
    }
    let actions = at_the_node(seen, maintenance, &next);
    let deadline = next.since.0 + RESTART_LIMIT + SignedDuration::from_secs(1);
    let wait = Duration::try_from(deadline.duration_since(now)).ok().filter(|wait| !wait.is_zero());
    let (status, _) = next_status(seen, &intent, booted, before.update.clone(), Some(next), now);
    Some(Plan { actions, status: Some(status), requeue: Some(wait.map_or(REST, |wait| wait.min(REST))) })
}

/// From the restart to the word of the agent in memory; and back, if the box boots what is on its disk all the same.
fn advance(seen: &Observed, maintenance: &MaintenanceStatus, now: Timestamp) -> MaintenanceStatus {
    let there = seen.boot.as_ref().and_then(|boot| boot.step(BootStepName::Inventoried));
    let arrived = there.is_some_and(|step| step.last_at.0 >= maintenance.since.0);
    match maintenance.stage {
        MaintenanceStage::Restarting if arrived => {
            MaintenanceStatus { stage: MaintenanceStage::InMemory, since: seconds(now), ..maintenance.clone() }
        }
        MaintenanceStage::InMemory if is_up_since(seen, maintenance) => {
            MaintenanceStatus { id: id(now), stage: MaintenanceStage::Restarting, since: seconds(now) }
        }
        MaintenanceStage::Restarting | MaintenanceStage::InMemory => maintenance.clone(),
    }
}

fn id(now: Timestamp) -> String {
    format!("maintenance-{}", now.as_second())
}

/// True if its kubelet spoke since the stage began. What was on its way then does not count.
fn is_up_since(seen: &Observed, maintenance: &MaintenanceStatus) -> bool {
    let since = maintenance.since.0 + LATE_WORD;
    seen.own_node().is_some_and(|node| node.readiness == Readiness::Ready && node.heard_since(since))
}

/// How it is let in again: a system that lives in memory needs a window, since its keys may have been there too. That is an update to the
/// revision that there is, under an intent of its own, with the health check of every update. One on a disk needs none.
///
/// Nothing, as long as it cannot come back: a box that is on its way into memory arrives there first, since a restart that was asked for
/// cannot be taken back; one that never went goes on as it is.
fn way_back(
    seen: &Observed,
    before: &MachineStatus,
    maintenance: &MaintenanceStatus,
    now: Timestamp,
) -> Option<Option<Box<UpdateStatus>>> {
    let profile = seen.profile.as_ref().ok()?;
    let on_its_way = maintenance.stage == MaintenanceStage::Restarting;
    if on_its_way && now < maintenance.since.0 + RESTART_LIMIT {
        return None;
    }
    if !profile.lives_in_memory || on_its_way && is_up_since(seen, maintenance) {
        return Some(before.update.clone());
    }
    let base = seen.machine.declared_intent();
    Some(Some(Box::new(UpdateStatus {
        // Not a number of the Profile's rollout, which counts on from it.
        number: before.update.as_ref().map_or(0, |update| update.number),
        revision: profile.revision.clone(),
        base: base.to_owned(),
        intent: format!("{base}.{}", maintenance.id),
        stage: UpdateStage::Restarting,
        since: seconds(now),
        started_at: seconds(now),
        retry: profile.update.retry.clone(),
        reason: Some(reason::RESTARTING.to_owned()),
        message: Some("the box comes back from maintenance".to_owned()),
    })))
}

/// The Node stays closed, and its agent is asked to restart the box; where there is a BMC, that is asked instead.
fn at_the_node(seen: &Observed, written: &MaintenanceStatus, next: &MaintenanceStatus) -> Vec<Action> {
    let Some(node) = seen.own_node() else { return Vec::new() };
    let restarting = written.stage == MaintenanceStage::Restarting && next.stage == MaintenanceStage::Restarting;
    cordon(node).into_iter().chain(by_agent(seen, node, restarting.then_some(written.id.as_str()))).collect()
}

fn in_memory(seen: &Observed, maintenance: &MaintenanceStatus, now: Timestamp) -> Says {
    let name = seen.machine.metadata.name.as_deref().unwrap_or_default();
    let off = format!("kubectl magnetite maintenance {name} --off brings it back");
    match (maintenance.stage, seen.machine.spec.maintenance, &seen.profile) {
        (_, None | Some(MaintenanceMode::Drained), Err(trouble)) => {
            (False, trouble.reason, format!("the box cannot come back: {}", trouble.message))
        }
        (MaintenanceStage::InMemory, ..) => {
            (True, reason::IN_MEMORY, format!("the box runs a system in memory; {off}"))
        }
        (MaintenanceStage::Restarting, ..) => {
            let who = match seen.own_node() {
                _ if seen.machine.power_is_kept() => "its BMC is told to restart the box",
                Some(_) => "its agent was asked to restart the box",
                None => "restart the box: it has no Node through which its agent could be asked",
            };
            let since = maintenance.since.0;
            let late = if now >= since + RESTART_LIMIT { ", and it was not seen to: restart it by hand" } else { "" };
            let message = match seen.machine.spec.maintenance {
                Some(MaintenanceMode::InMemory) => {
                    format!("since {since} the box is to boot a system in memory: {who}{late}; {off}")
                }
                None | Some(MaintenanceMode::Drained) => {
                    format!("it comes back once it is in memory, where it is to be since {since}: {who}{late}")
                }
            };
            (False, if late.is_empty() { reason::RESTARTING } else { reason::NOT_RESTARTED }, message)
        }
    }
}

/// What the condition `Maintenance` says, where the spec asks for it; `next`: how far the box will be.
pub fn condition(
    seen: &Observed,
    intent: &IntentStatus,
    update: Option<&UpdateStatus>,
    next: Option<&MaintenanceStatus>,
    now: Timestamp,
) -> Option<Says> {
    if let Some(next) = next {
        return Some(in_memory(seen, next, now));
    }
    let goes_on = match seen.machine.spec.maintenance? {
        MaintenanceMode::Drained => false,
        MaintenanceMode::InMemory => true,
    };
    if let Some((why, message)) = waits_for(seen) {
        return Some((False, why, message));
    }
    if goes_on {
        let first = hindrance(seen, intent, update);
        let (why, message) =
            first.map_or((reason::RESTARTING, "the box is to restart".to_owned()), |first| (reason::WAITING, first));
        return Some((False, why, message));
    }
    Some(match seen.own_node() {
        None => (True, reason::DRAINED, "the machine has no Node".to_owned()),
        Some(node) if node.readiness == Readiness::Silent => {
            let message = format!(
                "the Node {} takes no new Pods; its kubelet does not answer, so whether its Pods end cannot be seen",
                node.name
            );
            (Unknown, reason::NODE_NOT_READY, message)
        }
        Some(node) => {
            (True, reason::DRAINED, format!("the Node {} takes no new Pods and has none that could leave", node.name))
        }
    })
}
