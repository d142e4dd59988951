//! Thousands of worlds in which everything goes wrong.

use super::{must_hold, number, run, seeds};
use crate::simulation::scene::Scene;

/// Worlds in one run of the tests, unless `SIM_SEEDS` says how many.
const SEEDS: u64 = 150;

#[test]
fn every_seed_keeps_the_laws_and_comes_to_rest() {
    for seed in seeds(number("SIM_SEEDS").unwrap_or(SEEDS)) {
        let world = run(seed, Scene::stormy(seed));
        must_hold(&world, seed, "every_seed");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in seeds(8) {
        let runs = [run(seed, Scene::stormy(seed)), run(seed, Scene::stormy(seed))];
        let [one, two] = runs.each_ref().map(|world| world.trace.tail());
        let first = one.lines().zip(two.lines()).find(|(one, two)| one != two);
        assert_eq!(runs[0].trace.digest(), runs[1].trace.digest(), "seed {seed}: they part at {first:#?}");
    }
}
