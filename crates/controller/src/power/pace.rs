//! When a Machine's power is looked at next, and whose turn it is at a BMC. In memory alone: a controller that starts anew looks once.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use magnetite_api::Machine;

/// More locks than calls that can be under way at a time.
const LOCKS: usize = 1024;

/// Everyone's next moment.
#[derive(Debug, Default)]
pub struct Pace {
    machines: Mutex<HashMap<String, Paced>>,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Paced {
    /// What the last look was about, and until when it holds.
    last: Option<(u64, Timestamp)>,
    failures: u32,
}

/// Changes when a person changed something, or a window opened or closed: then there is nothing to wait for. What this reconciler
/// itself writes is not in it, or it would call itself for ever.
pub fn key(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    let metadata = &machine.metadata;
    (&metadata.uid, metadata.generation, metadata.deletion_timestamp.is_some()).hash(&mut hasher);
    if let Some(intent) = machine.status.as_ref().and_then(|status| status.intent.as_ref()) {
        (&intent.id, format!("{:?}", intent.state)).hash(&mut hasher);
    }
    // Whoever extends what restarts a box wakes this reconciler by it.
    machine.wanted_restart().map(|restart| restart.id).hash(&mut hasher);
    hasher.finish()
}

impl Pace {
    /// How long it is until the next look; none: now.
    pub fn wait(&self, name: &str, key: u64, now: Timestamp) -> Option<Duration> {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, due) = machines.get(name)?.last?;
        let left = Duration::try_from(due.duration_since(now)).ok().filter(|left| !left.is_zero());
        left.filter(|_| known == key)
    }

    /// The next look is after `wait`.
    pub fn set(&self, name: &str, key: u64, now: Timestamp, wait: Duration) {
        let due = now + SignedDuration::try_from(wait).unwrap_or(SignedDuration::from_mins(5));
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.entry(name.to_owned()).or_default().last = Some((key, due));
    }

    /// Counts failures in a row, this one included.
    pub fn failures(&self, name: &str, failed: bool) -> u32 {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let paced = machines.entry(name.to_owned()).or_default();
        paced.failures = if failed { paced.failures.saturating_add(1) } else { 0 };
        paced.failures
    }

    /// A Machine has no BMC, or is gone.
    pub fn forget(&self, name: &str) {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Whoever holds this may call that BMC.
    pub fn lock(&self, endpoint: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() >= LOCKS {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry(endpoint.to_owned()).or_default())
    }
}
