//! One machine's update, played against a box that does as it is told, with a controller that is killed now and then.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use magnetite_api::{
    Phase,
    conditions::{self, MAINTENANCE, UP_TO_DATE, reason},
    machine::{IdentityStatus, IntentState, MaintenanceMode, MaintenanceStage},
    power::{BmcSpec, PowerWanted, RestartHow, RestartSource},
    report::BootStepName::{AgentStarted, FirmwareSeen, Inventoried, NodeReady, ScriptServed},
    update::UpdateStage,
};
use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    drain::{Drain, PodSeen},
    fixtures::{Keys, identity, intent, node as node_named},
    machine::plan::{Action, Plan, plan},
    node::{NodeSeen, Readiness},
};

const OLD: &str = "aaaaaaaaaa";
const NEW: &str = "bbbbbbbbbb";

/// A joined machine of an old revision, and the box and cluster around it.
struct World {
    seen: Observed,
    second: i64,
    keys: Keys,
    pods: Drain,
    /// Pods leave when they are asked.
    lets_go: bool,
    /// The box restarts when it is asked.
    obeys: bool,
    /// The box comes up after a restart.
    boots: bool,
    restarts: usize,
    stages: Vec<UpdateStage>,
}

fn pod(name: &str, owned: bool) -> PodSeen {
    let (namespace, name, uid) = ("default".to_owned(), name.to_owned(), name.to_owned());
    PodSeen { namespace, name, uid, owned, leaving: false }
}

impl World {
    fn new() -> Self {
        let keys = Keys::new();
        let mut seen = created();
        let machine = Arc::make_mut(&mut seen.machine);
        machine.status = Some(magnetite_api::MachineStatus {
            booted_revision: Some(OLD.into()),
            intent: Some(intent("created", IntentState::Fulfilled)),
            identity: Some(identity(&keys, 10, Some(20))),
            ..Default::default()
        });
        seen.node =
            Some(NodeSeen { heartbeat: Some(t(90)), created_at: Some(t(50)), ..node_named("box-1", Some("uid-1")) });
        let profile = seen.profile.as_mut().unwrap();
        (profile.revision, profile.admission) = (NEW.into(), Some(1));
        profile.update.min_ready_seconds = 30;
        let pods = Drain { pods: vec![pod("web", true), pod("db", true)], ..Drain::default() };
        Self { seen, second: 100, keys, pods, lets_go: true, obeys: true, boots: true, restarts: 0, stages: vec![] }
    }

    fn machine(&mut self) -> &mut Machine {
        Arc::make_mut(&mut self.seen.machine)
    }

    /// One pass. Killed: 0 not at all, 1 before it did anything, 2 after it acted and before it wrote the status.
    fn pass(&mut self, killed: u8) -> Plan {
        self.seen.pods = self.seen.drains().then(|| self.pods.clone());
        let plan = plan(&self.seen, t(self.second));
        if killed != 1 {
            for action in &plan.actions {
                self.act(action);
            }
        }
        if killed == 0
            && let Some(status) = &plan.status
        {
            self.machine().status = Some(status.clone());
            let stage = status.update.as_ref().map(|update| update.stage);
            if let Some(stage) = stage.filter(|stage| self.stages.last() != Some(stage)) {
                self.stages.push(stage);
            }
        }
        self.second += 10;
        self.box_lives();
        plan
    }

    fn act(&mut self, action: &Action) {
        let node = self.seen.node.as_mut().unwrap();
        match action {
            Action::Cordon { .. } => (node.unschedulable, node.cordoned) = (true, true),
            Action::Uncordon { .. } => (node.unschedulable, node.cordoned) = (false, false),
            Action::Evict { pods } => {
                assert!(node.unschedulable, "no Pod is asked to leave while new ones come");
                if self.lets_go {
                    self.pods.pods.retain(|pod| !pods.contains(pod));
                }
            }
            Action::Restart { id, .. } => node.restart = id.clone(),
            Action::MarkNode { marks, .. } => {
                node.labels.extend(marks.labels.clone());
                node.annotations.extend(marks.annotations.clone());
                node.managed.labels = marks.labels.keys().cloned().collect();
                node.managed.annotations = marks.annotations.keys().cloned().collect();
                node.owner = marks.labels.get(magnetite_api::names::LABEL_MACHINE_UID).cloned();
            }
            other => panic!("{other:?}"),
        }
    }

    /// The agent reads its Node; the kubelet speaks.
    fn box_lives(&mut self) {
        let held = self.seen.machine.is_held();
        let in_memory = self.seen.boot.as_ref().is_some_and(|boot| boot.step(Inventoried).is_some());
        if in_memory && held {
            return;
        }
        if in_memory {
            // Its agent asks the boot server, which lets it go.
            self.restart();
            return;
        }
        let node = self.seen.node.as_mut().unwrap();
        node.heartbeat = Some(t(self.second));
        let asked = node.restart.clone().and_then(|id| id.rsplit_once('@').map(|(_, boot)| boot.to_owned()));
        if !self.obeys || asked.as_ref() != Some(&node.boot_id) {
            return;
        }
        assert!(self.pods.pods.is_empty(), "it restarts only once it is empty");
        self.restart();
    }

    fn restart(&mut self) {
        self.restarts += 1;
        let node = self.seen.node.as_mut().unwrap();
        if self.seen.machine.is_held() {
            node.readiness = Readiness::Silent;
            let steps = [(ScriptServed, self.second), (AgentStarted, self.second), (Inventoried, self.second)];
            self.seen.boot = Some(boot(self.second, &steps));
            return;
        }
        (node.readiness, node.heartbeat) = (Readiness::Ready, Some(t(self.second)));
        if !self.seen.profile.as_ref().unwrap().lives_in_memory {
            // From its disk, with the keys that are there.
            self.seen.boot = Some(boot(self.second, &[(FirmwareSeen, self.second), (ScriptServed, self.second)]));
            node.boot_id = format!("boot-{}", self.restarts + 1);
            return;
        }
        node.boot_id = format!("boot-{}", self.restarts + 1);
        let second = self.second;
        let mut record = boot(second, &[(FirmwareSeen, second), (ScriptServed, second)]);
        record.revision = Some(NEW.into());
        if self.boots {
            record = BootRecord {
                revision: record.revision,
                ..boot(second, &[(ScriptServed, second), (AgentStarted, second), (NodeReady, second)])
            };
            let intent = self.seen.machine.wanted_intent().to_owned();
            let bound = identity(&self.keys, second, Some(second));
            self.machine().status.as_mut().unwrap().identity = Some(IdentityStatus { intent, ..bound });
        } else {
            node.readiness = Readiness::Silent;
        }
        self.seen.boot = Some(record);
    }

    fn play(&mut self, passes: usize) {
        for _ in 0..passes {
            self.pass(0);
        }
    }

    fn update(&self) -> &magnetite_api::update::UpdateStatus {
        self.seen.update().unwrap()
    }

    fn says(&self, kind: &str) -> (String, String) {
        let status = self.seen.before().unwrap();
        let condition = conditions::find(&status.conditions, kind).unwrap();
        (condition.reason.clone(), condition.message.clone())
    }

    fn is_free(&self) -> bool {
        let node = self.seen.node.as_ref().unwrap();
        !node.unschedulable && !node.cordoned && node.restart.is_none()
    }
}

/// A box whose power is the controller's is restarted by its BMC, and by that alone.
#[test]
fn a_bmc_restarts_the_box_where_its_power_is_ours() {
    let by_bmc = |power: Option<PowerWanted>| {
        let mut world = World::new();
        world.obeys = false;
        let spec = &mut world.machine().spec;
        let bmc = BmcSpec { redfish: None, ipmi: None, credentials: "bmc".into(), shutdown_seconds: 300 };
        (spec.bmc, spec.power) = (Some(Box::new(bmc)), power);
        for _ in 0..20 {
            world.pass(0);
        }
        assert_eq!(world.stages.last(), Some(&UpdateStage::Restarting));
        let asked = world.seen.node.as_ref().is_some_and(|node| node.restart.is_some());
        (asked, world.seen.machine.wanted_restart())
    };
    let (asked, wanted) = by_bmc(Some(PowerWanted::On));
    let wanted = wanted.expect("its BMC is to restart it");
    assert!(!asked, "the agent is not asked as well");
    assert_eq!((wanted.source, wanted.how), (RestartSource::Update, RestartHow::Graceful));
    assert_eq!(wanted.id, format!("created.{NEW}.1"));
    assert_eq!(by_bmc(None), (true, None), "power that is only looked at is not touched");
}

#[test]
fn an_update_goes_through_its_stages_and_leaves_nothing_behind() {
    let mut world = World::new();
    world.play(20);
    use UpdateStage::{Booting, Done, Draining, Restarting, Settling};
    assert_eq!(world.stages, [Draining, Restarting, Booting, Settling, Done]);
    let status = world.seen.before().unwrap();
    assert_eq!((status.booted_revision.as_deref(), world.restarts), (Some(NEW), 1));
    assert_eq!(status.intent.as_ref().map(|intent| intent.id.as_str()), Some("created.bbbbbbbbbb.1"));
    assert_eq!(world.says(UP_TO_DATE).0, reason::AS_DECLARED);
    assert!(world.is_free());
    let last = world.pass(0);
    assert!(last.actions.is_empty() && last.status.as_ref() == world.seen.machine.status.as_ref(), "{last:?}");
}

#[test]
fn the_window_opens_only_once_the_node_is_empty() {
    let mut world = World::new();
    world.lets_go = false;
    world.play(10);
    assert_eq!(world.update().stage, UpdateStage::Draining);
    assert_eq!(world.seen.machine.wanted_intent(), "created");
    assert_eq!(world.seen.before().unwrap().intent.as_ref().unwrap().state, IntentState::Fulfilled);
    assert!(world.says(UP_TO_DATE).1.contains("default/web"), "{:?}", world.says(UP_TO_DATE));
    world.lets_go = true;
    world.play(20);
    assert_eq!(world.update().stage, UpdateStage::Done);
}

#[test]
fn pods_that_do_not_leave_end_the_update_and_not_the_node() {
    let mut world = World::new();
    world.seen.profile.as_mut().unwrap().update.drain_timeout_seconds = 60;
    world.pods.pods.push(pod("bare", false));
    world.play(12);
    let update = world.update();
    assert_eq!((update.stage, update.reason.as_deref()), (UpdateStage::Failed, Some(reason::DRAIN_TIMEOUT)));
    assert!(update.message.as_ref().unwrap().contains("default/bare has no controller"), "{update:?}");
    assert!(world.is_free() && world.restarts == 0);
    assert_eq!(world.seen.machine.wanted_intent(), "created", "no window was opened");
    // Another try is another number.
    world.pods.pods.clear();
    world.seen.profile.as_mut().unwrap().admission = Some(2);
    world.play(20);
    assert_eq!((world.update().stage, world.update().intent.as_str()), (UpdateStage::Done, "created.bbbbbbbbbb.2"));
}

#[test]
fn a_box_that_does_not_restart_is_let_be() {
    let mut world = World::new();
    world.obeys = false;
    world.play(10);
    assert_eq!(world.update().stage, UpdateStage::Restarting);
    assert_eq!(world.seen.node.as_ref().unwrap().restart.as_deref(), Some("created.bbbbbbbbbb.1@boot-1"));
    world.second += 1300;
    world.play(3);
    assert_eq!(world.update().reason.as_deref(), Some(reason::NOT_RESTARTED));
    assert!(world.is_free(), "and it does not restart later, with Pods on it");
}

#[test]
fn a_box_that_does_not_come_up_fails_and_heals() {
    let mut world = World::new();
    world.boots = false;
    world.play(10);
    assert_eq!(world.update().stage, UpdateStage::Booting);
    world.second += 3600;
    world.play(3);
    assert_eq!(world.update().reason.as_deref(), Some(reason::BOOT_FAILED));
    assert_eq!(world.says(UP_TO_DATE).0, reason::UPDATE_FAILED);
    assert!(world.update().message.as_ref().unwrap().contains("ScriptServed"), "{:?}", world.update());
    // A person found the cable, and gives it another window.
    world.machine().spec.boot_intent = Some("r2".into());
    world.play(1);
    assert_eq!(world.update().stage, UpdateStage::Superseded);
    assert_eq!(world.seen.machine.wanted_intent(), "r2");
}

#[rstest::rstest]
#[case(0)]
#[case(3)]
#[case(5)]
fn a_person_who_begins_anew_wins(#[case] passes: usize) {
    let mut world = World::new();
    world.obeys = false;
    world.play(passes);
    world.machine().spec.boot_intent = Some("r2".into());
    world.play(3);
    let id = world.seen.before().unwrap().intent.as_ref().unwrap().id.clone();
    assert_eq!(id, "r2");
    assert!(world.is_free(), "{:?}", world.seen.node);
}

#[test]
fn a_node_that_somebody_else_closed_stays_closed() {
    let mut world = World::new();
    world.seen.node.as_mut().unwrap().unschedulable = true;
    world.play(20);
    assert_eq!(world.update().stage, UpdateStage::Done);
    assert!(world.seen.node.as_ref().unwrap().unschedulable);
}

#[test]
fn a_silent_node_is_not_waited_for() {
    let mut world = World::new();
    world.seen.node.as_mut().unwrap().readiness = Readiness::Silent;
    world.pods.pods.clear();
    world.play(3);
    assert_eq!(world.update().stage, UpdateStage::Restarting);
}

#[test]
fn maintenance_empties_the_node_and_gives_it_back() {
    let mut world = World::new();
    world.seen.profile.as_mut().unwrap().admission = None;
    world.machine().spec.maintenance = Some(MaintenanceMode::Drained);
    world.lets_go = false;
    world.play(3);
    assert_eq!(world.says(MAINTENANCE).0, reason::DRAINING);
    world.lets_go = true;
    world.play(3);
    assert_eq!(world.says(MAINTENANCE).0, reason::DRAINED);
    assert_eq!(world.restarts, 0);
    world.machine().spec.maintenance = None;
    world.play(2);
    assert!(world.is_free());
    assert!(conditions::find(&world.seen.before().unwrap().conditions, MAINTENANCE).is_none());
}

/// There and back, the controller killed at any pass: a box that lives in memory comes back by a window of its own and with new keys, one that
/// lives on its disk by what is there, and is not installed again.
fn there_and_back(lives_in_memory: bool, kills: &[u8]) {
    let mut world = World::new();
    let mut kills = kills.iter().copied().chain(std::iter::repeat(0));
    let profile = world.seen.profile.as_mut().unwrap();
    (profile.admission, profile.lives_in_memory) = (None, lives_in_memory);
    world.machine().spec.maintenance = Some(MaintenanceMode::InMemory);
    world.lets_go = false;
    for _ in 0..3 {
        world.pass(kills.next().unwrap());
    }
    assert_eq!(world.restarts, 0, "it is not empty");
    world.lets_go = true;
    for _ in 0..16 {
        world.pass(kills.next().unwrap());
    }
    let status = world.seen.before().unwrap();
    assert_eq!(status.maintenance.as_ref().map(|maintenance| maintenance.stage), Some(MaintenanceStage::InMemory));
    assert_eq!((status.phase, world.says(MAINTENANCE).0.as_str()), (Some(Phase::Maintenance), reason::IN_MEMORY));
    assert_eq!((world.restarts, status.booted_revision.as_deref()), (1, Some(OLD)), "nothing was booted to stay");
    assert_eq!(status.intent.as_ref().map(|intent| intent.state), Some(IntentState::Fulfilled), "no window opened");
    assert!(world.seen.node.as_ref().unwrap().unschedulable);
    let rests = world.pass(0);
    assert!(rests.actions.is_empty() && rests.status.as_ref() == world.seen.before(), "{rests:?}");

    world.machine().spec.maintenance = None;
    for _ in 0..24 {
        world.pass(kills.next().unwrap());
    }
    let status = world.seen.before().unwrap();
    assert_eq!((status.phase, world.restarts), (Some(Phase::Ready), 2), "{status:?}");
    assert!(status.maintenance.is_none() && conditions::find(&status.conditions, MAINTENANCE).is_none());
    assert!(world.is_free());
    let intent = &status.intent.as_ref().unwrap().id;
    assert_eq!(intent.starts_with("created.maintenance-"), lives_in_memory, "{intent}");
    let runs = if lives_in_memory { NEW } else { OLD };
    assert_eq!(status.booted_revision.as_deref(), Some(runs));
    let last = world.pass(0);
    assert!(last.actions.is_empty() && last.status.as_ref() == world.seen.before(), "{last:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_box_goes_into_memory_once_it_is_empty_and_comes_back_as_it_was(
        lives_in_memory in any::<bool>(),
        kills in proptest::collection::vec(select(vec![0, 0, 1, 2]), 0..40),
    ) {
        // Two of three passes are whole, so that so many are enough.
        there_and_back(lives_in_memory, &kills.into_iter().enumerate().map(|(at, kill)| if at % 3 == 0 { kill } else { 0 }).collect::<Vec<_>>());
    }
}

/// A Node that is not Ready for a moment has its Pods all the same.
#[test]
fn a_node_that_is_not_ready_is_emptied_before_its_box_restarts() {
    let mut world = World::new();
    world.seen.profile.as_mut().unwrap().admission = None;
    world.machine().spec.maintenance = Some(MaintenanceMode::InMemory);
    world.lets_go = false;
    world.play(2);
    world.seen.node.as_mut().unwrap().readiness = Readiness::NotReady;
    world.play(3);
    assert!(world.seen.machine.maintenance().is_none());
    assert_eq!(world.says(MAINTENANCE).0, reason::DRAINING);
}

/// A restart that was asked for cannot be taken back: it goes there, and comes back. One that never went goes on as it is.
#[test]
fn maintenance_that_is_taken_back_on_the_way_ends_where_it_began() {
    for obeys in [true, false] {
        let mut world = World::new();
        world.seen.profile.as_mut().unwrap().admission = None;
        world.machine().spec.maintenance = Some(MaintenanceMode::InMemory);
        world.obeys = false;
        while world.seen.machine.maintenance().is_none() {
            world.play(1);
        }
        world.machine().spec.maintenance = None;
        world.play(2);
        assert!(world.seen.machine.maintenance().is_some(), "it is on its way");
        world.obeys = obeys;
        world.play(150);
        let status = world.seen.before().unwrap();
        assert_eq!((status.phase, world.restarts), (Some(Phase::Ready), if obeys { 2 } else { 0 }), "{status:?}");
        assert!(world.is_free() && status.maintenance.is_none());
        let intent = &status.intent.as_ref().unwrap().id;
        assert_eq!(intent == "created", !obeys, "one that stayed needs no window");
    }
}

/// Its firmware has the disk first, and somebody pressed a button.
#[test]
fn a_box_that_boots_its_disk_meanwhile_is_sent_into_memory_again() {
    let mut world = World::new();
    world.seen.profile.as_mut().unwrap().admission = None;
    world.machine().spec.maintenance = Some(MaintenanceMode::InMemory);
    let stage = |world: &World| world.seen.machine.maintenance().map(|maintenance| maintenance.stage);
    while stage(&world) != Some(MaintenanceStage::InMemory) {
        world.play(1);
    }
    let before = world.seen.machine.maintenance().unwrap().id.clone();
    world.second += 120;
    let second = world.second;
    let node = world.seen.node.as_mut().unwrap();
    (node.readiness, node.heartbeat, node.boot_id) = (Readiness::Ready, Some(t(second)), "by-hand".into());
    world.seen.boot = Some(boot(second, &[(FirmwareSeen, second)]));
    world.play(1);
    assert_eq!(stage(&world), Some(MaintenanceStage::Restarting));
    assert_ne!(world.seen.machine.maintenance().unwrap().id, before, "a restart of its own");
    world.play(4);
    assert_eq!((stage(&world), world.restarts), (Some(MaintenanceStage::InMemory), 2));
}

#[test]
fn maintenance_waits_for_an_update_and_for_an_open_window() {
    let mut world = World::new();
    world.play(4);
    let stage = world.update().stage;
    assert!(stage.is_active(), "{stage:?}");
    world.boots = false;
    world.machine().spec.maintenance = Some(MaintenanceMode::InMemory);
    world.play(3);
    assert!(world.seen.machine.maintenance().is_none());
    assert_eq!(world.says(MAINTENANCE).0, reason::WAITING);
}

/// A box whose power is ours is restarted by its BMC, from the network.
#[test]
fn a_bmc_restarts_a_box_into_memory() {
    let mut world = World::new();
    world.seen.profile.as_mut().unwrap().admission = None;
    let spec = &mut world.machine().spec;
    let bmc = BmcSpec { redfish: None, ipmi: None, credentials: "bmc".into(), shutdown_seconds: 300 };
    (spec.bmc, spec.power) = (Some(Box::new(bmc)), Some(PowerWanted::On));
    spec.maintenance = Some(MaintenanceMode::InMemory);
    world.play(8);
    assert!(world.seen.node.as_ref().unwrap().restart.is_none());
    let wanted = world.seen.machine.wanted_restart().expect("its BMC is to restart it");
    assert_eq!((wanted.source, wanted.how), (RestartSource::Maintenance, RestartHow::Graceful));
}

#[test]
fn a_machine_that_is_deleted_leaves_a_node_that_takes_pods() {
    let mut world = World::new();
    world.obeys = false;
    world.play(6);
    world.machine().metadata.deletion_timestamp = Some(Time(t(200)));
    let actions: Vec<_> = (0..2)
        .flat_map(|_| {
            let plan = plan(&world.seen, t(300));
            if let Some(status) = plan.status.clone() {
                world.machine().status = Some(status);
            }
            plan.actions
        })
        .collect();
    assert!(actions.iter().any(|action| matches!(action, Action::Uncordon { .. })), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::Restart { id: None, .. })), "{actions:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whenever the controller is killed, and as often: it ends the same, and the box restarts once.
    #[test]
    fn kills_change_nothing_of_the_end(kills in prop::collection::vec(select(vec![0_u8, 1, 2]), 0..40), own in any::<bool>()) {
        let mut world = World::new();
        if !own {
            world.seen.node.as_mut().unwrap().owner = None;
        }
        for killed in kills {
            world.pass(killed);
        }
        world.play(25);
        prop_assert_eq!(world.update().stage, UpdateStage::Done);
        prop_assert_eq!(world.restarts, 1);
        prop_assert!(world.is_free());
        prop_assert_eq!(world.seen.before().unwrap().booted_revision.as_deref(), Some(NEW));
    }
}
