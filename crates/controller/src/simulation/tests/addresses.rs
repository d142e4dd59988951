//! A box whose address changes between its firmware, its initramfs and its system (threats.md, R20).

use super::{joined, seeds};
use crate::simulation::{clock::MINUTE, scene::Scene};

#[test]
fn a_hundred_boxes_that_change_their_address_twice_join() {
    for seed in seeds(10) {
        let mut world = joined(seed, Scene { machines: 10, moves: true, ..Scene::quiet() });
        let address = |number: usize| std::net::Ipv4Addr::new(172, 30, 1, number as u8 + 10);
        for number in 0..10 {
            assert_ne!(world.boxes[number].address, address(number), "it moved");
            assert_eq!(world.boxes[number].installs, 1, "seed {seed}, box {number}");
        }
        world.run_to(world.now + 5 * MINUTE);
        assert!(world.all_ready(), "seed {seed}");
    }
}
