//! Boxes that were not answered, to log each once.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use magnetite_api::MacAddr;

/// How many are remembered. Bounded: a forged address costs its sender nothing.
pub const MOST: usize = 4096;

/// Boxes that were not answered.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<HashSet<MacAddr>>);

impl Strangers {
    /// True if the box is seen for the first time, and there is room to remember it.
    pub fn is_new(&self, mac: MacAddr) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = known.len() < MOST && known.insert(mac);
        if new && known.len() == MOST {
            tracing::warn!(boxes = MOST, "so many unknown boxes asked that further ones are only counted");
        }
        new
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}
