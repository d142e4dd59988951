//! The decision about a claim: the order of docs/architecture.md, rule by rule. No client, no log; the
//! moment is an argument. What it is given was read live, never from a cache (threats.md, S7).

use jiff::Timestamp;
use kube::ResourceExt;
use magnetite_api::{
    Fingerprint, Machine, MachineClaim, MachineClaimSpec, Profile, Sha256, conditions,
    conditions::reason,
    machine::{IdentityLevel, IdentityStatus, IntentState, IntentStatus},
    profile::JoinMode,
    time::seconds,
    tpm::TpmStatus,
    types::serial_is_bogus,
};
use magnetite_request::{Flaw, Request, check_claim_key, check_client, quoted};
use magnetite_tpm::verifier::Authorities;

use super::{
    source::{self, Source},
    tpm::{self, Proven, TpmKeys},
};
use crate::{csr::addresses, node::NodeSeen};

/// Why a claim is refused. The words are part of the API: `status.reason` of the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The Machine does not exist, is another one by now, or is being deleted.
    MachineGone,
    /// A signature does not verify, or there is nothing to verify.
    BadSignature,
    /// Another key is bound.
    ClaimConflict,
    /// A person approved another key.
    KeyNotApproved,
    /// No window of this intent is open.
    WindowClosed,
    /// The box is none that was declared.
    FactsMismatch,
    /// The certificate request breaks a rule.
    BadRequest,
    /// The node name belongs to somebody else.
    NodeNameTaken,
    /// The box has another TPM than it must, or none.
    TpmMismatch,
    /// The box did not prove its TPM.
    TpmNotProven,
    /// Somebody denied the certificate request, or the signer failed it.
    RequestDenied,
}

impl Denial {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MachineGone => "MachineGone",
            Self::BadSignature => "BadSignature",
            Self::ClaimConflict => reason::CLAIM_CONFLICT,
            Self::KeyNotApproved => reason::KEY_NOT_APPROVED,
            Self::WindowClosed => "WindowClosed",
            Self::FactsMismatch => "FactsMismatch",
            Self::BadRequest => "BadRequest",
            Self::NodeNameTaken => reason::NODE_NAME_TAKEN,
            Self::TpmMismatch => reason::TPM_MISMATCH,
            Self::TpmNotProven => "TpmNotProven",
            Self::RequestDenied => "RequestDenied",
        }
    }
}

/// Everything that the decision may know.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The claim.
    pub claim: MachineClaim,
    /// The Machine that it names.
    pub machine: Option<Machine>,
    /// The Profile that the Machine's status names.
    pub profile: Option<Profile>,
    /// The Node of the Machine's node name.
    pub node: Option<NodeSeen>,
    /// Node names that no Machine may have.
    pub reserved: Vec<String>,
    /// The claim whose challenge this one answers.
    pub challenged: Option<MachineClaim>,
    /// The claim that the Machine's key was bound by: this one, or another of the same key.
    pub winner: Option<MachineClaim>,
    /// Makers of TPMs that are believed; none: all are, and the TPM itself is what is known.
    pub authorities: Option<Authorities>,
}

/// What to do with a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Refuse it, for good.
    Deny {
        /// Why, in a word.
        denial: Denial,
        /// Why, in a sentence.
        message: String,
        /// Freeze the Machine's intent too.
        freeze: bool,
    },
    /// Not yet: something must be put right first.
    Wait {
        /// Why, in a word.
        reason: &'static str,
        /// Why, in a sentence.
        message: String,
    },
    /// Let the box's TPM answer a challenge.
    Challenge {
        /// For which keys.
        keys: Box<TpmKeys>,
    },
    /// Bind this key.
    Bind {
        /// What to record.
        identity: Box<IdentityStatus>,
        /// The TPM that it was bound with.
        tpm: Option<TpmStatus>,
        /// The addresses that the serving certificate may name.
        addresses: Vec<String>,
    },
    /// The key is bound: see to the certificate.
    Issue {
        /// The request, as it was verified.
        request: Box<Request>,
        /// Where the certificate comes from.
        source: Source,
    },
}

pub(super) fn deny(denial: Denial, message: impl Into<String>) -> Verdict {
    Verdict::Deny { denial, message: message.into(), freeze: false }
}

pub(super) fn wait(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict::Wait { reason, message: message.into() }
}

/// Decides. The first rule that fails decides.
pub fn decide(seen: &Observed, now: Timestamp) -> Verdict {
    rules(seen, now).unwrap_or_else(|verdict| verdict)
}

fn rules(seen: &Observed, now: Timestamp) -> Result<Verdict, Verdict> {
    let spec = &seen.claim.spec;
    let machine = present(spec, seen.machine.as_ref())?;
    let proof = prove(spec)?;
    let approved = approved(spec, machine, &proof)?;
    let status = machine.status.as_ref();
    let intent = status.and_then(|status| status.intent.as_ref());
    let before = status.and_then(|status| status.identity.as_ref());
    if let Some(identity) = before
        && identity.intent == spec.intent
        // A person's word stands over who came first.
        && !(approved && proof.claim_key.to_string() != identity.claim_key)
    {
        // Before anything else: what does not prove the TPM is not even a conflict, and so cannot freeze anything.
        tpm::proven(seen, machine)?;
        return bound(seen, machine, identity, proof, now);
    }
    window(spec, machine, intent, now)?;
    let profile = at_hand(machine, seen.profile.as_ref())?;
    facts_agree(spec, machine)?;
    asks_for_its_own(&proof.request, machine)?;
    name_is_free(machine, seen)?;
    let tpm = tpm::proven(seen, machine)?;
    let level = level(approved, tpm);
    earned(level, (profile, machine), spec, &proof, tpm)?;
    let claim_key = proof.claim_key.to_string();
    let identity = IdentityStatus {
        level,
        intent: spec.intent.clone(),
        kubelet_key: proof.request.key.to_string(),
        claim: seen.claim.name_any(),
        bound_at: seconds(now),
        certificate_request: None,
        issued_at: None,
        certificates: Vec::new(),
        rebound: before.is_some_and(|before| before.rebound || before.claim_key != claim_key),
        claim_key,
    };
    // The addresses of an earlier intent are not taken over: they may be another box's by now.
    let addresses = addresses::usable(&spec.address).map(|address| address.to_string()).into_iter().collect();
    Ok(Verdict::Bind { identity: Box::new(identity), tpm: tpm.map(|tpm| pin(machine, tpm, now)), addresses })
}

/// Rule 1.
fn present<'a>(spec: &MachineClaimSpec, machine: Option<&'a Machine>) -> Result<&'a Machine, Verdict> {
    let gone = |why: &str| deny(Denial::MachineGone, format!("the Machine {} {why}", spec.machine));
    let machine = machine.ok_or_else(|| gone("does not exist"))?;
    if machine.name_any() != spec.machine || machine.uid().as_deref() != Some(spec.machine_uid.as_str()) {
        return Err(gone("was deleted and created again since the box booted; power-cycle the box"));
    }
    if machine.metadata.deletion_timestamp.is_some() {
        return Err(gone("is being deleted"));
    }
    Ok(machine)
}

struct Proof {
    claim_key: Sha256,
    request: Request,
}

/// Rule 2.
fn prove(spec: &MachineClaimSpec) -> Result<Proof, Verdict> {
    let bad = |Flaw(flaw): Flaw| deny(Denial::BadSignature, flaw);
    let MachineClaimSpec { machine, machine_uid: _, intent, claim_key, certificate_request, signature, .. } = spec;
    let claim_key = check_claim_key(claim_key, signature, machine, intent, certificate_request).map_err(bad)?;
    let request = Request::from_pem(certificate_request).map_err(bad)?;
    Ok(Proof { claim_key, request })
}

/// True if a person approved this key, and refused if another one: at every level, for that is what was said.
fn approved(spec: &MachineClaimSpec, machine: &Machine, proof: &Proof) -> Result<bool, Verdict> {
    let shown = Fingerprint::from(proof.claim_key);
    match machine.spec.approved_fingerprint {
        None => Ok(false),
        Some(approved) if approved == shown => Ok(true),
        Some(approved) => {
            let name = &spec.machine;
            let message = format!(
                "the box shows the key {shown}, and spec.approvedFingerprint of the Machine {name} is {approved}; if this \
                 is the right box: kubectl magnetite approve {name} {shown}"
            );
            Err(deny(Denial::KeyNotApproved, message))
        }
    }
}

/// What was proven. A TPM that nobody knows yet is pinned only by a person's word.
fn level(approved: bool, tpm: Option<Proven>) -> IdentityLevel {
    match tpm {
        Some(Proven { level: Some(level), .. }) => level,
        Some(_) if approved => IdentityLevel::TpmPinned,
        None if approved => IdentityLevel::Approved,
        Some(_) | None => IdentityLevel::Mac,
    }
}

/// The TPM as it is known from now on; since when, if it was known before.
fn pin(machine: &Machine, tpm: Proven, now: Timestamp) -> TpmStatus {
    let known = machine.status.as_ref().and_then(|status| status.tpm.clone());
    let known = known.filter(|known| known.endorsement_key == tpm.endorsement_key);
    known.unwrap_or_else(|| TpmStatus { endorsement_key: tpm.endorsement_key, pinned_at: seconds(now) })
}

/// What the Profile asks for at least.
fn earned(
    level: IdentityLevel,
    asks: (&Profile, &Machine),
    spec: &MachineClaimSpec,
    proof: &Proof,
    tpm: Option<Proven>,
) -> Result<(), Verdict> {
    let (profile, machine) = asks;
    let wanted = profile.spec.min_identity.max(machine.spec.min_identity);
    if level >= wanted {
        return Ok(());
    }
    let who = if profile.spec.min_identity == wanted {
        format!("the Profile {}", profile.name_any())
    } else {
        "spec.minIdentity of the Machine".to_owned()
    };
    if let (IdentityLevel::TpmEnrolled, Some(tpm)) = (wanted, tpm) {
        let message = format!(
            "{} asks for the identity level {}. The box at {} proved the TPM {key}; if that is the right one, set \
             spec.tpm.endorsementKey: {key} of the Machine {}",
            who,
            wanted.as_str(),
            quoted(&spec.address),
            spec.machine,
            key = tpm.endorsement_key,
        );
        return Err(wait(reason::AWAITING_APPROVAL, message));
    }
    let (name, shown) = (&spec.machine, Fingerprint::from(proof.claim_key));
    Err(wait(
        reason::AWAITING_APPROVAL,
        format!(
            "{} asks for the identity level {}. Compare {shown} with what the box at {} shows on its console, \
             then: kubectl magnetite approve {name} {shown}",
            who,
            wanted.as_str(),
            quoted(&spec.address),
        ),
    ))
}

/// Rule 3: a key is bound in the claim's intent. The same keys get the same answer; others are a conflict.
fn bound(
    seen: &Observed,
    machine: &Machine,
    identity: &IdentityStatus,
    proof: Proof,
    now: Timestamp,
) -> Result<Verdict, Verdict> {
    let intent = machine.status.as_ref().and_then(|status| status.intent.as_ref());
    let current = intent.filter(|intent| intent.id == identity.intent);
    if proof.claim_key.to_string() != identity.claim_key || proof.request.key.to_string() != identity.kubelet_key {
        // A claim of an intent that is over cannot freeze the one that is not; what is a Node already has nothing left
        // that could be frozen, and a person who said which key is right has settled it.
        let settled = machine.spec.approved_fingerprint.is_some();
        let freeze = current.is_some_and(|intent| intent.state != IntentState::Fulfilled) && !settled;
        let message = format!(
            "another key claimed the Machine {name} first, in the intent {} at {}{}. Both sides, and how to settle it: \
             kubectl magnetite conflict {name}",
            identity.intent,
            identity.bound_at.0,
            if freeze { "; the join is frozen" } else { "" },
            name = machine.name_any(),
        );
        return Err(Verdict::Deny { denial: Denial::ClaimConflict, message, freeze });
    }
    asks_for_its_own(&proof.request, machine)?;
    let source = source::of(seen, machine, identity, current, now)?;
    if let Source::Request { .. } = &source {
        // For the first one, and again for one that takes its place: that may be years later.
        name_is_free(machine, seen)?;
    }
    Ok(Verdict::Issue { request: Box::new(proof.request), source })
}

pub(super) fn is_open(intent: &IntentStatus, now: Timestamp) -> bool {
    intent.state == IntentState::Open && now < intent.expires_at.0
}

/// Rule 4.
fn window(
    spec: &MachineClaimSpec,
    machine: &Machine,
    intent: Option<&IntentStatus>,
    now: Timestamp,
) -> Result<(), Verdict> {
    if machine.maintenance().is_some() {
        return Err(wait(reason::IN_MEMORY, "the machine is out of service (spec.maintenance)"));
    }
    if machine.spec.hold {
        return Err(wait(reason::HELD, "the Machine is held; kubectl magnetite approve says what it is to be"));
    }
    let wanted = machine.wanted_intent();
    let Some(intent) = intent.filter(|intent| intent.id == wanted) else {
        return Err(if spec.intent == wanted {
            wait(reason::WAITING, format!("the boot window of the intent {wanted} is about to open"))
        } else {
            deny(Denial::WindowClosed, format!("the intent {} is over; power-cycle the box", spec.intent))
        });
    };
    if spec.intent != intent.id {
        let message = format!("the claim is for the intent {}; the window is that of {}", spec.intent, intent.id);
        return Err(deny(Denial::WindowClosed, message));
    }
    if is_open(intent, now) {
        return Ok(());
    }
    if intent.state == IntentState::Frozen && machine.spec.approved_fingerprint.is_some() && now < intent.expires_at.0 {
        return Err(wait(reason::WAITING, "a key was approved, and the boot window is about to open again"));
    }
    let why = match intent.state {
        IntentState::Frozen => "is frozen: two keys claimed this machine".to_owned(),
        IntentState::Fulfilled => "is closed: the machine joined".to_owned(),
        IntentState::Open | IntentState::Expired => format!("expired at {}", intent.expires_at.0),
    };
    let message = format!("the boot window of the intent {} {why}; set another spec.bootIntent", intent.id);
    Err(deny(Denial::WindowClosed, message))
}

/// Rule 5. The conditions are part of the Machine that was read live, and must be about its present spec.
fn at_hand<'a>(machine: &Machine, profile: Option<&'a Profile>) -> Result<&'a Profile, Verdict> {
    let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    for kind in [conditions::IDENTITY_UNIQUE, conditions::PROFILE_READY] {
        let condition = conditions::find(conditions, kind);
        let fresh = condition.filter(|condition| condition.observed_generation == machine.metadata.generation);
        match fresh {
            Some(condition) if condition.status == conditions::Status::True.as_str() => {}
            Some(condition) => {
                return Err(wait(reason::WAITING, format!("{kind} does not hold: {}", condition.message)));
            }
            None => return Err(wait(reason::WAITING, format!("{kind} is not known yet"))),
        }
    }
    let Some(profile) = profile else {
        return Err(wait(reason::PROFILE_NOT_FOUND, "the Machine's Profile does not exist"));
    };
    match profile.spec.join.mode {
        JoinMode::Certificate => Ok(profile),
        JoinMode::None => {
            Err(wait(reason::WAITING, format!("the Profile {} joins no cluster (join.mode)", profile.name_any())))
        }
    }
}

/// Rule 6: the box shows at least one declared identifier.
fn facts_agree(spec: &MachineClaimSpec, machine: &Machine) -> Result<(), Verdict> {
    let facts = &spec.facts;
    let declared = &machine.spec;
    let mac = declared.macs.iter().any(|mac| !mac.is_bogus() && facts.macs.contains(mac));
    let uuid = declared.uuid.is_some_and(|uuid| !uuid.is_bogus() && facts.uuid == Some(uuid));
    let plain = |serial: &String| Some(serial.trim().to_ascii_lowercase()).filter(|text| !serial_is_bogus(text));
    let serial = declared.serial.as_ref().and_then(plain);
    let serial = serial.is_some() && serial == facts.serial.as_ref().and_then(plain);
    if mac || uuid || serial {
        return Ok(());
    }
    let message = format!(
        "the box has none of the MACs, the UUID and the serial that the Machine {} declares; correct the Machine if \
         the box is the right one",
        machine.name_any()
    );
    Err(deny(Denial::FactsMismatch, message))
}

/// Rule 7.
fn asks_for_its_own(request: &Request, machine: &Machine) -> Result<(), Verdict> {
    check_client(request, &machine.node_name()).map_err(|Flaw(flaw)| deny(Denial::BadRequest, flaw))
}

/// Names that certificates of an API server carry wherever it is (kubeadm, k3s, OpenShift). A kubelet's serving certificate names its node, and
/// comes from the same authority: whoever trusts that for `kubernetes` or `localhost` must not be shown the certificate of a box.
const SERVERS: [&str; 4] = ["kubernetes", "localhost", "kube-apiserver", "openshift"];

/// Rule 8.
fn name_is_free(machine: &Machine, seen: &Observed) -> Result<(), Verdict> {
    let name = machine.node_name();
    let taken = |why: &str| {
        let message = format!("{why}; give the Machine another spec.nodeName (delete it and create it again)");
        deny(Denial::NodeNameTaken, message)
    };
    let joined_at = seen.profile.as_ref().and_then(|profile| addresses::host(profile.spec.join.api_server.as_deref()?));
    if SERVERS.contains(&name.as_str()) || joined_at == Some(name.as_str()) {
        return Err(taken(&format!("the node name {name} is a name of the API server")));
    }
    if seen.reserved.contains(&name) {
        return Err(taken(&format!("the node name {name} is reserved")));
    }
    match &seen.node {
        Some(node) if node.control_plane => Err(taken(&format!("{name} is a control-plane node"))),
        Some(node) if node.owner.is_some() && node.owner == machine.uid() => Ok(()),
        Some(_) => Err(taken(&format!("a Node {name} exists and is not this Machine's"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
