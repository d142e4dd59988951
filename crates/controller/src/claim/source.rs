//! Where the certificate of a bound key comes from: it was issued, or it is asked for.

use jiff::Timestamp;
use kube::ResourceExt;
use magnetite_api::{
    Machine, MachineClaim, Sha256,
    conditions::reason,
    join::LEAST_CERTIFICATE_SECONDS,
    machine::{IdentityStatus, IntentState, IntentStatus},
};
use magnetite_request::certificate_end;

use super::decide::{Denial, Observed, Verdict, deny, is_open, wait};

/// Where the certificate of a bound key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It was issued, and is good: this text, in PEM.
    Issued(String),
    /// A request to the API server's signer.
    Request {
        /// Its name.
        name: String,
        /// False: the certificate was issued, nobody has it any more, and the window is closed, so that no further one is made.
        may_create: bool,
    },
}

/// The certificate that was issued, as long as it is good. After that the box that comes with the same keys is given another one, window or
/// none: it is the same box, whose system lives in memory and forgot the certificates that its kubelet had meanwhile. Whoever has those keys
/// could have renewed the first one as long as its Node was there.
pub fn of(
    seen: &Observed,
    machine: &Machine,
    identity: &IdentityStatus,
    current: Option<&IntentStatus>,
    now: Timestamp,
) -> Result<Source, Verdict> {
    let first = request_name(&seen.claim, None);
    if identity.issued_at.is_none() {
        if current.is_none() {
            return Err(deny(Denial::WindowClosed, format!("the intent {} is over", identity.intent)));
        }
        is_not_frozen(current)?;
        // Bound within the window: a controller that was killed since then goes on, also after its end.
        return Ok(Source::Request { name: first, may_create: true });
    }
    let (own, winners) = (seen.claim.certificate(), seen.winner.as_ref().and_then(MachineClaim::certificate));
    if let Some(good) = [own, winners].into_iter().flatten().find(|one| !has_ended(one, now)) {
        return Ok(Source::Issued(good.to_owned()));
    }
    let Some(ended) = own.or(winners) else {
        // Killed between the record and the answer: it is the newest request that is answered.
        let name = identity.certificate_request.clone().unwrap_or(first);
        return Ok(Source::Request { name, may_create: current.is_some_and(|intent| is_open(intent, now)) });
    };
    is_not_frozen(current)?;
    if machine.wanted_intent() != identity.intent {
        return Err(deny(Denial::WindowClosed, format!("the intent {} is over; power-cycle the box", identity.intent)));
    }
    Ok(Source::Request { name: request_name(&seen.claim, Some(ended)), may_create: true })
}

/// Which of two boxes is right is not known, so that neither is given anything new.
fn is_not_frozen(current: Option<&IntentStatus>) -> Result<(), Verdict> {
    match current {
        Some(intent) if intent.state == IntentState::Frozen => {
            Err(wait(reason::CLAIM_CONFLICT, "two keys claimed this machine, so that its join is frozen"))
        }
        Some(_) | None => Ok(()),
    }
}

/// True of a certificate that no box can begin with.
pub fn has_ended(certificate: &str, now: Timestamp) -> bool {
    let soon = now.as_second().saturating_add(LEAST_CERTIFICATE_SECONDS);
    certificate_end(certificate.as_bytes()).is_none_or(|end| end <= soon)
}

/// The name of a request: always the same for the same claim and certificate. `after`: the one whose place it takes.
fn request_name(claim: &MachineClaim, after: Option<&str>) -> String {
    // By the claim's UID: the same key signs its request in another way each time, and what is left of a Machine of the same name, or of an
    // earlier intent, is not in the way.
    let mut text = claim.uid().unwrap_or_default();
    if let Some(end) = after.and_then(|after| certificate_end(after.as_bytes())) {
        text.push_str(&format!("\n{end}"));
    }
    format!("magnetite-{}-{}", claim.spec.machine, Sha256::of(text.as_bytes()).short())
}
