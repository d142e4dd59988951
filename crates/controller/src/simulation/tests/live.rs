//! Boxes whose system lives in memory, with a TPM: who was there before is there again, and nobody has to say so.

use magnetite_api::Sha256;

use super::{joined, machine, must_hold, seeds};
use crate::simulation::{
    clock::MINUTE,
    cluster::Kind,
    scene::{Scene, Trouble},
    world::World,
};

fn live(lifetime: i64) -> Scene {
    Scene { machines: 3, live: true, lifetime, ..Scene::quiet() }
}

/// The whole site loses power, and has it again.
fn power_cut(world: &mut World) {
    (0..world.boxes.len()).for_each(|number| world.power_off(number));
    // The Nodes are seen to be away.
    world.run_to(world.now + 5 * MINUTE);
    assert!(!world.all_ready() && world.laws.broken.is_empty(), "{}", world.trace.tail());
    (0..world.boxes.len()).for_each(|number| world.power_on(number));
}

/// The newest certificate of each.
fn certificates(world: &World) -> Vec<Sha256> {
    let identity = |number| machine(world, number).status.and_then(|status| status.identity).expect("a key is bound");
    (0..3).flat_map(|number| identity(number).certificates.last().copied()).collect()
}

fn comes_back(seed: u64, world: &mut World, test: &str) {
    let ready = world.until(world.now + 20 * MINUTE, World::all_ready);
    must_hold(world, seed, test);
    assert!(ready, "seed {seed}: {}", world.trace.tail());
    for number in 0..3 {
        let identity = machine(world, number).status.and_then(|status| status.identity).expect("a key is bound");
        assert_eq!((identity.intent.as_str(), identity.certificates.len()), ("created", 1), "seed {seed}");
    }
    assert_eq!(world.cluster.all(Kind::Claim).count(), 3, "seed {seed}: the same claims");
    world.run_to(world.now + 12 * MINUTE);
    let writes = world.writes;
    world.run_to(world.now + 30 * MINUTE);
    assert_eq!(world.writes, writes, "seed {seed}: it does not rest: {}", world.trace.tail());
}

#[test]
fn a_site_in_memory_comes_back_by_itself() {
    for seed in seeds(20) {
        let mut world = joined(seed, live(24 * 60 * MINUTE));
        let before = certificates(&world);
        power_cut(&mut world);
        comes_back(seed, &mut world, "a_site_in_memory_comes_back");
        assert_eq!(certificates(&world), before, "seed {seed}: the same answer");
    }
}

/// Days later: its requests were swept away, and the certificates of its claims have ended.
#[test]
fn a_site_in_memory_comes_back_after_its_certificates_have_ended() {
    for seed in seeds(60) {
        let kinds = Trouble::of_processes();
        let mut world = joined(seed, Scene { controllers: 2, kinds, ..live(20 * MINUTE) });
        for _ in 0..2 {
            let before = certificates(&world);
            world.run_to(world.now + 90 * MINUTE);
            world.sweep_requests();
            // A controller dies, or stands still, in the middle of that.
            let moment = world.random.between(0, 8 * MINUTE);
            let kill = world.random.chance(500);
            power_cut(&mut world);
            world.run_to(world.now + moment);
            for number in 0..2 {
                if kill {
                    world.kill_if_up(number, true);
                } else {
                    world.stop_controller(number, MINUTE);
                }
            }
            comes_back(seed, &mut world, "comes_back_after_its_certificates");
            assert!(certificates(&world).iter().all(|one| !before.contains(one)), "seed {seed}: one that has ended");
        }
    }
}

/// Without a TPM it is another box: no key but the first is bound, and a person is asked.
#[test]
fn without_a_tpm_a_box_in_memory_is_another_box() {
    for seed in seeds(10) {
        let mut world = joined(seed, Scene { machines: 1, ..live(24 * 60 * MINUTE) });
        world.boxes[0].tpm = false;
        world.boxes[0].forget();
        world.power_on(0);
        world.run_to(world.now + 20 * MINUTE);
        assert!(world.laws.conflicts > 0 && !world.all_ready(), "seed {seed}: {}", world.trace.tail());
        world.comes_to_rest();
        must_hold(&world, seed, "without_a_tpm_a_box_in_memory");
    }
}
