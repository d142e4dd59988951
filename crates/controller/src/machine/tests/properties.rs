//! What holds in every world: obeying the plan comes to rest, a Ready machine is left alone, deletion ends, and
//! nothing but the spec opens a window.

use magnetite_api::names::{ANNOTATION_APPROVED_BY, ANNOTATION_DISCOVERED_BY};
use magnetite_api::{
    Fingerprint, MachineStatus, Phase,
    claim::Decision,
    conditions::MAINTENANCE,
    machine::{
        DeletionPolicy, IdentityStatus, IntentState, IntentStatus, MaintenanceMode, MaintenanceStage, MaintenanceStatus,
    },
    report::BootFailure,
};
use magnetite_boot::{discovery::Doubt, fleet::Conflict};
use proptest::{option, prelude::*, sample::select};

use super::*;
use crate::{
    discovery::rules::{Approval, Choice},
    fixtures::{Keys, identity, intent, node as node_named},
    machine::{
        held::HeldSeen,
        observe::ClaimSeen,
        plan::{Action, Plan, plan},
    },
    node::{NodeSeen, Readiness, marks::Marks},
    profile::renders::Trouble,
};

const STEPS: [BootStepName; 15] = [
    BootStepName::FirmwareSeen,
    BootStepName::LoaderSent,
    BootStepName::ScriptServed,
    BootStepName::KernelFetched,
    BootStepName::InitrdFetched,
    BootStepName::FileFetched,
    BootStepName::ConfigFetched,
    BootStepName::AgentFetched,
    BootStepName::AgentStarted,
    BootStepName::Claiming,
    BootStepName::CertificateReceived,
    BootStepName::KubeletStarted,
    BootStepName::NodeRegistered,
    BootStepName::NodeReady,
    BootStepName::SystemBooted,
];

fn moment() -> impl Strategy<Value = i64> {
    -500..6000_i64
}

fn intents() -> impl Strategy<Value = Option<IntentStatus>> {
    let state = select(vec![IntentState::Open, IntentState::Fulfilled, IntentState::Expired, IntentState::Frozen]);
    option::of((select(vec!["created", "r2"]), state).prop_map(|(id, state)| intent(id, state)))
}

fn identities() -> impl Strategy<Value = Option<IdentityStatus>> {
    let keys = std::rc::Rc::new(Keys::new());
    option::of(
        (select(vec!["created", "r2"]), moment(), option::of(moment())).prop_map(move |(id, bound, issued)| {
            IdentityStatus { intent: id.into(), ..identity(&keys, bound, issued) }
        }),
    )
}

fn boots() -> impl Strategy<Value = Option<BootRecord>> {
    let steps = proptest::collection::vec((select(STEPS.to_vec()), moment()), 0..4);
    let failure = option::of((select(STEPS.to_vec()), moment()));
    option::of((moment(), steps, failure).prop_map(|(began, steps, failure)| {
        let mut record = boot(began, &steps);
        record.failure =
            failure.map(|(step, at)| BootFailure { step, reason: "R".into(), message: "m".into(), at: Time(t(at)) });
        record
    }))
}

fn nodes() -> impl Strategy<Value = Option<NodeSeen>> {
    let readiness = select(vec![Readiness::Ready, Readiness::NotReady, Readiness::Silent]);
    let owner = select(vec![None, Some("uid-1"), Some("uid-9")]);
    option::of((readiness, owner, option::of(moment()), option::of(moment()), any::<bool>()).prop_map(
        |(readiness, owner, created, heartbeat, control_plane)| NodeSeen {
            readiness,
            created_at: created.map(t),
            heartbeat: heartbeat.map(t),
            control_plane,
            ..node_named("box-1", owner)
        },
    ))
}

fn claims() -> impl Strategy<Value = Vec<ClaimSeen>> {
    let decision = select(vec![None, Some(Decision::Bound), Some(Decision::Approved), Some(Decision::Denied)]);
    let claim = (moment(), decision, select(vec!["created", "r2"])).prop_map(|(at, decision, intent)| ClaimSeen {
        name: String::new(),
        intent: intent.into(),
        fingerprint: None,
        address: "172.30.0.16".into(),
        created_at: Some(t(at)),
        decision,
        decided_at: decision.map(|_| t(at)),
        reason: "BadRequest".into(),
        message: "m".into(),
    });
    proptest::collection::vec(claim, 0..40).prop_map(|mut claims| {
        claims.iter_mut().enumerate().for_each(|(i, claim)| claim.name = format!("c{i}"));
        claims
    })
}

/// What the spec says of it, and how far the box is.
fn out_of_service() -> impl Strategy<Value = (Option<MaintenanceMode>, Option<MaintenanceStatus>)> {
    let mode = option::weighted(0.3, select(vec![MaintenanceMode::Drained, MaintenanceMode::InMemory]));
    let stage = select(vec![MaintenanceStage::Restarting, MaintenanceStage::InMemory]);
    let status = (stage, moment()).prop_map(|(stage, at)| MaintenanceStatus {
        id: format!("maintenance-{at}"),
        stage,
        since: Time(t(at)),
    });
    (mode, option::weighted(0.2, status))
}

fn worlds() -> impl Strategy<Value = Observed> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), 0..8_u8, 0..6_u8);
    let status = (option::weighted(0.9, (intents(), identities())), any::<bool>());
    (flags, status, boots(), nodes(), claims(), out_of_service()).prop_map(
        |((deleting, finalizer, remove, trouble, conflict), (status, again), boot, node, claims, (mode, there))| {
            let mut seen = created();
            let machine = Arc::make_mut(&mut seen.machine);
            machine.metadata.deletion_timestamp = deleting.then(|| Time(t(0)));
            machine.metadata.finalizers = finalizer.then(|| vec![magnetite_api::names::FINALIZER.into()]);
            machine.spec.boot_intent = again.then(|| "r2".into());
            machine.spec.approved_fingerprint = (trouble == 7).then_some(Fingerprint([7; 8]));
            machine.spec.deletion_policy = if remove { DeletionPolicy::RemoveNode } else { DeletionPolicy::Retain };
            machine.spec.maintenance = mode;
            machine.status = status.map(|(intent, identity)| {
                let maintenance = there.filter(|_| intent.is_some()).map(Box::new);
                MachineStatus { intent, identity, maintenance, ..MachineStatus::default() }
            });
            let found = seen.profile.as_mut().unwrap();
            let told = |reason| Trouble { reason, message: "m".into() };
            match trouble {
                0 => seen.profile = Err(told("ProfileNotFound")),
                1 => found.trouble = Some(told("RenderFailed")),
                2 => found.trouble = Some(told("ArtifactFetching")),
                3 | 4 => found.join = JoinMode::None,
                _ => {}
            }
            if conflict == 0 {
                seen.conflicts = vec![Conflict { field: "spec.uuid".into(), other: "box-2".into() }];
            }
            Observed { boot, node, claims, open_requests: vec!["csr-1".into()], ..seen }
        },
    )
}

/// Worlds of which most are Ready: joined, with anything else as it may be.
fn near_ready() -> impl Strategy<Value = Observed> {
    let keys = std::rc::Rc::new(Keys::new());
    worlds().prop_map(move |mut seen| {
        let machine = Arc::make_mut(&mut seen.machine);
        machine.metadata.deletion_timestamp = None;
        machine.spec.boot_intent = None;
        machine.spec.maintenance = None;
        let status = machine.status.get_or_insert_default();
        status.maintenance = None;
        status.identity = Some(identity(&keys, 0, Some(1)));
        status.intent = Some(intent("created", IntentState::Open));
        let node = node_named("box-1", Some("uid-1"));
        seen.node = Some(NodeSeen { heartbeat: Some(t(60)), created_at: Some(t(50)), ..node });
        seen
    })
}

/// Worlds in which the Machine is held, and somebody may say what it becomes.
fn held_worlds() -> impl Strategy<Value = Observed> {
    (worlds(), 0..4_u8, any::<[bool; 4]>()).prop_map(|(mut seen, choice, [found, approved, doubt, other])| {
        let machine = Arc::make_mut(&mut seen.machine);
        machine.metadata.deletion_timestamp = None;
        machine.spec.hold = true;
        let annotations = machine.metadata.annotations.get_or_insert_default();
        for (annotation, set) in [(ANNOTATION_DISCOVERED_BY, found), (ANNOTATION_APPROVED_BY, approved)] {
            if set {
                annotations.insert(annotation.into(), "x".into());
            }
        }
        let approval = Approval { rule: "r".into(), labels: serde_json::json!({}), spec: serde_json::json!({}) };
        let choice = match choice {
            0 => return seen,
            1 => Choice::None,
            2 => Choice::Unclear("m".into()),
            _ => Choice::Rule(Box::new(approval)),
        };
        let doubt = doubt.then(|| Doubt { reason: "UuidShared", message: "m".into(), may_be_another: other });
        seen.held = Some(HeldSeen { doubts: doubt.into_iter().collect(), choice });
        seen.inventory = Some(magnetite_api::report::Inventory::default());
        seen
    })
}

/// A world that does as it is told.
fn obey(mut seen: Observed, plan: &Plan) -> Observed {
    let machine = Arc::make_mut(&mut seen.machine);
    if let Some(status) = &plan.status {
        machine.status = Some(status.clone());
    }
    let finalizers = machine.metadata.finalizers.get_or_insert_default();
    for action in &plan.actions {
        match action {
            Action::AddFinalizer => finalizers.push(magnetite_api::names::FINALIZER.into()),
            Action::RemoveFinalizer => finalizers.clear(),
            Action::MarkNode { node: _, uid: _, marks: Marks { labels, annotations } } => {
                let node = seen.node.as_mut().unwrap();
                node.labels.extend(labels.clone());
                node.annotations.extend(annotations.clone());
                node.managed.labels = labels.keys().cloned().collect();
                node.managed.annotations = annotations.keys().cloned().collect();
                node.owner = labels.get(magnetite_api::names::LABEL_MACHINE_UID).cloned();
            }
            Action::DeleteClaim { name } => seen.claims.retain(|claim| claim.name != *name),
            Action::DenyRequest { name } => seen.open_requests.retain(|request| request != name),
            Action::RemoveNode { node: _, uid: _ } => seen.node = None,
            Action::Cordon { node: _, uid: _ } => {
                let node = seen.node.as_mut().unwrap();
                (node.unschedulable, node.cordoned) = (true, true);
            }
            Action::Uncordon { node: _, uid: _ } => {
                let node = seen.node.as_mut().unwrap();
                (node.unschedulable, node.cordoned) = (false, false);
            }
            Action::Evict { pods: _ } => seen.pods = Some(crate::drain::Drain::default()),
            Action::Approve { approval: _ } => {
                machine.spec.hold = false;
                let annotations = machine.metadata.annotations.get_or_insert_default();
                annotations.insert(ANNOTATION_APPROVED_BY.into(), "rule/r".into());
            }
            Action::Restart { node: _, uid: _, id } => seen.node.as_mut().unwrap().restart = id.clone(),
        }
    }
    seen
}

fn is_at_rest(seen: &Observed, plan: &Plan) -> bool {
    plan.actions.is_empty() && plan.status.as_ref().is_none_or(|status| seen.machine.status.as_ref() == Some(status))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_world_comes_to_rest(start in worlds(), second in moment()) {
        let deleting = start.machine.metadata.deletion_timestamp.is_some();
        let mut seen = start;
        for _ in 0..6 {
            let plan = plan(&seen, t(second));
            if is_at_rest(&seen, &plan) {
                break;
            }
            seen = obey(seen, &plan);
        }
        let last = plan(&seen, t(second));
        prop_assert!(is_at_rest(&seen, &last), "{last:?}");
        if deleting {
            prop_assert!(seen.machine.metadata.finalizers.iter().flatten().next().is_none());
            prop_assert!(seen.claims.is_empty() || last.actions.is_empty());
        }
    }

    /// Nothing happens to a box that is held, but that a rule lets go one that discovery made, that nobody approved before, and that cannot be another's.
    #[test]
    fn a_machine_that_is_held_waits(start in held_worlds(), second in moment()) {
        let mut seen = start;
        for _ in 0..3 {
            let plan = plan(&seen, t(second));
            for action in &plan.actions {
                match action {
                    Action::AddFinalizer | Action::Restart { id: None, .. } | Action::Uncordon { .. } => {}
                    Action::Approve { .. } => {
                        let annotations = seen.machine.metadata.annotations.as_ref().unwrap();
                        prop_assert!(annotations.contains_key(ANNOTATION_DISCOVERED_BY));
                        prop_assert!(!annotations.contains_key(ANNOTATION_APPROVED_BY));
                        prop_assert!(seen.held.as_ref().unwrap().doubts.iter().all(|doubt| !doubt.may_be_another));
                        prop_assert!(seen.conflicts.is_empty());
                        prop_assert!(seen.before().is_none_or(|status| status.intent.is_none()));
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            if let Some(status) = &plan.status {
                prop_assert_eq!(status.phase, Some(Phase::Discovered));
                prop_assert!(status.intent.as_ref().is_none_or(|intent| intent.state != IntentState::Open));
                prop_assert_eq!(&status.identity, &seen.before().and_then(|status| status.identity.clone()));
            }
            seen = obey(seen, &plan);
            if !seen.machine.spec.hold {
                return Ok(());
            }
        }
        let last = plan(&seen, t(second));
        prop_assert!(is_at_rest(&seen, &last), "{:?}", last);
    }

    #[test]
    fn a_ready_machine_is_left_alone(start in near_ready(), second in moment()) {
        let mut seen = start;
        for _ in 0..6 {
            seen = obey(seen.clone(), &plan(&seen, t(second)));
        }
        let phase = seen.before().and_then(|status| status.phase);
        if phase != Some(Phase::Ready) {
            return Ok(());
        }
        prop_assert!(is_at_rest(&seen, &plan(&seen, t(second))));
        // Half a minute later too, unless a deadline came between.
        let later = plan(&seen, t(second + 30));
        prop_assert!(later.actions.is_empty());
    }

    #[test]
    fn only_the_spec_opens_a_window_and_the_identity_is_the_claims(seen in worlds(), second in moment()) {
        let Some(status) = plan(&seen, t(second)).status else { return Ok(()) };
        let before = seen.before();
        prop_assert_eq!(&status.identity, &before.and_then(|status| status.identity.clone()));
        prop_assert_eq!(&status.addresses, &before.map(|status| status.addresses.clone()).unwrap_or_default());
        let known = before.and_then(|status| status.intent.as_ref());
        if let (Some(known), Some(now)) = (known, &status.intent)
            && (known.id == seen.machine.wanted_intent() || seen.machine.metadata.deletion_timestamp.is_some())
        {
            prop_assert_eq!(&known.id, &now.id);
            prop_assert_eq!(&known.opened_at, &now.opened_at);
            // The one way back: a person said which of two keys is right, and the window's time is not over.
            let settled = seen.machine.spec.approved_fingerprint.is_some() && t(second) < known.expires_at.0;
            let thaws = known.state == IntentState::Frozen && settled && seen.machine.metadata.deletion_timestamp.is_none();
            prop_assert!(known.state == IntentState::Open || now.state != IntentState::Open || thaws);
            prop_assert!(known.state != IntentState::Frozen || now.state == IntentState::Frozen || thaws);
        }
    }

    #[test]
    fn nothing_is_done_to_a_node_without_a_certificate_of_ours(seen in worlds(), second in moment()) {
        let issued = seen.before().and_then(|status| status.identity.as_ref()).is_some_and(|i| i.issued_at.is_some());
        let foreign = seen.node.as_ref().is_some_and(|node| node.owner.as_deref() == Some("uid-9"));
        let touches = plan(&seen, t(second)).actions.iter().any(|action| {
            matches!(
                action,
                Action::MarkNode { .. }
                    | Action::RemoveNode { .. }
                    | Action::Cordon { .. }
                    | Action::Uncordon { .. }
                    | Action::Evict { .. }
                    | Action::Restart { .. }
            )
        });
        prop_assert!(!touches || (issued && !foreign));
    }

    #[test]
    fn a_person_is_always_told_why(seen in worlds(), second in moment()) {
        let Some(status) = plan(&seen, t(second)).status else { return Ok(()) };
        let ready = status.phase == Some(Phase::Ready);
        prop_assert_eq!(status.reason.is_none(), ready);
        prop_assert_eq!(status.message.as_ref().is_none_or(String::is_empty), ready, "{:?}", status);
        let more = usize::from(status.conditions.iter().any(|condition| condition.type_ == MAINTENANCE));
        prop_assert_eq!(status.conditions.len(), 10 + more);
        for condition in &status.conditions {
            prop_assert!(!condition.reason.is_empty() && condition.message.len() < 32_768);
        }
    }
}
