//! Who begins, in one situation each; and what holds in generated worlds that are played to their end.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use magnetite_api::{
    conditions::{Status, reason},
    update::{RolloutStatus, UpdateSpec, UpdateStage, UpdateStrategy},
};
use proptest::prelude::*;
use rstest::rstest;

use super::{
    Minor, Places,
    plan::{Ended, Member, Rollout, Seen, ceiling, plan},
};
use crate::fixtures::t;

const NEW: &str = "bbbbbbbbbb";

fn rolling() -> UpdateSpec {
    UpdateSpec { strategy: UpdateStrategy::RollingUpdate, ..UpdateSpec::default() }
}

/// A machine that runs the old revision, and serves.
fn old(name: &str) -> Member {
    Member {
        name: name.into(),
        uid: format!("uid-{name}"),
        ran: true,
        ready: true,
        down_since: None,
        maintenance: false,
        leaving: false,
        booted: Some("aaaaaaaaaa".into()),
        number: 0,
        active: None,
        ended: None,
        kubelet: Some(Minor(1, 34)),
    }
}

fn new(name: &str) -> Member {
    Member { booted: Some(NEW.into()), ..old(name) }
}

fn down(name: &str, since: i64) -> Member {
    Member { ready: false, down_since: Some(t(since)), ..old(name) }
}

fn failed(name: &str, revision: &str) -> Member {
    let ended = Ended { revision: revision.into(), retry: None, message: "Booting did not end".into() };
    Member { number: 1, ended: Some(ended), ..old(name) }
}

fn decide(spec: &UpdateSpec, members: &[Member], before: RolloutStatus, now: Timestamp) -> Rollout {
    let api_server = Some(Minor(1, 34));
    plan(&Seen { revision: NEW, spec, before, members, trouble: None, ceiling: 10, elsewhere: 0, api_server }, now)
}

fn begins(spec: &UpdateSpec, members: &[Member]) -> (Vec<String>, &'static str) {
    let rollout = decide(spec, members, RolloutStatus::default(), t(1000));
    (rollout.status.admitted.iter().map(|one| one.machine.clone()).collect(), rollout.progressing.1)
}

#[rstest]
#[case::by_hand(UpdateSpec::default(), vec![old("a"), old("b")], &[], reason::ON_DELETE)]
#[case::first_by_name(rolling(), vec![old("a"), old("b")], &["a"], reason::UPDATING)]
#[case::two(UpdateSpec { max_unavailable: Some(IntOrString::Int(2)), ..rolling() }, vec![old("a"), old("b"), old("c")], &["a", "b"], reason::UPDATING)]
#[case::percent(UpdateSpec { max_unavailable: Some(IntOrString::String("50%".into())), ..rolling() }, vec![old("a"), old("b"), old("c"), new("d")], &["a", "b"], reason::UPDATING)]
#[case::paused(UpdateSpec { paused: true, ..rolling() }, vec![old("a")], &[], reason::PAUSED)]
#[case::all_done(rolling(), vec![new("a"), new("b")], &[], reason::COMPLETE)]
#[case::nobody_there(rolling(), vec![], &[], reason::COMPLETE)]
#[case::one_that_never_came_is_not_missed(rolling(), vec![Member { ran: false, ready: false, booted: None, ..old("a") }, old("b")], &["b"], reason::UPDATING)]
#[case::one_is_down_already(rolling(), vec![old("a"), Member { booted: Some(NEW.into()), ..down("b", 0) }], &[], reason::TOO_MANY_UNAVAILABLE)]
#[case::one_is_out_of_service(rolling(), vec![old("a"), Member { maintenance: true, ..new("b") }], &[], reason::TOO_MANY_UNAVAILABLE)]
#[case::out_of_service_itself(rolling(), vec![Member { maintenance: true, ..old("a") }], &[], reason::WAITING)]
#[case::long_down_goes_first(rolling(), vec![old("a"), down("b", 0)], &["b"], reason::UPDATING)]
#[case::down_for_a_moment(rolling(), vec![old("a"), down("b", 900)], &[], reason::TOO_MANY_UNAVAILABLE)]
#[case::broken_by_the_last_revision(rolling(), vec![old("a"), Member { ready: false, ..failed("b", "aaaaaaaaaa") }], &["b"], reason::UPDATING)]
#[case::one_failed(rolling(), vec![old("a"), failed("b", NEW)], &[], reason::UPDATE_FAILED)]
#[case::one_of_two_failed(UpdateSpec { max_failures: 2, ..rolling() }, vec![old("a"), failed("b", NEW)], &["a"], reason::UPDATING)]
#[case::tried_again(UpdateSpec { retry: Some("now".into()), ..rolling() }, vec![failed("b", NEW)], &["b"], reason::UPDATING)]
#[case::deleted(rolling(), vec![Member { leaving: true, ..old("a") }, old("b")], &["b"], reason::UPDATING)]
#[case::kubelet_too_new(rolling(), vec![old("a"), Member { kubelet: Some(Minor(1, 35)), ..new("b") }], &[], reason::VERSION_SKEW)]
fn who_begins(#[case] spec: UpdateSpec, #[case] members: Vec<Member>, #[case] names: &[&str], #[case] why: &str) {
    let (begun, said) = begins(&spec, &members);
    assert_eq!(begun, names);
    assert_eq!(said, why);
}

#[test]
fn leave_is_held_until_the_machine_shows_that_it_is_done() {
    let spec = rolling();
    let first = decide(&spec, &[old("a"), old("b")], RolloutStatus::default(), t(0));
    assert_eq!((first.status.number, first.updating), (1, 1));
    let after = |members: &[Member]| decide(&spec, members, first.status.clone(), t(0));
    assert_eq!(after(&[old("a"), old("b")]).status, first.status, "it has not begun, as far as can be seen");
    let under_way = Member { number: 1, active: Some(UpdateStage::Booting), ready: false, ..old("a") };
    assert_eq!(after(&[under_way, old("b")]).status, first.status);
    let done = Member { number: 1, ..new("a") };
    let next = after(&[done, old("b")]);
    let held: Vec<_> = next.status.admitted.iter().map(|one| (one.machine.as_str(), one.number)).collect();
    assert_eq!(held, [("b", 2)]);
    let anew = Member { uid: "another".into(), ..old("a") };
    assert!(
        after(&[anew, old("b")]).status.admitted.iter().all(|one| one.uid != "uid-a"),
        "a Machine of the same name is another"
    );
}

#[test]
fn a_profile_that_was_made_anew_gives_higher_numbers_than_its_machines_have_seen() {
    let rollout = decide(&rolling(), &[Member { number: 7, ..old("a") }], RolloutStatus::default(), t(0));
    assert_eq!(rollout.status.admitted[0].number, 8);
}

#[test]
fn what_a_profile_that_cannot_be_booted_waits_for() {
    let (spec, members) = (rolling(), [old("a")]);
    let seen = Seen {
        revision: NEW,
        spec: &spec,
        before: RolloutStatus::default(),
        members: &members,
        trouble: Some("a file is missing".into()),
        ceiling: 10,
        elsewhere: 0,
        api_server: None,
    };
    let waits = plan(&seen, t(0));
    assert!(waits.status.admitted.is_empty() && waits.progressing.2.contains("a file is missing"), "{waits:?}");
    let full = plan(&Seen { trouble: None, elsewhere: 10, ..seen }, t(0));
    assert_eq!((full.status.admitted.len(), full.progressing.1), (0, reason::CEILING));
}

#[rstest]
#[case(None, 3, 10)]
#[case(None, 1000, 50)]
#[case(Some(2), 1000, 2)]
#[case(Some(0), 1000, 1)]
fn the_ceiling(#[case] flag: Option<u32>, #[case] machines: usize, #[case] most: usize) {
    assert_eq!(ceiling(flag, machines), most);
}

#[test]
fn two_profiles_do_not_both_take_the_last_place() {
    let places = Places::default();
    let seen = [("a".to_owned(), 0), ("b".to_owned(), 0)].into();
    assert_eq!(places.decide("a", &seen, |elsewhere| (elsewhere, 3)), 0);
    assert_eq!(places.decide("b", &seen, |elsewhere| (elsewhere, 0)), 3, "the watch has not brought it yet");
    let gone = [("b".to_owned(), 0)].into();
    assert_eq!(places.decide("b", &gone, |elsewhere| (elsewhere, 0)), 0, "a Profile that was deleted holds none");
}

/// A fleet that does what it is told, with faults that stop: each machine takes a step when the world says so, is seen as it was a
/// few steps ago, and its update may fail.
#[derive(Debug, Clone)]
struct Fleet {
    now: Vec<Member>,
    seen: Vec<Member>,
    profile: RolloutStatus,
}

#[derive(Debug, Clone)]
enum Event {
    /// The Profile is looked at, and what was decided is written.
    Decide,
    /// A process decided, and was killed before it wrote.
    DecideInVain,
    /// What one machine shows becomes known.
    Tell(usize),
    /// A machine takes its next step; true: it fails.
    Step(usize, bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Decide),
        1 => Just(Event::DecideInVain),
        3 => (0..8_usize).prop_map(Event::Tell),
        4 => (0..8_usize, prop::bool::weighted(0.05)).prop_map(|(index, fails)| Event::Step(index, fails)),
    ];
    prop::collection::vec(event, 0..120)
}

fn step(member: &mut Member, profile: &RolloutStatus, fails: bool) {
    match member.active {
        None => {
            let leave = profile.admitted.iter().find(|one| one.uid == member.uid && one.number > member.number);
            if let Some(leave) = leave {
                (member.number, member.ended) = (leave.number, None);
                member.active = Some(UpdateStage::Draining);
            }
        }
        Some(_) if fails => {
            let ended = Ended { revision: NEW.into(), retry: None, message: "m".into() };
            (member.active, member.ended) = (None, Some(ended));
            member.ready = false;
        }
        Some(UpdateStage::Draining) => (member.active, member.ready) = (Some(UpdateStage::Booting), false),
        Some(UpdateStage::Booting) => {
            (member.active, member.ready, member.booted) = (Some(UpdateStage::Settling), true, Some(NEW.into()));
        }
        Some(_) => member.active = None,
    }
}

fn play(fleet: &mut Fleet, spec: &UpdateSpec, event: &Event) {
    let size = fleet.now.len();
    match event {
        Event::Decide => fleet.profile = decide(spec, &fleet.seen, fleet.profile.clone(), t(0)).status,
        Event::DecideInVain => drop(decide(spec, &fleet.seen, fleet.profile.clone(), t(0))),
        Event::Tell(index) => fleet.seen[index % size] = fleet.now[index % size].clone(),
        Event::Step(index, fails) => step(&mut fleet.now[index % size], &fleet.profile, *fails),
    }
}

/// How many are down by our doing.
fn down_now(fleet: &Fleet) -> usize {
    fleet.now.iter().filter(|member| member.active.is_some() || !member.ready).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn never_more_are_down_than_may_be_and_it_ends(
        size in 1..8_usize,
        most in 1..4_i32,
        max_failures in 1..3_i32,
        events in events(),
    ) {
        let spec = UpdateSpec { max_unavailable: Some(IntOrString::Int(most)), max_failures, ..rolling() };
        let members: Vec<_> = (0..size).map(|index| old(&format!("box-{index}"))).collect();
        let mut fleet = Fleet { now: members.clone(), seen: members, profile: RolloutStatus::default() };
        let most = usize::try_from(most).unwrap();
        for event in &events {
            play(&mut fleet, &spec, event);
            prop_assert!(down_now(&fleet) <= most, "{event:?}: {fleet:?}");
        }
        // Nothing goes wrong any more.
        for _ in 0..size * 8 {
            play(&mut fleet, &spec, &Event::Decide);
            (0..size).for_each(|index| play(&mut fleet, &spec, &Event::Step(index, false)));
            (0..size).for_each(|index| play(&mut fleet, &spec, &Event::Tell(index)));
            prop_assert!(down_now(&fleet) <= most, "{fleet:?}");
        }
        let last = decide(&spec, &fleet.seen, fleet.profile.clone(), t(0));
        prop_assert_eq!(&decide(&spec, &fleet.seen, last.status.clone(), t(0)).status, &last.status, "it rests");
        prop_assert!(fleet.now.iter().all(|member| member.active.is_none()));
        let failures = fleet.now.iter().filter(|member| member.ended.is_some()).count();
        let all_new = fleet.now.iter().all(|member| member.booted.as_deref() == Some(NEW));
        // Those that failed stay down: they use up what may be, or stop the rollout.
        prop_assert!(all_new || failures > 0, "{:?}", last.progressing);
        prop_assert_eq!(all_new, last.updated.0 == Status::True);
    }

    #[test]
    fn the_numbers_only_grow(before in 0..100_i64, seen in 0..100_i64) {
        let rollout = decide(&rolling(), &[Member { number: seen, ..old("a") }], RolloutStatus { number: before, admitted: vec![] }, t(0));
        prop_assert!(rollout.status.number > before && rollout.status.number > seen);
    }
}

#[test]
fn it_looks_again_when_a_machine_has_been_down_for_long_enough() {
    let rollout = decide(&rolling(), &[old("a"), down("b", 900)], RolloutStatus::default(), t(1000));
    assert_eq!(rollout.until, Some(t(900) + SignedDuration::from_mins(5)));
}
