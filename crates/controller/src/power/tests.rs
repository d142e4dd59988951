//! A box, its BMC and a controller that may be killed at any moment: what holds whatever happens.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use magnetite_api::{
    Machine,
    install::{WipeState, WipeStatus},
    machine::DeletionPolicy,
    power::{BmcSpec, PowerStatus, PowerWanted, RestartHow, RestartSource, RestartSpec, RestartStage},
    time::seconds,
};
use magnetite_bmc::{Act, Error, Power};
use proptest::{prelude::*, sample::select};

use super::{
    observe::Network,
    plan::{Plan, Step, after, plan, troubled},
};
use crate::fixtures::{machine, t};

fn switched(power: Option<PowerWanted>, restart: Option<(&str, RestartHow)>) -> Machine {
    let mut machine = machine();
    let bmc: BmcSpec = serde_json::from_value(serde_json::json!({
        "redfish": { "url": "https://10.0.8.21" }, "credentials": "bmc", "shutdownSeconds": 60,
    }))
    .unwrap();
    machine.spec.bmc = Some(Box::new(bmc));
    machine.spec.power = power;
    machine.spec.restart = restart.map(|(id, how)| RestartSpec { id: id.into(), how });
    machine.status.get_or_insert_default().power = Some(Box::default());
    machine
}

fn record(machine: &Machine) -> PowerStatus {
    machine.status.as_ref().and_then(|status| status.power.as_deref()).cloned().unwrap_or_default()
}

fn stage(machine: &Machine) -> Option<RestartStage> {
    record(machine).restart(RestartSource::Spec).map(|restart| restart.stage)
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The BMC takes it, and the controller writes that down.
    Well,
    /// Killed after the record, before the BMC heard of it.
    KilledBefore,
    /// Killed after the BMC heard of it.
    KilledAfter,
    /// The BMC will not.
    Refused,
    /// The BMC did it, and no answer came.
    Silent,
    /// The BMC says yes and does nothing.
    Ignored,
    /// The BMC cannot be reached at all: there is not even a look.
    Away,
}

/// A box and everything that was done to it.
struct World {
    machine: Machine,
    power: Power,
    /// A system that shuts down when it is asked to.
    obeys: bool,
    second: i64,
    off: u32,
    on: u32,
    resets: u32,
    told: Vec<Step>,
}

impl World {
    fn new(machine: Machine, power: Power) -> Self {
        Self { machine, power, obeys: true, second: 0, off: 0, on: 0, resets: 0, told: Vec::new() }
    }

    fn write(&mut self, status: PowerStatus) {
        self.machine.status.get_or_insert_default().power = Some(Box::new(status));
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::On if self.power == Power::Off => (self.power, self.on) = (Power::On, self.on + 1),
            Act::Off if self.power == Power::On => (self.power, self.off) = (Power::Off, self.off + 1),
            Act::Shutdown if self.power == Power::On && self.obeys => {
                (self.power, self.off) = (Power::Off, self.off + 1)
            }
            Act::Reset => self.resets += 1,
            Act::On | Act::Off | Act::Shutdown => {}
        }
    }

    /// One pass as `mod.rs` runs it. What it planned.
    fn pass(&mut self, fate: Fate) -> Option<Plan> {
        let now = t(self.second);
        if fate == Fate::Away {
            let status = troubled(&self.machine, "BmcUnreachable", "gone", now);
            self.write(status);
            self.second += 60;
            return None;
        }
        let before = self.machine.status.as_ref().and_then(|status| status.power.as_deref()).cloned();
        let planned = plan(&self.machine, self.power, Network::Yes, now);
        self.write(planned.status.clone());
        self.second += i64::try_from(planned.again.as_secs()).unwrap();
        let Some(step) = planned.step else { return Some(planned) };
        self.told.push(step);
        let refused = |perhaps| Error::Refused {
            host: "h".into(),
            what: "x".into(),
            code: "400".into(),
            said: "no".into(),
            perhaps,
        };
        let result = match fate {
            Fate::Well => {
                self.act(step.act);
                Ok(())
            }
            Fate::Ignored => Ok(()),
            Fate::KilledBefore => return Some(planned),
            Fate::KilledAfter => {
                self.act(step.act);
                return Some(planned);
            }
            Fate::Refused => Err(refused(false)),
            Fate::Silent => {
                self.act(step.act);
                Err(refused(true))
            }
            Fate::Away => return None,
        };
        let status = after(before.as_ref(), &planned.status, step, &result, now);
        self.write(status);
        Some(planned)
    }

    fn settle(&mut self) {
        for _ in 0..400 {
            if self.pass(Fate::Well).is_some_and(|plan| plan.again >= super::REST) {
                return;
            }
        }
        panic!("it does not come to rest: {:?}, {:?}", self.power, record(&self.machine));
    }
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    use Fate::*;
    proptest::collection::vec(
        select(vec![Well, Well, KilledBefore, KilledAfter, Refused, Silent, Ignored, Away]),
        0..12,
    )
}

fn powers() -> impl Strategy<Value = Power> {
    select(vec![Power::On, Power::Off])
}

fn wishes() -> impl Strategy<Value = Option<PowerWanted>> {
    select(vec![None, Some(PowerWanted::On), Some(PowerWanted::Off)])
}

fn hows() -> impl Strategy<Value = RestartHow> {
    select(vec![RestartHow::Cycle, RestartHow::Reset, RestartHow::Graceful])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_switches_a_box_whose_spec_does_not_say_so(power in powers(), fates in fates(), id in any::<bool>(), how in hows()) {
        let mut machine = switched(None, id.then_some(("was-there", how)));
        // Never looked at: what was asked for before is not asked for now.
        machine.status.as_mut().unwrap().power = None;
        let mut world = World::new(machine, power);
        for fate in fates {
            world.pass(fate);
        }
        world.settle();
        prop_assert!(world.told.is_empty(), "{:?}", world.told);
        prop_assert_eq!(stage(&world.machine), id.then_some(RestartStage::Skipped));
    }

    #[test]
    fn the_box_becomes_as_the_spec_says_and_then_there_is_rest(
        wish in wishes(), power in powers(), fates in fates(), obeys in any::<bool>(),
    ) {
        let mut world = World { obeys, ..World::new(switched(wish, None), power) };
        for fate in fates {
            world.pass(fate);
        }
        world.settle();
        let wanted = match wish {
            None => power,
            Some(PowerWanted::On) => Power::On,
            Some(PowerWanted::Off) => Power::Off,
        };
        prop_assert_eq!(world.power, wanted);
        prop_assert!(world.on + world.off <= 1, "it was switched to and fro");
        prop_assert_eq!(world.resets, 0);
        let record = record(&world.machine);
        prop_assert!(record.told.is_none() && record.reason.is_none(), "{:?}", record);
        let told = world.told.len();
        world.second += 100_000;
        world.pass(Fate::Well);
        prop_assert_eq!(world.told.len(), told, "something was done at rest");
    }

    #[test]
    fn a_restart_is_carried_out_once_whatever_happens_on_the_way(
        how in hows(), wish in select(vec![None, Some(PowerWanted::On)]), power in powers(), fates in fates(), obeys in any::<bool>(),
    ) {
        let mut world = World { obeys, ..World::new(switched(wish, Some(("1", how))), power) };
        for fate in fates.clone() {
            world.pass(fate);
        }
        world.settle();
        prop_assert_eq!(world.power, Power::On);
        let cycles = (world.off, world.on, world.resets);
        let stage = stage(&world.machine);
        if how == RestartHow::Reset && power == Power::On {
            prop_assert!(matches!(cycles, (0, 0, 0 | 1)), "{:?}", cycles);
            match stage {
                Some(RestartStage::Done) => prop_assert!(cycles.2 == 1 || fates.contains(&Fate::Ignored)),
                // Nobody can tell, and it is said so.
                Some(RestartStage::Unknown) => {
                    let doubt = |fate: &Fate| matches!(fate, Fate::KilledBefore | Fate::KilledAfter | Fate::Silent);
                    prop_assert!(fates.iter().any(doubt));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        } else {
            // Exactly once, killed or not.
            let once = if power == Power::On { (1, 1, 0) } else { (0, 1, 0) };
            prop_assert_eq!(cycles, once);
            prop_assert_eq!(stage, Some(RestartStage::Done));
        }
        let told = world.told.len();
        for _ in 0..5 {
            world.second += 1000;
            world.pass(Fate::Well);
        }
        prop_assert_eq!(world.told.len(), told, "it was done again");
    }

    #[test]
    fn a_bmc_that_does_nothing_is_not_told_so_without_end(wish in select(vec![PowerWanted::On, PowerWanted::Off]), fate in select(vec![Fate::Ignored, Fate::Refused])) {
        let power = if wish == PowerWanted::On { Power::Off } else { Power::On };
        let mut world = World::new(switched(Some(wish), None), power);
        let mut looks = 0;
        while world.second < 3600 {
            world.pass(fate);
            looks += 1;
        }
        prop_assert!(world.told.len() < 25, "{} times in an hour", world.told.len());
        prop_assert!(looks < 120, "{looks} looks in an hour");
        let record = record(&world.machine);
        prop_assert!(matches!(record.reason.as_deref(), Some("BmcNoEffect" | "BmcRefused")), "{record:?}");
    }

    #[test]
    fn off_stands_over_a_restart(how in hows(), power in powers(), fates in fates()) {
        let mut world = World::new(switched(Some(PowerWanted::Off), Some(("1", how))), power);
        for fate in fates {
            world.pass(fate);
        }
        world.settle();
        prop_assert_eq!((world.power, world.on, world.resets), (Power::Off, 0, 0));
        // And when it may be on again, it is not restarted for what is long past.
        world.machine.spec.power = Some(PowerWanted::On);
        world.settle();
        prop_assert_eq!((world.power, world.on, world.resets), (Power::On, 1, 0));
    }
}

#[test]
fn a_box_is_switched_on_from_the_network_and_only_in_its_window() {
    let on = switched(Some(PowerWanted::On), None);
    let step = |network| plan(&on, Power::Off, network, t(0)).step;
    assert_eq!(step(Network::Yes), Some(Step { act: Act::On, network: true }));
    assert_eq!(step(Network::No), Some(Step { act: Act::On, network: false }));
    assert_eq!(step(Network::NotYet), None);
    assert_eq!(plan(&on, Power::On, Network::Yes, t(0)).step, None);
}

#[test]
fn a_system_is_asked_before_its_power_is_cut() {
    let mut world = World { obeys: false, ..World::new(switched(Some(PowerWanted::Off), None), Power::On) };
    world.settle();
    assert_eq!(world.told.first().map(|step| step.act), Some(Act::Shutdown));
    assert_eq!(world.told.last().map(|step| step.act), Some(Act::Off));
    assert!((60..80).contains(&world.second.min(79)), "cut after {} s", world.second);
    let mut machine = switched(Some(PowerWanted::Off), None);
    machine.spec.bmc.as_mut().unwrap().shutdown_seconds = 0;
    assert_eq!(plan(&machine, Power::On, Network::Yes, t(0)).step, Some(Step { act: Act::Off, network: false }));
}

#[test]
fn a_second_name_for_a_restart_under_way_is_the_same_restart() {
    let mut world = World::new(switched(None, Some(("1", RestartHow::Cycle))), Power::On);
    world.pass(Fate::Well);
    world.machine.spec.restart = Some(RestartSpec { id: "2".into(), how: RestartHow::Cycle });
    world.settle();
    assert_eq!((world.off, world.on), (1, 1));
    assert_eq!(record(&world.machine).restart(RestartSource::Spec).map(|restart| restart.id.clone()), Some("2".into()));
    // Taken back while the box is off: it is not left off.
    let mut world = World::new(switched(None, Some(("1", RestartHow::Cycle))), Power::On);
    world.pass(Fate::Well);
    world.machine.spec.restart = None;
    world.settle();
    assert_eq!((world.power, world.off, world.on), (Power::On, 1, 1));
}

#[test]
fn a_machine_that_is_being_deleted_is_left_as_it_is() {
    let mut machine = switched(Some(PowerWanted::On), Some(("1", RestartHow::Cycle)));
    machine.metadata.deletion_timestamp = Some(Time(t(0)));
    assert_eq!(plan(&machine, Power::Off, Network::Yes, t(0)).step, None);
}

/// A box that is to be wiped is restarted once, from the network, and stays off once it is wiped.
#[test]
fn a_machine_that_is_to_be_wiped_is_restarted_for_it_and_then_left_off() {
    let wiped = |state| {
        let mut machine = switched(Some(PowerWanted::On), None);
        machine.metadata.deletion_timestamp = Some(Time(t(0)));
        machine.spec.deletion_policy = DeletionPolicy::Wipe;
        let status = machine.status.get_or_insert_default();
        status.power = Some(Box::default());
        let wipe = WipeStatus { intent: "wipe-1".into(), state, disks: Vec::new(), at: seconds(t(0)), message: None };
        status.wipe = Some(Box::new(wipe));
        machine
    };
    let waiting = plan(&wiped(WipeState::Waiting), Power::On, Network::Yes, t(0));
    let restart = waiting.status.restart(RestartSource::Wipe).expect("it is restarted");
    assert_eq!((restart.id.as_str(), restart.stage), ("wipe-1", RestartStage::SwitchingOff));
    assert_eq!(plan(&wiped(WipeState::Wiped), Power::Off, Network::Yes, t(0)).step, None, "it stays off");
    assert_eq!(plan(&wiped(WipeState::Pending), Power::Off, Network::Yes, t(0)).step, None, "others come first");
}

#[test]
fn what_was_said_before_stays_while_a_bmc_is_away() {
    let mut world = World::new(switched(None, None), Power::On);
    world.pass(Fate::Well);
    let checked = record(&world.machine).checked_at;
    world.second += 100;
    world.pass(Fate::Away);
    let now = record(&world.machine);
    assert_eq!((now.checked_at, now.reason.as_deref()), (checked, Some("BmcUnreachable")));
    world.pass(Fate::Well);
    assert_eq!(record(&world.machine).reason, None);
}

/// A pass that is not due costs nothing: neither a call of the API server nor one of the BMC.
#[tokio::test]
async fn the_pace_is_kept_until_somebody_changes_something() {
    let pace = super::pace::Pace::default();
    let mut machine = switched(None, None);
    let key = super::pace::key(&machine);
    assert_eq!(pace.wait("box-1", key, t(0)), None);
    pace.set("box-1", key, t(0), super::REST);
    assert_eq!(pace.wait("box-1", key, t(60)), Some(super::REST - std::time::Duration::from_secs(60)));
    assert_eq!(pace.wait("box-1", key, t(180)), None);
    // Its own record is no reason to look again; a person's change is, and so is a window that opens.
    machine.status.as_mut().unwrap().power = None;
    assert_eq!(super::pace::key(&machine), key);
    machine.metadata.generation = Some(2);
    assert_ne!(super::pace::key(&machine), key);
    machine.metadata.generation = Some(1);
    machine.status.as_mut().unwrap().intent.as_mut().unwrap().state = magnetite_api::machine::IntentState::Fulfilled;
    assert_ne!(super::pace::key(&machine), key);
    let (one, same, other) = (pace.lock("a"), pace.lock("a"), pace.lock("b"));
    assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
}

/// A box that was found switches itself off within seconds, and is not left so for minutes; one that does not is not asked for ever.
#[test]
fn a_box_that_was_found_is_watched_until_it_is_off() {
    use magnetite_api::{machine::IntentState, names::ANNOTATION_DISCOVERED_BY};
    let mut machine = switched(Some(PowerWanted::On), None);
    machine.metadata.annotations = Some([(ANNOTATION_DISCOVERED_BY.to_owned(), "lab".to_owned())].into());
    let boot = serde_json::json!({ "startedAt": t(0), "lastSeen": t(90) });
    let status = machine.status.get_or_insert_default();
    status.boot = Some(Box::new(serde_json::from_value(boot).unwrap()));
    status.intent = Some(crate::fixtures::intent("created", IntentState::Open));
    status.intent.as_mut().unwrap().opened_at = Time(t(100));
    let again = |machine: &Machine, second| plan(machine, Power::On, Network::Yes, t(second)).again.as_secs();
    assert_eq!((again(&machine, 101), again(&machine, 399)), (5, 5));
    assert_eq!(again(&machine, 400), 180);
    let off = plan(&machine, Power::Off, Network::Yes, t(110));
    assert_eq!(off.step.map(|step| step.act), Some(Act::On));
    // It boots as what it is to be, or nobody found it.
    let mut booted = machine.clone();
    booted.status.as_mut().unwrap().boot.as_mut().unwrap().started_at = Time(t(130));
    assert_eq!(again(&booted, 140), 180);
    machine.metadata.annotations = None;
    assert_eq!(again(&machine, 101), 180);
}
