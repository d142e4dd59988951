//! Boxes that no Machine declares. Until the controller makes a Machine for one, a stand-in takes its place here: held, known by its MAC,
//! and served nothing but the system in which it tells what it is made of. Nothing has to be remembered for that: the link of such a box
//! holds its MAC, so that it goes on after a restart of this process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{MacAddr, Machine, MachineSpec, discovery::box_name};

/// So many are answered at a time. Bounded: a forged address costs its sender nothing.
pub const MOST: usize = 512;
/// One that did not ask for so long makes room for another.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);

/// What such boxes boot, and which of them asked lately.
#[derive(Debug, Default)]
pub struct Discovery {
    profile: Option<String>,
    lately: Mutex<HashMap<MacAddr, Timestamp>>,
}

impl Discovery {
    /// With the Profile that they boot; without one none is answered.
    pub fn of(profile: Option<&str>) -> Self {
        Self { profile: profile.map(str::to_owned), lately: Mutex::default() }
    }

    /// Name of the Profile.
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    /// The stand-in for a box that asks, if there is room for it.
    pub fn welcome(&self, mac: MacAddr, now: Timestamp) -> Option<Arc<Machine>> {
        let machine = self.stand_in(mac)?;
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.len() >= MOST && !lately.contains_key(&mac) {
            lately.retain(|_, when| now.duration_since(*when) < FORGOTTEN);
            if lately.len() >= MOST {
                return None;
            }
        }
        if lately.insert(mac, now).is_none() {
            tracing::info!(%mac, machine = machine.metadata.name, "nobody declares this box: it boots to tell what it is made of");
            if lately.len() == MOST {
                tracing::warn!(boxes = MOST, "so many unknown boxes asked that further ones are not answered");
            }
        }
        drop(lately);
        Some(machine)
    }

    /// The stand-in for a box, whether it asked or not: what it may do is said by a capability.
    pub fn stand_in(&self, mac: MacAddr) -> Option<Arc<Machine>> {
        self.profile.as_ref().filter(|_| !mac.is_bogus())?;
        let spec = MachineSpec { macs: vec![mac], hold: true, ..MachineSpec::default() };
        Some(Arc::new(Machine::new(&box_name(mac), spec)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::at;

    fn mac(number: u16) -> MacAddr {
        let [high, low] = number.to_be_bytes();
        MacAddr([0x52, 0x54, 0, 0x30, high, low])
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_ends() {
        let discovery = Discovery::of(Some("look"));
        let welcome = |number, second| discovery.welcome(mac(number), at(second)).is_some();
        assert!((0..512).all(|number| welcome(number, 0)));
        assert!(!welcome(512, 599), "there is no room for one more");
        assert!(welcome(7, 599), "who has a place keeps it");
        assert!(welcome(512, 600) && welcome(7, 601));
        let spec = discovery.stand_in(mac(7)).unwrap().spec.clone();
        assert_eq!((spec.macs, spec.hold), (vec![mac(7)], true));
    }

    #[test]
    fn without_a_profile_nobody_is_welcome() {
        assert!(Discovery::default().welcome(mac(1), at(0)).is_none());
        assert!(Discovery::of(Some("look")).welcome(MacAddr([0xff; 6]), at(0)).is_none());
    }
}
