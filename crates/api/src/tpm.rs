//! What a TPM has to do with a Machine and a claim. The bytes are those of `magnetite-tpm`, in base64.

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Machine, Profile, machine::IdentityLevel, time::Time, types::Sha256};

/// The TPM that a box must have.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TpmSpec {
    /// The endorsement key (RSA 2048) of the box's TPM: SHA-256 of its SubjectPublicKeyInfo in DER. On the box, with tpm2-tools:
    /// `tpm2_createek -c ek.ctx -G rsa -u ek.pem -f pem && openssl pkey -pubin -in ek.pem -outform DER | sha256sum`.
    /// With it a box reaches the identity level `tpm-enrolled`, and a claim that does not prove this TPM is refused. It stands over
    /// the one in `status.tpm`: declare the new one here when a board was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement_key: Option<Sha256>,
}

/// The TPM that a box was seen to have.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TpmStatus {
    /// Its endorsement key: SHA-256 of the SubjectPublicKeyInfo in DER. Every later claim must prove the same.
    pub endorsement_key: Sha256,
    /// When it was bound for the first time.
    pub pinned_at: Time,
}

/// What a box shows of its TPM with a claim. Not proven by itself.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TpmEvidence {
    /// The endorsement key: TPM2B_PUBLIC in base64.
    #[schemars(length(min = 1, max = 1024))]
    pub endorsement_key: String,
    /// Its certificate by the TPM's maker: DER in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub endorsement_certificate: Option<String>,
    /// The attestation key that the TPM made for this claim key: TPM2B_PUBLIC in base64.
    #[schemars(length(min = 1, max = 1024))]
    pub attestation_key: String,
}

/// What only the TPM with both keys of the evidence can answer.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TpmChallenge {
    /// The encrypted secret: TPMS_ID_OBJECT in base64.
    pub credential: String,
    /// What the endorsement key decrypts, in base64.
    pub encrypted_secret: String,
    /// SHA-256 of the secret. The controller keeps nothing else of it.
    pub secret_digest: Sha256,
}

/// The answer to a challenge: a second claim has it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TpmProof {
    /// Name of the MachineClaim with the challenge.
    #[schemars(length(min = 1, max = 253))]
    pub claim: String,
    /// The secret, in base64. It is of use to this claim alone: what the TPM signed names it and the claim's keys.
    #[schemars(length(min = 1, max = 64))]
    pub secret: String,
    /// What the attestation key signed: TPMS_ATTEST in base64.
    #[schemars(length(min = 1, max = 2048))]
    pub quote: String,
    /// TPMT_SIGNATURE in base64.
    #[schemars(length(min = 1, max = 512))]
    pub signature: String,
    /// The SHA-256 PCRs 0 to 7 that were quoted. For people and audits: no rule asks for values.
    #[schemars(length(min = 8, max = 8))]
    pub pcrs: Vec<Sha256>,
}

/// 202 answer to a claim.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimChallenge {
    /// Name of the MachineClaim, which the proof has to name.
    pub claim: String,
    /// The challenge.
    pub challenge: TpmChallenge,
}

/// Bytes as they stand in these types.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of such a text; none if it is no base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// The endorsement key that a Machine's claims have to prove; the declared one stands over the pinned one.
pub fn expected(machine: &Machine) -> Option<(Sha256, IdentityLevel)> {
    let declared = machine.spec.tpm.as_ref().and_then(|tpm| tpm.endorsement_key);
    let pinned = machine.status.as_ref().and_then(|status| status.tpm.as_ref()).map(|tpm| tpm.endorsement_key);
    let declared = declared.map(|key| (key, IdentityLevel::TpmEnrolled));
    declared.or(pinned.map(|key| (key, IdentityLevel::TpmPinned)))
}

/// True if claims of this Machine have to prove a TPM. The boot server tells the agent so, and the controller holds it to it.
pub fn asked(machine: &Machine, profile: Option<&Profile>) -> bool {
    expected(machine).is_some()
        || machine.spec.min_identity >= IdentityLevel::TpmPinned
        || profile.is_some_and(|profile| profile.spec.min_identity >= IdentityLevel::TpmPinned)
}
