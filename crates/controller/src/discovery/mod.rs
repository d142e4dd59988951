//! Discovery: boxes that nobody declared become Machines that are held, and rules say what those become.

pub mod expressions;
pub mod made;
pub mod rules;

use std::sync::Arc;

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PostParams},
    runtime::{controller::Action, events::EventType},
};
use magnetite_api::{
    BootReport, DiscoveryRule, DiscoveryRuleStatus, Machine,
    conditions::{self, Status, VALID, reason},
    names::MANAGER_CONTROLLER,
    time::seconds,
};

use crate::{
    context::Context,
    error::{Error, gone_is_fine},
};
use made::Made;

/// The kind of a report, in logs and metrics, where it is about a box.
pub const KIND: &str = "DiscoveredBox";

/// One pass over what a boot server told of a box that no Machine declares.
///
/// # Errors
/// The API server was not there or did not agree.
pub async fn found(report: Arc<BootReport>, ctx: Arc<Context>) -> Result<Action, Error> {
    // Reports that are left from when boxes were looked for. The right to delete them is not given either.
    let Some(most) = ctx.settings.discovered_at_most else { return Ok(Action::await_change()) };
    let held = ctx.stores.machines.state_filter(|machine| machine.spec.hold).len();
    let now = (ctx.clock)();
    match made::made(&report, &ctx.stores.machines.state(), &ctx.stores.rules.state(), (held, most), now) {
        Made::Nothing => {}
        Made::TooMany => {
            tracing::warn!(held, most, "so many Machines are held that none is made for further boxes");
            return Ok(Action::requeue(std::time::Duration::from_secs(60)));
        }
        Made::Declared | Made::Stale => forget(&report, &ctx).await?,
        Made::Machine(machine) => make(&machine, &ctx).await?,
    }
    Ok(Action::await_change())
}

/// What was told of a box that is a Machine by now is that Machine's, and told of it.
async fn forget(report: &BootReport, ctx: &Context) -> Result<(), Error> {
    let name = report.name_any();
    let result = Api::<BootReport>::all(ctx.client.clone()).delete(&name, &DeleteParams::default()).await;
    gone_is_fine(result).map(drop).map_err(Error::write("deleting", "BootReport", &name))
}

async fn make(machine: &Machine, ctx: &Context) -> Result<(), Error> {
    let (name, api) = (machine.name_any(), Api::<Machine>::all(ctx.client.clone()));
    let params = |dry_run| PostParams { dry_run, field_manager: Some(MANAGER_CONTROLLER.to_owned()) };
    // CRDs of an older version would drop the field without which the Machine is one that boots, and is installed.
    let tried = api.create(&params(true), machine).await;
    let tried = match tried {
        // Another pass, or another replica before us, made it.
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
        tried => tried.map_err(Error::write("creating", "Machine", &name))?,
    };
    if !tried.spec.hold {
        return Err(Error::Pruned { kind: "Machine", name, field: "spec.hold" });
    }
    match api.create(&params(false), machine).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        made => {
            let made = made.map_err(Error::write("creating", "Machine", &name))?;
            tracing::info!(machine = name, macs = ?made.spec.macs, "a box was found, and its Machine is held");
            Ok(())
        }
    }
}

/// One pass over one rule: can its expressions be read?
///
/// # Errors
/// The API server was not there or did not agree.
pub async fn rule(rule: Arc<DiscoveryRule>, ctx: Arc<Context>) -> Result<Action, Error> {
    let before = rule.status.clone().unwrap_or_default();
    let generation = rule.metadata.generation;
    let (status, why, message) = match rules::check(&rule.spec) {
        Ok(()) => (Status::True, reason::AS_DECLARED, "its expressions can be read".to_owned()),
        Err(error) => (Status::False, reason::BAD_EXPRESSION, error.to_string()),
    };
    let now = seconds((ctx.clock)());
    let valid = conditions::condition(&before.conditions, VALID, status, why, message, generation, &now);
    let after = DiscoveryRuleStatus { observed_generation: generation, conditions: vec![valid.clone()] };
    if before == after {
        return Ok(Action::await_change());
    }
    let name = rule.name_any();
    let mut changed = DiscoveryRule::clone(&rule);
    changed.status = Some(after);
    let params = PostParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
    let result = Api::<DiscoveryRule>::all(ctx.client.clone()).replace_status(&name, &params, &changed).await;
    result.map_err(Error::write("writing the status of", "DiscoveryRule", &name))?;
    let was = conditions::find(&before.conditions, VALID).map(|condition| condition.status.as_str());
    if was != Some(valid.status.as_str()) && valid.status == "False" {
        ctx.publish(&rule.object_ref(&()), EventType::Warning, &valid.reason, "Check", &valid.message).await;
    }
    Ok(Action::await_change())
}
