//! etcd is put back to a backup that was made in the middle of an installation (threats.md, R24).

use magnetite_api::Phase;

use super::{machine, must_hold, seeds};
use crate::simulation::{
    clock::{MINUTE, SECOND},
    scene::Scene,
    world::World,
};

/// Ten machines are installed; the backup is from the middle of it. Everything is put back after so many minutes, and every box is
/// switched off and on. Gives how many were installed once more, and how many machines say why they are not Ready.
fn restore_after(minutes: i64, seed: u64) -> (usize, usize) {
    let mut world = World::new(seed, Scene { machines: 10, ..Scene::quiet() });
    let after = world.random.between(40, 75) * SECOND;
    world.run_to(after);
    world.backup = Some(world.cluster.backup());
    world.run_to(minutes * MINUTE);
    assert!(world.boxes.iter().all(|box_| box_.installs == 1), "seed {seed}");
    world.restore();
    world.run_to(world.now + MINUTE);
    (0..10).for_each(|number| world.power_on(number));
    world.run_to(world.now + 20 * MINUTE);
    must_hold(&world, seed, "a_restored_backup");
    let wiped = world.boxes.iter().filter(|box_| box_.installs > 1).count();
    let told = (0..10).filter(|number| {
        let status = machine(&world, *number).status.unwrap_or_default();
        status.phase == Some(Phase::Ready) || status.message.is_some_and(|message| !message.is_empty())
    });
    (wiped, told.count())
}

#[test]
fn a_restored_backup_wipes_nothing_once_the_windows_time_is_over() {
    for seed in seeds(5) {
        assert_eq!(restore_after(65, seed), (0, 10), "seed {seed}");
    }
}
