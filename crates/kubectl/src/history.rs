//! What a Profile was, and the way back to it.

use std::fmt::Write;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use magnetite_api::{Profile, ProfileSpec, names::LABEL_REVISION};

use crate::{
    error::Error,
    style::{Style, Tone, plain},
};

/// The revisions of a Profile that are kept, the newest first.
#[derive(Debug)]
pub struct History {
    profile: String,
    present: String,
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    revision: String,
    number: i64,
    made_at: Option<Timestamp>,
    spec: Option<ProfileSpec>,
}

impl History {
    /// Of what the controller keeps. What belongs to another Profile of that name is none of it.
    pub fn of(profile: &Profile, revisions: Vec<ControllerRevision>) -> Self {
        let uid = profile.uid();
        let own =
            |one: &ControllerRevision| one.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref());
        let kept = |one: ControllerRevision| Kept {
            revision: one.labels().get(LABEL_REVISION).cloned().unwrap_or_default(),
            number: one.revision,
            made_at: one.creation_timestamp().map(|time| time.0),
            spec: one.data.and_then(|data| serde_json::from_value(data.0).ok()),
        };
        let mut kept: Vec<_> = revisions.into_iter().filter(own).map(kept).collect();
        kept.sort_by_key(|one| std::cmp::Reverse(one.number));
        Self { profile: profile.name_any(), present: profile.spec.revision(), kept }
    }

    /// For a person.
    pub fn text(&self, style: Style) -> String {
        let Self { profile, present, kept } = self;
        let mut out = String::new();
        if kept.is_empty() {
            let _ = writeln!(out, "No revision of the Profile {} is kept; does the controller run?", plain(profile));
            return out;
        }
        let _ = writeln!(out, "{}", style.paint(Tone::Dim, format_args!("{:<12} {:<22} IS", "REVISION", "FIRST SEEN")));
        for Kept { revision, made_at, spec, number: _ } in kept {
            let made_at = made_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
            let is = match spec {
                _ if revision == present => "the present one",
                None => "of another version of Magnetite, and cannot be read",
                Some(_) => "",
            };
            let _ = writeln!(out, "{:<12} {made_at:<22} {is}", plain(revision));
        }
        out
    }

    /// The Profile as it was, and what that means. `to`: its revision; otherwise the one before the present one.
    ///
    /// # Errors
    /// There is no such revision, or none before.
    pub fn back(&self, profile: &Profile, to: Option<&str>) -> Result<(Profile, String), Error> {
        let refuse = |why: String| Err(Error::ChangeProfile(self.profile.clone(), why));
        let before = |one: &&Kept| to.map_or(one.revision != self.present, |to| one.revision == to);
        let Some(found) = self.kept.iter().find(before) else {
            let known: Vec<_> = self.kept.iter().map(|one| one.revision.as_str()).collect();
            return refuse(match to {
                Some(to) => format!("no revision {to} is kept of it; there are: {}", known.join(", ")),
                None => "no revision is kept of it but the present one".to_owned(),
            });
        };
        if found.revision == self.present {
            return refuse(format!("{} is its present revision", found.revision));
        }
        let Some(spec) = found.spec.clone() else {
            return refuse(format!("what {} was cannot be read by this version", found.revision));
        };
        let mut back = profile.clone();
        back.spec = spec.beside(&profile.spec);
        if back.spec.revision() != found.revision {
            return refuse(format!("what is kept as {} is another revision by this version", found.revision));
        }
        let told = format!(
            "Profile {}: revision {} again, after {}; kubectl magnetite rollout status {0} --watch\n",
            plain(&self.profile),
            found.revision,
            self.present
        );
        Ok((back, told))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
    use kube::Resource;
    use magnetite_api::update::UpdateSpec;

    use super::*;

    fn profile(rack: &str) -> Profile {
        let mut profile = Profile::new("workers", ProfileSpec::default());
        profile.metadata.uid = Some("uid-p".to_owned());
        profile.spec.variables.insert("rack".to_owned(), rack.to_owned());
        profile
    }

    fn kept(profile: &Profile, number: i64) -> ControllerRevision {
        let data = Some(RawExtension(serde_json::to_value(&profile.spec).unwrap()));
        let mut one = ControllerRevision { data, revision: number, ..ControllerRevision::default() };
        one.labels_mut().insert(LABEL_REVISION.to_owned(), profile.spec.revision());
        one.metadata.owner_references = profile.controller_owner_ref(&()).map(|owner| vec![owner]);
        one
    }

    #[test]
    fn it_is_again_what_it_was_but_for_whom_it_is_and_how_it_rolls() {
        let mut now = profile("c");
        now.spec.update = Some(UpdateSpec { paused: true, ..UpdateSpec::default() });
        let mut other = profile("x");
        other.metadata.uid = Some("uid-other".to_owned());
        let all = vec![kept(&profile("a"), 1), kept(&now, 3), kept(&profile("b"), 2), kept(&other, 9)];
        let history = History::of(&now, all);
        let (back, told) = history.back(&now, None).unwrap();
        assert_eq!((back.spec.variables["rack"].as_str(), back.spec.update.clone().unwrap().paused), ("b", true));
        assert_eq!(back.spec.revision(), profile("b").spec.revision());
        assert!(told.contains(&profile("b").spec.revision()), "{told}");
        let (first, _) = history.back(&now, Some(&profile("a").spec.revision())).unwrap();
        assert_eq!(first.spec.variables["rack"], "a");
        let text = history.text(Style::PLAIN);
        assert!(text.lines().nth(1).unwrap().ends_with("the present one") && text.lines().count() == 4, "{text}");
    }

    #[test]
    fn there_is_no_way_back_to_what_is_not_kept() {
        let now = profile("c");
        let why = |all: Vec<ControllerRevision>, to: Option<&str>| {
            History::of(&now, all).back(&now, to).unwrap_err().to_string()
        };
        assert!(why(vec![kept(&now, 1)], None).contains("but the present one"));
        assert!(why(vec![kept(&now, 1)], Some("0000000000")).contains(&now.spec.revision()));
        assert!(why(vec![kept(&now, 1)], Some(&now.spec.revision())).contains("present revision"));
        let mut broken = kept(&profile("b"), 1);
        broken.data = Some(RawExtension(serde_json::json!({ "boot": 7 })));
        assert!(why(vec![broken], None).contains("cannot be read"));
    }
}
