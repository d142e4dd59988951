//! A changed Profile rolls through three machines while everything goes wrong: one at a time, no Node with Pods on it is restarted,
//! the budget is kept, and in the end all run the new revision and nothing is left behind.

use super::{joined, machine, must_hold, seeds};
use crate::simulation::{
    clock::MINUTE,
    cluster::{Actor, Kind},
    faults::Fault,
    scene::{Scene, Trouble},
    world::{Step, World},
};
use magnetite_api::update::UpdateStage;
use serde_json::json;

fn change(world: &mut World, update: serde_json::Value, release: &str) {
    let set = |profile: &mut serde_json::Value| {
        profile["spec"]["update"] = update;
        profile["spec"]["variables"] = json!({ "release": release });
    };
    world.cluster.edit(Kind::Profile, "p", Actor::Person, set).unwrap();
    world.digest_news();
}

fn revision(world: &World) -> String {
    let found = world.cluster.object(Kind::Profile, "p");
    found.and_then(|object| object.profile().map(|profile| profile.spec.revision())).expect("a Profile")
}

fn all_run(world: &World, revision: &str) -> bool {
    (0..world.scene.machines).all(|number| {
        let status = machine(world, number).status.unwrap_or_default();
        let active = status.update.is_some_and(|update| update.stage.is_active());
        status.booted_revision.as_deref() == Some(revision) && !active
    })
}

/// Rolls, with so many troubles in the first half hour.
fn roll(seed: u64, troubles: usize) -> World {
    let mut world = joined(seed, Scene { machines: 3, controllers: 2, ..Scene::quiet() });
    let first = revision(&world);
    let limit = world.now + 10 * MINUTE;
    assert!(world.until(limit, |world| all_run(world, &first)), "{}", world.trace.tail());
    world.run_pods(3, 2);
    let kinds = Trouble::of_processes();
    world.scene.kinds.clone_from(&kinds);
    for _ in 0..troubles {
        let (kind, after) = (kinds[world.random.below(kinds.len())], world.random.between(0, 30 * MINUTE));
        world.at(after, Step::Fault(Fault::Trouble(kind)));
    }
    let update = json!({ "strategy": "RollingUpdate", "minReadySeconds": 30 });
    change(&mut world, update.clone(), "2");
    let second = revision(&world);
    assert_ne!(first, second);
    let limit = world.now + 60 * MINUTE;
    if !world.until(limit, |world| all_run(world, &second)) && world.laws.broken.is_empty() {
        // Something failed for good: a person looks, and says so.
        world.end_faults();
        let failed = (0..3).any(|number| {
            machine(&world, number)
                .status
                .and_then(|status| status.update)
                .is_some_and(|one| one.stage == UpdateStage::Failed)
        });
        let mut again = update;
        again["retry"] = if failed { "again" } else { "not needed" }.into();
        change(&mut world, again, "2");
        let limit = world.now + 180 * MINUTE;
        if !world.until(limit, |world| all_run(world, &second)) {
            let stages: Vec<_> =
                (0..3).map(|number| machine(&world, number).status.and_then(|status| status.update)).collect();
            world.laws.breach(world.now, format!("not all run {second}: {stages:?}"));
        }
    }
    if world.laws.broken.is_empty() {
        world.comes_to_rest();
        nothing_left(&mut world);
    }
    world
}

fn nothing_left(world: &mut World) {
    let left: Vec<_> = world
        .cluster
        .all(Kind::Node)
        .filter_map(|object| {
            let node = object.node()?;
            let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
            let noted = node.metadata.annotations.iter().flatten().any(|(key, _)| key.starts_with("magnetite.dev/"));
            (cordoned || noted).then(|| node.metadata.name.clone())
        })
        .collect();
    if !left.is_empty() {
        world.laws.breach(world.now, format!("{left:?} are left cordoned or annotated"));
    }
}

#[test]
fn a_changed_profile_rolls() {
    let world = roll(1, 0);
    must_hold(&world, 1, "a_changed_profile_rolls");
    let installs: Vec<_> = world.boxes.iter().map(|box_| box_.installs).collect();
    assert_eq!(installs, [2, 2, 2], "each boots it once");
}

#[test]
fn a_rollout_keeps_the_laws_whatever_goes_wrong() {
    for seed in seeds(40) {
        must_hold(&roll(seed, 6), seed, "a_rollout_keeps_the_laws");
    }
}
