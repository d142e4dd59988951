//! `MachineClaim`: a box asks for the identity of a Machine.
//!
//! The boot server is exposed to the network and is assumed to fall one day. So it decides nothing: it may
//! only create a claim and read the answer. The controller decides.

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    join::{ClaimRequest, IdentityFacts, JoinBundle},
    names::LABEL_MACHINE,
    time::Time,
    tpm::{TpmChallenge, TpmEvidence, TpmProof},
    types::{Fingerprint, Sha256},
};

/// A box's claim to be a Machine. Written once by a boot server, answered by the controller.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "magnetite.dev",
    version = "v1alpha1",
    kind = "MachineClaim",
    plural = "machineclaims",
    shortname = "mgc",
    category = "magnetite",
    status = "MachineClaimStatus",
    derive = "PartialEq",
    doc = "A MachineClaim is a box's claim to be a Machine, passed on by a boot server and decided by the controller. People read it; they do not write it.",
    printcolumn(name = "Machine", type_ = "string", json_path = ".spec.machine"),
    printcolumn(name = "Intent", type_ = "string", json_path = ".spec.intent"),
    printcolumn(name = "Decision", type_ = "string", json_path = ".status.decision"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a claim is written once"))]
pub struct MachineClaimSpec {
    /// Name of the Machine that the box claims to be.
    #[schemars(length(min = 1, max = 63))]
    pub machine: String,
    /// UID of that Machine, so that a claim does not outlive it.
    #[schemars(length(min = 1, max = 64))]
    pub machine_uid: String,
    /// The intent in whose window the box claims.
    #[schemars(length(min = 1, max = 96))]
    pub intent: String,
    /// The claim key: SubjectPublicKeyInfo of an ECDSA P-256 key, DER in base64.
    #[schemars(length(min = 1, max = 1024))]
    pub claim_key: String,
    /// The kubelet's certificate request: PKCS#10 in PEM, for a key that never leaves the box.
    #[schemars(length(min = 1, max = 8192))]
    pub certificate_request: String,
    /// The claim key's signature (ECDSA P-256 with SHA-256, ASN.1, base64) over `join::signed_text`.
    #[schemars(length(min = 1, max = 256))]
    pub signature: String,
    /// What the box says it is. Not proven.
    #[serde(default)]
    pub facts: IdentityFacts,
    /// What the box shows of its TPM, if it was told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmEvidence>,
    /// Its answer to the challenge of an earlier claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<TpmProof>,
    /// IP address that the claim came from, as the boot server saw it.
    #[schemars(length(max = 45))]
    pub address: String,
    /// Name of the boot server that passed the claim on.
    #[schemars(length(max = 253))]
    pub server: String,
}

/// A claim's name: the same for a key that comes again in an intent, another in another intent. A box keeps its keys
/// over intents, and a claim that was refused in one must not answer for the next. The secret of a challenge stands for the whole
/// proof: the box alone knows it, and the TPM signs in another way each time that a restarted agent asks it to.
pub fn claim_name(
    machine: &str,
    key: &[u8],
    intent: &str,
    tpm: Option<&TpmEvidence>,
    proof: Option<&TpmProof>,
) -> String {
    let mut text = [key, b"\n", intent.as_bytes()].concat();
    let keys = tpm.map(|tpm| [tpm.endorsement_key.as_str(), tpm.attestation_key.as_str()]);
    let secret = proof.map(|proof| proof.secret.as_str());
    for part in keys.into_iter().flatten().chain(secret) {
        text.push(b'\n');
        text.extend(part.as_bytes());
    }
    format!("{machine}-{}", Sha256::of(&text).short())
}

impl MachineClaim {
    /// What a box asked for, as a boot server passes it on: with the address that it saw, and its own name.
    pub fn of_box(name: &str, request: ClaimRequest, machine_uid: String, address: String, server: String) -> Self {
        let ClaimRequest { machine, intent, claim_key, certificate_request, signature, facts, tpm, proof } = request;
        let labels = [(LABEL_MACHINE.to_owned(), machine.clone())].into();
        let spec = MachineClaimSpec {
            machine,
            machine_uid,
            intent,
            claim_key,
            certificate_request,
            signature,
            facts,
            tpm,
            proof,
            address,
            server,
        };
        let mut claim = Self::new(name, spec);
        claim.metadata.labels = Some(labels);
        claim
    }

    /// What was decided about it.
    pub fn decision(&self) -> Option<Decision> {
        self.status.as_ref()?.decision
    }

    /// The certificate that it was answered with, PEM.
    pub fn certificate(&self) -> Option<&str> {
        Some(&self.status.as_ref()?.join.as_ref()?.certificate)
    }
}

impl MachineClaimSpec {
    /// The claim key as the Machine's record names it. None: what stands there is no base64.
    pub fn key_digest(&self) -> Option<Sha256> {
        Some(Sha256::of(&STANDARD.decode(&self.claim_key).ok()?))
    }

    /// The claim key as a person compares it. None: what stands there is no base64.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.key_digest().map(Into::into)
    }
}

/// The controller's answer.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct MachineClaimStatus {
    /// What was decided. Absent: nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in a sentence, with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Time>,
    /// What the box needs to join. There once the decision is Approved. Nothing in it is secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<JoinBundle>,
    /// What the box's TPM has to answer. There once the decision is Challenged. Nothing in it is secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<TpmChallenge>,
}

/// What was decided about a claim.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The box has to prove its TPM: it comes again, with another claim. Nothing else becomes of this one.
    Challenged,
    /// The key is bound to the Machine; its certificate is on its way.
    Bound,
    /// The certificate is issued.
    Approved,
    /// Refused, for good.
    Denied,
}

impl Decision {
    /// True if nothing else becomes of the claim.
    pub fn is_final(self) -> bool {
        match self {
            Self::Challenged | Self::Approved | Self::Denied => true,
            Self::Bound => false,
        }
    }
}
