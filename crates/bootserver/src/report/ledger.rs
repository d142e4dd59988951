//! What was written already, and what may be written again when.

use std::collections::HashMap;

use tokio::time::Instant;

/// What of a set of objects was written, and which may be written again when.
#[derive(Debug)]
pub struct Ledger<V>(HashMap<String, Mark<V>>);

impl<V> Default for Ledger<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[derive(Debug)]
struct Mark<V> {
    /// What was written last; nothing if that failed.
    version: Option<V>,
    not_before: Instant,
}

impl<V: PartialEq> Ledger<V> {
    /// True if an object has something new, and its time has come. Otherwise `next` is brought forward to when it comes.
    pub fn is_due(&self, name: &str, version: &V, now: Instant, next: &mut Instant) -> bool {
        match self.0.get(name) {
            Some(mark) if mark.version.as_ref() == Some(version) => false,
            Some(mark) if mark.not_before > now => {
                *next = mark.not_before.min(*next);
                false
            }
            _ => true,
        }
    }

    /// Something was written, or that failed.
    pub fn mark(&mut self, name: String, version: Option<V>, not_before: Instant) {
        self.0.insert(name, Mark { version, not_before });
    }

    /// Forgets all but these.
    pub fn retain(&mut self, kept: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| kept(name));
    }

    /// Drops all pauses, for the last time.
    pub fn hurry(&mut self, now: Instant) {
        self.0.values_mut().for_each(|mark| mark.not_before = now);
    }
}
