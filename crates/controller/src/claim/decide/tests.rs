//! Rule S4 of threats.md: every way in which a claim may be wrong, and that each is refused for its reason.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rcgen::{KeyPair, PublicKeyData, SigningKey};

use super::*;
use crate::fixtures::{Csr, Keys, der, identity, intent, machine, node, pem, profile, t};

fn seen(claim: MachineClaim) -> Observed {
    Observed {
        claim,
        machine: Some(machine()),
        profile: Some(profile()),
        node: None,
        reserved: vec!["master-0".to_owned()],
        challenged: None,
        winner: None,
        authorities: None,
    }
}

fn good(keys: &Keys) -> Observed {
    seen(keys.claim(&keys.honest().pem()))
}

fn with_request(keys: &Keys, request: &Csr) -> Observed {
    seen(keys.claim(&request.pem()))
}

/// The reason of a refusal; what else was decided as a text.
fn says(seen: &Observed) -> String {
    says_at(seen, 60)
}

fn says_at(seen: &Observed, second: i64) -> String {
    match decide(seen, t(second)) {
        Verdict::Deny { denial, freeze, message } => {
            assert!(!message.chars().any(char::is_control), "{message:?}");
            format!("{}{}", denial.as_str(), if freeze { " and freeze" } else { "" })
        }
        Verdict::Wait { reason, .. } => format!("wait {reason}"),
        Verdict::Challenge { .. } => "challenge".to_owned(),
        Verdict::Bind { .. } => "bind".to_owned(),
        Verdict::Issue { source: Source::Issued(_), .. } => "hand over".to_owned(),
        Verdict::Issue { source: Source::Request { may_create, .. }, .. } => {
            format!("issue{}", if may_create { "" } else { " no more" })
        }
    }
}

fn machine_of(seen: &mut Observed) -> &mut Machine {
    seen.machine.as_mut().unwrap()
}

fn status_of(seen: &mut Observed) -> &mut magnetite_api::MachineStatus {
    machine_of(seen).status.as_mut().unwrap()
}

#[test]
fn an_honest_claim_is_bound() {
    let keys = Keys::new();
    let seen = good(&keys);
    let Verdict::Bind { identity: bound, tpm: None, addresses } = decide(&seen, t(60)) else {
        panic!("{}", says(&seen))
    };
    let expected = identity(&keys, 60, None);
    assert_eq!(*bound, expected);
    assert_eq!(addresses, ["172.30.0.16"]);
}

#[test]
fn every_kind_of_key_that_is_allowed() {
    let keys = Keys::new();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(says(&with_request(&keys, &Csr::new(&p384))), "bind");
    assert_eq!(says(&seen(keys.claim(include_str!("../../fixtures/rsa2048.csr.pem")))), "bind");
    // What rcgen itself makes, as the agent does.
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:box-1");
    let text = params.serialize_request(&keys.kubelet).unwrap().pem().unwrap();
    assert_eq!(says(&seen(keys.claim(&text))), "bind");
}

#[test]
fn what_is_passed_on_is_the_same_request() {
    let keys = Keys::new();
    let text = keys.honest().pem();
    assert_eq!(Request::from_pem(&text).unwrap().to_pem(), text);
}

#[test]
fn a_machine_that_is_gone() {
    let keys = Keys::new();
    let mut mutants = vec![];
    let mut gone = good(&keys);
    gone.machine = None;
    mutants.push(("absent", gone));
    let mut other = good(&keys);
    machine_of(&mut other).metadata.uid = Some("uid-2".into());
    mutants.push(("created again", other));
    let mut deleted = good(&keys);
    machine_of(&mut deleted).metadata.deletion_timestamp = Some(Time(t(0)));
    mutants.push(("being deleted", deleted));
    let mut renamed = good(&keys);
    machine_of(&mut renamed).metadata.name = Some("box-2".into());
    mutants.push(("another name", renamed));
    for (what, mutant) in mutants {
        assert_eq!(says(&mutant), "MachineGone", "{what}");
    }
}

/// Changes a claim's text without signing it anew.
fn forged(keys: &Keys, change: impl Fn(&mut MachineClaimSpec)) -> Observed {
    let mut seen = good(keys);
    change(&mut seen.claim.spec);
    seen
}

#[test]
fn a_claim_whose_signature_proves_nothing() {
    let keys = Keys::new();
    let stranger = Keys::new();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let spki = |key: &KeyPair| STANDARD.encode(key.subject_public_key_info());
    let signed = |text: &[u8]| STANDARD.encode(keys.claim.sign(text).unwrap());
    let request = keys.honest().pem();
    let text = |machine: &str, intent: &str, request: &str| magnetite_api::join::signed_text(machine, intent, request);
    let mut trailing = keys.claim.subject_public_key_info();
    trailing.push(0);
    let mut bent = STANDARD.decode(good(&keys).claim.spec.signature).unwrap();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    let mutants = [
        ("key is not base64", forged(&keys, |c| c.claim_key = "%".into())),
        ("key is not DER", forged(&keys, |c| c.claim_key = STANDARD.encode("hello"))),
        ("key is empty", forged(&keys, |c| c.claim_key = String::new())),
        ("key is P-384", forged(&keys, |c| c.claim_key = spki(&p384))),
        ("key is Ed25519", forged(&keys, |c| c.claim_key = spki(&ed25519))),
        ("a byte follows the key", forged(&keys, |c| c.claim_key = STANDARD.encode(&trailing))),
        ("another's key", forged(&keys, |c| c.claim_key = spki(&stranger.claim))),
        ("signature is not base64", forged(&keys, |c| c.signature = "!".into())),
        ("signature is empty", forged(&keys, |c| c.signature = String::new())),
        ("signature with a bit bent", forged(&keys, |c| c.signature = STANDARD.encode(&bent))),
        ("for another machine", forged(&keys, |c| c.signature = signed(&text("box-2", "created", &request)))),
        ("for another intent", forged(&keys, |c| c.signature = signed(&text("box-1", "r2", &request)))),
        ("for another request", forged(&keys, |c| c.signature = signed(&text("box-1", "created", "x")))),
        ("another request", forged(&keys, |c| c.certificate_request = stranger.honest().pem())),
        ("the kubelet key signed", {
            let by_kubelet = keys.kubelet.sign(&text("box-1", "created", &request)).unwrap();
            forged(&keys, |c| c.signature = STANDARD.encode(&by_kubelet))
        }),
    ];
    for (what, mutant) in mutants {
        assert_eq!(says(&mutant), "BadSignature", "{what}");
    }
}

#[test]
fn a_request_that_is_none() {
    let keys = Keys::new();
    let honest = keys.honest().der();
    let text = keys.honest().pem();
    let mut bent = honest.clone();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    let mut long = keys.honest();
    long.attributes.push(der(0x30, &[der(6, &[0x2a, 3]), der(0x31, &der(4, &[0; 9000]))].concat()));
    let request = |der: &[u8]| pem("CERTIFICATE REQUEST", der);
    let mutants = [
        ("empty", String::new()),
        ("no PEM", "hello".to_owned()),
        ("an old label", pem("NEW CERTIFICATE REQUEST", &honest)),
        ("a certificate's label", pem("CERTIFICATE", &honest)),
        ("text before", format!("hello\n{text}")),
        ("text after", format!("{text}\nhello")),
        ("two of them", format!("{text}{text}")),
        ("a header", text.replacen("-----\n", "-----\nProc-Type: 4\n\n", 1)),
        ("no base64", text.replace('A', "*")),
        ("cut", request(&honest[..honest.len() - 9])),
        ("bytes after", request(&[honest.clone(), vec![0]].concat())),
        ("its signature bent", request(&bent)),
        ("too long", long.pem()),
        ("an Ed25519 key", Csr::new(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()).pem()),
        ("a short RSA key", include_str!("../../fixtures/rsa1024.csr.pem").to_owned()),
    ];
    for (what, text) in mutants {
        assert_eq!(says(&seen(keys.claim(&text))), "BadSignature", "{what}");
    }
}

#[test]
fn a_second_key_is_refused_and_freezes_the_join() {
    let (keys, other) = (Keys::new(), Keys::new());
    for state in [IntentState::Open, IntentState::Expired, IntentState::Fulfilled, IntentState::Frozen] {
        for issued in [None, Some(20)] {
            let mut second = good(&other);
            status_of(&mut second).identity = Some(identity(&keys, 10, issued));
            status_of(&mut second).intent = Some(intent("created", state));
            // What is a Node is not touched: a Pod with a link must not be able to stop the machine that it runs on.
            let joined = state == IntentState::Fulfilled;
            let expected = if joined { "ClaimConflict" } else { "ClaimConflict and freeze" };
            assert_eq!(says(&second), expected, "{state:?} {issued:?}");
        }
    }
    // The same claim key with another kubelet key is another identity too.
    let mut half = seen(keys.claim(&other.honest().pem()));
    status_of(&mut half).identity = Some(identity(&keys, 10, None));
    assert_eq!(says(&half), "ClaimConflict and freeze");
    // A claim of an intent that is over must not freeze the present one.
    let mut late = good(&other);
    machine_of(&mut late).spec.boot_intent = Some("r2".into());
    status_of(&mut late).identity = Some(identity(&keys, 10, Some(20)));
    status_of(&mut late).intent = Some(intent("r2", IntentState::Open));
    assert_eq!(says(&late), "ClaimConflict");
}

/// A box that lost all but its keys: its certificate again while that is good, and one more when it has ended.
#[test]
fn the_same_keys_get_another_certificate_once_theirs_has_ended() {
    let keys = Keys::new();
    let mut back = good(&keys);
    status_of(&mut back).identity = Some(identity(&keys, 10, Some(20)));
    status_of(&mut back).intent = Some(intent("created", IntentState::Fulfilled));
    back.node = Some(node("box-1", Some("uid-1")));
    let with = |end: i64| {
        let join = magnetite_api::join::JoinBundle { certificate: keys.certificate(end), ..Default::default() };
        let mut winner = keys.claim(&keys.kubelet_request);
        winner.status = Some(magnetite_api::MachineClaimStatus { join: Some(join), ..Default::default() });
        Observed { winner: Some(winner), ..back.clone() }
    };
    assert_eq!(says_at(&with(86_400), 86_279), "hand over");
    assert_eq!(says_at(&with(86_400), 86_280), "issue", "an agent takes none that ends in two minutes");
    let request = |seen: &Observed| match decide(seen, t(1_000_000)) {
        Verdict::Issue { source: Source::Request { name, .. }, .. } => name,
        other => panic!("{other:?}"),
    };
    let (first, second) = (request(&with(86_400)), request(&with(172_800)));
    assert!(first != second && first == request(&with(86_400)), "one request in the place of one certificate");
    // Two claims of one key: what one of them has is the other's too.
    let mut both = with(2_000_000);
    both.claim.status = with(86_400).winner.and_then(|winner| winner.status);
    assert_eq!(says_at(&both, 1_000_000), "hand over");
    both.winner = None;
    assert_eq!(says_at(&both, 1_000_000), "issue");
    // Everything else holds as before.
    let other = Keys::new();
    let mut rogue = with(86_400);
    rogue.claim = other.claim(&other.honest().pem());
    assert_eq!(says_at(&rogue, 1_000_000), "ClaimConflict");
    let mut taken = with(86_400);
    taken.node = Some(node("box-1", Some("uid-2")));
    assert_eq!(says_at(&taken, 1_000_000), "NodeNameTaken");
    let mut frozen = with(86_400);
    status_of(&mut frozen).intent = Some(intent("created", IntentState::Frozen));
    assert_eq!(says_at(&frozen, 1_000_000), "wait ClaimConflict");
    let mut anew = with(86_400);
    machine_of(&mut anew).spec.boot_intent = Some("r2".into());
    assert_eq!(says_at(&anew, 1_000_000), "WindowClosed");
    let mut leaving = with(86_400);
    machine_of(&mut leaving).metadata.deletion_timestamp = Some(Time(t(0)));
    assert_eq!(says_at(&leaving, 1_000_000), "MachineGone");
}

#[test]
fn the_same_keys_get_the_same_answer() {
    let keys = Keys::new();
    let mut again = good(&keys);
    status_of(&mut again).identity = Some(identity(&keys, 10, None));
    assert_eq!(says(&again), "issue");
    // Also after the window: a controller that was killed goes on.
    assert_eq!(says_at(&again, 3601), "issue");
    status_of(&mut again).identity = Some(identity(&keys, 10, Some(20)));
    again.node = Some(node("box-1", Some("uid-1")));
    assert_eq!(says(&again), "issue");
    // Once issued and over, what exists may be given again, and nothing new is made.
    status_of(&mut again).intent = Some(intent("created", IntentState::Fulfilled));
    assert_eq!(says(&again), "issue no more");
    // A frozen join stays frozen, also for the first key: which box is which is not known.
    let mut frozen = good(&keys);
    status_of(&mut frozen).identity = Some(identity(&keys, 10, None));
    status_of(&mut frozen).intent = Some(intent("created", IntentState::Frozen));
    assert_eq!(says(&frozen), "wait ClaimConflict");
    // The bound kubelet key may not come with another name.
    let mut renamed = with_request(&keys, &keys.honest().cn("system:node:box-2"));
    status_of(&mut renamed).identity = Some(identity(&keys, 10, None));
    assert_eq!(says(&renamed), "BadRequest");
    // A Node that appeared between binding and issue was not ours.
    let mut taken = good(&keys);
    status_of(&mut taken).identity = Some(identity(&keys, 10, None));
    taken.node = Some(node("box-1", None));
    assert_eq!(says(&taken), "NodeNameTaken");
}

fn fingerprint(keys: &Keys) -> Fingerprint {
    Sha256::of(&keys.claim.subject_public_key_info()).into()
}

#[test]
fn what_a_profile_asks_for_has_to_be_earned() {
    let keys = Keys::new();
    let wants = |level| {
        let mut seen = good(&keys);
        seen.profile.as_mut().unwrap().spec.min_identity = level;
        seen
    };
    assert_eq!(says(&wants(IdentityLevel::Mac)), "bind");
    assert_eq!(says(&wants(IdentityLevel::Approved)), "wait AwaitingApproval");
    for level in [IdentityLevel::TpmPinned, IdentityLevel::TpmEnrolled] {
        assert_eq!(says(&wants(level)), "TpmMismatch", "{level:?}: it came without one");
    }
    // A person reads both sides of what is to be compared, and the command.
    let Verdict::Wait { message, .. } = decide(&wants(IdentityLevel::Approved), t(60)) else { panic!() };
    let command = format!("kubectl magnetite approve box-1 {}", fingerprint(&keys));
    assert!(message.contains(&command) && message.contains("172.30.0.16"), "{message}");
    // Time runs while it waits.
    assert_eq!(says_at(&wants(IdentityLevel::Approved), 3600), "WindowClosed");
    let mut approved = wants(IdentityLevel::Approved);
    machine_of(&mut approved).spec.approved_fingerprint = Some(fingerprint(&keys));
    let Verdict::Bind { identity, .. } = decide(&approved, t(60)) else { panic!("{}", says(&approved)) };
    assert_eq!(identity.level, IdentityLevel::Approved);
}

#[test]
fn another_key_than_the_approved_one_is_refused_at_every_level_and_freezes_nothing() {
    let (keys, other) = (Keys::new(), Keys::new());
    for level in [IdentityLevel::Mac, IdentityLevel::Approved] {
        for bound in [None, Some(identity(&keys, 10, None)), Some(identity(&other, 10, Some(20)))] {
            let mut rogue = good(&other);
            rogue.profile.as_mut().unwrap().spec.min_identity = level;
            machine_of(&mut rogue).spec.approved_fingerprint = Some(fingerprint(&keys));
            status_of(&mut rogue).identity = bound;
            assert_eq!(says(&rogue), "KeyNotApproved");
        }
    }
}

#[test]
fn the_approved_key_takes_the_place_of_the_one_that_came_first() {
    let (keys, rogue) = (Keys::new(), Keys::new());
    let mut settled = good(&keys);
    machine_of(&mut settled).spec.approved_fingerprint = Some(fingerprint(&keys));
    status_of(&mut settled).identity = Some(identity(&rogue, 10, Some(20)));
    // The rogue registered its Node already: with the Machine's name, and so with the Machine's mark.
    settled.node = Some(node("box-1", Some("uid-1")));
    let Verdict::Bind { identity: bound, .. } = decide(&settled, t(60)) else { panic!("{}", says(&settled)) };
    assert!(bound.rebound, "the rogue's certificate is still about");
    assert_eq!(bound.claim_key, Sha256::of(&keys.claim.subject_public_key_info()).to_string());
    // Once it is bound it is as any other, and stays marked in later intents.
    status_of(&mut settled).identity = Some(*bound);
    assert_eq!(says(&settled), "issue");
    let mut later = seen(keys.claim_in("r2", &keys.honest().pem()));
    machine_of(&mut later).spec.boot_intent = Some("r2".into());
    status_of(&mut later).intent = Some(intent("r2", IntentState::Open));
    status_of(&mut later).identity = status_of(&mut settled).identity.clone();
    let Verdict::Bind { identity: again, .. } = decide(&later, t(60)) else { panic!("{}", says(&later)) };
    assert!(again.rebound);
    // Nobody's word opens a window.
    status_of(&mut settled).identity = Some(identity(&rogue, 10, Some(20)));
    status_of(&mut settled).intent = Some(intent("created", IntentState::Frozen));
    assert_eq!(says(&settled), "wait Waiting", "until the plan opened it again");
    assert_eq!(says_at(&settled, 3600), "WindowClosed");
}

#[test]
fn outside_the_window() {
    let keys = Keys::new();
    assert_eq!(says_at(&good(&keys), 3599), "bind");
    assert_eq!(says_at(&good(&keys), 3600), "WindowClosed", "the very second");
    assert_eq!(says_at(&good(&keys), 3601), "WindowClosed", "a second later");
    for state in [IntentState::Expired, IntentState::Fulfilled, IntentState::Frozen] {
        let mut closed = good(&keys);
        status_of(&mut closed).intent = Some(intent("created", state));
        assert_eq!(says(&closed), "WindowClosed", "{state:?}");
    }
    // An identity of an earlier intent opens nothing, and conflicts with nothing.
    let mut old = good(&keys);
    machine_of(&mut old).spec.boot_intent = Some("r2".into());
    status_of(&mut old).intent = Some(intent("r2", IntentState::Open));
    assert_eq!(says(&old), "WindowClosed", "a claim for the intent before");
    let mut ahead = seen(keys.claim_in("r3", &keys.honest().pem()));
    machine_of(&mut ahead).spec.boot_intent = Some("r2".into());
    status_of(&mut ahead).intent = Some(intent("r2", IntentState::Open));
    assert_eq!(says(&ahead), "WindowClosed", "a claim for an intent that nobody asked for");
    let mut moved = good(&keys);
    machine_of(&mut moved).spec.boot_intent = Some("r2".into());
    assert_eq!(says(&moved), "WindowClosed", "the spec moved on");
    let mut soon = seen(keys.claim_in("r2", &keys.honest().pem()));
    machine_of(&mut soon).spec.boot_intent = Some("r2".into());
    assert_eq!(says(&soon), "wait Waiting", "about to open");
    let mut again = seen(keys.claim_in("r2", &keys.honest().pem()));
    machine_of(&mut again).spec.boot_intent = Some("r2".into());
    status_of(&mut again).intent = Some(intent("r2", IntentState::Open));
    status_of(&mut again).identity = Some(identity(&Keys::new(), 10, Some(20)));
    assert_eq!(says(&again), "bind", "a new key in a new intent");
}

#[test]
fn what_can_still_come_right_waits() {
    let keys = Keys::new();
    for kind in [conditions::IDENTITY_UNIQUE, conditions::PROFILE_READY] {
        let mut not = good(&keys);
        let condition = status_of(&mut not).conditions.iter_mut().find(|c| c.type_ == kind).unwrap();
        condition.status = "False".into();
        assert_eq!(says(&not), "wait Waiting", "{kind}");
        let mut stale = good(&keys);
        machine_of(&mut stale).metadata.generation = Some(2);
        assert_eq!(says(&stale), "wait Waiting", "{kind} of an older spec");
        let mut unknown = good(&keys);
        status_of(&mut unknown).conditions.retain(|c| c.type_ != kind);
        assert_eq!(says(&unknown), "wait Waiting", "{kind} absent");
    }
    let mut gone = good(&keys);
    gone.profile = None;
    assert_eq!(says(&gone), "wait ProfileNotFound");
    let mut none = good(&keys);
    none.profile.as_mut().unwrap().spec.join.mode = JoinMode::None;
    assert_eq!(says(&none), "wait Waiting");
}

#[test]
fn a_box_that_is_another() {
    let keys = Keys::new();
    let box_with = |declare: &dyn Fn(&mut magnetite_api::MachineSpec), show: &dyn Fn(&mut MachineClaimSpec)| {
        let mut seen = good(&keys);
        let spec = &mut machine_of(&mut seen).spec;
        spec.macs.clear();
        declare(spec);
        seen.claim.spec.facts.macs.clear();
        show(&mut seen.claim.spec);
        seen
    };
    let uuid = |text: &str| Some(text.parse().unwrap());
    const SHARED: &str = "03000200-0400-0500-0006-000700080009";
    const OWN: &str = "3f0d2c5e-0000-4000-8000-000000000010";
    let zero = || "00:00:00:00:00:00".parse().unwrap();
    let mac = || "52:54:00:30:00:10".parse().unwrap();
    let bad = [
        ("no facts", box_with(&|m| m.macs.push(mac()), &|_| {})),
        (
            "another MAC",
            box_with(&|m| m.macs.push(mac()), &|c| c.facts.macs.push("52:54:00:30:00:11".parse().unwrap())),
        ),
        ("a MAC of zeros", box_with(&|m| m.macs.push(zero()), &|c| c.facts.macs.push(zero()))),
        ("a UUID of many boards", box_with(&|m| m.uuid = uuid(SHARED), &|c| c.facts.uuid = uuid(SHARED))),
        ("another UUID", box_with(&|m| m.uuid = uuid(OWN), &|c| c.facts.uuid = uuid(SHARED))),
        ("a maker's serial", box_with(&|m| m.serial = Some("None".into()), &|c| c.facts.serial = Some("None".into()))),
        ("another serial", box_with(&|m| m.serial = Some("A1".into()), &|c| c.facts.serial = Some("A2".into()))),
    ];
    for (what, mutant) in bad {
        assert_eq!(says(&mutant), "FactsMismatch", "{what}");
    }
    let good = [
        ("UUID", box_with(&|m| m.uuid = uuid(OWN), &|c| c.facts.uuid = uuid(OWN))),
        ("serial", box_with(&|m| m.serial = Some("PF3x ".into()), &|c| c.facts.serial = Some("pf3X".into()))),
    ];
    for (what, mutant) in good {
        assert_eq!(says(&mutant), "bind", "{what}");
    }
}

#[test]
fn a_request_for_something_else() {
    let keys = Keys::new();
    let h = || keys.honest();
    let typed = |tag: u8, text: &[u8]| {
        let mut csr = keys.honest();
        csr.subject[1][0] = (3, tag, text.to_vec());
        csr
    };
    let mut joined = h();
    let cn = joined.subject.pop().unwrap();
    joined.subject[0].extend(cn);
    let mut challenge = h();
    let oid = der(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7]);
    challenge.attributes.push(der(0x30, &[oid, der(0x31, &der(UTF8, b"secret"))].concat()));
    let ca = der(0x30, &der(1, &[0xff]));
    const UTF8: u8 = 0x0c;
    let mutants = [
        ("another node", h().cn("system:node:box-2")),
        ("a control-plane node", h().cn("system:node:master-0")),
        ("no prefix", h().cn("box-1")),
        ("an empty node", h().cn("system:node:")),
        ("upper case", h().cn("system:node:BOX-1")),
        ("a space after", h().cn("system:node:box-1 ")),
        ("a NUL after", h().cn("system:node:box-1\0")),
        ("a longer name", h().cn("system:node:box-1.evil")),
        ("an admin", h().cn("system:admin")),
        ("no common name", h().subject_of(&[(10, "system:nodes")])),
        ("no organization", h().subject_of(&[(3, "system:node:box-1")])),
        ("no subject", h().subject_of(&[])),
        ("masters", h().subject_of(&[(10, "system:masters"), (3, "system:node:box-1")])),
        ("masters too", h().subject_of(&[(10, "system:nodes"), (10, "system:masters"), (3, "system:node:box-1")])),
        ("nodes twice", h().subject_of(&[(10, "system:nodes"), (10, "system:nodes"), (3, "system:node:box-1")])),
        ("two names", h().subject_of(&[(10, "system:nodes"), (3, "system:node:box-1"), (3, "system:node:box-2")])),
        ("a unit", h().subject_of(&[(10, "system:nodes"), (11, "x"), (3, "system:node:box-1")])),
        ("a country", h().subject_of(&[(6, "DE"), (10, "system:nodes"), (3, "system:node:box-1")])),
        ("one part with two attributes", joined),
        (
            "a BMPString",
            typed(0x1e, &"system:node:box-1".encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>()),
        ),
        ("an IA5String", typed(0x16, b"system:node:box-1")),
        ("a T61String", typed(0x14, b"system:node:box-1")),
        ("a DNS name", h().dns("box-1")),
        ("an address", h().sans(&[(7, &[10, 0, 0, 1])])),
        ("a URI", h().sans(&[(6, b"https://kubernetes")])),
        ("a mail address", h().sans(&[(1, b"root@box-1")])),
        ("a certificate authority", h().extension(&[0x55, 0x1d, 19], &ca)),
        ("an unknown extension", h().extension(&[0x2a, 3, 4], &[5, 0])),
        (
            "two lists of extensions",
            h().extension(&[0x55, 0x1d, 15], &[3, 2, 7, 0x80]).extension(&[0x55, 0x1d, 15], &[3, 2, 7, 0x80]),
        ),
        ("a challenge password", challenge),
    ];
    for (what, request) in mutants {
        assert_eq!(says(&with_request(&keys, &request)), "BadRequest", "{what}");
    }
}

#[test]
fn a_name_that_is_anothers() {
    let keys = Keys::new();
    let named = |name: &str| {
        let mut seen = with_request(&keys, &keys.honest().cn(&format!("system:node:{name}")));
        machine_of(&mut seen).spec.node_name = Some(name.to_owned());
        seen
    };
    assert_eq!(says(&named("other")), "bind");
    assert_eq!(says(&named("master-0")), "NodeNameTaken", "reserved");
    for server in SERVERS {
        assert_eq!(says(&named(server)), "NodeNameTaken", "{server}, which nobody needs to reserve");
    }
    let mut by_name = named("api");
    for (url, verdict) in [
        ("https://api:6443", "NodeNameTaken"),
        ("https://api", "NodeNameTaken"),
        ("https://api.example.com:6443", "bind"),
        ("https://10.0.0.5:6443", "bind"),
    ] {
        by_name.profile.as_mut().unwrap().spec.join.api_server = Some(url.to_owned());
        assert_eq!(says(&by_name), verdict, "{url}");
    }
    let with_node = |node| Observed { node: Some(node), ..good(&keys) };
    assert_eq!(says(&with_node(node("box-1", Some("uid-1")))), "bind", "its own, of an earlier intent");
    assert_eq!(says(&with_node(node("box-1", None))), "NodeNameTaken", "nobody's");
    assert_eq!(says(&with_node(node("box-1", Some("uid-9")))), "NodeNameTaken", "another Machine's");
    assert_eq!(says(&with_node(node("box-1", Some("")))), "NodeNameTaken", "an empty mark");
    let control_plane = NodeSeen { control_plane: true, ..node("box-1", Some("uid-1")) };
    assert_eq!(says(&with_node(control_plane)), "NodeNameTaken", "a control-plane node that says it is ours");
}

#[test]
fn addresses_that_reach_no_box_are_not_recorded() {
    let keys = Keys::new();
    for bad in ["127.0.0.1", "169.254.0.1", "fe80::1", "box-1", ""] {
        let mut seen = good(&keys);
        seen.claim.spec.address = bad.into();
        let Verdict::Bind { addresses, .. } = decide(&seen, t(60)) else { panic!("bound") };
        assert!(addresses.is_empty(), "{bad}");
    }
}

/// A request with one byte or more changed, in a claim that is signed over it: none is bound, none panics.
#[test]
fn bent_requests_are_never_bound() {
    let keys = Keys::new();
    let honest = keys.honest().der();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..10_000 {
        let mut bent = honest.clone();
        for _ in 0..=next() % 3 {
            let at = usize::try_from(next()).unwrap_or(0) % bent.len();
            bent[at] ^= 1 << (next() % 8);
        }
        if bent == honest {
            continue;
        }
        let seen = seen(keys.claim(&pem("CERTIFICATE REQUEST", &bent)));
        assert!(matches!(decide(&seen, t(60)), Verdict::Deny { .. }), "{}", STANDARD.encode(&bent));
    }
}

#[test]
fn binding_is_for_now_and_not_for_a_fraction_of_it() {
    let keys = Keys::new();
    let now = t(60) + SignedDuration::from_millis(1500);
    let Verdict::Bind { identity, .. } = decide(&good(&keys), now) else { panic!("bound") };
    assert_eq!(identity.bound_at, Time(t(61)));
}
