//! Carries out a plan: one arm for each action. Nothing else of this reconciler writes, but for the status.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::events::EventType,
};
use magnetite_api::{
    Machine, MachineClaim, MachineStatus,
    conditions::reason,
    names::{ANNOTATION_APPROVED_BY, FINALIZER, MANAGER_CONTROLLER},
};

use super::{
    events::{Note, notes},
    plan::Action,
};
use crate::{
    context::Context,
    csr,
    discovery::rules::Approval,
    drain,
    error::{Error, gone_is_fine},
    metrics::phase_name,
    node,
};

/// Does everything in its order; the first failure ends it, and the next reconcile begins anew.
///
/// # Errors
/// The API server did not take one of them.
pub async fn apply(machine: &Machine, actions: &[Action], ctx: &Context) -> Result<(), Error> {
    for action in actions {
        tracing::debug!(machine = %machine.name_any(), ?action, "acting");
        one(machine, action, ctx).await?;
    }
    Ok(())
}

async fn one(machine: &Machine, action: &Action, ctx: &Context) -> Result<(), Error> {
    match action {
        Action::AddFinalizer => {
            let mut all = machine.metadata.finalizers.clone().unwrap_or_default();
            all.push(FINALIZER.to_owned());
            finalizers(machine, all, ctx).await
        }
        Action::RemoveFinalizer => {
            let mut all = machine.metadata.finalizers.clone().unwrap_or_default();
            all.retain(|finalizer| finalizer != FINALIZER);
            finalizers(machine, all, ctx).await?;
            ctx.renders.forget(machine);
            Ok(())
        }
        Action::MarkNode { node, uid, marks } => node::mark(&ctx.client, node, uid, marks).await,
        Action::RemoveNode { node, uid } => node::remove(&ctx.client, node, uid).await,
        Action::Cordon { node, uid } => drain::cordon(&ctx.client, node, uid).await,
        Action::Uncordon { node, uid } => drain::uncordon(&ctx.client, node, uid).await,
        Action::Evict { pods } => drain::evict(&ctx.evictor, pods, &ctx.refusals).await,
        Action::Restart { node, uid, id } => drain::restart(&ctx.client, node, uid, id.as_deref()).await,
        Action::Approve { approval } => approve(machine, approval, ctx).await,
        Action::DeleteClaim { name } => delete_claim(name, ctx).await,
        Action::DenyRequest { name } => {
            let api = Api::<CertificateSigningRequest>::all(ctx.client.clone());
            let request = api.get_opt(name).await.map_err(Error::read("CertificateSigningRequest", name))?;
            match request.filter(csr::is_open) {
                Some(request) => {
                    csr::answer(&request, "Denied", "MachineGone", "the Machine is being deleted", ctx).await?;
                    ctx.metrics.request("denied", "MachineGone");
                    Ok(())
                }
                None => Ok(()),
            }
        }
    }
}

/// Replaces the list of finalizers. The resourceVersion sees to it that no other's is lost.
async fn finalizers(machine: &Machine, all: Vec<String>, ctx: &Context) -> Result<(), Error> {
    let name = machine.name_any();
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": machine.resource_version(), "finalizers": all },
    });
    let params = PatchParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PatchParams::default() };
    let result = Api::<Machine>::all(ctx.client.clone()).patch(&name, &params, &Patch::Merge(&patch)).await;
    gone_is_fine(result).map(drop).map_err(Error::write("changing the finalizers of", "Machine", &name))
}

/// Makes of a Machine what a rule says, unless it changed meanwhile.
async fn approve(machine: &Machine, approval: &Approval, ctx: &Context) -> Result<(), Error> {
    let (name, Approval { rule, labels, spec }) = (machine.name_any(), approval);
    let patch = serde_json::json!({
        "metadata": {
            "resourceVersion": machine.resource_version(),
            "labels": labels,
            "annotations": { ANNOTATION_APPROVED_BY: format!("rule/{rule}") },
        },
        "spec": spec,
    });
    let params = PatchParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PatchParams::default() };
    let api = Api::<Machine>::all(ctx.client.clone());
    let result = api.patch(&name, &params, &Patch::Merge(&patch)).await;
    result.map_err(Error::write("approving, as a DiscoveryRule says,", "Machine", &name))?;
    tracing::info!(machine = name, rule, "a box that was found becomes what a rule says");
    let text = format!("The DiscoveryRule {rule} says what this box becomes");
    ctx.publish(&machine.object_ref(&()), EventType::Normal, reason::APPROVED_BY_RULE, "Discover", &text).await;
    Ok(())
}

/// Deletes a claim. That it is gone already is no error.
///
/// # Errors
/// The API server did not do it.
pub async fn delete_claim(name: &str, ctx: &Context) -> Result<(), Error> {
    let api = Api::<MachineClaim>::all(ctx.client.clone());
    let result = api.delete(name, &DeleteParams::default()).await;
    gone_is_fine(result).map(drop).map_err(Error::write("deleting", "MachineClaim", name))
}

/// Writes a Machine's status, guarded by the resourceVersion of what was read.
///
/// Every write of a Machine's status goes through here: the reconciler's, the binding of a key, a freeze. So
/// whoever decided on an older picture is refused, and nobody can undo a binding that he has not seen.
///
/// # Errors
/// The Machine changed in the meantime, or the API server is not there.
pub async fn replace_status(machine: &Machine, status: MachineStatus, ctx: &Context) -> Result<Machine, Error> {
    let name = machine.name_any();
    let mut changed = machine.clone();
    changed.status = Some(status);
    let params = PostParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
    let api = Api::<Machine>::all(ctx.client.clone());
    let result = api.replace_status(&name, &params, &changed).await;
    result.map_err(Error::write("writing the status of", "Machine", &name))
}

/// Writes the status if it differs, and tells about the change.
///
/// # Errors
/// As [`replace_status`].
pub async fn write_status(machine: &Machine, status: MachineStatus, ctx: &Context) -> Result<(), Error> {
    if machine.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let notes = notes(machine.status.as_ref(), &status);
    let before = machine.status.as_ref().and_then(|status| status.phase);
    let (phase, reason) = (status.phase.unwrap_or_default(), status.reason.clone().unwrap_or_default());
    replace_status(machine, status, ctx).await?;
    if before != Some(phase) {
        tracing::info!(machine = %machine.name_any(), phase = phase_name(phase), reason, "phase changed");
    }
    let regarding = machine.object_ref(&());
    for Note { warning, reason, text } in notes {
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        ctx.publish(&regarding, type_, reason, "Provision", &text).await;
    }
    Ok(())
}
