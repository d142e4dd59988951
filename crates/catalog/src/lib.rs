//! A catalog: a folder of YAML files with Machines, Profiles and ConfigMaps, as `kubectl apply` would take them.
//!
//! Reads files and checks what is in them. It watches nothing and knows no client, so that the boot server and a
//! command on somebody's desk take a folder for the same.

mod check;
mod read;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use magnetite_api::Profile;

pub use read::{Catalog, Problem, read, stamps};

/// The data of ConfigMaps: name, then key, to text.
pub type ConfigMaps = BTreeMap<String, BTreeMap<String, String>>;

/// The template of a Profile's Ignition config, wherever it is; nothing if it is nowhere.
pub fn ignition<'a>(profile: &'a Profile, config_maps: &'a ConfigMaps) -> Option<&'a str> {
    let source = profile.spec.ignition.as_ref()?;
    match (&source.inline, &source.config_map) {
        (Some(text), _) => Some(text),
        (None, Some(from)) => Some(config_maps.get(&from.name)?.get(&from.key)?),
        (None, None) => None,
    }
}
