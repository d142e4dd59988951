//! Two controllers that both believe to lead, one of them with an old picture (threats.md, R7).

use super::{must_hold, seeds};
use crate::simulation::{
    clock::{MINUTE, SECOND},
    scene::Scene,
    world::World,
};

#[test]
fn a_leader_that_stood_still_past_its_lease_does_nothing_twice() {
    for seed in seeds(200) {
        let mut world =
            World::new(seed, Scene { machines: 2, rogues: (seed % 2) as usize, controllers: 2, ..Scene::quiet() });
        let call = world.random.between(2, 60) as u64;
        world.until(10 * MINUTE, |world| world.calls >= call);
        let leader = world.leader.expect("a leader");
        world.stop_controller(leader, 75 * SECOND);
        let other = world.now + 74 * SECOND;
        world.run_to(other);
        assert_eq!(world.leader, Some(1 - leader), "seed {seed}: the other took over");
        assert!(world.controllers.iter().all(|controller| controller.leads), "seed {seed}: both believe to lead");
        world.run_to(20 * MINUTE);
        must_hold(&world, seed, "a_leader_that_stood_still");
        world.comes_to_rest();
        must_hold(&world, seed, "a_leader_that_stood_still");
    }
}
