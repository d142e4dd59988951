//! Machines: from declared to a Ready node.

pub mod apply;
pub mod events;
pub mod fold;
pub mod hardware;
pub mod held;
pub mod maintenance;
pub mod observe;
pub mod phase;
pub mod plan;
pub mod status;
pub mod update;
pub mod wipe;

use std::sync::Arc;

use kube::{ResourceExt, runtime::controller::Action};
use magnetite_api::Machine;

use crate::{
    context::{Context, jitter},
    error::Error,
};

/// One pass over one Machine: observe, plan, apply, write the status.
///
/// # Errors
/// The API server was not there or did not agree.
pub async fn reconcile(machine: Arc<Machine>, ctx: Arc<Context>) -> Result<Action, Error> {
    let mut seen = observe::observe(&machine, &ctx);
    observe::look_at_pods(&mut seen, &ctx).await?;
    let plan::Plan { actions, status, requeue } = plan::plan(&seen, (ctx.clock)());
    let done = apply::apply(&machine, &actions, &ctx).await;
    // The status is about what was observed. A Node that takes no label must not keep it from people.
    if let Some(status) = status {
        apply::write_status(&machine, status, &ctx).await?;
    }
    done?;
    let name = machine.name_any();
    Ok(requeue.map_or_else(Action::await_change, |pause| {
        // Deadlines are kept to the second; only the rest is spread.
        let spread = if pause < plan::REST { std::time::Duration::ZERO } else { jitter(&name, plan::REST / 5) };
        Action::requeue(pause + spread)
    }))
}

#[cfg(test)]
mod tests;
