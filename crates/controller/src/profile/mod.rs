//! Profiles: do their templates render for every Machine that boots them, and are their files at hand?

pub mod artifacts;
pub mod history;
pub mod plan;
pub mod renders;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{
    Api, Resource, ResourceExt,
    api::PostParams,
    runtime::{controller::Action, events::EventType},
};
use magnetite_api::{
    BootReport, Machine, Profile, ProfileStatus,
    conditions::{
        self, PROGRESSING, READY,
        reason::{CEILING, COMPLETE, PAUSED, TOO_MANY_UNAVAILABLE},
    },
    names::MANAGER_CONTROLLER,
    profile::JoinMode,
    report::SubjectKind,
    update::UpdateStrategy,
};
use magnetite_boot::{
    render,
    select::{Chosen, Profiles},
};

use crate::{
    context::{Context, jitter},
    error::Error,
    preflight::{self, Says},
    rollout::{self, Minor},
};
use plan::Observed;

/// Nothing tells when a boot server fell silent, or who may pass beside us; look again now and then.
const AGAIN: Duration = preflight::AGAIN;

/// One pass over one Profile.
///
/// # Errors
/// The API server was not there or did not agree.
pub async fn reconcile(profile: Arc<Profile>, ctx: Arc<Context>) -> Result<Action, Error> {
    let name = profile.name_any();
    if profile.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    // Before anything is made of it; but that it cannot be kept is no reason not to boot it.
    if let Err(error) = history::record(&profile, &ctx).await {
        tracing::warn!(
            profile = name,
            error = &error as &dyn std::error::Error,
            "the revision is not kept, and cannot be gone back to"
        );
    }
    let bypasses = bypasses(&profile, &ctx).await;
    let api_server = api_server(&profile, &ctx).await;
    let seen = observe(&profile, bypasses, api_server, &ctx);
    let now = (ctx.clock)();
    let (status, until) = ctx.places.decide(&name, &places(&ctx), |elsewhere| {
        let (status, until) = plan::plan(&seen, elsewhere, now);
        let held = usize::try_from(status.updating).unwrap_or(0);
        ((status, until), held)
    });
    if profile.status.as_ref() != Some(&status) {
        write_status(&profile, &status, &ctx).await?;
    }
    let again = AGAIN + jitter(&name, AGAIN / 4);
    let until = until.and_then(|until| Duration::try_from(until.duration_since(now)).ok());
    Ok(Action::requeue(until.map_or(again, |until| again.min(until + Duration::from_secs(1)))))
}

/// How many machines each Profile lets update itself, as the watch brought it.
fn places(ctx: &Context) -> BTreeMap<String, usize> {
    let held = |profile: &Profile| Some(profile.status.as_ref()?.rollout.as_ref()?.admitted.len());
    ctx.stores.profiles.state().iter().map(|profile| (profile.name_any(), held(profile).unwrap_or(0))).collect()
}

/// The API server's version, where machines may be given kubelets that are too new for it.
async fn api_server(profile: &Profile, ctx: &Context) -> Option<Minor> {
    let rolls = profile.spec.update().strategy == UpdateStrategy::RollingUpdate;
    if rolls && profile.spec.join.mode == JoinMode::Certificate {
        ctx.api_server.look(&ctx.client, (ctx.clock)()).await
    } else {
        None
    }
}

/// What may pass beside us, where that matters. That it cannot be asked is no reason to say nothing of the rest.
async fn bypasses(profile: &Profile, ctx: &Context) -> Option<[Says; 2]> {
    if profile.spec.join.mode != JoinMode::Certificate {
        return None;
    }
    match ctx.preflight.look(&ctx.client, (ctx.clock)()).await {
        Ok(says) => Some(says),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "who may pass beside us could not be asked");
            None
        }
    }
}

fn observe(profile: &Arc<Profile>, bypasses: Option<[Says; 2]>, api_server: Option<Minor>, ctx: &Context) -> Observed {
    let machines = machines_of(profile, ctx);
    let (template, failing) = match renders::texts(profile, &ctx.stores) {
        Err(trouble) => (Some(trouble), Vec::new()),
        Ok(texts) => match render::check(profile, &texts) {
            Err(error) => (Some(renders::failed(profile, &error)), Vec::new()),
            Ok(()) => (None, failing(profile, &machines, &texts, ctx)),
        },
    };
    let files = artifacts::for_profile(profile, &reports_on(profile, ctx));
    Observed {
        profile: Profile::clone(profile),
        template,
        machines: machines.len(),
        failing,
        files,
        bypasses,
        members: rollout::members(&machines, profile.spec.join.mode, &ctx.stores),
        api_server,
        ceiling: rollout::plan::ceiling(ctx.settings.update_ceiling, ctx.stores.machines.len()),
    }
}

fn machines_of(profile: &Arc<Profile>, ctx: &Context) -> Vec<Arc<Machine>> {
    let profiles = Profiles::read(&ctx.stores.profiles.state());
    let name = profile.name_any();
    let boots =
        |machine: &Machine| !machine.spec.hold && profiles.of(machine).is_ok_and(|found| found.name_any() == name);
    let mut machines = ctx.stores.machines.state_filter(boots);
    machines.sort_by_key(|machine| machine.name_any());
    machines
}

fn failing(
    profile: &Arc<Profile>,
    machines: &[Arc<Machine>],
    texts: &render::Texts,
    ctx: &Context,
) -> Vec<(String, renders::Trouble)> {
    let chosen = Chosen::new(Arc::clone(profile));
    let each = machines.iter();
    each.filter_map(|machine| Some((machine.name_any(), ctx.renders.dry_run(&chosen, machine, texts)?))).collect()
}

/// The boot servers' reports on a Profile. One about a Profile of the same name that was deleted says nothing.
pub fn reports_on(profile: &Profile, ctx: &Context) -> Vec<Arc<BootReport>> {
    let (name, uid) = (profile.name_any(), profile.uid().unwrap_or_default());
    ctx.stores.reports.state_filter(|report| {
        let subject = &report.spec.subject;
        subject.kind == SubjectKind::Profile && subject.name == name && subject.uid == uid
    })
}

async fn write_status(profile: &Profile, status: &ProfileStatus, ctx: &Context) -> Result<(), Error> {
    let name = profile.name_any();
    let mut changed = profile.clone();
    changed.status = Some(status.clone());
    let params = PostParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
    let api = Api::<Profile>::all(ctx.client.clone());
    api.replace_status(&name, &params, &changed).await.map_err(Error::write(
        "writing the status of",
        "Profile",
        &name,
    ))?;
    let before = profile.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    tell(profile, before, status, ctx).await;
    Ok(())
}

/// An Event when a Profile becomes Ready or stops being so, and when its rollout moves or stops.
async fn tell(
    profile: &Profile,
    before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    status: &ProfileStatus,
    ctx: &Context,
) {
    tell_of(READY, "Check", profile, before, status, ctx).await;
    if profile.spec.update().strategy == UpdateStrategy::RollingUpdate {
        tell_of(PROGRESSING, "Update", profile, before, status, ctx).await;
    }
}

async fn tell_of(
    kind: &str,
    action: &str,
    profile: &Profile,
    before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    status: &ProfileStatus,
    ctx: &Context,
) {
    let Some(ready) = conditions::find(&status.conditions, kind) else {
        return;
    };
    let same = |old: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        old.status == ready.status && old.reason == ready.reason
    };
    if conditions::find(before, kind).filter(same).is_some() {
        return;
    }
    // A rollout that is complete, paused, or waits for its next turn is as it should be.
    let calm = [COMPLETE, PAUSED, TOO_MANY_UNAVAILABLE, CEILING].contains(&ready.reason.as_str());
    let type_ = if ready.status == "False" && !calm { EventType::Warning } else { EventType::Normal };
    tracing::info!(profile = %profile.name_any(), condition = kind, status = %ready.status, reason = %ready.reason, "profile changed");
    ctx.publish(&profile.object_ref(&()), type_, &ready.reason, action, &ready.message).await;
}
