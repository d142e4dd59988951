//! What a Profile's templates come to, remembered: a Machine's status changes often, and none of its changes
//! alters what is rendered.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use kube::ResourceExt;
use magnetite_api::{
    Machine, Profile,
    conditions::reason,
    profile::{ConfigMapKey, TemplateKey},
};
use magnetite_boot::{
    render::{self, Texts},
    select::Chosen,
};

use crate::stores::Stores;

/// Why something is not so: one word for a program, a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The word.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

/// The texts of a Profile's templates, wherever they are.
///
/// # Errors
/// The first ConfigMap that is named and not there, or lacks the key.
pub fn texts(profile: &Profile, stores: &Stores) -> Result<Texts, Trouble> {
    let mut texts = Texts::inline(profile);
    let from = |field: &str, name: &str, key: &str| {
        let missing = |what: String| Trouble {
            reason: reason::CONFIG_MAP_MISSING,
            message: format!("{field} of the Profile {}: {what}", profile.name_any()),
        };
        let Some(map) = stores.config_map(name) else {
            return Err(missing(format!("there is no ConfigMap {name} in Magnetite's own namespace")));
        };
        let text = map.data.as_ref().and_then(|data| data.get(key)).cloned();
        text.ok_or_else(|| missing(format!("the ConfigMap {name} has no key {key}")))
    };
    if let Some(ConfigMapKey { name, key }) = profile.spec.ignition.as_ref().and_then(|it| it.config_map.as_ref()) {
        texts.ignition = Some(from("spec.ignition.configMap", name, key)?);
    }
    for (template, source) in &profile.spec.templates {
        if let Some(TemplateKey { name, key }) = &source.config_map {
            let field = render::template_field(profile, template);
            texts.templates.insert(template.clone(), from(&field, name, key.as_ref().unwrap_or(template))?);
        }
    }
    Ok(texts)
}

/// Results of dry runs, by Machine.
#[derive(Debug, Default)]
pub struct Renders(Mutex<HashMap<String, (u64, Option<Trouble>)>>);

impl Renders {
    /// What stands in the way of rendering a Profile for a Machine; nothing if it renders.
    pub fn dry_run(&self, profile: &Chosen, machine: &Machine, texts: &Texts) -> Option<Trouble> {
        let machine_uid = machine.uid().unwrap_or_default();
        let key = key(profile, machine, texts);
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, trouble)) = cache.get(&machine_uid).filter(|(known, _)| *known == key) {
            return trouble.clone();
        }
        drop(cache);
        let trouble = render::dry_run(profile, machine, texts).err().map(|error| failed(profile, &error));
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

fn key(profile: &Profile, machine: &Machine, texts: &Texts) -> u64 {
    let mut hasher = DefaultHasher::new();
    profile.uid().hash(&mut hasher);
    profile.metadata.generation.hash(&mut hasher);
    machine.metadata.generation.hash(&mut hasher);
    machine.labels().hash(&mut hasher);
    texts.hash(&mut hasher);
    hasher.finish()
}
