//! Certificate requests of kubelets that joined: observe, decide, apply.

pub mod addresses;
pub mod decide;
pub mod line;
mod renewal;
mod serving;

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Resource, ResourceExt,
    api::PostParams,
    runtime::{controller::Action, events::EventType},
};
use magnetite_api::{
    Machine,
    names::{MANAGER_CONTROLLER, SIGNER_CLIENT, SIGNER_SERVING},
    time::seconds,
};
use magnetite_request::{Flaw, Request};

use crate::{
    context::Context,
    error::{Error, gone_is_fine},
    machine::apply::replace_status,
    node,
};
use decide::{Asked, Observed, Party, Verdict, asking_node, decide};

const KIND: &str = "CertificateSigningRequest";
const AGAIN: Duration = Duration::from_secs(5);
/// The reason of what we approve.
pub const APPROVED: &str = "MagnetiteApproved";

/// True if this request may be our business and nobody decided it yet.
pub fn is_open(csr: &CertificateSigningRequest) -> bool {
    let decided = |condition: &CertificateSigningRequestCondition| {
        matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed")
    };
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_ref());
    [SIGNER_CLIENT, SIGNER_SERVING].contains(&csr.spec.signer_name.as_str())
        && !conditions.is_some_and(|conditions| conditions.iter().any(decided))
}

/// True if a kubelet of this node asks.
pub fn asked_by(csr: &CertificateSigningRequest, node: &str) -> bool {
    csr.spec.username.as_deref().and_then(asking_node) == Some(node)
}

/// One pass over one request.
///
/// # Errors
/// The API server was not there or did not agree.
pub async fn reconcile(csr: Arc<CertificateSigningRequest>, ctx: Arc<Context>) -> Result<Action, Error> {
    let username = csr.spec.username.clone().unwrap_or_default();
    let Some(node) = asking_node(&username) else {
        return Ok(Action::await_change());
    };
    if !is_open(&csr) {
        return record(&csr, node, &ctx).await;
    }
    let seen = observe(&csr, &username, &ctx).await?;
    let verdict = decide(&seen);
    match &verdict {
        Verdict::Ignore => return Ok(Action::await_change()),
        Verdict::Wait(why) => {
            tracing::debug!(request = %csr.name_any(), %why, "a certificate request waits");
            return Ok(Action::requeue(AGAIN));
        }
        Verdict::Approve(message) => {
            answer(&csr, "Approved", APPROVED, message, &ctx).await?;
            ctx.metrics.request("approved", "AsDeclared");
            tracing::info!(request = %csr.name_any(), node = %username, signer = %csr.spec.signer_name, "certificate request approved");
        }
        Verdict::Deny { reason, message } => {
            answer(&csr, "Denied", reason, message, &ctx).await?;
            ctx.metrics.request("denied", reason);
            tracing::warn!(request = %csr.name_any(), node = %username, signer = %csr.spec.signer_name, %reason, "certificate request denied");
            tell(&seen, &csr, message, &ctx).await;
        }
    }
    Ok(Action::await_change())
}

/// Records the certificate that came of a renewal, so that the next one is known by it.
async fn record(csr: &CertificateSigningRequest, node: &str, ctx: &Context) -> Result<Action, Error> {
    let Some(issued) = line::renewed(csr) else {
        return Ok(Action::await_change());
    };
    let Party { machine: Some(machine), node: _ } = party(node, ctx).await? else {
        return Ok(Action::await_change());
    };
    let mut status = machine.status.clone().unwrap_or_default();
    let longer = status.identity.as_ref().and_then(|identity| line::longer(identity, line::credential(csr), issued));
    if let (Some(identity), Some(longer)) = (&mut status.identity, longer) {
        identity.certificates = longer;
        replace_status(&machine, status, ctx).await?;
    }
    Ok(Action::await_change())
}

async fn observe(csr: &CertificateSigningRequest, username: &str, ctx: &Context) -> Result<Observed, Error> {
    let request = match std::str::from_utf8(&csr.spec.request.0) {
        Ok(text) => Request::from_pem(text),
        Err(_) => Err(Flaw("the certificate request is not PEM".to_owned())),
    };
    let subject = request.as_ref().ok().and_then(|request| request.subject.as_ref().ok());
    let named = subject.and_then(|subject| asking_node(&subject.common_name)).map(str::to_owned);
    let asking = asking_node(username).unwrap_or_default();
    let asker = party(asking, ctx).await?;
    let target = match named {
        Some(named) if named != asking && named.len() <= 253 => party(&named, ctx).await?,
        _ => Party::default(),
    };
    let asked = Asked {
        signer: csr.spec.signer_name.clone(),
        username: username.to_owned(),
        groups: csr.spec.groups.clone().unwrap_or_default(),
        usages: csr.spec.usages.clone().unwrap_or_default(),
        credential: line::credential(csr),
        request,
    };
    Ok(Observed { asked, asker, target, reserved: reserved(ctx) })
}

/// The address of the API server is nobody's, whatever a claim seemed to come from.
fn reserved(ctx: &Context) -> Vec<IpAddr> {
    let host = ctx.settings.join_api_server.as_deref().and_then(addresses::host);
    host.and_then(|host| host.parse().ok()).into_iter().collect()
}

/// Finds the Machine by the cache, which knows node names, and reads it and its Node live.
async fn party(node_name: &str, ctx: &Context) -> Result<Party, Error> {
    let known = ctx.stores.machines.find(|machine| node::is_named(machine, node_name));
    let machine = match known {
        Some(known) => {
            let name = known.name_any();
            let api = Api::<Machine>::all(ctx.client.clone());
            let live = api.get_opt(&name).await.map_err(Error::read("Machine", &name))?;
            live.filter(|machine| node::is_named(machine, node_name))
        }
        None => None,
    };
    Ok(Party { machine, node: node::get(&ctx.client, node_name).await? })
}

/// Writes a verdict, guarded by the resourceVersion that it was made for.
///
/// # Errors
/// The API server did not take it. That the request is gone is no error.
pub async fn answer(
    csr: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
    ctx: &Context,
) -> Result<(), Error> {
    let name = csr.name_any();
    let Time(now) = seconds((ctx.clock)());
    let condition = CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let mut csr = csr.clone();
    let status = csr.status.get_or_insert_with(CertificateSigningRequestStatus::default);
    status.conditions.get_or_insert_default().push(condition);
    let params = PostParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
    let api = Api::<CertificateSigningRequest>::all(ctx.client.clone());
    let result = api.replace_subresource("approval", &name, &params, &csr).await;
    gone_is_fine(result).map(drop).map_err(Error::write("answering", KIND, &name))
}

async fn tell(seen: &Observed, csr: &CertificateSigningRequest, message: &str, ctx: &Context) {
    let machine = seen.asker.machine.as_ref().or(seen.target.machine.as_ref());
    let regarding = machine.map_or_else(|| csr.object_ref(&()), |machine| machine.object_ref(&()));
    let note = format!("Certificate request {} denied: {message}", csr.name_any());
    ctx.publish(&regarding, EventType::Warning, "CertificateRequestDenied", "Approve", &note).await;
}

#[cfg(test)]
mod tests;
