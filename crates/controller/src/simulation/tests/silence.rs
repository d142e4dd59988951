//! A box that falls silent is told of, wherever it was (threats.md, R21).

use magnetite_api::{Phase, report::BootStepName};

use super::{machine, must_hold, seeds};
use crate::simulation::{
    clock::MINUTE,
    scene::{Scene, Trouble},
    world::World,
};

const STEPS: [BootStepName; 8] = [
    BootStepName::FirmwareSeen,
    BootStepName::LoaderSent,
    BootStepName::KernelFetched,
    BootStepName::ConfigFetched,
    BootStepName::AgentStarted,
    BootStepName::Claiming,
    BootStepName::CertificateReceived,
    BootStepName::NodeReady,
];

/// The window, the time for a join, and the pause after which a machine is looked at anyway.
const LIMIT: i64 = (60 + 15 + 6) * MINUTE;

#[test]
fn a_box_that_dies_anywhere_is_told_of() {
    for seed in seeds(400) {
        let kinds = vec![Trouble::Kill, Trouble::StopLeader, Trouble::FreezeWatch, Trouble::BreakWatch];
        let scene = Scene { controllers: 2, faults: (seed % 5) as usize, kinds, loss: 50, ..Scene::quiet() };
        let mut world = World::new(seed, scene);
        world.boxes[0].dies_at = Some(STEPS[(seed / 5) as usize % STEPS.len()]);
        world.run_to(25 * MINUTE);
        world.thaw();
        world.run_to(LIMIT);
        must_hold(&world, seed, "a_box_that_dies_anywhere");
        let status = machine(&world, 0).status.expect("a status");
        let told =
            status.reason.is_some_and(|reason| !reason.is_empty()) && status.message.is_some_and(|m| m.len() > 20);
        assert!(status.phase == Some(Phase::Failed) && told, "seed {seed}: {:?} {}", status.phase, world.trace.tail());
    }
}
