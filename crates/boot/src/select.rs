//! Which Profile does a Machine boot?

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::{Arc, OnceLock},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
};
use magnetite_api::{Machine, Profile, conditions::reason};

/// Why a Machine has no Profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The named Profile does not exist.
    #[error("spec.profile names the Profile {name}, which does not exist")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The Machine is held, and nobody said what such boxes boot.
    #[error(
        "the Machine is held (spec.hold), and this boot server has no --discovery PROFILE to boot it with; kubectl magnetite approve says what it is to be"
    )]
    Held,
    /// The Profile that such boxes boot does not exist.
    #[error("--discovery of this boot server names the Profile {name}, which does not exist")]
    HeldNotFound {
        /// The name.
        name: String,
    },
    /// No Profile is named, and none selects the Machine.
    #[error("spec.profile is not set and no Profile's selector matches the Machine's labels")]
    NoneSelects,
    /// Several Profiles select the Machine.
    #[error("the Profiles {} all select this Machine; name one in spec.profile", names.join(", "))]
    Ambiguous {
        /// Their names, sorted.
        names: Vec<String>,
    },
    /// A selector that Kubernetes would not take either.
    #[error("spec.selector of the Profile {profile} is not valid: {message}")]
    BadSelector {
        /// The Profile.
        profile: String,
        /// What is wrong.
        message: String,
    },
}

impl SelectError {
    /// The condition reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::HeldNotFound { .. } => reason::PROFILE_NOT_FOUND,
            Self::Held => reason::HELD,
            Self::NoneSelects | Self::BadSelector { .. } => reason::NO_PROFILE,
            Self::Ambiguous { .. } => reason::AMBIGUOUS_PROFILE,
        }
    }
}

/// What a Profile's selector selects. One that is empty selects nothing, although Kubernetes' own would select everything: a slip of
/// the finger must not point a whole site at one image (threats.md, R9).
#[derive(Debug)]
enum Selects {
    Nothing,
    These(Selector),
    /// It is not valid: why.
    Bad(String),
}

impl Selects {
    fn of(profile: &Profile) -> Self {
        let Some(selector @ LabelSelector { match_labels, match_expressions }) = &profile.spec.selector else {
            return Self::Nothing;
        };
        let empty = match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && match_expressions.as_ref().is_none_or(Vec::is_empty);
        match Selector::try_from(selector.clone()) {
            _ if empty => Self::Nothing,
            Ok(selector) => Self::These(selector),
            Err(error) => Self::Bad(error.to_string()),
        }
    }
}

/// A Profile, and what is worked out from it once for all Machines.
#[derive(Debug)]
pub struct Chosen {
    profile: Arc<Profile>,
    revision: OnceLock<String>,
}

impl Chosen {
    /// A Profile that somebody chose.
    pub fn new(profile: Arc<Profile>) -> Self {
        Self { profile, revision: OnceLock::new() }
    }

    /// The revision of its spec: a sum over all of it, which no request should pay for.
    pub fn revision(&self) -> &str {
        self.revision.get_or_init(|| self.profile.spec.revision())
    }
}

impl Deref for Chosen {
    type Target = Profile;
    fn deref(&self) -> &Profile {
        &self.profile
    }
}

/// Profiles with their selectors read: once for all Machines, since each packet of one asks for its Profile.
#[derive(Debug, Default)]
pub struct Profiles {
    all: Vec<(Arc<Chosen>, Selects)>,
    by_name: HashMap<String, Arc<Chosen>>,
}

impl Profiles {
    /// Reads the selectors. One that is not valid counts once a Machine has no other Profile.
    pub fn read<'a>(profiles: impl IntoIterator<Item = &'a Arc<Profile>>) -> Self {
        let chosen = |profile: &Arc<Profile>| (Arc::new(Chosen::new(Arc::clone(profile))), Selects::of(profile));
        let all: Vec<_> = profiles.into_iter().map(chosen).collect();
        let by_name = all.iter().map(|(profile, _)| (profile.name_any(), Arc::clone(profile))).collect();
        Self { all, by_name }
    }

    /// The Profile that boxes boot which are held; `discovery` is its name, if this server has one.
    ///
    /// # Errors
    /// If there is none.
    pub fn of_held(&self, discovery: Option<&str>) -> Result<Arc<Chosen>, SelectError> {
        let name = discovery.ok_or(SelectError::Held)?;
        self.by_name.get(name).cloned().ok_or_else(|| SelectError::HeldNotFound { name: name.to_owned() })
    }

    /// The Profile that a Machine names; if it names none, the one whose selector matches its labels.
    ///
    /// # Errors
    /// If there is not exactly one.
    pub fn of(&self, machine: &Machine) -> Result<Arc<Chosen>, SelectError> {
        if let Some(name) = &machine.spec.profile {
            return self.by_name.get(name).cloned().ok_or_else(|| SelectError::NotFound { name: name.clone() });
        }
        let matching = self.all.iter().filter(|(_, selects)| match selects {
            Selects::These(selector) => selector.matches(machine.labels()),
            Selects::Nothing | Selects::Bad(_) => false,
        });
        let mut matching = matching.map(|(profile, _)| profile);
        match (matching.next(), matching.next()) {
            (Some(one), None) => Ok(Arc::clone(one)),
            (Some(one), Some(two)) => {
                let mut names: Vec<_> = [one, two].into_iter().chain(matching).map(|one| one.name_any()).collect();
                names.sort();
                Err(SelectError::Ambiguous { names })
            }
            (None, _) => Err(self.all.iter().find_map(bad).unwrap_or(SelectError::NoneSelects)),
        }
    }
}

fn bad((profile, selects): &(Arc<Chosen>, Selects)) -> Option<SelectError> {
    match selects {
        Selects::Bad(message) => {
            Some(SelectError::BadSelector { profile: profile.name_any(), message: message.clone() })
        }
        Selects::Nothing | Selects::These(_) => None,
    }
}

/// The Profile of one Machine, as [`Profiles::of`] finds it.
///
/// # Errors
/// If there is not exactly one.
pub fn profile_for<'a>(
    machine: &Machine,
    profiles: impl IntoIterator<Item = &'a Arc<Profile>>,
) -> Result<Arc<Chosen>, SelectError> {
    Profiles::read(profiles).of(machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{machine, profile};

    #[test]
    fn a_name_wins_over_selectors() {
        let profiles = [profile("a").selecting("role", "worker").arc(), profile("b").arc()];
        let m = machine("m").label("role", "worker").profile("b").arc();
        assert_eq!(profile_for(&m, &profiles).unwrap().name_any(), "b");
        let m = machine("m").profile("c").arc();
        assert_eq!(profile_for(&m, &profiles).unwrap_err(), SelectError::NotFound { name: "c".into() });
    }

    #[test]
    fn exactly_one_selector_must_match() {
        let mut profiles = vec![profile("a").selecting("role", "worker").arc()];
        let m = machine("m").label("role", "worker").arc();
        assert_eq!(profile_for(&m, &profiles).unwrap().name_any(), "a");
        assert_eq!(profile_for(&machine("n").arc(), &profiles).unwrap_err(), SelectError::NoneSelects);
        profiles.push(profile("b").selecting("role", "worker").arc());
        assert_eq!(
            profile_for(&m, &profiles).unwrap_err(),
            SelectError::Ambiguous { names: vec!["a".into(), "b".into()] }
        );
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        let mut all = (*profile("all").arc()).clone();
        all.spec.selector = Some(LabelSelector::default());
        assert_eq!(profile_for(&machine("m").arc(), &[Arc::new(all)]).unwrap_err(), SelectError::NoneSelects);
    }
}
