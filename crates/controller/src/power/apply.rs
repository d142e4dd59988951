//! Writes down, and tells the BMC.

use kube::{Api, Resource, ResourceExt, runtime::events::EventType};
use magnetite_api::{Machine, conditions::reason, power::PowerStatus};
use magnetite_bmc::{Act, Error as BmcError};

use super::{observe::Seen, plan::Step, reason_of};
use crate::{
    context::Context,
    error::{Class, Error},
    machine::apply::replace_status,
};

/// A Machine's status changes often while it boots; as often is it read again.
const TRIES: usize = 4;

/// Writes `status.power`, if it differs. Somebody else's change of the status does not matter, as long as it is none of what was
/// decided on: the spec, the intent, and what this reconciler wrote itself. The Machine as it is then.
///
/// # Errors
/// It is another Machine now, or was changed; or the API server is not there.
pub async fn record(machine: &Machine, power: Option<PowerStatus>, ctx: &Context) -> Result<Machine, Error> {
    let power = power.map(Box::new);
    let mut latest = machine.clone();
    for last in (0..TRIES).rev() {
        let mut status = latest.status.clone().unwrap_or_default();
        if status.power == power {
            return Ok(latest);
        }
        status.power.clone_from(&power);
        match replace_status(&latest, status, ctx).await {
            Err(error) if error.class() == Class::Conflict && last > 0 => {
                let name = machine.name_any();
                let found = Api::<Machine>::all(ctx.client.clone()).get_opt(&name).await;
                match found.map_err(Error::read("Machine", &name))? {
                    Some(found) if decides_alike(machine, &found) => latest = found,
                    Some(_) | None => return Err(error),
                }
            }
            result => return result,
        }
    }
    Ok(latest)
}

/// True if what was decided on one holds for the other.
fn decides_alike(one: &Machine, other: &Machine) -> bool {
    let of = |machine: &Machine| {
        let metadata = &machine.metadata;
        let status = machine.status.clone().unwrap_or_default();
        let deleting = metadata.deletion_timestamp.is_some();
        (metadata.uid.clone(), metadata.generation, deleting, status.power, status.intent, machine.wanted_restart())
    };
    of(one) == of(other)
}

/// Tells the BMC one thing, and people that it was told.
///
/// # Errors
/// It did not take it.
pub async fn act(machine: &Machine, seen: &Seen, step: Step, ctx: &Context) -> Result<(), BmcError> {
    let Step { act, network } = step;
    let regarding = machine.object_ref(&());
    if network
        && let Err(error) = counted(ctx, seen.protocol, "boot_override", seen.bmc.boot_network_once(seen.how).await)
    {
        if !matches!(error, BmcError::Refused { .. } | BmcError::Unsupported { .. } | BmcError::Unintelligible { .. }) {
            return Err(error);
        }
        // Most boxes boot from the network first anyway, and one that does not says so by not being seen.
        let note = format!(
            "{}. The box is switched on all the same: its firmware has to have the network first in its boot order",
            error.in_full()
        );
        ctx.publish(&regarding, EventType::Warning, reason::NETWORK_BOOT_NOT_SET, "Power", &note).await;
    }
    let (word, count) = match act {
        Act::On => ("PoweredOn", "on"),
        Act::Shutdown => ("ShuttingDown", "shutdown"),
        Act::Off => ("PoweredOff", "off"),
        Act::Reset => ("Reset", "reset"),
    };
    counted(ctx, seen.protocol, count, seen.bmc.act(act).await)?;
    tracing::info!(machine = %machine.name_any(), action = count, "the BMC was told");
    let from = if network { ", and to boot from the network once" } else { "" };
    let note = format!("the BMC took it to {}{from}", act.as_str());
    ctx.publish(&regarding, EventType::Normal, word, "Power", &note).await;
    Ok(())
}

fn counted(
    ctx: &Context,
    protocol: &'static str,
    what: &'static str,
    result: Result<(), BmcError>,
) -> Result<(), BmcError> {
    ctx.metrics.bmc(protocol, what, result.as_ref().err().map_or("ok", reason_of));
    result
}
