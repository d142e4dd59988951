//! What a Profile's templates come to, remembered: a Machine's status changes often, and none of its changes
//! alters what is rendered.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use kube::ResourceExt;
use magnetite_api::{Machine, Profile, conditions::reason};
use magnetite_boot::{render, select::Chosen};

use crate::stores::Stores;

/// Why something is not so: one word for a program, a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The word.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

/// The Ignition template of a Profile, if it has one.
///
/// # Errors
/// The ConfigMap that it names, or its key, is not there.
pub fn ignition(profile: &Profile, stores: &Stores) -> Result<Option<String>, Trouble> {
    let Some(source) = &profile.spec.ignition else {
        return Ok(None);
    };
    let Some(key) = &source.config_map else {
        return Ok(source.inline.clone());
    };
    let missing = |what: String| Trouble {
        reason: reason::CONFIG_MAP_MISSING,
        message: format!("spec.ignition.configMap of the Profile {}: {what}", profile.name_any()),
    };
    let Some(map) = stores.config_map(&key.name) else {
        return Err(missing(format!("there is no ConfigMap {} in Magnetite's own namespace", key.name)));
    };
    match map.data.as_ref().and_then(|data| data.get(&key.key)) {
        Some(text) => Ok(Some(text.clone())),
        None => Err(missing(format!("the ConfigMap {} has no key {}", key.name, key.key))),
    }
}

/// Results of dry runs, by Machine.
#[derive(Debug, Default)]
pub struct Renders(Mutex<HashMap<String, (u64, Option<Trouble>)>>);

impl Renders {
    /// What stands in the way of rendering a Profile for a Machine; nothing if it renders.
    pub fn dry_run(&self, profile: &Chosen, machine: &Machine, template: Option<&str>) -> Option<Trouble> {
        let machine_uid = machine.uid().unwrap_or_default();
        let key = key(profile, machine, template);
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, trouble)) = cache.get(&machine_uid).filter(|(known, _)| *known == key) {
            return trouble.clone();
        }
        drop(cache);
        let trouble = render::dry_run(profile, machine, template).err().map(|error| failed(profile, &error));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(machine_uid, (key, trouble.clone()));
        trouble
    }

    /// Forgets a Machine that is gone.
    pub fn forget(&self, machine: &Machine) {
        let uid = machine.uid().unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    }
}

/// A template that does not render, as a trouble.
pub fn failed(profile: &Profile, error: &render::RenderError) -> Trouble {
    let message: String = format!("Profile {}: {error}", profile.name_any()).chars().take(1024).collect();
    Trouble { reason: reason::RENDER_FAILED, message }
}

fn key(profile: &Profile, machine: &Machine, template: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    profile.uid().hash(&mut hasher);
    profile.metadata.generation.hash(&mut hasher);
    machine.metadata.generation.hash(&mut hasher);
    machine.labels().hash(&mut hasher);
    template.hash(&mut hasher);
    hasher.finish()
}
