//! Worlds with a fault that no real one has. Each must be found: a law that nothing can break says nothing.

use super::{run, stale::ask_after_deletion, windows::ask_again};
use crate::simulation::{
    clock::{MINUTE, SECOND},
    cluster::Broken,
    scene::{Scene, Trouble},
    world::World,
};

fn broken(fault: Broken, scene: Scene) -> Scene {
    Scene { broken: Some(fault), ..scene }
}

fn found(worlds: impl Iterator<Item = World>, law: &str) {
    let laws: Vec<String> = worlds.filter_map(|world| world.laws.broken.first().cloned()).collect();
    assert!(laws.iter().any(|found| found.contains(law)), "nothing says {law:?}: {laws:?}");
}

#[test]
fn a_store_that_ignores_versions_is_found() {
    let race = |seed| {
        let scene = Scene { rogues: 1, servers: 3, controllers: 2, powers: false, eager: true, ..Scene::quiet() };
        let mut world = World::new(seed, broken(Broken::IgnoresVersions, scene));
        world.run_to(30 * SECOND);
        world.power_on(0);
        world.power_on(1);
        world.run_to(5 * MINUTE);
        world
    };
    found((0..100).map(race), "a second key took the place of the first");
}

#[test]
fn reads_of_old_copies_are_found() {
    let world = |seed| ask_after_deletion(seed, broken(Broken::ReadsOldCopies, Scene::quiet())).0;
    found((0..10).map(world), "whose Machine is gone");
}

#[test]
fn a_store_that_drops_identities_is_found() {
    let mut world = World::new(1, broken(Broken::DropsIdentities, Scene::quiet()));
    assert!(!world.until(5 * MINUTE, World::all_ready), "nothing joins where no key can be bound");
}

#[test]
fn a_boot_server_that_has_boxes_wiped_is_found() {
    let world = run(1, broken(Broken::WipesAll, Scene { installs: true, ..Scene::quiet() }));
    found([world].into_iter(), "nobody asked for that");
}

/// Of two boot servers one does not know yet what the other was told: then it is the mark on the disk that says so.
#[test]
fn an_agent_that_installs_over_its_own_mark_is_found() {
    let scene = Scene { installs: true, servers: 3, kinds: vec![Trouble::FreezeWatch], faults: 12, ..Scene::quiet() };
    let world = |seed| run(seed, broken(Broken::IgnoresMarks, scene.clone()));
    found((0..100).map(world), "a second time");
}

#[test]
fn a_boot_server_that_serves_always_is_found() {
    found([ask_again(1, 1, broken(Broken::ServesAlways, Scene::quiet()))].into_iter(), "after the window");
}
