//! Which Profile does a Machine boot?

use std::{collections::BTreeMap, sync::Arc};

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
            Self::NotFound { .. } => reason::PROFILE_NOT_FOUND,
            Self::NoneSelects | Self::BadSelector { .. } => reason::NO_PROFILE,
            Self::Ambiguous { .. } => reason::AMBIGUOUS_PROFILE,
        }
    }
}

/// The Profile that a Machine names, or the one that selects it.
///
/// An empty selector selects nothing, although Kubernetes' own would select everything: a slip of the
/// finger must not point a whole site at one image (threats.md, R9).
pub fn profile_for<'a>(
    machine: &Machine,
    profiles: impl IntoIterator<Item = &'a Arc<Profile>>,
) -> Result<Arc<Profile>, SelectError> {
    let mut profiles = profiles.into_iter();
    if let Some(name) = &machine.spec.profile {
        let named = profiles.find(|profile| profile.name_any() == *name).cloned();
        return named.ok_or_else(|| SelectError::NotFound { name: name.clone() });
    }
    let (mut matching, mut bad) = (Vec::new(), None);
    for profile in profiles {
        match selects(profile, machine.labels()) {
            Ok(true) => matching.push(Arc::clone(profile)),
            Ok(false) => {}
            Err(message) => bad = Some(SelectError::BadSelector { profile: profile.name_any(), message }),
        }
    }
    match (matching.len(), bad) {
        (1, _) => Ok(matching.remove(0)),
        (0, Some(bad)) => Err(bad),
        (0, None) => Err(SelectError::NoneSelects),
        _ => {
            let mut names: Vec<_> = matching.iter().map(|profile| profile.name_any()).collect();
            names.sort();
            Err(SelectError::Ambiguous { names })
        }
    }
}

fn selects(profile: &Profile, labels: &BTreeMap<String, String>) -> Result<bool, String> {
    let Some(selector) = &profile.spec.selector else {
        return Ok(false);
    };
    let LabelSelector { match_labels, match_expressions } = selector;
    let empty =
        match_labels.as_ref().is_none_or(BTreeMap::is_empty) && match_expressions.as_ref().is_none_or(Vec::is_empty);
    if empty {
        return Ok(false);
    }
    let selector: Selector = selector.clone().try_into().map_err(|error| format!("{error}"))?;
    Ok(selector.matches(labels))
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
        assert_eq!(profile_for(&m, &profiles), Err(SelectError::NotFound { name: "c".into() }));
    }

    #[test]
    fn exactly_one_selector_must_match() {
        let mut profiles = vec![profile("a").selecting("role", "worker").arc()];
        let m = machine("m").label("role", "worker").arc();
        assert_eq!(profile_for(&m, &profiles).unwrap().name_any(), "a");
        assert_eq!(profile_for(&machine("n").arc(), &profiles), Err(SelectError::NoneSelects));
        profiles.push(profile("b").selecting("role", "worker").arc());
        assert_eq!(profile_for(&m, &profiles), Err(SelectError::Ambiguous { names: vec!["a".into(), "b".into()] }));
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        let mut all = (*profile("all").arc()).clone();
        all.spec.selector = Some(LabelSelector::default());
        assert_eq!(profile_for(&machine("m").arc(), &[Arc::new(all)]), Err(SelectError::NoneSelects));
    }
}
