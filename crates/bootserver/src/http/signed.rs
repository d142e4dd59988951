//! Whether a report comes from the box that it is about: signed by the key that claimed its identity, once one did.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::ResourceExt;
use magnetite_api::{
    Machine, Sha256,
    join::{ReportRequest, ReportSignature},
    machine::IdentityStatus,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::told::Told;

/// What comes before the point in the SubjectPublicKeyInfo of a P-256 key in DER (RFC 5480): algorithm, curve, and that the rest is a
/// string of 65 bytes, of which the first says that the point is not compressed.
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// Why a report is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It bears no signature, and the machine has a key.
    #[error("a key has claimed this machine, and the report is not signed by it")]
    Unsigned,
    /// It is signed by another key.
    #[error("another key has claimed this machine than the one that signed the report")]
    AnotherKey,
    /// The signature is not one.
    #[error("the report's signature is not by the key beside it, for this machine and intent")]
    Forged,
    /// A later one came before.
    #[error("the report is older than one that came before it")]
    Old,
}

impl Doubt {
    /// As a metric label, and in the refusal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::AnotherKey => "another_key",
            Self::Forged => "forged",
            Self::Old => "old",
        }
    }
}

/// The key that has claimed a machine in its intent.
fn bound(machine: &Machine) -> Option<&IdentityStatus> {
    let identity = machine.status.as_ref()?.identity.as_ref()?;
    (identity.intent == machine.wanted_intent()).then_some(identity)
}

/// Whether a report is to be believed. Before a key has claimed the machine, one without a signature is: nobody can tell who has sent it,
/// and nothing is decided by it but what a person reads. One with a signature must be right in any case.
///
/// # Errors
/// Why not.
pub fn check(report: &ReportRequest, machine: &Machine) -> Result<(), Doubt> {
    let identity = bound(machine);
    let Some(ReportSignature { claim_key, number, value }) = &report.signature else {
        return if identity.is_some() { Err(Doubt::Unsigned) } else { Ok(()) };
    };
    let key = STANDARD.decode(claim_key).map_err(|_| Doubt::Forged)?;
    let sum = Sha256::of(&key);
    if identity.is_some_and(|identity| identity.claim_key != sum.to_string()) {
        return Err(Doubt::AnotherKey);
    }
    let point = key.strip_prefix(&P256[..26]).filter(|_| key.starts_with(&P256)).ok_or(Doubt::Forged)?;
    let value = STANDARD.decode(value).map_err(|_| Doubt::Forged)?;
    let text = report.signed_text(&machine.name_any(), machine.wanted_intent(), *number);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&text, &value).map_err(|_| Doubt::Forged)
}

/// What is remembered of signed reports: no more than one line for each Machine that a key has claimed.
#[derive(Debug, Default)]
pub struct Signatures {
    /// By Machine: the key, and the number of its last report.
    last: Mutex<HashMap<String, (String, u64)>>,
    /// Machines of which a report was lately not believed.
    pub told: Told<String>,
}

impl Signatures {
    /// Whether a report is to be believed, and comes after those that came before. The same once more is the same: an agent that did
    /// not hear our answer asks again.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, report: &ReportRequest, machine: &Machine) -> Result<(), Doubt> {
        check(report, machine)?;
        let (Some(identity), Some(signature)) = (bound(machine), &report.signature) else { return Ok(()) };
        let mut all = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, last) = all.entry(machine.name_any()).or_default();
        if *key != identity.claim_key {
            (*key, *last) = (identity.claim_key.clone(), 0);
        }
        if signature.number < *last {
            return Err(Doubt::Old);
        }
        *last = signature.number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use magnetite_api::report::BootStepName;
    use rcgen::{KeyPair, PublicKeyData, SigningKey};

    use super::*;
    use crate::fixtures::machine;

    fn report(detail: &str) -> ReportRequest {
        let detail = Some(detail.to_owned());
        ReportRequest {
            step: BootStepName::KubeletStarted,
            detail,
            failure: None,
            inventory: None,
            wiped: Vec::new(),
            signature: None,
        }
    }

    fn signed(report: &ReportRequest, key: &KeyPair, machine: &str, intent: &str, number: u64) -> ReportRequest {
        let value = STANDARD.encode(key.sign(&report.signed_text(machine, intent, number)).unwrap());
        let claim_key = STANDARD.encode(key.subject_public_key_info());
        ReportRequest { signature: Some(ReportSignature { claim_key, number, value }), ..report.clone() }
    }

    /// A machine that a key has claimed in an intent.
    fn claimed(key: &KeyPair, intent: &str) -> Machine {
        let mut machine = machine("box");
        let status = serde_json::json!({ "identity": {
            "level": "mac", "intent": intent, "claimKey": Sha256::of(&key.subject_public_key_info()), "kubeletKey": "",
            "claim": "box-0", "boundAt": "2026-11-21T10:00:00Z",
        }});
        machine.status = Some(serde_json::from_value(status).unwrap());
        machine
    }

    #[test]
    fn once_a_key_has_claimed_a_machine_its_reports_are_that_key_s() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (report, mine) = (report("a"), claimed(&key, "created"));
        let good = signed(&report, &key, "box", "created", 7);
        assert_eq!(check(&good, &mine), Ok(()));
        assert_eq!(check(&report, &mine), Err(Doubt::Unsigned));
        assert_eq!(check(&signed(&report, &other, "box", "created", 7), &mine), Err(Doubt::AnotherKey));
        // Another machine's, another intent's, and one that was changed on its way.
        for forged in [
            signed(&report, &key, "box-2", "created", 7),
            signed(&report, &key, "box", "again", 7),
            ReportRequest { detail: Some("b".to_owned()), ..good.clone() },
            ReportRequest { step: BootStepName::NodeReady, ..good.clone() },
        ] {
            assert_eq!(check(&forged, &mine), Err(Doubt::Forged), "{forged:?}");
        }
        let mut renumbered = good;
        renumbered.signature.as_mut().unwrap().number = 8;
        assert_eq!(check(&renumbered, &mine), Err(Doubt::Forged));
    }

    #[test]
    fn before_that_anybody_s_are_but_no_forged_one() {
        let (key, report) = (KeyPair::generate().unwrap(), report("a"));
        // Of an intent that is over, the identity is too.
        for machine in [machine("box"), claimed(&key, "another")] {
            assert_eq!(check(&report, &machine), Ok(()));
            assert_eq!(check(&signed(&report, &key, "box", "created", 1), &machine), Ok(()));
            assert_eq!(check(&signed(&report, &key, "box", "another", 1), &machine), Err(Doubt::Forged));
        }
        let mut odd = signed(&report, &key, "box", "created", 1);
        for claim_key in ["", "AA==", "no base64", &STANDARD.encode(P256)] {
            odd.signature.as_mut().unwrap().claim_key = claim_key.to_owned();
            assert_eq!(check(&odd, &machine("box")), Err(Doubt::Forged), "{claim_key}");
        }
    }

    #[test]
    fn an_older_report_is_not_taken_twice() {
        let (key, report) = (KeyPair::generate().unwrap(), report("a"));
        let (machine, seen) = (claimed(&key, "created"), Signatures::default());
        let numbered = |number| signed(&report, &key, "box", "created", number);
        for (number, want) in [(1, Ok(())), (2, Ok(())), (2, Ok(())), (1, Err(Doubt::Old)), (1 << 20, Ok(()))] {
            assert_eq!(seen.check(&numbered(number), &machine), want, "{number}");
        }
        let other = KeyPair::generate().unwrap();
        let claimed_anew = claimed(&other, "created");
        assert_eq!(
            seen.check(&signed(&report, &other, "box", "created", 1), &claimed_anew),
            Ok(()),
            "another key's first"
        );
    }
}
