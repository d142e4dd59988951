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

    /// Which of these have something new whose time has come: at most so many, those first that were not written for the longest, and
    /// last what an earlier process knew already (version 0). True if there are more.
    pub fn due(
        &self,
        versions: impl Iterator<Item = (String, V)>,
        most: usize,
        now: Instant,
        next: &mut Instant,
    ) -> (Vec<String>, bool)
    where
        V: Default,
    {
        let old = V::default();
        let due = versions.filter(|(name, version)| self.is_due(name, version, now, next));
        let mut due: Vec<_> =
            due.map(|(name, version)| (version == old, self.0.get(&name).map(|mark| mark.not_before), name)).collect();
        due.sort_unstable();
        let more = due.len() > most;
        (due.into_iter().take(most).map(|(.., name)| name).collect(), more)
    }

    /// Something was written, or that failed.
    pub fn mark(&mut self, name: String, version: Option<V>, not_before: Instant) {
        self.0.insert(name, Mark { version, not_before });
    }

    /// Forgets all but these.
    pub fn retain(&mut self, kept: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| kept(name));
    }

    /// Forgets this one.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Shortens all pauses that are longer.
    pub fn hurry(&mut self, until: Instant) {
        self.0.values_mut().for_each(|mark| mark.not_before = mark.not_before.min(until));
    }
}
