//! A Machine that is held: what it waits for, and what a rule makes of it. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use magnetite_api::{
    MachineStatus, Phase,
    conditions::{self, BMC_REACHABLE, IDENTITY_UNDERSTOOD, IDENTITY_UNIQUE, READY, Status, reason},
    machine::{IntentState, IntentStatus},
    names::{ANNOTATION_APPROVED_BY, ANNOTATION_DISCOVERED_BY},
    time::seconds,
};
use magnetite_boot::discovery::{Doubt, InALine};

use super::{
    observe::Observed,
    plan::{Action, Plan, REST, restart_no_more, uncordon},
    status,
};
use crate::discovery::rules::Choice;

/// What is known of a Machine that is held.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldSeen {
    /// What is doubtful about what the box says of itself.
    pub doubts: Vec<Doubt>,
    /// What the rules make of it.
    pub choice: Choice,
}

/// Decides. No window opens, or stays open; a rule that applies, and about which there is no doubt, says what the Machine becomes.
pub fn plan(seen: &Observed, now: Timestamp) -> Plan {
    // What an update, or maintenance that is over, had asked of its Node: nobody goes on with it now.
    let uncordon = uncordon(seen).filter(|_| seen.machine.spec.maintenance.is_none());
    let actions = restart_no_more(seen).into_iter().chain(uncordon).chain(approval(seen)).collect();
    Plan { actions, status: Some(next_status(seen, now)), requeue: Some(REST) }
}

/// By a rule, and only what discovery made and nobody approved before: a person's `hold` is not a rule's to take away.
fn approval(seen: &Observed) -> Option<Action> {
    let annotations = seen.machine.metadata.annotations.as_ref()?;
    // One that was let go has an intent, whoever wrote what: then it is a person who holds it.
    let new = seen.before().is_none_or(|status| status.intent.is_none() && status.identity.is_none());
    let found = annotations.contains_key(ANNOTATION_DISCOVERED_BY) && !annotations.contains_key(ANNOTATION_APPROVED_BY);
    let held = seen.held.as_ref().filter(|_| found && new && seen.conflicts.is_empty())?;
    let doubtful = held.doubts.iter().any(|doubt| doubt.may_be_another);
    match &held.choice {
        Choice::Rule(approval) if !doubtful => Some(Action::Approve { approval: approval.clone() }),
        Choice::Rule(_) | Choice::None | Choice::Unclear(_) => None,
    }
}

fn next_status(seen: &Observed, now: Timestamp) -> MachineStatus {
    let before = seen.before().cloned().unwrap_or_default();
    let generation = seen.machine.metadata.generation;
    let (why, message) = says(seen);
    let condition = |kind, (status, reason, message): (Status, &str, String)| -> Condition {
        conditions::condition(&before.conditions, kind, status, reason, message, generation, &seconds(now))
    };
    let mut conditions = vec![
        condition(IDENTITY_UNIQUE, status::unique(seen)),
        condition(IDENTITY_UNDERSTOOD, understood(seen)),
        condition(READY, (Status::False, why, message.clone())),
    ];
    // The power reconciler goes on, if there is a BMC already.
    conditions.extend(seen.machine.spec.bmc.is_some().then(|| condition(BMC_REACHABLE, status::bmc(seen))));
    let closed = |intent: IntentStatus| match intent.state {
        IntentState::Open => IntentStatus { state: IntentState::Expired, ..intent },
        IntentState::Fulfilled | IntentState::Expired | IntentState::Frozen => intent,
    };
    MachineStatus {
        phase: Some(Phase::Discovered),
        reason: Some(why.to_owned()),
        message: Some(message),
        observed_generation: generation,
        node_name: seen.own_node().map(|node| node.name.clone()),
        intent: before.intent.clone().map(closed),
        // Its box boots something else now.
        maintenance: None,
        queued: None,
        boot: seen.boot.clone().map(Box::new),
        inventory: seen.inventory.clone().map(Box::new),
        install: seen.install.clone().map(Box::new),
        conditions,
        ..before
    }
}

/// What it waits for, and what can be done.
fn says(seen: &Observed) -> (&'static str, String) {
    let name = seen.machine.metadata.name.as_deref().unwrap_or_default();
    let Some((inventory, held)) = seen.inventory.as_ref().zip(seen.held.as_ref()) else {
        let message =
            "held; the box has not told what it is made of: it has to boot from a boot server with --discovery";
        return (reason::NOT_INVENTORIED, message.to_owned());
    };
    let approve = format!("kubectl magnetite approve {name} --profile PROFILE");
    let found = super::fold::clean(&InALine(inventory).to_string(), 400);
    match (&held.choice, held.doubts.iter().find(|doubt| doubt.may_be_another)) {
        (_, Some(doubt)) => (doubt.reason, format!("held: {}. It is {found}. In any case: {approve}", doubt.message)),
        (Choice::Unclear(why), None) => {
            (reason::RULE_UNCLEAR, format!("held: {why}. It is {found}. By hand: {approve}"))
        }
        (Choice::None, None) => (reason::HELD, format!("waits for a person: {approve}. It is {found}")),
        (Choice::Rule(approval), None) => (
            reason::APPROVED_BY_RULE,
            format!("the DiscoveryRule {} says what it becomes. It is {found}", approval.rule),
        ),
    }
}

fn understood(seen: &Observed) -> (Status, &'static str, String) {
    let Some(held) = &seen.held else {
        return (Status::Unknown, reason::NOT_INVENTORIED, "the box has not told what it is made of".to_owned());
    };
    let worst = held.doubts.iter().max_by_key(|doubt| doubt.may_be_another);
    let all: Vec<_> = held.doubts.iter().map(|doubt| doubt.message.as_str()).collect();
    match worst {
        None => (Status::True, reason::AS_DECLARED, "what the box says of itself names it and no other".to_owned()),
        Some(Doubt { may_be_another: true, reason, .. }) => (Status::False, reason, all.join("; ")),
        // Left out, and named by the rest.
        Some(Doubt { may_be_another: false, reason, .. }) => (Status::True, reason, all.join("; ")),
    }
}
