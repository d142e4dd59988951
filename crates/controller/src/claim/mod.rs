//! Claims: observe (live), decide, apply. Each step may be repeated: a controller that was killed between any
//! two goes on where it was, because what is done is read back before anything more is done.

pub mod again;
pub mod decide;
pub mod issue;
pub mod kubelet;
pub mod secrets;
pub mod source;
pub mod tpm;

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Resource, ResourceExt,
    api::PostParams,
    runtime::{controller::Action, events::EventType, reflector::ObjectRef},
};
use magnetite_api::{
    Machine, MachineClaim, MachineClaimStatus, Profile,
    claim::Decision,
    machine::{IdentityStatus, IntentState},
    names::MANAGER_CONTROLLER,
    time::seconds,
    tpm::TpmStatus,
};
use magnetite_request::quoted;
use magnetite_tpm::verifier::MakeError;

use crate::{
    context::{Context, Settings, jitter},
    error::Error,
    machine::apply::{delete_claim, replace_status},
    node,
};
use decide::{Denial, Observed, Verdict, decide};
use tpm::TpmKeys;

/// How often a claim that cannot be decided yet is looked at, if nothing happens.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the refusal of a claim whose Machine is gone stays readable.
const LAST_WORD: Duration = Duration::from_secs(300);

/// One pass over one claim.
///
/// # Errors
/// The API server was not there, or somebody else was faster.
pub async fn reconcile(cached: Arc<MachineClaim>, ctx: Arc<Context>) -> Result<Action, Error> {
    let name = cached.name_any();
    let asked_again = match (is_final(&cached), bound_by(&cached, &ctx)) {
        (false, _) => false,
        (true, None) => return tidy(&cached, &ctx).await,
        (true, Some(machine)) if again::is_asked(&cached, &machine, (ctx.clock)()) => {
            tracing::debug!(machine = %machine.name_any(), claim = name, "asked again after the certificate ended");
            true
        }
        (true, Some(machine)) => return keep_sealed(&cached, &machine, &ctx).await,
    };
    let api = Api::<MachineClaim>::all(ctx.client.clone());
    let Some(claim) = api.get_opt(&name).await.map_err(Error::read("MachineClaim", &name))? else {
        return Ok(Action::await_change());
    };
    if is_final(&claim) != asked_again || claim.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let seen = observe(claim, &ctx).await?;
    match (asked_again, decide(&seen, (ctx.clock)())) {
        (false, verdict) => apply(&seen, verdict, &ctx).await,
        (true, verdict @ Verdict::Issue { .. }) => apply(&seen, verdict, &ctx).await,
        // What was answered stays answered. A person is told why there is no more, unless the box comes with another claim by now.
        (true, Verdict::Deny { denial, message, freeze: _ }) => {
            if seen.winner.as_ref().is_some_and(|winner| winner.name_any() == name) {
                issue::refuse(&seen, denial, &message, &ctx).await?;
            }
            Ok(Action::requeue(LAST_WORD))
        }
        (true, _) => Ok(Action::requeue(secrets::AGAIN)),
    }
}

fn is_final(claim: &MachineClaim) -> bool {
    claim.decision().is_some_and(Decision::is_final)
}

/// The Machine that is bound to the key of an approved claim. There may be more than one such claim: its box shows its TPM since somebody
/// declared it, and did not before. Which one it comes with is the box's to choose.
fn bound_by(claim: &MachineClaim, ctx: &Context) -> Option<Arc<Machine>> {
    if claim.decision() != Some(Decision::Approved) {
        return None;
    }
    let key = claim.spec.key_digest()?.to_string();
    known(claim, ctx).filter(|machine| {
        let identity = machine.status.as_ref().and_then(|status| status.identity.as_ref());
        identity.is_some_and(|identity| identity.claim_key == key && identity.intent == claim.spec.intent)
    })
}

/// The Machine that a claim is for, as the cache knows it: by its name, since each claim asks again and again.
fn known(claim: &MachineClaim, ctx: &Context) -> Option<Arc<Machine>> {
    let machine = ctx.stores.machines.get(&ObjectRef::new(&claim.spec.machine))?;
    (machine.uid().as_deref() == Some(claim.spec.machine_uid.as_str())).then_some(machine)
}

/// The machine that runs on a claim fetches its secret files there: they are kept as the Secrets are.
async fn keep_sealed(claim: &MachineClaim, machine: &Machine, ctx: &Context) -> Result<Action, Error> {
    let profile = machine.status.as_ref().and_then(|status| status.profile.clone()).unwrap_or_default();
    let Some(profile) = ctx.stores.profiles.get(&ObjectRef::new(&profile)) else {
        return Ok(Action::requeue(secrets::AGAIN));
    };
    if let Some(status) = secrets::renewed(claim, machine, &profile, ctx).await? {
        write(claim, status, ctx).await?;
        tracing::info!(machine = %machine.name_any(), "secret files sealed anew");
    }
    Ok(Action::requeue(secrets::AGAIN + jitter(&claim.name_any(), secrets::AGAIN / 4)))
}

/// A decided claim stays for people to read; the Machine's plan removes old ones. One without a Machine has
/// nobody to remove it.
async fn tidy(claim: &MachineClaim, ctx: &Context) -> Result<Action, Error> {
    if known(claim, ctx).is_some() {
        return Ok(Action::await_change());
    }
    let decided = claim.status.as_ref().and_then(|status| status.decided_at.as_ref());
    let age = decided.map(|at| (ctx.clock)().duration_since(at.0));
    if age.is_none_or(|age| age >= jiff::SignedDuration::from_secs(300)) {
        delete_claim(&claim.name_any(), ctx).await?;
        return Ok(Action::await_change());
    }
    Ok(Action::requeue(LAST_WORD))
}

/// Reads what the decision hangs on, live: a cache may not know yet that a Machine was deleted (S7).
async fn observe(claim: MachineClaim, ctx: &Context) -> Result<Observed, Error> {
    let name = &claim.spec.machine;
    let api = Api::<Machine>::all(ctx.client.clone());
    let machine = api.get_opt(name).await.map_err(Error::read("Machine", name))?;
    let profile = machine.as_ref().and_then(|machine| machine.status.as_ref()?.profile.clone());
    let profile = match profile {
        Some(profile) => {
            let api = Api::<Profile>::all(ctx.client.clone());
            api.get_opt(&profile).await.map_err(Error::read("Profile", &profile))?
        }
        None => None,
    };
    let node = match &machine {
        Some(machine) => node::get(&ctx.client, &machine.node_name()).await?,
        None => None,
    };
    // Read live as well: what it was challenged with decides.
    let challenged = match tpm::challenged(&claim) {
        Some(name) => {
            let api = Api::<MachineClaim>::all(ctx.client.clone());
            api.get_opt(name).await.map_err(Error::read("MachineClaim", name))?
        }
        None => None,
    };
    let identity = machine.as_ref().and_then(|machine| machine.status.as_ref()?.identity.as_ref());
    let winner = match identity.map(|identity| identity.claim.as_str()) {
        Some(winner) if winner == claim.name_any() => Some(claim.clone()),
        Some(winner) => {
            let api = Api::<MachineClaim>::all(ctx.client.clone());
            api.get_opt(winner).await.map_err(Error::read("MachineClaim", winner))?
        }
        None => None,
    };
    let Settings { reserved_node_names, tpm_authorities, .. } = &ctx.settings;
    let (reserved, authorities) = (reserved_node_names.clone(), tpm_authorities.clone());
    Ok(Observed { claim, machine, profile, node, reserved, challenged, winner, authorities })
}

async fn apply(seen: &Observed, verdict: Verdict, ctx: &Context) -> Result<Action, Error> {
    match verdict {
        Verdict::Deny { denial, message, freeze } => {
            if freeze {
                self::freeze(seen, ctx).await?;
            }
            deny(seen, denial, &message, ctx).await?;
            Ok(Action::await_change())
        }
        Verdict::Wait { reason, message } => {
            wait(&seen.claim, reason, message, ctx).await?;
            Ok(Action::requeue(AGAIN))
        }
        Verdict::Challenge { keys } => {
            challenge(seen, &keys, ctx).await?;
            Ok(Action::await_change())
        }
        Verdict::Bind { identity, tpm, addresses } => {
            bind(seen, *identity, tpm, addresses, ctx).await?;
            // Read again, with the key bound, and go on to the certificate.
            Ok(Action::requeue(Duration::ZERO))
        }
        Verdict::Issue { request, source } => issue::issue(seen, &request, source, ctx).await,
    }
}

/// Answers with a challenge. With that this claim is done: the proof is another one.
async fn challenge(seen: &Observed, keys: &TpmKeys, ctx: &Context) -> Result<(), Error> {
    let challenge = match tpm::challenge(keys) {
        Ok(challenge) => challenge,
        Err(error @ MakeError::Key(_)) => {
            return deny(seen, Denial::TpmNotProven, &error.to_string(), ctx).await;
        }
        Err(error @ MakeError::Random) => return Err(Error::Challenge(error)),
    };
    let status = MachineClaimStatus {
        decision: Some(Decision::Challenged),
        reason: Some("ProveTpm".to_owned()),
        message: Some("the box has to prove its TPM, and comes again with another claim".to_owned()),
        decided_at: Some(seconds((ctx.clock)())),
        challenge: Some(challenge),
        ..MachineClaimStatus::default()
    };
    write(&seen.claim, status, ctx).await?;
    tracing::info!(machine = %seen.claim.spec.machine, claim = %seen.claim.name_any(), "challenged");
    ctx.metrics.claim("challenged", "ProveTpm");
    Ok(())
}

/// Records the key, if nobody changed the Machine since it was read.
async fn bind(
    seen: &Observed,
    identity: IdentityStatus,
    tpm: Option<TpmStatus>,
    addresses: Vec<String>,
    ctx: &Context,
) -> Result<(), Error> {
    let Some(machine) = &seen.machine else {
        return Ok(());
    };
    let key: String = identity.claim_key.chars().take(10).collect();
    let mut status = machine.status.clone().unwrap_or_default();
    let bound = identity.claim_key.clone();
    status.identity = Some(identity);
    status.addresses = addresses;
    // Once known, a TPM stays known: a Profile that asks for less changes nothing about this box.
    status.tpm = tpm.or(status.tpm);
    let kept = replace_status(machine, status, ctx).await?;
    // Without it nothing is bound, and this claim would be decided again at once, and again.
    if kept.status.and_then(|status| status.identity).is_none_or(|identity| identity.claim_key != bound) {
        return Err(Error::Pruned { kind: "Machine", name: machine.name_any(), field: "status.identity" });
    }
    tracing::info!(machine = %machine.name_any(), claim = %seen.claim.name_any(), key, "key bound");
    ctx.metrics.claim("bound", "KeyBound");
    let status = MachineClaimStatus {
        decision: Some(Decision::Bound),
        reason: Some("KeyBound".to_owned()),
        message: Some("the key is bound; its certificate is on its way".to_owned()),
        decided_at: Some(seconds((ctx.clock)())),
        ..MachineClaimStatus::default()
    };
    write(&seen.claim, status, ctx).await
}

/// Stops the join of a machine that two keys claim. What joined already is not touched.
async fn freeze(seen: &Observed, ctx: &Context) -> Result<(), Error> {
    let Some(machine) = &seen.machine else {
        return Ok(());
    };
    let mut status = machine.status.clone().unwrap_or_default();
    match &mut status.intent {
        Some(intent) if intent.state != IntentState::Frozen => intent.state = IntentState::Frozen,
        _ => return Ok(()),
    }
    replace_status(machine, status, ctx).await.map(drop)
}

/// Refuses a claim: first the answer, then the Event, so that a conflict of writes tells nobody twice.
///
/// # Errors
/// The API server did not take the answer.
pub async fn deny(seen: &Observed, denial: Denial, message: &str, ctx: &Context) -> Result<(), Error> {
    let message: String = message.chars().filter(|c| !c.is_control()).take(512).collect();
    let status = MachineClaimStatus {
        decision: Some(Decision::Denied),
        reason: Some(denial.as_str().to_owned()),
        message: Some(message.clone()),
        decided_at: Some(seconds((ctx.clock)())),
        ..MachineClaimStatus::default()
    };
    write(&seen.claim, status, ctx).await?;
    ctx.metrics.claim("denied", denial.as_str());
    let claim = seen.claim.name_any();
    tracing::warn!(machine = %seen.claim.spec.machine, claim, reason = denial.as_str(), "claim refused");
    let address: String = quoted(&seen.claim.spec.address);
    let note = format!("Claim {claim} from {address} refused ({}): {message}", denial.as_str());
    let regarding = match &seen.machine {
        Some(machine) => machine.object_ref(&()),
        None => seen.claim.object_ref(&()),
    };
    let reason = if denial == Denial::ClaimConflict { "ClaimConflict" } else { "ClaimRefused" };
    ctx.publish(&regarding, EventType::Warning, reason, "Claim", &note).await;
    Ok(())
}

/// Says what a claim waits for.
///
/// # Errors
/// The API server did not take it.
pub async fn wait(claim: &MachineClaim, reason: &str, message: String, ctx: &Context) -> Result<(), Error> {
    let before = claim.status.clone().unwrap_or_default();
    let status = MachineClaimStatus { reason: Some(reason.to_owned()), message: Some(message), ..before };
    write(claim, status, ctx).await
}

/// Writes a claim's status if it differs, guarded by the resourceVersion of what was read.
///
/// # Errors
/// The API server did not take it.
pub async fn write(claim: &MachineClaim, status: MachineClaimStatus, ctx: &Context) -> Result<(), Error> {
    if claim.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let name = claim.name_any();
    let mut changed = claim.clone();
    changed.status = Some(status);
    let params = PostParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
    let api = Api::<MachineClaim>::all(ctx.client.clone());
    let result = api.replace_status(&name, &params, &changed).await;
    result.map(drop).map_err(Error::write("writing the status of", "MachineClaim", &name))
}
