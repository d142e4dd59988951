//! A Machine that is deleted to be wiped: from its deletion until its box's disks read as zeros. Pure.
//!
//! Nothing else opens the intent in which a box is wiped. The box is restarted by a person or by its BMC; until then the Machine stays, and says
//! what it waits for. Its window stays open for as long as it waits: in it no identity is given to anybody.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{
    Phase,
    conditions::{self, READY, Status, reason},
    install::{WipeState, WipeStatus},
    machine::{IntentState, IntentStatus},
    time::seconds,
};

use super::{
    observe::Observed,
    plan::{self, Action, Plan, QUEUE, forget, next_status},
    update::{DRAIN_PAUSE, cordon, evict, waits_for},
};

/// After so long without a word from the box somebody should look (threats.md, R21).
const PATIENCE: SignedDuration = SignedDuration::from_mins(30);

/// What to do until the box is wiped; nothing, once it is: then the Machine goes as every other.
pub fn plan(seen: &Observed, now: Timestamp) -> Option<Plan> {
    let before = seen.before().and_then(|status| status.wipe.as_deref());
    if before.is_some_and(|wipe| wipe.state == WipeState::Wiped) {
        return None;
    }
    let wipe = next(seen, before, now);
    let intent = window(seen, &wipe, now);
    let kept = seen.before().cloned().unwrap_or_default();
    let (mut status, _) = next_status(seen, &intent, kept.booted_revision, kept.update, None, now);
    let Says { phase, reason, message } = says(seen, &wipe, now);
    let generation = seen.machine.metadata.generation;
    let held = status.conditions.iter().position(|condition| condition.type_ == READY);
    if let Some(at) = held {
        let old = seen.before().map(|status| status.conditions.as_slice()).unwrap_or_default();
        status.conditions[at] =
            conditions::condition(old, READY, Status::False, reason, message.clone(), generation, &seconds(now));
    }
    (status.phase, status.reason, status.message) = (Some(phase), Some(reason.to_owned()), Some(message));
    let requeue = match wipe.state {
        WipeState::Pending => QUEUE,
        WipeState::Draining => DRAIN_PAUSE,
        WipeState::Wiped => Duration::from_secs(1),
        WipeState::Waiting | WipeState::Wiping | WipeState::Failed => {
            let due = [wipe.at.0 + PATIENCE, intent.expires_at.0].into_iter().filter(|due| *due > now).min();
            let wait = due.and_then(|due| Duration::try_from(due.duration_since(now)).ok());
            wait.map_or(plan::REST, |wait| (wait + Duration::from_secs(1)).min(plan::REST))
        }
    };
    status.wipe = Some(Box::new(wipe));
    Some(Plan { actions: forget(seen).chain(drain(seen)).collect(), status: Some(status), requeue: Some(requeue) })
}

/// What empties the Node, once it is written down that it is to be empty.
fn drain(seen: &Observed) -> Option<Action> {
    let written = seen.machine.wanted_wipe()?;
    let node = seen.own_node().filter(|_| written.state == WipeState::Draining)?;
    cordon(node).or_else(|| evict(seen))
}

/// Name of the intent in which a box is wiped.
fn id(seen: &Observed) -> String {
    let uid: String = seen
        .machine
        .metadata
        .uid
        .iter()
        .flat_map(|uid| uid.chars())
        .filter(char::is_ascii_alphanumeric)
        .take(8)
        .collect();
    format!("wipe-{uid}")
}

/// How far it is: begun once it is this Machine's turn, and from then on what its agent says.
fn next(seen: &Observed, before: Option<&WipeStatus>, now: Timestamp) -> WipeStatus {
    let new = |state| WipeStatus { intent: id(seen), state, disks: Vec::new(), at: seconds(now), message: None };
    let turn = !seen.wipe.turn.waits();
    match before {
        // One that waits keeps since when it does.
        Some(wipe) if wipe.state == WipeState::Pending && !turn => wipe.clone(),
        None if !turn => new(WipeState::Pending),
        None => new(WipeState::Draining),
        Some(wipe) if wipe.state == WipeState::Pending => new(WipeState::Draining),
        Some(wipe) if wipe.state == WipeState::Draining && waits_for(seen).is_some() => wipe.clone(),
        Some(wipe) if wipe.state == WipeState::Draining => new(WipeState::Waiting),
        Some(wipe) => seen.wipe.reported.clone().unwrap_or_else(|| wipe.clone()),
    }
}

/// The window in which the box boots to be wiped.
fn window(seen: &Observed, wipe: &WipeStatus, now: Timestamp) -> IntentStatus {
    let length = SignedDuration::from_secs(seen.machine.spec.boot_window_seconds.into());
    let known = seen.before().and_then(|status| status.intent.clone());
    let opened = IntentStatus {
        id: wipe.intent.clone(),
        state: IntentState::Open,
        opened_at: seconds(now),
        expires_at: seconds(now + length),
    };
    match (wipe.state, known) {
        // The window of whatever it was before closes first.
        (WipeState::Pending | WipeState::Draining, Some(known)) => IntentStatus { state: closed(known.state), ..known },
        (WipeState::Pending | WipeState::Draining, None) => IntentStatus { state: IntentState::Expired, ..opened },
        (WipeState::Wiped, Some(known)) => IntentStatus { state: IntentState::Fulfilled, ..known },
        (WipeState::Wiped, None) => IntentStatus { state: IntentState::Fulfilled, ..opened },
        (WipeState::Waiting | WipeState::Wiping | WipeState::Failed, Some(known))
            if known.id == wipe.intent && now < known.expires_at.0 =>
        {
            IntentStatus { state: IntentState::Open, ..known }
        }
        (WipeState::Waiting | WipeState::Wiping | WipeState::Failed, Some(known)) if known.id == wipe.intent => {
            IntentStatus { opened_at: known.opened_at, ..opened }
        }
        (WipeState::Waiting | WipeState::Wiping | WipeState::Failed, Some(_) | None) => opened,
    }
}

fn closed(state: IntentState) -> IntentState {
    match state {
        IntentState::Open | IntentState::Expired => IntentState::Expired,
        IntentState::Fulfilled => IntentState::Fulfilled,
        IntentState::Frozen => IntentState::Frozen,
    }
}

struct Says {
    phase: Phase,
    reason: &'static str,
    message: String,
}

fn says(seen: &Observed, wipe: &WipeStatus, now: Timestamp) -> Says {
    let name = seen.machine.metadata.name.as_deref().unwrap_or_default();
    let give_up = format!(
        "to let it go unwiped: kubectl patch machine {name} --type merge -p '{{\"spec\":{{\"deletionPolicy\":\"RemoveNode\"}}}}'"
    );
    let since = wipe.at.0;
    let late = now >= since + PATIENCE;
    let step = seen.boot.as_ref().filter(|boot| boot.last_seen.0 >= since).and_then(|boot| boot.furthest());
    let last = step.map_or("the box was not heard of".to_owned(), |step| {
        format!("last step: {} at {}", step.name.as_str(), step.last_at.0)
    });
    let restart = if seen.machine.power_is_kept() { "its BMC is told to restart it" } else { "restart it" };
    let (phase, reason, message) = match wipe.state {
        WipeState::Pending => {
            let message = format!(
                "to be wiped, and {} come first; at most {} are wiped at once (--wipes-at-once of the controller)",
                seen.wipe.turn.before, seen.wipe.turn.limit
            );
            (Phase::Pending, reason::WIPE_PENDING, message)
        }
        WipeState::Draining => {
            let (why, waits) = waits_for(seen).unwrap_or((reason::DRAINING, "the Node is empty".to_owned()));
            let message = format!("before the box is wiped its Node is emptied, since {since}: {waits}; {give_up}");
            (if late { Phase::Failed } else { Phase::Pending }, why, message)
        }
        WipeState::Waiting => {
            let trouble = seen.profile.as_ref().err().map_or(String::new(), |trouble| format!("; {}", trouble.message));
            let message = format!(
                "waits since {since} for the box to boot from the network and be wiped: {restart}; {last}{trouble}; {give_up}"
            );
            (if late { Phase::Failed } else { Phase::Pending }, reason::WIPE_WAITING, message)
        }
        WipeState::Wiping => {
            (Phase::Provisioning, reason::WIPING, format!("the box's disks are being wiped since {since}; {last}"))
        }
        WipeState::Failed => {
            let why = wipe.message.as_deref().unwrap_or("the agent did not say why");
            (
                Phase::Failed,
                reason::WIPE_FAILED,
                format!("not wiped: {why}; the agent tries again by itself; {give_up}"),
            )
        }
        WipeState::Wiped => {
            (Phase::Pending, reason::WIPED, format!("{} disks are wiped; the Machine goes", wipe.disks.len()))
        }
    };
    Says { phase, reason, message }
}
