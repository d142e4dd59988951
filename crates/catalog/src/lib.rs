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
use magnetite_boot::render::Texts;

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

/// The text of one of a Profile's templates, wherever it is; nothing if it is nowhere.
pub fn template<'a>(profile: &'a Profile, name: &str, config_maps: &'a ConfigMaps) -> Option<&'a str> {
    let (name, source) = profile.spec.templates.get_key_value(name)?;
    match (&source.inline, &source.config_map) {
        (Some(text), _) => Some(text),
        (None, Some(from)) => Some(config_maps.get(&from.name)?.get(from.key.as_ref().unwrap_or(name))?),
        (None, None) => None,
    }
}

/// All of a Profile's texts that are there.
pub fn texts(profile: &Profile, config_maps: &ConfigMaps) -> Texts {
    let found = |name: &String| Some((name.clone(), template(profile, name, config_maps)?.to_owned()));
    Texts {
        ignition: ignition(profile, config_maps).map(str::to_owned),
        templates: profile.spec.templates.keys().filter_map(found).collect(),
    }
}
