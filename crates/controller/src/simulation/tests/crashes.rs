//! A controller that is killed anywhere goes on where it was (threats.md, R6).

use super::{machine, must_hold, seeds};
use crate::simulation::{
    clock::MINUTE,
    cluster::Kind,
    scene::{Scene, Trouble},
    world::{Crash, Point, World},
};

/// What a run came to, without times and versions.
fn outcome(world: &World) -> Vec<String> {
    let machine = machine(world, 0);
    let status = machine.status.expect("a status");
    let intent = status.intent.expect("an intent");
    let identity = status.identity.expect("an identity");
    let claims = world.cluster.all(Kind::Claim).filter_map(|object| {
        let claim = object.claim()?;
        Some(format!("{:?} {:?}", claim.metadata.name, claim.status.as_ref()?.decision))
    });
    let requests = world.cluster.all(Kind::Request).filter_map(|object| {
        let csr = object.request()?;
        Some(format!("{:?} {}", csr.metadata.name, csr.status.as_ref()?.certificate.is_some()))
    });
    let nodes = world.cluster.all(Kind::Node).filter_map(|object| {
        let node = object.node()?;
        Some(format!("{:?} {:?}", node.metadata.name, node.metadata.labels))
    });
    let mut all = vec![
        format!("{:?} {} {:?}", status.phase, intent.id, intent.state),
        format!("{} {} {}", identity.claim_key, identity.kubelet_key, identity.issued_at.is_some()),
        format!("{:?} {:?}", machine.metadata.finalizers, world.boxes[0].installs),
    ];
    all.extend(claims.chain(requests).chain(nodes));
    all
}

fn to_rest(seed: u64, crash: Option<Crash>) -> World {
    let mut world = World::new(seed, Scene { span: 15 * MINUTE, ..Scene::quiet() });
    world.crash = crash;
    world.run_to(15 * MINUTE);
    must_hold(&world, seed, "a_controller_that_is_killed_at_any_request");
    world.comes_to_rest();
    must_hold(&world, seed, "a_controller_that_is_killed_at_any_request");
    world
}

#[test]
fn a_controller_that_is_killed_at_any_request_comes_to_the_same_end() {
    let whole = to_rest(7, None);
    let want = outcome(&whole);
    assert!(whole.calls > 20, "{} requests", whole.calls);
    for call in 1..=whole.calls {
        for at in [Point::Before, Point::After, Point::Late] {
            let world = to_rest(7, Some(Crash { call, at }));
            assert_eq!(world.crash, None, "request {call} came");
            assert_eq!(outcome(&world), want, "killed at request {call}, {at:?}:\n{}", world.trace.tail());
        }
    }
}

#[test]
fn a_thousand_kills_over_two_hundred_machines() {
    let (mut kills, mut machines) = (0, 0);
    for seed in seeds(20) {
        let scene = Scene {
            machines: 10,
            controllers: 2,
            faults: 160,
            kinds: vec![Trouble::KillInside, Trouble::Kill],
            span: 12 * MINUTE,
            ..Scene::quiet()
        };
        let mut world = World::new(seed, scene);
        world.run_to(12 * MINUTE);
        kills += world.kills;
        machines += world.cluster.all(Kind::Machine).count();
        must_hold(&world, seed, "a_thousand_kills");
        world.end_faults();
        world.run_to(world.now + 8 * MINUTE);
        assert!(world.all_ready(), "seed {seed}: all join without anybody's help\n{}", world.trace.tail());
        world.comes_to_rest();
        must_hold(&world, seed, "a_thousand_kills");
        for number in 0..10 {
            let status = machine(&world, number).status.expect("a status");
            assert_eq!(world.boxes[number].installs, 1, "seed {seed}, box {number}");
            assert_eq!(status.intent.expect("an intent").id, "created", "seed {seed}, box {number}");
        }
    }
    let all = kills >= 1000 && machines == 200;
    assert!(all || super::number("SIM_SEED").is_some(), "{kills} kills over {machines} machines");
}
