//! A controller whose watches bring nothing still decides about trust by what is so (threats.md, S7).

use super::{joined, machine, must_hold, seeds};
use crate::simulation::{
    clock::{MINUTE, SECOND},
    cluster::{Actor, Kind},
    faults::machine_name,
    kubelet::Duty,
    scene::Scene,
    world::{Step, Watcher, World},
};

/// A machine is deleted while the watches of Machines and Nodes stand still, and its kubelet asks for a certificate. Gives the
/// conditions of its request.
pub fn ask_after_deletion(seed: u64, scene: Scene) -> (World, Vec<String>) {
    let mut world = joined(seed, scene);
    world.run_to(world.now + 2 * MINUTE);
    let until = world.now + 60 * SECOND;
    for number in 0..world.controllers.len() {
        for kind in [Kind::Machine, Kind::Node] {
            world.freeze_watch(Watcher::Controller(number), kind, until);
        }
    }
    world.cluster.delete(Kind::Machine, &machine_name(0), None, Actor::Person).expect("there");
    world.digest_news();
    let after = world.random.between(0, 40) * SECOND;
    world.run_to(world.now + after);
    assert!(machine(&world, 0).metadata.deletion_timestamp.is_some(), "nobody let it go yet");
    world.scene.renewals = true;
    let what = if world.random.chance(500) { Duty::Renew } else { Duty::Serve };
    let life = world.boxes[0].life;
    world.boxes[0].pending = None;
    world.at(0, Step::Kubelet { box_: 0, life, what });
    world.run_to(world.now + 15 * SECOND);
    let name = world.boxes[0].pending.clone().expect("a request");
    let found = world.cluster.object(Kind::Request, &name);
    let status = found.and_then(|object| object.request()?.status.clone()).unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default().into_iter().map(|condition| condition.type_).collect();
    (world, conditions)
}

#[test]
fn a_certificate_of_a_deleted_machine_is_denied_while_the_watch_stands_still() {
    for seed in seeds(200) {
        let (mut world, conditions) = ask_after_deletion(seed, Scene { controllers: 2, ..Scene::quiet() });
        must_hold(&world, seed, "a_certificate_of_a_deleted_machine");
        assert_eq!(conditions, ["Denied"], "seed {seed}: {}", world.trace.tail());
        world.run_to(world.now + 5 * MINUTE);
        assert!(!world.cluster.exists(Kind::Machine, &machine_name(0)), "seed {seed}: it goes");
        must_hold(&world, seed, "a_certificate_of_a_deleted_machine");
    }
}
