//! S21 of threats.md, with real TPMs in software: what a claim may prove, and that everything else is refused.

use std::os::unix::net::UnixStream;

use magnetite_api::{
    Fingerprint,
    machine::IntentState,
    time::seconds,
    tpm::{TpmSpec, TpmStatus},
};
use magnetite_swtpm::{Maker, Swtpm};
use magnetite_tpm::{client, sha256};
use rcgen::PublicKeyData;

use super::*;
use crate::{
    claim::decide::decide,
    fixtures::{Keys, identity, intent, machine, profile, t},
};

type BoxKeys = client::Keys<client::Stream<UnixStream>>;

/// A box: its keys, and its TPM with what the agent has in it.
pub(crate) struct Claimant {
    keys: Keys,
    tpm: BoxKeys,
    certificate: Option<String>,
}

impl Claimant {
    pub(crate) fn new(tpm: &Swtpm) -> Self {
        Self::with(Keys::new(), tpm)
    }

    fn with(keys: Keys, tpm: &Swtpm) -> Self {
        let seed = sha256(&keys.claim.subject_public_key_info());
        let mut tpm = client::Keys::create(tpm.connect(), &seed).unwrap();
        let certificate = tpm.endorsement_certificate().unwrap().map(|der| encode(&der));
        Self { keys, tpm, certificate }
    }

    fn evidence(&self) -> TpmEvidence {
        TpmEvidence {
            endorsement_key: encode(self.tpm.endorsement_key()),
            endorsement_certificate: self.certificate.clone(),
            attestation_key: encode(self.tpm.attestation_key()),
        }
    }

    pub(crate) fn fingerprint(&self) -> Sha256 {
        Sha256(self.tpm.fingerprint().unwrap())
    }

    /// The first claim.
    pub(crate) fn claim(&self) -> MachineClaim {
        let mut claim = self.keys.claim(&self.keys.kubelet_request);
        claim.spec.tpm = Some(self.evidence());
        claim
    }

    /// The first claim, challenged; the controller that did it may be gone since.
    pub(crate) fn challenged(&self, machine: &Machine) -> MachineClaim {
        let mut claim = self.claim();
        let seen = seen(claim.clone(), machine);
        let Verdict::Challenge { keys } = decide(&seen, t(60)) else { panic!("{}", says(&seen)) };
        let status = claim.status.get_or_insert_default();
        status.challenge = Some(challenge(&keys).unwrap());
        claim
    }

    /// The second claim: an answer to the challenge of the first.
    pub(crate) fn answer(&mut self, first: &MachineClaim) -> MachineClaim {
        let challenge = first.status.as_ref().unwrap().challenge.as_ref().unwrap();
        let (credential, encrypted) = (decode(&challenge.credential), decode(&challenge.encrypted_secret));
        let secret = self.tpm.activate(&credential.unwrap(), &encrypted.unwrap()).unwrap();
        let mut claim = self.claim();
        let key = self.keys.claim.subject_public_key_info();
        let claimed = Claimed {
            claim_key: &key,
            certificate_request: claim.spec.certificate_request.as_bytes(),
            machine: "box-1",
            intent: "created",
        };
        let signed = self.tpm.quote(&extra_data(&secret, &claimed)).unwrap();
        claim.spec.proof = Some(TpmProof {
            claim: first.name_any(),
            secret: encode(&secret),
            quote: encode(&signed.quote),
            signature: encode(&signed.signature),
            pcrs: signed.pcrs.map(Sha256).to_vec(),
        });
        claim
    }

    /// Both claims, as they are seen when the second is decided.
    fn proven(&mut self, machine: &Machine) -> Observed {
        let first = self.challenged(machine);
        let mut seen = seen(self.answer(&first), machine);
        seen.challenged = Some(first);
        seen
    }
}

fn seen(claim: MachineClaim, machine: &Machine) -> Observed {
    Observed {
        claim,
        machine: Some(machine.clone()),
        profile: Some(profile()),
        node: None,
        reserved: vec![],
        challenged: None,
        winner: None,
        authorities: None,
    }
}

fn says(seen: &Observed) -> String {
    match decide(seen, t(60)) {
        Verdict::Deny { denial, freeze, message } => {
            format!("{}{}: {message}", denial.as_str(), if freeze { " and freeze" } else { "" })
        }
        Verdict::Wait { reason, message } => format!("wait {reason}: {message}"),
        Verdict::Challenge { .. } => "challenge".to_owned(),
        Verdict::Bind { identity, .. } => format!("bind {}", identity.level.as_str()),
        Verdict::Issue { .. } => "issue".to_owned(),
    }
}

pub(crate) fn enrolled(key: Sha256) -> Machine {
    let mut machine = machine();
    machine.spec.tpm = Some(TpmSpec { endorsement_key: Some(key) });
    machine
}

fn pinned(key: Sha256) -> Machine {
    let mut machine = machine();
    machine.status.as_mut().unwrap().tpm = Some(TpmStatus { endorsement_key: key, pinned_at: seconds(t(0)) });
    machine
}

#[test]
fn a_declared_tpm_is_challenged_and_then_bound() {
    let tpm = Swtpm::new();
    let mut node = Claimant::new(&tpm);
    let machine = enrolled(node.fingerprint());
    let seen = node.proven(&machine);
    assert_eq!(says(&seen), "bind tpm-enrolled");
    let Verdict::Bind { tpm: Some(bound), .. } = decide(&seen, t(60)) else { panic!() };
    assert_eq!(bound, TpmStatus { endorsement_key: node.fingerprint(), pinned_at: seconds(t(60)) });
    // The boot server, the network and who reads the claims know what the proof says: it is of use to nobody else.
    let mut known = pinned(node.fingerprint());
    assert_eq!(says(&node.proven(&known)), "bind tpm-pinned");
    let Verdict::Bind { tpm: Some(bound), .. } = decide(&node.proven(&known), t(60)) else { panic!() };
    assert_eq!(bound.pinned_at, seconds(t(0)), "since when it is known stays");
    // A replaced board: the declared one stands over the pinned one, and is the known one from then on.
    known.status.as_mut().unwrap().tpm = Some(TpmStatus { endorsement_key: Sha256([7; 32]), pinned_at: seconds(t(0)) });
    known.spec.tpm = Some(TpmSpec { endorsement_key: Some(node.fingerprint()) });
    let Verdict::Bind { tpm: Some(bound), identity, .. } = decide(&node.proven(&known), t(60)) else { panic!() };
    assert_eq!((bound.endorsement_key, identity.level), (node.fingerprint(), IdentityLevel::TpmEnrolled));
}

#[test]
fn a_tpm_is_pinned_at_its_first_approved_use_and_asked_for_ever_after() {
    let (tpm, other) = (Swtpm::new(), Swtpm::new());
    let mut node = Claimant::new(&tpm);
    let mut machine = machine();
    let wants = |seen: &mut Observed, level| seen.profile.as_mut().unwrap().spec.min_identity = level;
    let mut first = seen(node.claim(), &machine);
    wants(&mut first, IdentityLevel::TpmPinned);
    let Verdict::Challenge { keys } = decide(&first, t(60)) else { panic!("{}", says(&first)) };
    first.claim.status.get_or_insert_default().challenge = Some(challenge(&keys).unwrap());
    let mut second = seen(node.answer(&first.claim), &machine);
    second.challenged = Some(first.claim.clone());
    wants(&mut second, IdentityLevel::TpmPinned);
    assert!(says(&second).starts_with("wait AwaitingApproval"), "{}", says(&second));
    machine.spec.approved_fingerprint = Some(Fingerprint::from(Sha256::of(&node.keys.claim.subject_public_key_info())));
    second.machine = Some(machine);
    assert_eq!(says(&second), "bind tpm-pinned");
    wants(&mut second, IdentityLevel::TpmEnrolled);
    let waits = says(&second);
    let declare = format!("spec.tpm.endorsementKey: {}", node.fingerprint());
    assert!(waits.starts_with("wait AwaitingApproval") && waits.contains(&declare), "{waits}");
    // From now on, at whatever level the Profile asks for: the approved key and the MAC alone are not enough.
    let machine = pinned(node.fingerprint());
    let mut plain = seen(node.keys.claim(&node.keys.kubelet_request), &machine);
    wants(&mut plain, IdentityLevel::Mac);
    plain.machine.as_mut().unwrap().spec.approved_fingerprint =
        Some(Fingerprint::from(Sha256::of(&node.keys.claim.subject_public_key_info())));
    assert!(says(&plain).starts_with("TpmMismatch"), "{}", says(&plain));
    // The disk with the keys went into another box.
    let moved = Claimant::with(node.keys, &other);
    assert!(
        says(&seen(moved.claim(), &machine)).starts_with("TpmMismatch"),
        "{}",
        says(&seen(moved.claim(), &machine))
    );
}

#[test]
fn what_does_not_prove_the_tpm_freezes_nothing() {
    let (tpm, other) = (Swtpm::new(), Swtpm::new());
    let mut honest = Claimant::new(&tpm);
    let rogue = Claimant::new(&other);
    let mut machine = enrolled(honest.fingerprint());
    let bound = honest.proven(&machine);
    machine.status.as_mut().unwrap().identity = Some(identity(&honest.keys, 10, None));
    machine.status.as_mut().unwrap().intent = Some(intent("created", IntentState::Open));
    let plain = rogue.keys.claim(&rogue.keys.kubelet_request);
    for claim in [rogue.claim(), plain] {
        let says = says(&seen(claim, &machine));
        assert!(says.starts_with("TpmMismatch:"), "{says}");
    }
    // With the EK of the honest box, which is no secret, it gets a challenge that it cannot read.
    let mut borrowed = rogue.claim();
    borrowed.spec.tpm.as_mut().unwrap().endorsement_key = encode(honest.tpm.endorsement_key());
    assert_eq!(says(&seen(borrowed, &machine)), "challenge");
    // The honest one is not held up by any of it.
    assert_eq!(says(&Observed { machine: Some(machine.clone()), ..bound }), "issue");
    // Another key on the right TPM is a conflict as ever.
    drop(honest);
    let mut again = Claimant::with(Keys::new(), &tpm);
    assert!(says(&again.proven(&machine)).starts_with("ClaimConflict and freeze"), "{}", says(&again.proven(&machine)));
}

#[test]
fn an_ek_of_a_with_an_ak_of_b_proves_nothing() {
    let (a, b) = (Swtpm::new(), Swtpm::new());
    let (mut honest, mut rogue) = (Claimant::new(&a), Claimant::new(&b));
    let machine = enrolled(honest.fingerprint());
    let mut mixed = rogue.claim();
    mixed.spec.tpm.as_mut().unwrap().endorsement_key = encode(honest.tpm.endorsement_key());
    let Verdict::Challenge { keys } = decide(&seen(mixed.clone(), &machine), t(60)) else { panic!() };
    let made = challenge(&keys).unwrap();
    let (credential, encrypted) = (decode(&made.credential).unwrap(), decode(&made.encrypted_secret).unwrap());
    assert!(honest.tpm.activate(&credential, &encrypted).is_err(), "A has no such AK");
    assert!(rogue.tpm.activate(&credential, &encrypted).is_err(), "B has no such EK");
    mixed.status.get_or_insert_default().challenge = Some(made);
    // A guessed secret, signed by B as it should be.
    let mut proof = honest.proven(&machine).claim.spec.proof.unwrap();
    proof.secret = encode(&[0; 32]);
    let mut guess = seen(
        MachineClaim { spec: MachineClaimSpec { proof: Some(proof), ..mixed.spec.clone() }, ..mixed.clone() },
        &machine,
    );
    guess.challenged = Some(mixed);
    assert!(says(&guess).starts_with("TpmNotProven: the secret is not"), "{}", says(&guess));
}

#[test]
fn a_replayed_activation_proves_nothing() {
    let (tpm, other) = (Swtpm::new(), Swtpm::new());
    let mut honest = Claimant::new(&tpm);
    let machine = enrolled(honest.fingerprint());
    let good = honest.proven(&machine);
    assert_eq!(says(&good), "bind tpm-enrolled");
    let replay = |change: &dyn Fn(&mut Observed)| {
        let mut seen = good.clone();
        change(&mut seen);
        says(&seen)
    };
    // Another box's keys, with all of the honest one's evidence and proof: the quote names the keys.
    let rogue = Claimant::new(&other).keys;
    let stolen = replay(&|seen| {
        let mut claim = rogue.claim(&rogue.kubelet_request);
        (claim.spec.tpm, claim.spec.proof) = (seen.claim.spec.tpm.clone(), seen.claim.spec.proof.clone());
        seen.claim = claim;
    });
    assert!(stolen.starts_with("TpmNotProven: the challenge of") && stolen.ends_with("was another box's"), "{stolen}");
    // Even where the first claim is the rogue's own, with the honest box's keys and a challenge whose answer he saw.
    let relayed = replay(&|seen| {
        let mut claim = rogue.claim(&rogue.kubelet_request);
        (claim.spec.tpm, claim.spec.proof) = (seen.claim.spec.tpm.clone(), seen.claim.spec.proof.clone());
        let mut first = claim.clone();
        first.metadata.name = seen.challenged.as_ref().unwrap().metadata.name.clone();
        first.status = seen.challenged.as_ref().unwrap().status.clone();
        (seen.claim, seen.challenged) = (claim, Some(first));
    });
    assert!(
        relayed.starts_with("TpmNotProven: the TPM's quote proves nothing: the quote was made for another"),
        "{relayed}"
    );
    // An old answer to a new challenge, the same claim otherwise.
    let mut newer = honest.challenged(&machine);
    let old = replay(&|seen| seen.challenged = Some(newer.clone()));
    assert!(old.starts_with("TpmNotProven: the secret is not"), "{old}");
    newer.status = None;
    assert!(replay(&|seen| seen.challenged = Some(newer.clone())).starts_with("TpmNotProven"), "no challenge was made");
    assert!(replay(&|seen| seen.challenged = None).starts_with("TpmNotProven"), "no such claim");
    // Another intent: the claim is signed for it, and the proof is not.
    let mut again = honest.keys.claim_in("r2", &honest.keys.kubelet_request);
    (again.spec.tpm, again.spec.proof) = (good.claim.spec.tpm.clone(), good.claim.spec.proof.clone());
    let later = replay(&|seen| {
        let machine = seen.machine.as_mut().unwrap();
        machine.spec.boot_intent = Some("r2".into());
        machine.status.as_mut().unwrap().intent = Some(intent("r2", IntentState::Open));
        seen.claim = again.clone();
    });
    assert!(later.starts_with("TpmNotProven"), "{later}");
}

#[test]
fn pcr_values_that_the_quote_does_not_name_prove_nothing() {
    let tpm = Swtpm::new();
    let mut node = Claimant::new(&tpm);
    let machine = enrolled(node.fingerprint());
    let mut seen = node.proven(&machine);
    seen.claim.spec.proof.as_mut().unwrap().pcrs[7] = Sha256([7; 32]);
    let says = says(&seen);
    assert!(
        says.starts_with("TpmNotProven") && says.ends_with("the PCR values are not those that were quoted"),
        "{says}"
    );
}

#[test]
fn every_broken_part_of_a_proof_is_refused() {
    let tpm = Swtpm::new();
    let mut node = Claimant::new(&tpm);
    let machine = enrolled(node.fingerprint());
    let good = node.proven(&machine);
    type Change = fn(&mut TpmEvidence, &mut TpmProof);
    let changes: [(&str, Change); 13] = [
        ("secret is not base64", |_, proof| proof.secret = "%".into()),
        ("secret is empty", |_, proof| proof.secret = String::new()),
        ("quote is not base64", |_, proof| proof.quote = "%".into()),
        ("quote is empty", |_, proof| proof.quote = String::new()),
        ("quote is something else", |_, proof| proof.quote = encode(b"hello")),
        ("signature is not base64", |_, proof| proof.signature = "%".into()),
        ("signature is empty", |_, proof| proof.signature = String::new()),
        ("seven values", |_, proof| proof.pcrs.truncate(7)),
        ("no values", |_, proof| proof.pcrs.clear()),
        ("EK is not base64", |evidence, _| evidence.endorsement_key = "%".into()),
        ("EK is the AK", |evidence, _| evidence.endorsement_key = evidence.attestation_key.clone()),
        ("AK is the EK", |evidence, _| evidence.attestation_key = evidence.endorsement_key.clone()),
        ("AK is empty", |evidence, _| evidence.attestation_key = String::new()),
    ];
    for (what, change) in changes {
        let mut seen = good.clone();
        let MachineClaimSpec { tpm: Some(evidence), proof: Some(proof), .. } = &mut seen.claim.spec else { panic!() };
        change(evidence, proof);
        assert!(says(&seen).starts_with("TpmNotProven"), "{what}: {}", says(&seen));
    }
}

#[test]
fn a_verifier_that_is_killed_goes_on_with_what_is_written() {
    let tpm = Swtpm::new();
    let mut node = Claimant::new(&tpm);
    let machine = enrolled(node.fingerprint());
    // Killed between challenge and answer: nothing but the claim's own status is needed, through JSON and back.
    let first = node.challenged(&machine);
    let first: MachineClaim = serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
    let mut seen = seen(node.answer(&first), &machine);
    seen.challenged = Some(first);
    assert_eq!(says(&seen), "bind tpm-enrolled");
    // Killed between the challenge and its being written: the next makes another, and the first was never told.
    let (one, two) = (node.challenged(&machine), node.challenged(&machine));
    assert_ne!(one.status, two.status);
    seen.claim = node.answer(&two);
    seen.challenged = Some(two);
    assert_eq!(says(&seen), "bind tpm-enrolled");
    // Killed after the bind: the same proof is answered in the same way.
    seen.machine.as_mut().unwrap().status.as_mut().unwrap().identity = Some(identity(&node.keys, 60, None));
    assert_eq!(says(&seen), "issue");
    // And the first claim, which comes again from an agent that was killed, gets no certificate by itself.
    seen.claim = node.claim();
    assert_eq!(says(&seen), "challenge");
}

#[test]
fn an_emulated_tpm_where_a_maker_is_asked_for_is_refused() {
    let (maker, other) = (Maker::new(), Maker::new());
    let (good, foreign, emulated) = (maker.tpm(), other.tpm(), Swtpm::new());
    let authorities = Authorities::from_pem(maker.authorities().as_bytes()).unwrap();
    let asks = |tpm: &Swtpm| {
        let node = Claimant::new(tpm);
        let mut seen = seen(node.claim(), &enrolled(node.fingerprint()));
        seen.authorities = Some(authorities.clone());
        says(&seen)
    };
    assert_eq!(asks(&good), "challenge");
    assert!(asks(&foreign).starts_with("TpmMismatch: no authority"), "{}", asks(&foreign));
    assert!(asks(&emulated).starts_with("TpmMismatch: the TPM has no certificate"), "{}", asks(&emulated));
    // Also with a certificate that is another TPM's.
    let (mut liar, real) = (Claimant::new(&emulated), Claimant::new(&good));
    liar.certificate = real.certificate;
    let mut seen = seen(liar.claim(), &enrolled(liar.fingerprint()));
    seen.authorities = Some(authorities);
    assert!(says(&seen).starts_with("TpmMismatch: the certificate of the TPM is of another"), "{}", says(&seen));
}

#[test]
fn the_name_of_a_challenge_is_a_claim_of_the_same_machine() {
    let named = |name: &str| {
        let mut claim = Keys::new().claim("x");
        claim.spec.proof = Some(TpmProof {
            claim: name.to_owned(),
            secret: String::new(),
            quote: String::new(),
            signature: String::new(),
            pcrs: vec![],
        });
        challenged(&claim).map(str::to_owned)
    };
    assert_eq!(named("box-1-0123456789").as_deref(), Some("box-1-0123456789"));
    for bad in
        ["box-2-0123456789", "box-1-../../../secrets", "box-1-0123456789/status", "box-1-", "", "box-1-0123456789?x=y"]
    {
        assert_eq!(named(bad), None, "{bad}");
    }
}
