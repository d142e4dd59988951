//! How often one peer may ask within a second. What is over it is dropped, or put off: never refused for good.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

/// As many peers are counted in one second. More than that is a site powering on, not one box gone mad, and
/// costs no further memory.
const MOST_PEERS: usize = 8192;

/// Counts what each peer asks within a second.
#[derive(Debug)]
pub struct Limiter<K> {
    per_second: u32,
    now: Mutex<(i64, HashMap<K, u32>)>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// Admits so many a second; all of them, if that is 0.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, now: Mutex::default() }
    }

    /// True if the peer may ask now.
    pub fn admit(&self, peer: K, now: Timestamp) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let mut counted = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (second, peers) = &mut *counted;
        if *second != now.as_second() {
            *second = now.as_second();
            peers.clear();
        }
        if peers.len() >= MOST_PEERS && !peers.contains_key(&peer) {
            return true;
        }
        let asked = peers.entry(peer).or_default();
        *asked = asked.saturating_add(1);
        *asked <= self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_own_second() {
        let at = |millisecond: i64| Timestamp::from_millisecond(1_800_000_000_000 + millisecond).unwrap();
        let limiter = Limiter::new(2);
        let asked: Vec<_> = [0, 1, 2].map(|milli| limiter.admit("a", at(milli))).into();
        assert_eq!(asked, [true, true, false]);
        assert!(limiter.admit("b", at(2)), "another peer");
        assert!(limiter.admit("a", at(1000)), "another second");
    }

    #[test]
    fn without_a_bound_nobody_is_counted() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let limiter = Limiter::new(0);
        assert!((0..1000).all(|_| limiter.admit("a", at)));
        assert!(limiter.now.lock().unwrap().1.is_empty());
    }

    #[test]
    fn a_crowd_costs_no_more_memory() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let limiter = Limiter::new(1);
        assert!((0..MOST_PEERS + 100).all(|peer| limiter.admit(peer, at)));
        assert_eq!(limiter.now.lock().unwrap().1.len(), MOST_PEERS);
        assert!(!limiter.admit(0, at), "those that are counted stay so");
    }
}
