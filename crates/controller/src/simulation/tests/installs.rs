//! Systems on disks: each is written once in an intent, wiped only where its Machine is deleted for that, and out of service a box is never
//! touched, while everything goes wrong.

use super::{must_hold, seeds};
use crate::simulation::{
    clock::MINUTE,
    scene::{Scene, Trouble},
    world::World,
};

/// What happens to disks.
const TO_DISKS: [Trouble; 4] = [Trouble::PowerCycle, Trouble::Delete, Trouble::Intent, Trouble::Maintenance];

fn lives(seed: u64) -> World {
    let scene = Scene {
        machines: 3,
        servers: 2,
        controllers: 2,
        installs: true,
        faults: 14,
        kinds: [Trouble::of_processes(), TO_DISKS.to_vec()].concat(),
        span: 40 * MINUTE,
        ..Scene::quiet()
    };
    super::run(seed, scene)
}

#[test]
fn a_box_is_installed_once_and_boots_its_disk() {
    let world = super::run(1, Scene { installs: true, ..Scene::quiet() });
    must_hold(&world, 1, "a_box_is_installed_once");
    let box_ = &world.boxes[0];
    assert_eq!((box_.installs, box_.locals), (1, 1), "once from the network, then from its disk");
}

#[test]
fn disks_are_written_and_wiped_as_they_should_be_whatever_goes_wrong() {
    let (mut wiped, mut held, mut installed) = (0, 0, 0);
    for seed in seeds(40) {
        let world = lives(seed);
        must_hold(&world, seed, "disks_are_written_and_wiped");
        (wiped, held) = (wiped + world.laws.wiped, held + world.laws.held);
        installed += world.boxes.iter().map(|box_| box_.locals).sum::<u32>();
    }
    // Of one seed none need come.
    if std::env::var_os("SIM_SEED").is_none() {
        assert!(wiped > 5 && held > 20 && installed > 100, "{wiped} wiped, {held} held, {installed} from disk");
    }
}
