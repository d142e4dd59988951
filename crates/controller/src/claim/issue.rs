//! From a bound key to a certificate. The names are deterministic and every step is looked at before it is
//! done, so that this may start over at any time.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ObjectMeta, PostParams},
    runtime::{controller::Action, events::EventType},
};
use magnetite_api::{
    Machine, MachineClaimStatus, Profile,
    claim::Decision,
    join::JoinBundle,
    machine::IdentityStatus,
    names::{ANNOTATION_CLAIM, LABEL_MACHINE, MANAGER_CONTROLLER, SIGNER_CLIENT},
    time::seconds,
};
use magnetite_request::{Request, certificate_digest, certificate_key, quoted};

use super::{
    decide::{Denial, Observed},
    deny, is_final, kubelet, secrets,
    source::Source,
    wait, write,
};
use crate::{
    context::{Context, Settings},
    csr,
    error::{Error, code},
    machine::apply::replace_status,
    profile::renders::Trouble,
};

const KIND: &str = "CertificateSigningRequest";
/// The signer takes a second or two.
const SOON: Duration = Duration::from_secs(1);
/// A certificate cannot be revoked: the first one is short.
const LIFETIME_SECONDS: i32 = 86_400;
/// How often a Secret that is missing is looked for.
const SECRET: Duration = Duration::from_secs(10);
const USAGES: [&str; 2] = ["digital signature", "client auth"];

/// Sees to the certificate of a bound key: creates the request, approves it, records and hands over the result.
///
/// # Errors
/// The API server was not there, or somebody else was faster.
pub async fn issue(seen: &Observed, request: &Request, source: Source, ctx: &Context) -> Result<Action, Error> {
    let (Some(machine), Some(identity)) = (&seen.machine, identity(seen)) else {
        return Ok(Action::await_change());
    };
    let Some(profile) = &seen.profile else {
        return Ok(Action::requeue(Duration::from_secs(10)));
    };
    let (name, may_create) = match source {
        Source::Request { name, may_create } => (name, may_create),
        Source::Issued(certificate) => {
            let name = identity.certificate_request.clone().unwrap_or_default();
            return hand_over(seen, machine, profile, &name, certificate, ctx).await;
        }
    };
    let api = Api::<CertificateSigningRequest>::all(ctx.client.clone());
    let found = api.get_opt(&name).await.map_err(Error::read(KIND, &name))?;
    let Some(csr) = found else {
        if !may_create {
            let message = "the certificate was issued, its request is gone and the window is closed; \
                           set another spec.bootIntent";
            deny(seen, Denial::WindowClosed, message, ctx).await?;
            return Ok(Action::await_change());
        }
        create(&api, &wanted(&name, machine, &seen.claim.name_any(), request)).await?;
        return Ok(Action::requeue(Duration::ZERO));
    };
    match progress(&csr, &wanted(&name, machine, &seen.claim.name_any(), request), request) {
        Progress::Foreign => {
            let message = format!("a CertificateSigningRequest {name} exists with other contents; delete it");
            refuse(seen, Denial::BadRequest, &message, ctx).await
        }
        Progress::Refused(why) => {
            let message = format!("the CertificateSigningRequest {name} {why}; set another spec.bootIntent");
            refuse(seen, Denial::RequestDenied, &message, ctx).await
        }
        Progress::Open => {
            let message = format!("the key of the claim {} is bound to the Machine", seen.claim.name_any());
            csr::answer(&csr, "Approved", csr::APPROVED, &message, ctx).await?;
            Ok(Action::requeue(SOON))
        }
        Progress::Approved => Ok(Action::requeue(SOON)),
        Progress::Issued(certificate) => hand_over(seen, machine, profile, &name, certificate, ctx).await,
    }
}

fn identity(seen: &Observed) -> Option<&IdentityStatus> {
    seen.machine.as_ref()?.status.as_ref()?.identity.as_ref()
}

fn wanted(name: &str, machine: &Machine, claim: &str, request: &Request) -> CertificateSigningRequest {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([(LABEL_MACHINE.to_owned(), machine.name_any())].into()),
        annotations: Some([(ANNOTATION_CLAIM.to_owned(), claim.to_owned())].into()),
        ..ObjectMeta::default()
    };
    let spec = CertificateSigningRequestSpec {
        request: ByteString(request.to_pem().into_bytes()),
        signer_name: SIGNER_CLIENT.to_owned(),
        expiration_seconds: Some(LIFETIME_SECONDS),
        usages: Some(USAGES.map(str::to_owned).to_vec()),
        ..CertificateSigningRequestSpec::default()
    };
    CertificateSigningRequest { metadata, spec, status: None }
}

async fn create(api: &Api<CertificateSigningRequest>, csr: &CertificateSigningRequest) -> Result<(), Error> {
    let name = csr.name_any();
    let params = PostParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
    match api.create(&params, csr).await {
        Ok(_) => Ok(()),
        // Made by us before we were killed, or by our ghost; the next pass looks at it.
        Err(error) if code(&error) == Some(409) => Ok(()),
        Err(error) => Err(Error::write("creating", KIND, &name)(error)),
    }
}

/// How far a certificate request is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    /// Not the one that we would make: somebody else took the name.
    Foreign,
    /// Denied, or the signer failed.
    Refused(String),
    /// Nobody decided it.
    Open,
    /// Approved; the signer is at work.
    Approved,
    /// There is a certificate, and it is for the bound key.
    Issued(String),
}

fn progress(csr: &CertificateSigningRequest, wanted: &CertificateSigningRequest, request: &Request) -> Progress {
    let (have, want) = (&csr.spec, &wanted.spec);
    // Whoever may create requests may take a name; only what is approved matters, so all of it is compared.
    let same = have.request == want.request
        && have.signer_name == want.signer_name
        && have.expiration_seconds == want.expiration_seconds
        && have.usages == want.usages;
    if !same {
        return Progress::Foreign;
    }
    let status = csr.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    if let Some(refusal) = find("Denied").or_else(|| find("Failed")) {
        let why = refusal.message.as_deref().unwrap_or_default();
        return Progress::Refused(format!("is {}: {}", refusal.type_, quoted(why)));
    }
    if find("Approved").is_none() {
        return Progress::Open;
    }
    let Some(certificate) = status.and_then(|status| status.certificate.as_ref()) else {
        return Progress::Approved;
    };
    match (certificate_key(&certificate.0), std::str::from_utf8(&certificate.0)) {
        (Some(key), Ok(text)) if key == request.key => Progress::Issued(text.to_owned()),
        _ => Progress::Refused("carries a certificate of another key".to_owned()),
    }
}

/// No, to a claim that is not answered yet. One that is has an answer, and that stays: it says why in an Event alone.
///
/// # Errors
/// The API server did not take the answer.
pub async fn refuse(seen: &Observed, denial: Denial, message: &str, ctx: &Context) -> Result<Action, Error> {
    match &seen.machine {
        Some(machine) if is_final(&seen.claim) => {
            ctx.publish(&machine.object_ref(&()), EventType::Warning, denial.as_str(), "Claim", message).await;
        }
        _ => deny(seen, denial, message, ctx).await?,
    }
    Ok(Action::await_change())
}

/// First the record, then the answer: a Node counts as the Machine's only once the record says that its
/// certificate was issued, so it must be there before the box can register one.
async fn hand_over(
    seen: &Observed,
    machine: &Machine,
    profile: &Profile,
    request: &str,
    certificate: String,
    ctx: &Context,
) -> Result<Action, Error> {
    let known = seen.claim.status.as_ref().and_then(|status| status.join.as_ref());
    let sealed =
        secrets::sealed(&seen.claim.spec, profile, known.and_then(|join| join.secret_files.as_ref()), ctx).await?;
    let secret_files = match sealed {
        Ok(sealed) => sealed,
        // A box that was a Node keeps what it has, as it does while it runs.
        Err(Trouble { reason, message }) if is_final(&seen.claim) => {
            ctx.publish(&machine.object_ref(&()), EventType::Warning, reason, "Seal", &message).await;
            known.and_then(|join| join.secret_files.clone())
        }
        Err(Trouble { reason, message }) => {
            wait(&seen.claim, reason, message, ctx).await?;
            return Ok(Action::requeue(SECRET));
        }
    };
    let now = seconds((ctx.clock)());
    let mut status = machine.status.clone().unwrap_or_default();
    let digest = certificate_digest(certificate.as_bytes());
    let mut issued = false;
    if let Some(identity) = &mut status.identity {
        if identity.issued_at.is_none() {
            identity.issued_at = Some(now.clone());
            identity.certificates = digest.into_iter().collect();
            issued = true;
        } else if let Some(digest) = digest.filter(|digest| !identity.certificates.contains(digest)) {
            let ended = seen.winner.as_ref().and_then(|winner| certificate_digest(winner.certificate()?.as_bytes()));
            identity.certificates = csr::line::replaced(identity, ended, digest);
            issued = true;
        }
        if issued {
            identity.certificate_request = Some(request.to_owned());
        }
        // The box comes with this claim from now on, and its files are fetched there.
        identity.claim = seen.claim.name_any();
    }
    if machine.status.as_ref() != Some(&status) {
        replace_status(machine, status, ctx).await?;
    }
    if issued {
        ctx.metrics.claim("approved", "CertificateIssued");
        tracing::info!(machine = %machine.name_any(), claim = %seen.claim.name_any(), request, "certificate issued");
        // As audit logs of API servers name it. The request may have been another of the same name, if somebody swept the first away before
        // its certificate was handed on.
        let which = digest.map(|digest| format!(", X509SHA256={digest}")).unwrap_or_default();
        let note = format!("Certificate of the Node {} issued, by request {request}{which}", machine.node_name());
        let regarding = machine.object_ref(&());
        ctx.publish(&regarding, EventType::Normal, "CertificateIssued", "Claim", &note).await;
    }
    let answer = MachineClaimStatus {
        decision: Some(Decision::Approved),
        reason: Some("CertificateIssued".to_owned()),
        message: Some("the certificate is issued".to_owned()),
        decided_at: Some(now),
        join: Some(JoinBundle { secret_files, ..bundle(machine, profile, certificate, &ctx.settings) }),
        challenge: None,
    };
    write(&seen.claim, answer, ctx).await?;
    Ok(Action::await_change())
}

/// What the box needs to join.
fn bundle(machine: &Machine, profile: &Profile, certificate: String, settings: &Settings) -> JoinBundle {
    let join = &profile.spec.join;
    JoinBundle {
        node_name: machine.node_name(),
        api_server: join.api_server.clone().or_else(|| settings.join_api_server.clone()).unwrap_or_default(),
        certificate_authority: settings.join_ca.clone(),
        certificate,
        kubelet_configuration: kubelet::configuration(machine, profile),
        kubelet_args: join.kubelet_args.clone(),
        machine_uid: machine.uid().unwrap_or_default(),
        secret_files: None,
    }
}

#[cfg(test)]
mod tests;
