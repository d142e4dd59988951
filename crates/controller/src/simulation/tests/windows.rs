//! A machine that joined is sent to its own disk, however often it asks (threats.md, S8).

use super::{joined, must_hold};
use crate::simulation::{clock::MINUTE, scene::Scene, world::World};

/// Ten machines join, and each is switched off and on so many times.
pub fn ask_again(seed: u64, times: u32, scene: Scene) -> World {
    let mut world = joined(seed, Scene { machines: 10, servers: 3, ..scene });
    world.run_to(world.now + MINUTE);
    for _ in 0..times {
        (0..10).for_each(|number| world.power_on(number));
        world.run_to(world.now + 2 * MINUTE);
    }
    world
}

#[test]
fn a_joined_machine_boots_its_own_disk_a_thousand_times() {
    let world = ask_again(1, 100, Scene::quiet());
    must_hold(&world, 1, "a_joined_machine_boots_its_own_disk");
    let installs: u32 = world.boxes.iter().map(|box_| box_.installs).sum();
    let locals: u32 = world.boxes.iter().map(|box_| box_.locals).sum();
    assert_eq!((installs, locals), (10, 1000));
}
