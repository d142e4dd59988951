//! Machines whose disks are overwritten by another `spec.bootIntent`: so many at once, in one order.

use magnetite_api::{
    MachineStatus, Profile,
    conditions::{self, WINDOW_OPEN, reason},
    machine::{IntentState, IntentStatus},
    update::{UpdateStage, UpdateStatus},
};
use magnetite_boot::select::Profiles;

use super::*;
use crate::{
    fixtures::{self, Keys, identity, intent},
    machine::{observe::place, plan::plan},
};

fn anew(turn: Option<Turn>, before: IntentState) -> Observed {
    let mut seen = created();
    let machine = Arc::make_mut(&mut seen.machine);
    machine.spec.boot_intent = Some("r2".into());
    let (intent, identity) = (Some(intent("created", before)), Some(identity(&Keys::new(), 10, Some(20))));
    machine.status = Some(MachineStatus { intent, identity, ..MachineStatus::default() });
    seen.reinstall = turn;
    seen
}

#[test]
fn a_window_that_overwrites_a_disk_waits_its_turn() {
    for before in [IntentState::Fulfilled, IntentState::Open, IntentState::Expired] {
        let full = Turn { before: 10, limit: 10 };
        let waiting = plan(&anew(Some(full), before), t(100));
        let status = waiting.status.unwrap();
        let IntentStatus { id, state, .. } = status.intent.clone().unwrap();
        assert!(id == "created" && state != IntentState::Open, "{id} {state:?}");
        let says = conditions::find(&status.conditions, WINDOW_OPEN).unwrap();
        assert_eq!((says.status.as_str(), says.reason.as_str()), ("False", reason::REINSTALL_PENDING));
        assert!(says.message.contains("r2") && says.message.contains("--reinstalls-at-once"), "{}", says.message);
        assert!(waiting.requeue.unwrap().as_secs() <= 15, "it looks again");
        // Until then it is what it was: it boots, and its power is kept, by the window of before.
        let mut queued = anew(Some(full), before);
        let machine = Arc::make_mut(&mut queued.machine);
        machine.status = Some(status);
        assert_eq!((machine.wanted_intent(), machine.unqueued_intent()), ("created", "r2"));
        assert_eq!(plan(&queued, t(100)).status.as_ref(), queued.before(), "it rests");
        // Taken back, nothing happened; in its turn its window opens.
        let mut back = queued.clone();
        (Arc::make_mut(&mut back.machine).spec.boot_intent, back.reinstall) = (None, None);
        let status = plan(&back, t(110)).status.unwrap();
        assert_eq!((status.intent.unwrap().id.as_str(), status.queued), ("created", None));
        queued.reinstall = Some(Turn { before: 9, limit: 10 });
        let status = plan(&queued, t(110)).status.unwrap();
        let IntentStatus { id, state, .. } = status.intent.unwrap();
        assert_eq!((id.as_str(), state, status.queued), ("r2", IntentState::Open, None));
        for turn in [None, Some(Turn { before: 9, limit: 10 })] {
            let status = plan(&anew(turn, before), t(100)).status.unwrap();
            let IntentStatus { id, state, .. } = status.intent.unwrap();
            assert_eq!((id.as_str(), state), ("r2", IntentState::Open), "{turn:?}");
        }
    }
}

/// Those that were begun come first; what is no overwriting of a disk, by this field, has no place at all.
#[test]
fn only_a_disk_that_held_something_has_a_place() {
    let mut profile = fixtures::profile();
    profile.spec.install = Some(serde_json::from_value(serde_json::json!({ "image": "disk", "disk": {} })).unwrap());
    let live = fixtures::profile();
    let of = |profile: &Profile, change: &dyn Fn(&mut Machine)| {
        let mut machine = (*anew(None, IntentState::Fulfilled).machine).clone();
        change(&mut machine);
        place(&machine, &Profiles::read(&[Arc::new(profile.clone())]))
    };
    assert_eq!(of(&profile, &|_| {}), Some(true));
    assert_eq!(of(&live, &|_| {}), None, "nothing is overwritten");
    let begun = |machine: &mut Machine| machine.status.as_mut().unwrap().intent = Some(intent("r2", IntentState::Open));
    assert_eq!(of(&profile, &begun), Some(false));
    let done =
        |machine: &mut Machine| machine.status.as_mut().unwrap().intent = Some(intent("r2", IntentState::Fulfilled));
    assert_eq!(of(&profile, &done), None);
    assert_eq!(of(&profile, &|machine| machine.status.as_mut().unwrap().identity = None), None, "it was nothing yet");
    let first = |machine: &mut Machine| {
        begun(machine);
        machine.status.as_mut().unwrap().identity.as_mut().unwrap().intent = "r2".into();
    };
    assert_eq!(of(&profile, &first), None, "it is installed for the first time");
    assert_eq!(of(&profile, &|machine| machine.metadata.deletion_timestamp = Some(Time(t(0)))), None);
    let update = |intent: &'static str| {
        move |machine: &mut Machine| {
            machine.status.as_mut().unwrap().update = Some(Box::new(UpdateStatus {
                number: 1,
                revision: "a".into(),
                base: "r2".into(),
                intent: intent.into(),
                stage: UpdateStage::Restarting,
                since: Time(t(0)),
                started_at: Time(t(0)),
                retry: None,
                reason: None,
                message: None,
            }));
        }
    };
    assert_eq!(of(&profile, &update("r2.a.1")), None, "an update has a ceiling of its own");
    assert_eq!(of(&profile, &update("r2")), Some(true), "one that was superseded is over");
}
