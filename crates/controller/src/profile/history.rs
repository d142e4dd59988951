//! What a Profile was: its revisions, kept as ControllerRevisions as DaemonSets keep theirs, so that `kubectl magnetite rollout undo` has something
//! to go back to. Nothing here reads them: a Profile is what its spec says.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::runtime::RawExtension};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use magnetite_api::{
    Profile,
    names::{LABEL_PROFILE, LABEL_REVISION, MANAGER_CONTROLLER},
};

use crate::{
    context::Context,
    error::{Error, gone_is_fine},
};

/// So many are kept of each Profile, as Deployments do.
const MOST: usize = 10;

/// Which revision of each Profile is known to be kept, by its UID: most passes have nothing to do here.
#[derive(Debug, Default)]
pub struct Histories(Mutex<HashMap<String, String>>);

/// One change.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    /// It is new.
    Keep(Box<ControllerRevision>),
    /// It is the newest again.
    Renumber(String, i64),
    /// It is too old.
    Drop(String),
}

/// What has to be done, given those that are kept.
fn changes(profile: &Profile, kept: &[ControllerRevision]) -> Vec<Change> {
    let revision = profile.spec.revision();
    let newest = kept.iter().map(|one| one.revision).max().unwrap_or(0);
    let is_this = |one: &&ControllerRevision| one.labels().get(LABEL_REVISION) == Some(&revision);
    let mut out = Vec::new();
    match kept.iter().find(is_this) {
        Some(one) if one.revision == newest => {}
        Some(one) => out.push(Change::Renumber(one.name_any(), newest + 1)),
        None => out.push(Change::Keep(Box::new(keep(profile, &revision, newest + 1)))),
    }
    let mut old: Vec<_> = kept.iter().filter(|one| !is_this(one)).collect();
    old.sort_by_key(|one| std::cmp::Reverse(one.revision));
    out.extend(old.into_iter().skip(MOST - 1).map(|one| Change::Drop(one.name_any())));
    out
}

fn keep(profile: &Profile, revision: &str, number: i64) -> ControllerRevision {
    let name = profile.name_any();
    let mut kept = ControllerRevision {
        data: serde_json::to_value(&profile.spec).ok().map(RawExtension),
        revision: number,
        ..ControllerRevision::default()
    };
    kept.metadata.name = Some(format!("{name}-{revision}"));
    kept.metadata.labels =
        Some([(LABEL_PROFILE.to_owned(), name), (LABEL_REVISION.to_owned(), revision.to_owned())].into());
    // They go with their Profile.
    kept.metadata.owner_references = profile.controller_owner_ref(&()).map(|owner| vec![owner]);
    kept
}

/// Keeps the present revision, if it is not kept yet.
///
/// # Errors
/// The API server did not agree, or was not there.
pub async fn record(profile: &Profile, ctx: &Context) -> Result<(), Error> {
    let (name, uid, revision) = (profile.name_any(), profile.uid().unwrap_or_default(), profile.spec.revision());
    let known = || ctx.histories.0.lock().unwrap_or_else(PoisonError::into_inner);
    if known().get(&uid) == Some(&revision) {
        return Ok(());
    }
    let api = Api::<ControllerRevision>::namespaced(ctx.client.clone(), &ctx.settings.namespace);
    let of = ListParams::default().labels(&format!("{LABEL_PROFILE}={name}"));
    let kept = api.list(&of).await.map_err(Error::read("ControllerRevisions of the Profile", &name))?;
    // Those of a Profile of that name that was deleted are on their way out.
    let own = |one: &ControllerRevision| one.owner_references().iter().any(|owner| owner.uid == uid);
    let kept: Vec<_> = kept.items.into_iter().filter(own).collect();
    for change in changes(profile, &kept) {
        apply(&api, change).await?;
    }
    known().insert(uid, revision);
    Ok(())
}

async fn apply(api: &Api<ControllerRevision>, change: Change) -> Result<(), Error> {
    const KIND: &str = "ControllerRevision";
    let manager = Some(MANAGER_CONTROLLER.to_owned());
    match change {
        Change::Keep(kept) => {
            let params = PostParams { field_manager: manager, ..PostParams::default() };
            match api.create(&params, &kept).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                made => made.map(drop).map_err(Error::write("creating", KIND, &kept.name_any())),
            }
        }
        Change::Renumber(name, number) => {
            let params = PatchParams { field_manager: manager, ..PatchParams::default() };
            let patch = Patch::Merge(serde_json::json!({ "revision": number }));
            api.patch(&name, &params, &patch).await.map(drop).map_err(Error::write("numbering", KIND, &name))
        }
        Change::Drop(name) => {
            let gone = gone_is_fine(api.delete(&name, &DeleteParams::default()).await);
            gone.map(drop).map_err(Error::write("deleting", KIND, &name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(rack: &str) -> Profile {
        let mut profile = Profile::new("p", magnetite_api::ProfileSpec::default());
        profile.metadata.uid = Some("uid-p".to_owned());
        profile.spec.variables.insert("rack".to_owned(), rack.to_owned());
        profile
    }

    /// Does what is to be done.
    fn obey(profile: &Profile, kept: &mut Vec<ControllerRevision>) -> Vec<Change> {
        let changes = changes(profile, kept);
        for change in changes.clone() {
            match change {
                Change::Keep(one) => kept.push(*one),
                Change::Renumber(name, number) => {
                    kept.iter_mut().filter(|one| one.name_any() == name).for_each(|one| one.revision = number);
                }
                Change::Drop(name) => kept.retain(|one| one.name_any() != name),
            }
        }
        changes
    }

    #[test]
    fn each_revision_is_kept_once_and_the_present_one_is_the_newest() {
        let mut kept = Vec::new();
        for rack in ["a", "b", "a"] {
            obey(&profile(rack), &mut kept);
            assert_eq!(changes(&profile(rack), &kept), [], "and there it rests");
            let newest = kept.iter().max_by_key(|one| one.revision).unwrap();
            let spec: magnetite_api::ProfileSpec =
                serde_json::from_value(newest.data.as_ref().unwrap().0.clone()).unwrap();
            assert_eq!(spec, profile(rack).spec);
        }
        assert_eq!(kept.iter().map(|one| one.revision).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(kept[0].owner_references()[0].uid, "uid-p");
    }

    #[test]
    fn the_oldest_go_and_never_the_present_one() {
        let mut kept = Vec::new();
        for number in 0..30 {
            obey(&profile(&number.to_string()), &mut kept);
            assert!(kept.len() <= MOST);
        }
        obey(&profile("20"), &mut kept);
        obey(&profile("new"), &mut kept);
        let numbers: Vec<_> = kept.iter().map(|one| one.revision).collect();
        assert_eq!((kept.len(), numbers.iter().max()), (MOST, Some(&32)));
    }
}
