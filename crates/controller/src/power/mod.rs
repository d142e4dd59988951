//! A machine's power: what its BMC says, and what it is told so that the box is as the spec says.
//!
//! A controller of its own over Machines, beside that of `machine`: a BMC that takes a minute to answer must hold up nobody's boot. It
//! writes `status.power` and nothing else. Whatever it tells a BMC, it has written down before: a controller that ends in between
//! may have told it or not, and its successor can know that from the record and from what the box does.

pub mod apply;
pub mod observe;
pub mod pace;
pub mod plan;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use kube::{ResourceExt, runtime::controller::Action};
use magnetite_api::{Machine, conditions::reason, power::PowerStatus};

use crate::{
    context::{Context, jitter, pause},
    error::{Class, Error},
    profile::renders::Trouble,
};

/// The name of this reconciler, in logs and metrics.
pub const KIND: &str = "MachinePower";
/// One pass asks a BMC several times, and each answer may take its time.
pub const LIMIT: Duration = Duration::from_secs(150);
/// The power of a box at rest is looked at this often: people press buttons.
pub const REST: Duration = Duration::from_secs(180);

/// One pass over one Machine's power: observe, plan, write down, act.
///
/// # Errors
/// The API server was not there or did not agree. That a BMC does not do its part is no error but a trouble, which the status tells.
pub async fn reconcile(machine: Arc<Machine>, ctx: Arc<Context>) -> Result<Action, Error> {
    let (name, before) = (machine.name_any(), machine.status.as_ref().and_then(|status| status.power.as_deref()));
    let Some(bmc) = machine.spec.bmc.as_deref() else {
        ctx.pace.forget(&name);
        if before.is_some() {
            apply::record(&machine, None, &ctx).await?;
        }
        return Ok(Action::await_change());
    };
    let key = pace::key(&machine);
    if let Some(wait) = ctx.pace.wait(&name, key, (ctx.clock)()) {
        return Ok(Action::requeue(wait));
    }
    // One call at a time to one BMC, whichever of its boxes it is about.
    let lock = ctx.pace.lock(&observe::endpoint(bmc));
    let _turn = lock.lock().await;
    let done = pass(&machine, &ctx).await?;
    let failures = ctx.pace.failures(&name, done.failed.is_some());
    let wait = match done.failed {
        // Most BMCs shut everybody out for a while after a few wrong passwords.
        Some(reason::BMC_UNAUTHORIZED) => pause(Class::Transient, failures.saturating_add(5), &name),
        Some(_) => done.again.max(pause(Class::Transient, failures.saturating_add(2), &name)),
        None if done.again >= REST => done.again + jitter(&name, REST / 5),
        None => done.again,
    };
    ctx.pace.set(&name, key, (ctx.clock)(), wait);
    Ok(Action::requeue(wait))
}

struct Done {
    again: Duration,
    /// What went wrong, if anything.
    failed: Option<&'static str>,
}

async fn pass(machine: &Machine, ctx: &Context) -> Result<Done, Error> {
    let seen = match observe::observe(machine, ctx).await? {
        Ok(seen) => seen,
        Err(Trouble { reason, message }) => {
            let status = plan::troubled(machine, reason, &message, (ctx.clock)());
            apply::record(machine, Some(status), ctx).await?;
            return Ok(Done { again: Duration::ZERO, failed: Some(reason) });
        }
    };
    let plan::Plan { status, step, again } = plan::plan(machine, seen.power, seen.network, (ctx.clock)());
    let recorded = apply::record(machine, Some(status.clone()), ctx).await?;
    let Some(step) = step else {
        return Ok(Done { again, failed: None });
    };
    if !ctx.leader.is_leading() {
        // Another leads, and will find what was written down.
        return Ok(Done { again, failed: None });
    }
    let result = apply::act(&recorded, &seen, step, ctx).await;
    let failed = result.as_ref().err().map(reason_of);
    let before = machine.status.as_ref().and_then(|status| status.power.as_deref());
    let after: PowerStatus = plan::after(before, &status, step, &result, (ctx.clock)());
    if after != status {
        apply::record(&recorded, Some(after), ctx).await?;
    }
    Ok(Done { again, failed })
}

/// The reason of the condition for an error of a BMC's.
pub fn reason_of(error: &magnetite_bmc::Error) -> &'static str {
    use magnetite_bmc::Error as E;
    match error {
        E::Unreachable { .. } | E::Silent { .. } => reason::BMC_UNREACHABLE,
        E::Certificate { .. } | E::Client { .. } => reason::BMC_CERTIFICATE,
        E::Unauthorized { .. } => reason::BMC_UNAUTHORIZED,
        E::Refused { .. } | E::Unsupported { .. } => reason::BMC_REFUSED,
        E::Unintelligible { .. } => reason::BMC_UNINTELLIGIBLE,
        E::NoSystem { .. } => reason::BMC_SYSTEM_NOT_FOUND,
        E::NoTool { .. } => reason::BMC_TOOL_MISSING,
    }
}
