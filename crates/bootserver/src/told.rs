//! What was logged lately, so that it is not said again with every packet.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

/// When the same is said again.
const AGAIN: SignedDuration = SignedDuration::from_mins(10);
/// How many are remembered. Bounded: a forged address costs its sender nothing.
const MOST: usize = 4096;

/// What was logged when.
#[derive(Debug)]
pub struct Told<K>(Mutex<HashMap<K, Timestamp>>);

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Told<K> {
    /// True if it was not said in the last ten minutes, and there is room to remember that it is now.
    pub fn is_new(&self, what: K, now: Timestamp) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = |when: &Timestamp| now.duration_since(*when) < AGAIN;
        if told.get(&what).is_some_and(lately) {
            return false;
        }
        if told.len() >= MOST {
            told.retain(|_, when| lately(when));
        }
        let room = told.len() < MOST;
        if room {
            told.insert(what, now);
        }
        room
    }

    /// How many are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::at;

    #[test]
    fn the_same_is_said_once_in_ten_minutes() {
        let told = Told::default();
        let said: Vec<_> = [0, 1, 599, 600, 601].map(|second| told.is_new("a", at(second))).into();
        assert_eq!(said, [true, false, false, true, false]);
        assert!(told.is_new("b", at(601)));
    }

    #[test]
    fn a_crowd_costs_no_more_memory_and_old_ones_make_room() {
        let told = Told::default();
        assert_eq!((0..10_000).filter(|who| told.is_new(*who, at(0))).count(), MOST);
        assert_eq!(told.len(), MOST);
        assert!(told.is_new(20_000, at(600)));
        assert_eq!(told.len(), 1);
    }
}
