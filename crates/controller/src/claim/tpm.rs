//! What a claim's TPM proves (threats.md, S21). No state: the challenge is in the status of the claim that asked for it, which
//! the controller alone writes, and its answer is another claim. Whatever goes wrong proves nothing.

use kube::ResourceExt;
use magnetite_api::{
    Machine, MachineClaim, MachineClaimSpec, Sha256,
    machine::IdentityLevel,
    tpm::{self, TpmChallenge, TpmEvidence, TpmProof, decode, encode},
};
use magnetite_request::quoted;
use magnetite_tpm::{
    binding::{Claimed, extra_data},
    public::{AttestationKey, EndorsementKey},
    verifier::{Authorities, Challenge, MakeError, check_quote},
};

use super::decide::{Denial, Observed, Verdict};

/// Both keys of a claim's evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmKeys {
    endorsement: EndorsementKey,
    attestation: AttestationKey,
}

/// A TPM that was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Its endorsement key.
    pub endorsement_key: Sha256,
    /// What it is worth; none where no TPM is known of this Machine yet, so that a person has to say that it is the right one.
    pub level: Option<IdentityLevel>,
}

fn refuse(denial: Denial, message: impl Into<String>) -> Verdict {
    Verdict::Deny { denial, message: message.into(), freeze: false }
}

fn mismatch(message: impl Into<String>) -> Verdict {
    refuse(Denial::TpmMismatch, message)
}

fn unproven(message: impl Into<String>) -> Verdict {
    refuse(Denial::TpmNotProven, message)
}

/// The TPM that this claim proves; none where none is asked for. What is shown without being asked for is not looked at.
pub fn proven(seen: &Observed, machine: &Machine) -> Result<Option<Proven>, Verdict> {
    if !tpm::asked(machine, seen.profile.as_ref()) {
        return Ok(None);
    }
    let spec = &seen.claim.spec;
    let Some(evidence) = &spec.tpm else {
        let message = format!(
            "the Machine {} has to prove its TPM, and the box came without one; switch its TPM 2.0 on, and power-cycle it",
            machine.name_any()
        );
        return Err(mismatch(message));
    };
    let keys = keys(evidence).map_err(unproven)?;
    let shown = Sha256(keys.endorsement.fingerprint());
    let expected = tpm::expected(machine);
    if let Some((wanted, level)) = expected.filter(|(wanted, _)| *wanted != shown) {
        let whose = if level == IdentityLevel::TpmEnrolled { "declared" } else { "proven before" };
        let message = format!(
            "the box has the TPM {shown}, and that of the Machine {} is {wanted}, as {whose}; if its board was replaced, declare \
             the new one as spec.tpm.endorsementKey",
            machine.name_any(),
        );
        return Err(mismatch(message));
    }
    if let Some(authorities) = &seen.authorities {
        made_by(authorities, &keys, evidence)?;
    }
    let Some(proof) = &spec.proof else {
        return Err(Verdict::Challenge { keys: Box::new(keys) });
    };
    check(spec, evidence, &keys, proof, seen.challenged.as_ref()).map_err(unproven)?;
    Ok(Some(Proven { endorsement_key: shown, level: expected.map(|(_, level)| level) }))
}

fn keys(evidence: &TpmEvidence) -> Result<TpmKeys, String> {
    let bytes = |name: &str, text: &str| decode(text).ok_or_else(|| format!("the {name} key of the TPM is not base64"));
    let endorsement = EndorsementKey::decode(&bytes("endorsement", &evidence.endorsement_key)?);
    let attestation = AttestationKey::decode(&bytes("attestation", &evidence.attestation_key)?);
    Ok(TpmKeys {
        endorsement: endorsement.map_err(|error| format!("the endorsement key of the TPM is not RSA 2048: {error}"))?,
        attestation: attestation
            .map_err(|error| format!("the attestation key of the TPM is not restricted to it: {error}"))?,
    })
}

fn made_by(authorities: &Authorities, keys: &TpmKeys, evidence: &TpmEvidence) -> Result<(), Verdict> {
    let certificate = match &evidence.endorsement_certificate {
        Some(text) => Some(decode(text).ok_or_else(|| mismatch("the certificate of the TPM is not base64"))?),
        None => None,
    };
    authorities
        .check(&keys.endorsement, certificate.as_deref())
        .map_err(|error| mismatch(format!("{error}; --tpm-authorities of the controller says whose TPMs are believed")))
}

/// The name of the claim with the challenge, if it can be one of this Machine's.
pub fn challenged(claim: &MachineClaim) -> Option<&str> {
    let MachineClaimSpec { machine, proof, .. } = &claim.spec;
    let name = proof.as_ref()?.claim.as_str();
    let digest = name.strip_prefix(machine.as_str())?.strip_prefix('-')?;
    // It becomes part of a path.
    (digest.len() == 10 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
}

/// Everything in one: the secret that was encrypted for these two keys, and the quote of the one of them over that secret and over
/// this claim.
fn check(
    spec: &MachineClaimSpec,
    evidence: &TpmEvidence,
    keys: &TpmKeys,
    proof: &TpmProof,
    challenged: Option<&MachineClaim>,
) -> Result<(), String> {
    let again = "power-cycle the box";
    let Some(first) = challenged else {
        return Err(format!("there is no MachineClaim {} with a challenge; {again}", quoted(&proof.claim)));
    };
    let other = &first.spec;
    let same = other.machine == spec.machine
        && other.machine_uid == spec.machine_uid
        && other.intent == spec.intent
        && other.claim_key == spec.claim_key
        && other.tpm.as_ref().is_some_and(|tpm| {
            tpm.endorsement_key == evidence.endorsement_key && tpm.attestation_key == evidence.attestation_key
        });
    if !same {
        return Err(format!("the challenge of {} was another box's", first.name_any()));
    }
    let Some(challenge) = first.status.as_ref().and_then(|status| status.challenge.as_ref()) else {
        return Err(format!("the claim {} was given no challenge; {again}", first.name_any()));
    };
    let bytes = |name: &str, text: &str| decode(text).ok_or_else(|| format!("the {name} of the proof is not base64"));
    let secret = bytes("secret", &proof.secret)?;
    if Sha256::of(&secret) != challenge.secret_digest {
        return Err(format!("the secret is not that of the challenge of {}", first.name_any()));
    }
    let (quote, signature) = (bytes("quote", &proof.quote)?, bytes("signature", &proof.signature)?);
    let claimed = Claimed {
        claim_key: &bytes("claim key", &spec.claim_key)?,
        certificate_request: spec.certificate_request.as_bytes(),
        machine: &spec.machine,
        intent: &spec.intent,
    };
    let pcrs: Vec<[u8; 32]> = proof.pcrs.iter().map(|value| value.0).collect();
    let pcrs = pcrs.try_into().map_err(|_| "the proof has not eight PCR values".to_owned())?;
    check_quote(&keys.attestation, &quote, &signature, &extra_data(&secret, &claimed), &pcrs)
        .map_err(|error| format!("the TPM's quote proves nothing: {error}"))
}

/// A challenge for these keys.
///
/// # Errors
/// The endorsement key's number is no modulus, or there is no randomness.
pub fn challenge(keys: &TpmKeys) -> Result<TpmChallenge, MakeError> {
    let Challenge { credential, encrypted_secret, digest } = Challenge::new(&keys.endorsement, &keys.attestation)?;
    Ok(TpmChallenge {
        credential: encode(&credential),
        encrypted_secret: encode(&encrypted_secret),
        secret_digest: Sha256(digest),
    })
}

#[cfg(test)]
pub(crate) mod tests;
