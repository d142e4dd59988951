//! Rollouts: which machines of a Profile may update themselves now. Decided here and written into the Profile's status; how one
//! machine goes about it is decided in `machine::update`.

mod observe;
pub mod plan;
mod version;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

pub use observe::members;
pub use version::{ApiServerVersion, Minor};

/// How many machines each Profile lets update itself, as this process decided last. The watch brings the same a moment later; in
/// between, two Profiles must not both use the last place.
#[derive(Debug, Default)]
pub struct Places(Mutex<BTreeMap<String, usize>>);

impl Places {
    /// Decides while nobody else does: `decide` is given how many places the other Profiles have, and says how many this one has
    /// then. `seen`: the Profiles that there are, with their places as the watch brought them.
    pub fn decide<T>(&self, name: &str, seen: &BTreeMap<String, usize>, decide: impl FnOnce(usize) -> (T, usize)) -> T {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|profile, _| seen.contains_key(profile));
        let others = seen.iter().filter(|(profile, _)| *profile != name);
        let elsewhere =
            others.map(|(profile, count)| places.get(profile).map_or(*count, |ours| *ours.max(count))).sum();
        let (decided, count) = decide(elsewhere);
        places.insert(name.to_owned(), count);
        decided
    }
}

#[cfg(test)]
mod tests;
