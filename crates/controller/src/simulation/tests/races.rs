//! Two boxes of one MAC (threats.md, S2).

use magnetite_api::{conditions, machine::IntentState};
use rcgen::PublicKeyData;

use super::{joined, machine, must_hold, seeds};
use crate::simulation::{
    clock::{MINUTE, SECOND},
    cluster::Kind,
    keys,
    metal::Stage,
    scene::Scene,
    world::World,
};

fn race(seed: u64) -> Scene {
    Scene { rogues: 1, servers: 3, controllers: 2, powers: false, eager: seed.is_multiple_of(2), ..Scene::quiet() }
}

/// The sum of the claim key that a box has.
fn key(world: &World, box_: usize) -> String {
    let system = world.boxes[box_].system.as_ref().expect("a system");
    magnetite_api::Sha256::of(&keys::key(system.claim).subject_public_key_info()).to_string()
}

#[test]
fn a_thousand_races_have_one_winner_each() {
    for seed in seeds(1000) {
        let mut world = World::new(seed, race(seed));
        // Neither tries again with other keys.
        world.boxes[1].honest = true;
        world.run_to(30 * SECOND);
        let apart = world.random.between(0, 40);
        world.power_on(0);
        world.run_to(30 * SECOND + apart);
        world.power_on(1);
        world.run_to(2 * MINUTE);
        must_hold(&world, seed, "a_thousand_races");
        let status = machine(&world, 0).status.expect("a status");
        let bound = status.identity.expect("a bound key").claim_key;
        let winner = usize::from(bound == key(&world, 1));
        assert_eq!(bound, key(&world, winner), "seed {seed}: the bound key is one of the two");
        assert_ne!(bound, key(&world, 1 - winner));
        // What was a Node before the other came is not frozen; that another wants to be it stands in a condition.
        let state = status.intent.expect("an intent").state;
        let joined = state == IntentState::Fulfilled;
        assert!(joined || state == IntentState::Frozen, "seed {seed}: {state:?}");
        assert!(!conditions::is_true(&status.conditions, conditions::UNCONTESTED), "seed {seed}");
        assert_eq!(world.boxes[1 - winner].verdict.as_deref(), Some("ClaimConflict"), "seed {seed}");
        assert_eq!(world.laws.conflicts, 1, "seed {seed}");
        assert!(world.laws.certificates <= 1, "seed {seed}");
        // The later of the two claims is the one that makes it a conflict.
        let both = *world.laws.claimed.values().max().expect("claims");
        let frozen = if joined { world.laws.warned } else { world.laws.frozen };
        for told in [world.laws.warned, frozen] {
            let told = told.expect("told");
            assert!(told - both <= 5 * SECOND, "seed {seed}: told after {} ms", told - both);
        }
    }
}

#[test]
fn the_same_key_a_hundred_times_gets_the_same_answer() {
    let mut world = joined(1, Scene { servers: 3, controllers: 2, ..Scene::quiet() });
    world.run_to(world.now + 5 * MINUTE);
    let certificate = world.boxes[0].system.as_ref().expect("a system").certificate.clone().expect("a certificate");
    let told = world.cluster.log(Kind::Event).len();
    for time in 0..100 {
        if time % 2 == 1 {
            // The claim was tidied away: it is decided anew.
            let name = world.cluster.all(Kind::Claim).find_map(|claim| claim.claim()?.metadata.name.clone());
            let name = name.expect("a claim");
            world.cluster.delete(Kind::Claim, &name, None, crate::simulation::cluster::Actor::Person).expect("there");
            world.digest_news();
            world.run_to(world.now + SECOND);
        }
        let box_ = &mut world.boxes[0];
        box_.stage = Stage::Agent;
        box_.system.as_mut().expect("a system").certificate = None;
        box_.system.as_mut().expect("a system").link.server = time % 3;
        world.network.loss = 400;
        world.claim(0);
        let limit = world.now + 30 * MINUTE;
        let answered = world.until(limit, |world| !matches!(world.boxes[0].stage, Stage::Agent));
        let system = world.boxes[0].system.as_ref().expect("a system");
        assert!(answered, "time {time}: {}", world.trace.tail());
        assert_eq!(system.certificate.as_ref(), Some(&certificate), "time {time}: {:?}", world.boxes[0].verdict);
    }
    must_hold(&world, 1, "the_same_key_a_hundred_times");
    assert_eq!(world.cluster.log(Kind::Event).len(), told, "an answer that was given before is no event");
}
