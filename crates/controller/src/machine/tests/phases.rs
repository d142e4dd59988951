//! A table of situations: what a person sees in each.

use BootStepName::{
    AgentStarted, Claiming, ConfigFetched, FirmwareSeen, KernelFetched, KubeletStarted, LoaderSent, NodeReady,
    ScriptServed, SystemBooted,
};
use magnetite_api::{
    Fingerprint, MachineStatus, Phase,
    claim::Decision,
    conditions::{self, reason},
    machine::{DeletionPolicy, IntentState},
    report::BootFailure,
};
use magnetite_boot::fleet::Conflict;

use super::*;
use crate::{
    fixtures::{Keys, identity, intent, node as node_named},
    machine::{
        events::notes,
        observe::ClaimSeen,
        plan::{Action, Plan, plan},
    },
    node::{NodeSeen, Readiness, marks::Marks},
    profile::renders::Trouble,
};

/// The key of the second box.
const RIVAL: Fingerprint = Fingerprint([7; 8]);

/// A situation, changed step by step.
struct World(Observed);

impl World {
    fn new() -> Self {
        Self(created()).status(|status| status.intent = Some(intent("created", IntentState::Open)))
    }
    fn machine(mut self, change: impl FnOnce(&mut Machine)) -> Self {
        change(Arc::make_mut(&mut self.0.machine));
        self
    }
    fn status(self, change: impl FnOnce(&mut MachineStatus)) -> Self {
        self.machine(|machine| change(machine.status.get_or_insert_default()))
    }
    fn state(self, state: IntentState) -> Self {
        self.status(|status| status.intent = Some(intent("created", state)))
    }
    fn boots(mut self, began: i64, steps: &[(BootStepName, i64)]) -> Self {
        self.0.boot = Some(boot(began, steps));
        self
    }
    fn fails(mut self, step: BootStepName, at: i64) -> Self {
        let (reason, message) = ("KubeletNotStarted".into(), "exit code 1".into());
        self.0.boot.as_mut().unwrap().failure = Some(BootFailure { step, reason, message, at: Time(t(at)) });
        self
    }
    fn bound(self, at: i64, issued: Option<i64>) -> Self {
        self.status(|status| status.identity = Some(identity(&Keys::new(), at, issued)))
    }
    fn node(mut self, readiness: Readiness, created: i64, heartbeat: i64) -> Self {
        let seen = node_named("box-1", Some("uid-1"));
        let (created_at, heartbeat) = (Some(t(created)), Some(t(heartbeat)));
        self.0.node = Some(NodeSeen { readiness, created_at, heartbeat, ..seen });
        self
    }
    /// Joined long ago: bound at 30, issued at 40, Node since 50, Ready.
    fn joined() -> Self {
        Self::new().bound(30, Some(40)).node(Readiness::Ready, 50, 60).state(IntentState::Fulfilled)
    }
    fn trouble(mut self, reason: &'static str, message: &str) -> Self {
        self.0.profile.as_mut().unwrap().trouble = Some(Trouble { reason, message: message.into() });
        self
    }
    fn refused(self, at: i64) -> Self {
        self.refused_for(at, "FactsMismatch", "the box has none of the MACs")
    }
    fn refused_for(mut self, at: i64, reason: &str, message: &str) -> Self {
        self.0.claims.push(ClaimSeen {
            name: "box-1-abc".into(),
            intent: "created".into(),
            fingerprint: Some(RIVAL),
            address: "172.30.0.99".into(),
            created_at: Some(t(at)),
            decision: Some(Decision::Denied),
            decided_at: Some(t(at)),
            reason: reason.into(),
            message: message.into(),
        });
        self
    }
    fn approves(mut self, fingerprint: Fingerprint) -> Self {
        Arc::make_mut(&mut self.0.machine).spec.approved_fingerprint = Some(fingerprint);
        self
    }
    fn condition(&self, second: i64, kind: &str) -> (String, String, String) {
        let status = self.at(second);
        let found = conditions::find(&status.conditions, kind).unwrap();
        (found.status.clone(), found.reason.clone(), found.message.clone())
    }
    fn joins_nothing(mut self) -> Self {
        self.0.profile.as_mut().unwrap().join = JoinMode::None;
        self
    }
    fn plan(&self, second: i64) -> Plan {
        plan(&self.0, t(second))
    }
    fn at(&self, second: i64) -> MachineStatus {
        self.plan(second).status.expect("a status")
    }
    /// Phase, reason, and a part of the message.
    fn says(&self, second: i64, phase: Phase, reason: &str, part: &str) {
        let status = self.at(second);
        let message = status.message.clone().unwrap_or_default();
        assert_eq!((status.phase, status.reason.as_deref().unwrap_or("")), (Some(phase), reason), "{message}");
        assert!(message.contains(part), "{part:?} is not in {message:?}");
        let ready = conditions::find(&status.conditions, conditions::READY).unwrap();
        assert_eq!(ready.status == "True", phase == Phase::Ready);
    }
}

#[test]
fn a_new_machine_opens_its_window_once() {
    let seen = created();
    let status = plan(&seen, t(0)).status.unwrap();
    assert_eq!(status.intent, Some(intent("created", IntentState::Open)));
    assert_eq!((status.phase, status.reason.as_deref()), (Some(Phase::Pending), Some(reason::NOT_SEEN)));
    let told: Vec<_> = notes(None, &status).into_iter().map(|note| note.reason).collect();
    assert_eq!(told, ["WindowOpened", "Pending"]);
}

#[test]
fn the_finalizer_comes_before_the_window() {
    let world = World(created()).machine(|machine| machine.metadata.finalizers = None);
    let plan = world.plan(0);
    assert_eq!((plan.actions, plan.status), (vec![Action::AddFinalizer], None));
}

#[test]
fn on_the_way() {
    let w = World::new;
    w().says(10, Phase::Pending, reason::NOT_SEEN, "power the box on");
    w().boots(5, &[(FirmwareSeen, 5)]).says(10, Phase::Booting, "FirmwareSeen", "last step: FirmwareSeen");
    w().boots(5, &[(FirmwareSeen, 5), (KernelFetched, 9)]).says(10, Phase::Booting, "KernelFetched", "");
    w().boots(5, &[(ConfigFetched, 9)]).says(10, Phase::Provisioning, "ConfigFetched", "");
    w().boots(5, &[(AgentStarted, 9)]).says(10, Phase::Provisioning, "AgentStarted", "");
    w().boots(5, &[(Claiming, 9)]).says(10, Phase::Provisioning, "Claiming", "");
    let claimed = || w().boots(5, &[(Claiming, 9)]);
    claimed().bound(9, None).says(10, Phase::Joining, reason::CERTIFICATE_PENDING, "");
    claimed().bound(9, Some(10)).says(12, Phase::Joining, reason::CERTIFICATE_ISSUED, "not registered");
    let registered = claimed().bound(9, Some(10)).node(Readiness::NotReady, 20, 20);
    registered.says(30, Phase::Joining, reason::NODE_REGISTERED, "not Ready yet");
    claimed().bound(9, Some(10)).node(Readiness::Ready, 20, 30).says(31, Phase::Ready, "", "");
}

#[test]
fn a_ready_node_fulfils_the_intent() {
    let world = World::new().bound(9, Some(10)).node(Readiness::Ready, 20, 30);
    let status = world.at(31);
    assert_eq!(status.intent.as_ref().unwrap().state, IntentState::Fulfilled);
    assert_eq!(status.node_name.as_deref(), Some("box-1"));
    let told: Vec<_> = notes(world.0.before(), &status).into_iter().map(|note| note.reason).collect();
    assert_eq!(told, ["WindowClosed", "Ready"]);
    // Late, but it is what was asked for.
    let late = World::new().state(IntentState::Expired).bound(9, Some(10)).node(Readiness::Ready, 20, 4000);
    assert_eq!(late.at(4000).intent.unwrap().state, IntentState::Fulfilled);
}

#[test]
fn where_it_stopped() {
    let w = World::new;
    w().says(3600, Phase::Failed, reason::WINDOW_EXPIRED, "never seen");
    let kernel = w().boots(5, &[(FirmwareSeen, 5), (KernelFetched, 9)]);
    kernel.says(3601, Phase::Failed, reason::WINDOW_EXPIRED, "last step: KernelFetched at 2026-11-21T12:00:09Z");
    kernel.says(3601, Phase::Failed, reason::WINDOW_EXPIRED, "set spec.bootIntent to open another");
    let failed = w().boots(5, &[(KubeletStarted, 50)]).fails(KubeletStarted, 51).bound(9, Some(10));
    failed.says(60, Phase::Failed, reason::AGENT_FAILED, "KubeletStarted failed at");
    failed.says(60, Phase::Failed, reason::AGENT_FAILED, "exit code 1");
    let retried = w().boots(5, &[(KubeletStarted, 55)]).fails(KubeletStarted, 51).bound(9, Some(10));
    retried.says(60, Phase::Joining, reason::CERTIFICATE_ISSUED, "");
    let early = w().boots(5, &[(AgentStarted, 9)]).fails(KubeletStarted, 12);
    early.says(20, Phase::Failed, reason::AGENT_FAILED, "KubeletStarted failed");
    early.says(3700, Phase::Failed, reason::WINDOW_EXPIRED, "exit code 1");
    // Bound in time: its end does not matter, its own deadline does.
    let joining = w().state(IntentState::Expired).bound(3500, Some(3510));
    joining.says(3700, Phase::Joining, reason::CERTIFICATE_ISSUED, "");
    joining.says(3500 + 900, Phase::Failed, reason::CERTIFICATE_ISSUED, "look at the kubelet");
}

#[test]
fn the_same_step_again_and_again_means_something() {
    let mut world = World::new().boots(5, &[(FirmwareSeen, 5), (LoaderSent, 40)]);
    world.0.boot.as_mut().unwrap().steps[1].count = 3;
    let message = "LoaderSent at 2026-11-21T12:00:40Z; the loader was sent 3 times, and the script was never asked for: Secure Boot";
    world.says(50, Phase::Booting, "LoaderSilent", message);
}

#[test]
fn a_box_that_boots_its_disk_again_is_not_told_to_do_otherwise() {
    let script = |words: &str| {
        let mut world = World::joined().boots(500, &[(FirmwareSeen, 500), (ScriptServed, 505)]);
        world.0.boot.as_mut().unwrap().steps[1].detail = Some(words.to_owned());
        world
    };
    script("local boot: no window is open").says(510, Phase::Booting, "ScriptServed", "rebooting");
    script("waits: the kernel is fetched").says(510, Phase::Booting, "ScriptWaits", "the kernel is fetched");
}

#[test]
fn silence_means_something_too_and_is_waited_for() {
    let world = World::new().boots(5, &[(FirmwareSeen, 5), (LoaderSent, 40)]);
    world.says(129, Phase::Booting, "LoaderSent", "last step: LoaderSent");
    assert_eq!(world.plan(41).requeue, Some(std::time::Duration::from_secs(90)), "the box may be silent until then");
    world.says(130, Phase::Booting, "LoaderSilent", "was sent, and the script was never asked for");
}

#[test]
fn refused_and_frozen() {
    let w = || World::new().boots(5, &[(Claiming, 9)]);
    w().refused(10).says(20, Phase::Failed, reason::CLAIM_REFUSED, "FactsMismatch");
    // Another boot is another try.
    World::new().refused(10).boots(30, &[(ScriptServed, 31)]).says(40, Phase::Booting, "ScriptServed", "");
    // Who was refused is not who is bound.
    w().refused(10).bound(12, None).says(20, Phase::Joining, reason::CERTIFICATE_PENDING, "");
    w().state(IntentState::Frozen).bound(9, None).says(
        20,
        Phase::Failed,
        reason::CLAIM_CONFLICT,
        "magnetite conflict box-1",
    );
    w().state(IntentState::Frozen).says(20, Phase::Failed, reason::CLAIM_CONFLICT, "two keys");
    let half = w().state(IntentState::Frozen).bound(9, Some(10)).node(Readiness::NotReady, 15, 15);
    half.says(20, Phase::Failed, reason::CLAIM_CONFLICT, "two keys");
    // What joined is not touched, and says so in a condition.
    let joined = World::joined().state(IntentState::Frozen);
    joined.says(90, Phase::Ready, "", "");
    let window = conditions::find(&joined.at(90).conditions, conditions::WINDOW_OPEN).unwrap().clone();
    assert_eq!((window.status.as_str(), window.reason.as_str()), ("False", reason::CLAIM_CONFLICT));
}

#[test]
fn a_second_key_shows_until_a_person_settles_it() {
    let rivals = || World::joined().refused_for(95, reason::CLAIM_CONFLICT, "another key");
    assert_eq!(World::joined().condition(100, conditions::UNCONTESTED).0, "True");
    let (status, why, message) = rivals().condition(100, conditions::UNCONTESTED);
    assert_eq!((status.as_str(), why.as_str()), ("False", reason::CLAIM_CONFLICT));
    assert!(message.contains("0707-0707-0707-0707 from 172.30.0.99"), "{message}");
    // The machine itself is not touched.
    rivals().says(100, Phase::Ready, "", "");
    let (status, _, message) = rivals().approves(Fingerprint([1; 8])).condition(100, conditions::UNCONTESTED);
    assert_eq!(status, "True", "{message}");
}

#[test]
fn a_box_that_waits_for_a_person_says_so() {
    let mut waits = World::new().boots(5, &[(Claiming, 9)]).refused_for(9, reason::AWAITING_APPROVAL, "compare it");
    waits.0.claims[0].decision = None;
    waits.says(60, Phase::Provisioning, reason::AWAITING_APPROVAL, "compare it");
    assert_eq!(waits.condition(60, conditions::CLAIMED).1, reason::AWAITING_APPROVAL);
}

#[test]
fn a_person_s_word_opens_a_frozen_window_and_lets_the_approved_key_ask_again() {
    let frozen = || World::new().refused_for(15, reason::CLAIM_CONFLICT, "another key").state(IntentState::Frozen);
    let state = |world: World, second| world.at(second).intent.unwrap().state;
    assert_eq!(state(frozen(), 20), IntentState::Frozen);
    assert_eq!(state(frozen().approves(RIVAL), 20), IntentState::Open);
    assert_eq!(state(frozen().approves(RIVAL), 3600), IntentState::Frozen, "its time is over: only a new intent helps");
    let goes = |world: World| world.plan(20).actions.contains(&Action::DeleteClaim { name: "box-1-abc".into() });
    assert!(goes(frozen().approves(RIVAL)));
    assert!(!goes(frozen().approves(Fingerprint([1; 8]))), "the record of the other stays");
    assert!(!goes(World::new().refused(15).approves(RIVAL)), "refused for another reason");
}

#[test]
fn what_is_declared_wrong() {
    let conflict = Conflict { field: "spec.macs[0] 52:54:00:30:00:10".into(), other: "box-2".into() };
    let mut both = World::new();
    both.0.conflicts = vec![conflict.clone()];
    both.says(10, Phase::Failed, reason::DUPLICATE_IDENTITY, "also that of the Machine box-2");
    let message = "spec.boot.x86_64.commandLine[2]: undefined value";
    World::new().trouble(reason::RENDER_FAILED, message).says(10, Phase::Failed, reason::RENDER_FAILED, message);
    World::new().trouble(reason::ARTIFACT_FETCHING, "kernel").says(10, Phase::Pending, reason::ARTIFACT_FETCHING, "");
    let mut none = World::new();
    none.0.profile = Err(Trouble { reason: reason::NO_PROFILE, message: "none selects".into() });
    none.says(10, Phase::Failed, reason::NO_PROFILE, "none selects");
    // A machine that runs is left alone.
    World::joined().trouble(reason::RENDER_FAILED, message).says(90, Phase::Ready, "", "");
    let mut joined = World::joined();
    joined.0.conflicts = vec![conflict];
    joined.says(90, Phase::Ready, "", "");
    let mut gone = World::joined();
    gone.0.profile = Err(Trouble { reason: reason::PROFILE_NOT_FOUND, message: "deleted".into() });
    gone.says(90, Phase::Ready, "", "");
}

#[test]
fn a_name_that_is_taken() {
    let mut foreign = World::new();
    foreign.0.node = Some(node_named("box-1", None));
    foreign.says(10, Phase::Failed, reason::NODE_NAME_TAKEN, "not this Machine's");
    let mut marked = World::new();
    marked.0.node = Some(node_named("box-1", Some("uid-9")));
    marked.says(10, Phase::Failed, reason::NODE_NAME_TAKEN, "");
    // Our mark alone makes no Node ours: a kubelet can write it on itself.
    let mut forged = World::new();
    forged.0.node = Some(node_named("box-1", Some("uid-1")));
    assert!(forged.0.own_node().is_none());
    forged.says(10, Phase::Pending, reason::NOT_SEEN, "");
    assert!(forged.plan(10).actions.is_empty());
}

#[test]
fn a_reboot_shows_as_far_as_it_is_and_then_ready_again() {
    let w = World::joined;
    w().says(90, Phase::Ready, "", "");
    let booting = || w().boots(1000, &[(FirmwareSeen, 1000), (ScriptServed, 1005)]);
    booting().says(1010, Phase::Booting, "ScriptServed", "the machine is rebooting");
    booting().node(Readiness::Silent, 50, 60).says(1050, Phase::Booting, "ScriptServed", "");
    let agent = || w().boots(1000, &[(FirmwareSeen, 1000), (AgentStarted, 1020)]);
    agent().says(1025, Phase::Provisioning, "AgentStarted", "");
    // The kubelet was heard of after the boot began: the boot is over.
    agent().node(Readiness::Ready, 50, 1030).says(1031, Phase::Ready, "", "");
    booting().node(Readiness::Ready, 50, 1030).says(1031, Phase::Ready, "", "");
    w().boots(1000, &[(NodeReady, 1030)]).says(1031, Phase::Ready, "", "");
    // Nothing for a quarter of an hour.
    booting().node(Readiness::Silent, 50, 60).says(1906, Phase::Failed, reason::NODE_NOT_READY, "kubelet");
    booting().says(1906, Phase::Ready, "", "");
}

#[test]
fn a_node_that_is_not_ready_or_gone() {
    World::joined().node(Readiness::NotReady, 50, 500).says(510, Phase::Failed, reason::NODE_NOT_READY, "box-1");
    World::joined().node(Readiness::Silent, 50, 500).says(510, Phase::Failed, reason::NODE_NOT_READY, "");
    let mut gone = World::joined();
    let status = gone.at(60);
    Arc::make_mut(&mut gone.0.machine).status = Some(status);
    gone.0.node = None;
    gone.says(70, Phase::Failed, reason::NODE_GONE, "is gone");
    // And stays so, without another reason in between.
    let status = gone.at(70);
    assert_eq!(status.node_name, None);
    Arc::make_mut(&mut gone.0.machine).status = Some(status);
    gone.says(80, Phase::Failed, reason::NODE_GONE, "is gone");
    // First time: it gets a while.
    let slow = World::new().bound(9, Some(10)).node(Readiness::NotReady, 20, 30);
    slow.says(909, Phase::Joining, reason::NODE_REGISTERED, "");
    slow.says(910, Phase::Failed, reason::NODE_NOT_READY, "");
}

#[test]
fn provisioning_again() {
    let again = || World::joined().machine(|machine| machine.spec.boot_intent = Some("r2".into()));
    let opened = again().at(1000);
    let window = opened.intent.clone().unwrap();
    assert_eq!((window.id.as_str(), window.state), ("r2", IntentState::Open));
    assert_eq!((window.opened_at, window.expires_at), (Time(t(1000)), Time(t(4600))));
    assert!(opened.identity.is_some(), "the old certificate stays on record until a new key is bound");
    let in_r2 = || {
        again().status(|status| {
            let intent = intent("r2", IntentState::Open);
            status.intent = Some(magnetite_api::machine::IntentStatus {
                opened_at: Time(t(1000)),
                expires_at: Time(t(4600)),
                ..intent
            });
        })
    };
    in_r2().says(1001, Phase::Pending, reason::NOT_SEEN, "power-cycle the box; the Node box-1 runs on as before");
    in_r2().boots(1100, &[(KernelFetched, 1110)]).says(1111, Phase::Booting, "KernelFetched", "");
    in_r2().says(4601, Phase::Failed, reason::WINDOW_EXPIRED, "the Node box-1 runs on as before");
    let rebound = |issued| {
        in_r2().status(|status| {
            let bound = identity(&Keys::new(), 1150, issued);
            status.identity = Some(magnetite_api::machine::IdentityStatus { intent: "r2".into(), ..bound });
        })
    };
    rebound(None).says(1155, Phase::Joining, reason::CERTIFICATE_PENDING, "");
    // The Node still says Ready, in the words of the kubelet before.
    let stale = rebound(Some(1160));
    assert_eq!(stale.at(1161).intent.unwrap().state, IntentState::Open);
    stale.says(1161, Phase::Joining, reason::NODE_REGISTERED, "");
    let fresh = rebound(Some(1160)).node(Readiness::Ready, 50, 1200);
    fresh.says(1201, Phase::Ready, "", "");
    assert_eq!(fresh.at(1201).intent.unwrap().state, IntentState::Fulfilled);
}

#[test]
fn only_the_spec_opens_a_window() {
    for state in [IntentState::Fulfilled, IntentState::Expired, IntentState::Frozen] {
        let world = World::new().state(state).boots(5000, &[(FirmwareSeen, 5000)]);
        assert_eq!(world.at(5001).intent.unwrap().state, state);
    }
}

#[test]
fn a_profile_that_joins_nothing() {
    let w = || World::new().joins_nothing();
    w().says(10, Phase::Pending, reason::NOT_SEEN, "");
    w().boots(5, &[(AgentStarted, 9)]).says(10, Phase::Provisioning, "AgentStarted", "");
    let booted = w().boots(5, &[(AgentStarted, 9), (SystemBooted, 12)]);
    booted.says(13, Phase::Ready, "", "");
    assert_eq!(booted.at(13).intent.unwrap().state, IntentState::Fulfilled);
    let done = || w().state(IntentState::Fulfilled);
    done().boots(5, &[(SystemBooted, 12)]).says(99, Phase::Ready, "", "");
    done().boots(500, &[(KernelFetched, 510)]).says(511, Phase::Booting, "KernelFetched", "rebooting");
    done().boots(500, &[(KernelFetched, 510)]).says(1411, Phase::Ready, "", "");
    // What booted before the window opened fulfils nothing.
    let before = w().boots(-100, &[(SystemBooted, -50)]);
    assert_eq!(before.at(10).intent.unwrap().state, IntentState::Open);
}

#[test]
fn leaving() {
    let leave = |world: World| world.machine(|machine| machine.metadata.deletion_timestamp = Some(Time(t(100))));
    let open = leave(World::new()).plan(101);
    assert!(open.actions.is_empty(), "the window closes first");
    let status = open.status.unwrap();
    assert_eq!(status.intent.unwrap().state, IntentState::Expired);
    assert_eq!(status.reason.as_deref(), Some(reason::DELETING));
    let mut joined = leave(World::joined()).refused(50);
    joined.0.open_requests = vec!["csr-1".into()];
    let claims = Action::DeleteClaim { name: "box-1-abc".into() };
    let deny = Action::DenyRequest { name: "csr-1".into() };
    let retained = joined.plan(101);
    assert_eq!(retained.actions, [deny.clone(), claims.clone(), Action::RemoveFinalizer]);
    let removing = joined.machine(|machine| machine.spec.deletion_policy = DeletionPolicy::RemoveNode);
    let node = Action::RemoveNode { node: "box-1".into(), uid: "uid-n".into() };
    assert_eq!(removing.plan(101).actions, [deny, claims, node, Action::RemoveFinalizer]);
    // A Node that is not ours is nobody's to remove, whatever the spec says.
    let mut foreign = leave(World::new().state(IntentState::Expired))
        .machine(|machine| machine.spec.deletion_policy = DeletionPolicy::RemoveNode);
    foreign.0.node = Some(node_named("box-1", Some("uid-1")));
    assert_eq!(foreign.plan(101).actions, [Action::RemoveFinalizer]);
}

/// S23, R9, R20, R21: deleted with `Wipe` a Machine waits its turn, opens one intent, says what it waits for, stays until every disk is wiped, and
/// can be let go unwiped.
#[test]
fn leaving_to_be_wiped() {
    use magnetite_api::install::{WipeMethod, WipeState, WipeStatus, WipedDisk};
    let leave = |world: World| {
        world.machine(|machine| {
            machine.metadata.deletion_timestamp = Some(Time(t(100)));
            machine.spec.deletion_policy = DeletionPolicy::Wipe;
        })
    };
    let stays = |plan: &crate::machine::plan::Plan| {
        !plan.actions.iter().any(|action| matches!(action, Action::RemoveFinalizer | Action::RemoveNode { .. }))
    };
    let mut world = leave(World::joined());
    // Ten come first: it waits, and opens nothing.
    world.0.wipe.turn.before = 10;
    let queued = world.plan(101);
    let status = queued.status.clone().unwrap();
    assert!(stays(&queued) && status.reason.as_deref() == Some(reason::WIPE_PENDING), "{status:?}");
    assert!(status.message.as_deref().unwrap().contains("10 come first; at most 10"), "{status:?}");
    assert_ne!(status.intent.as_ref().unwrap().state, IntentState::Open);
    let mut world = world.status(|old| *old = status);
    world.0.wipe.turn.before = 9;
    // Its turn: first its Pods leave, and no window opens until they have.
    let draining = world.plan(120).status.unwrap();
    assert_eq!(draining.wipe.as_ref().map(|wipe| wipe.state), Some(WipeState::Draining));
    assert_ne!(draining.intent.as_ref().unwrap().state, IntentState::Open);
    let mut world = world.status(|old| *old = draining);
    let cordon = Action::Cordon { node: "box-1".into(), uid: "uid-n".into() };
    assert_eq!(world.plan(121).actions, [cordon]);
    world.0.node.as_mut().unwrap().unschedulable = true;
    let pod = crate::drain::PodSeen {
        namespace: "default".into(),
        name: "web".into(),
        uid: "p".into(),
        owned: true,
        leaving: false,
    };
    world.0.pods = Some(crate::drain::Drain { pods: vec![pod.clone()], ..crate::drain::Drain::default() });
    let evicting = world.plan(122);
    assert_eq!(evicting.actions, [Action::Evict { pods: vec![pod] }]);
    assert!(evicting.status.unwrap().message.unwrap().contains("1 Pods have to leave: default/web"));
    world.0.pods = Some(crate::drain::Drain::default());
    let begun = world.plan(130);
    let status = begun.status.clone().unwrap();
    let intent = status.intent.clone().unwrap();
    assert!(stays(&begun));
    assert_eq!((intent.id.as_str(), intent.state), ("wipe-uid1", IntentState::Open));
    assert_eq!(status.wipe.as_ref().map(|wipe| wipe.state), Some(WipeState::Waiting));
    assert!(status.message.as_deref().unwrap().contains("restart it"), "{status:?}");
    let world = world.status(|old| *old = status);
    // The same again is the same: it rests; and others that come first stop nothing that is under way.
    let mut again = world;
    again.0.wipe.turn.before = 500;
    assert_eq!(again.plan(131).status, begun.status);
    // Nobody restarts it: after half an hour somebody should look; the window stays open all the while.
    let late = again.plan(130 + 1801).status.unwrap();
    assert_eq!((late.phase, late.reason.as_deref()), (Some(Phase::Failed), Some(reason::WIPE_WAITING)));
    assert!(late.message.as_deref().unwrap().contains("deletionPolicy"), "{late:?}");
    let hours = again.plan(130 + 9 * 3600).status.unwrap().intent.unwrap();
    assert_eq!((hours.state, hours.expires_at.0 > t(130 + 9 * 3600)), (IntentState::Open, true));
    // The agent fails, and then does it.
    let said = |state, disks: Vec<WipedDisk>| WipeStatus {
        intent: "wipe-uid1".into(),
        state,
        disks,
        at: Time(t(200)),
        message: (state == WipeState::Failed).then(|| "DiskFailed: sda".to_owned()),
    };
    again.0.wipe.reported = Some(said(WipeState::Failed, vec![]));
    let failed = again.plan(201);
    assert!(stays(&failed) && failed.status.unwrap().reason.as_deref() == Some(reason::WIPE_FAILED));
    let disk = WipedDisk {
        name: "sda".into(),
        serial: Some("S1".into()),
        model: None,
        methods: vec![WipeMethod::AtaSecureErase, WipeMethod::Unmapped],
        bytes: 1 << 30,
        seconds: 7,
        verified_bytes: 1 << 20,
    };
    again.0.wipe.reported = Some(said(WipeState::Wiped, vec![disk]));
    let wiped = again.plan(202);
    let status = wiped.status.clone().unwrap();
    assert!(stays(&wiped), "first it is written down");
    assert_eq!(status.intent.as_ref().unwrap().state, IntentState::Fulfilled);
    let notes = crate::machine::events::notes(again.0.before(), &status);
    let text = "sda (serial S1): 1.0 GB wiped by AtaSecureErase, Unmapped in 7 s, 1 MB read back as zeros";
    assert!(notes.iter().any(|note| note.reason == "DiskWiped" && note.text == text), "{notes:?}");
    let gone = again.status(|old| *old = status).plan(203);
    let node = Action::RemoveNode { node: "box-1".into(), uid: "uid-n".into() };
    assert_eq!(gone.actions, [node.clone(), Action::RemoveFinalizer]);
    // Let go: another policy ends the waiting.
    let waiting = leave(World::joined()).status(|old| *old = begun.status.clone().unwrap());
    let let_go = waiting.machine(|machine| machine.spec.deletion_policy = DeletionPolicy::RemoveNode);
    let closing = let_go.plan(300);
    assert_eq!(closing.status.as_ref().unwrap().intent.as_ref().unwrap().state, IntentState::Expired);
    let let_go = let_go.status(|old| *old = closing.status.clone().unwrap());
    assert_eq!(let_go.plan(301).actions, [node, Action::RemoveFinalizer]);
}

#[test]
fn labels_are_set_and_kept() {
    let joined = World::joined();
    let actions = joined.plan(90).actions;
    let [Action::MarkNode { marks: Marks { labels, .. }, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(labels["magnetite.dev/machine"], "box-1");
    assert_eq!(labels["magnetite.dev/machine-uid"], "uid-1");
    assert_eq!(labels["magnetite.dev/profile"], "p");
}

#[test]
fn old_claims_go_and_the_winner_stays() {
    let mut world = World::joined();
    for at in 0..13 {
        world = world.refused(at);
        let last = world.0.claims.last_mut().unwrap();
        last.name = format!("c{at}");
    }
    let world = world.status(|status| status.identity.as_mut().unwrap().claim = "c0".into());
    let gone: Vec<_> = world.plan(90).actions.into_iter().filter(|a| matches!(a, Action::DeleteClaim { .. })).collect();
    assert_eq!(gone, [Action::DeleteClaim { name: "c2".into() }, Action::DeleteClaim { name: "c1".into() }]);
}

#[test]
fn time_alone_is_waited_for() {
    assert_eq!(World::new().plan(3590).requeue, Some(std::time::Duration::from_secs(11)));
    assert_eq!(World::joined().plan(90).requeue, Some(crate::machine::plan::REST));
}

#[test]
fn what_a_bmc_says_is_a_condition_an_event_and_the_reason_why_a_box_is_not_seen() {
    let told = |power: serde_json::Value| {
        World::new().machine(|machine| {
            let bmc = serde_json::json!({ "redfish": { "url": "https://b" }, "credentials": "c" });
            machine.spec.bmc = serde_json::from_value(bmc).unwrap();
            machine.status.get_or_insert_default().power = serde_json::from_value(power).unwrap();
        })
    };
    let condition = |world: &World| world.condition(10, conditions::BMC_REACHABLE);
    let new = told(serde_json::Value::Null);
    assert_eq!(condition(&new).0, "Unknown");
    let off = told(serde_json::json!({ "state": "Off" }));
    assert_eq!((condition(&off).0.as_str(), condition(&off).1.as_str()), ("True", reason::AS_DECLARED));
    off.says(10, Phase::Pending, reason::NOT_SEEN, "its BMC says that it is off: spec.power: On switches it on");
    let away = told(serde_json::json!({ "state": "Off", "reason": "BmcUnreachable", "message": "nobody at b" }));
    assert_eq!(condition(&away), ("False".into(), reason::BMC_UNREACHABLE.into(), "nobody at b".into()));
    away.says(10, Phase::Pending, reason::NOT_SEEN, "nobody at b");
    let (well, ill) = (off.at(10), away.at(10));
    let words =
        |before, after| notes(before, after).into_iter().map(|note| (note.reason, note.warning)).collect::<Vec<_>>();
    assert_eq!(words(Some(&well), &ill), [(conditions::BMC_TROUBLE, true)]);
    assert_eq!(words(Some(&ill), &well), [(conditions::BMC_REACHABLE, false)]);
    assert!(words(Some(&ill), &ill).is_empty());
    // Without a BMC there is nothing to say.
    assert!(conditions::find(&World::new().at(10).conditions, conditions::BMC_REACHABLE).is_none());
}
