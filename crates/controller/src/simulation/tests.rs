//! Runs.

mod addresses;
mod broken;
mod crashes;
mod installs;
mod leaders;
mod live;
mod races;
mod restores;
mod rollouts;
mod seeds;
mod silence;
mod stale;
mod windows;

use magnetite_api::Machine;

use super::{clock::MINUTE, cluster::Kind, faults::machine_name, scene::Scene, world::World};

/// A quiet world in which everything joined. What is broken in it breaks only then.
fn joined(seed: u64, scene: Scene) -> World {
    let broken = scene.broken;
    let mut world = World::new(seed, Scene { broken: None, ..scene });
    let limit = world.now + 10 * MINUTE;
    let ready = world.until(limit, World::all_ready);
    assert!(ready && world.laws.broken.is_empty(), "{}\nseed {seed}: {:?}", world.trace.tail(), world.laws.broken);
    world.cluster.broken = broken;
    world
}

/// A machine as it is in the store.
fn machine(world: &World, number: usize) -> Machine {
    let found = world.cluster.object(Kind::Machine, &machine_name(number));
    found.and_then(|object| object.machine().map(|machine| Machine::clone(machine))).expect("a Machine")
}

/// Runs a scene to its end: its time, then until it is at rest.
fn run(seed: u64, scene: Scene) -> World {
    let span = scene.span;
    let mut world = World::new(seed, scene);
    world.run_to(span);
    if world.laws.broken.is_empty() {
        world.comes_to_rest();
    }
    world
}

/// Tells which seed breaks which law, and how to see it again.
fn must_hold(world: &World, seed: u64, test: &str) {
    if let Some(law) = world.laws.broken.first() {
        panic!(
            "{}\nseed {seed}: {law}\nscene: {:?}\nreplay: SIM_SEED={seed} cargo test -p magnetite-controller {test}",
            world.trace.tail(),
            world.scene,
        );
    }
}

/// So many seeds, or the one that `SIM_SEED` names.
fn seeds(count: u64) -> std::ops::Range<u64> {
    number("SIM_SEED").map_or(0..count, |seed| seed..seed + 1)
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
