//! Rule S5 of threats.md: every way in which a kubelet's request may be wrong.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use magnetite_api::{
    Sha256,
    names::{SIGNER_CLIENT, SIGNER_SERVING},
};
use magnetite_request::Request;
use rcgen::KeyPair;
use rstest::rstest;

use super::decide::*;
use crate::{
    fixtures::{Csr, Keys, identity, machine, node, t},
    node::NodeSeen,
};

const IP: (u8, &[u8]) = (7, &[172, 30, 0, 16]);
const NAME: (u8, &[u8]) = (2, b"box-1");

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn asked(signer: &str, usages: &[&str], request: &Csr) -> Asked {
    Asked {
        signer: signer.to_owned(),
        username: "system:node:box-1".to_owned(),
        groups: strings(&["system:nodes", "system:authenticated"]),
        usages: strings(usages),
        credential: None,
        request: Request::from_pem(&request.pem()),
    }
}

/// `box-1`, joined: its certificate is on record, its Node carries its mark, it claimed from 172.30.0.16.
fn joined(asked: Asked) -> Observed {
    let mut machine = machine();
    let status = machine.status.as_mut().unwrap();
    status.identity = Some(identity(&Keys::new(), 10, Some(20)));
    status.addresses = strings(&["172.30.0.16", "127.0.0.1", "169.254.0.7", "10.0.0.1"]);
    let asker = Party { machine: Some(machine), node: Some(node("box-1", Some("uid-1"))) };
    Observed { asked, asker, target: Party::default(), reserved: vec!["10.0.0.1".parse().unwrap()] }
}

fn serving(request: Csr) -> Observed {
    joined(asked(SIGNER_SERVING, &["digital signature", "server auth"], &request))
}

fn renewal(request: Csr) -> Observed {
    joined(asked(SIGNER_CLIENT, &["digital signature", "client auth"], &request))
}

fn csr() -> Csr {
    Csr::new(&KeyPair::generate().unwrap())
}

fn says(seen: &Observed) -> &'static str {
    match decide(seen) {
        Verdict::Ignore => "ignore",
        Verdict::Wait(_) => "wait",
        Verdict::Approve(_) => "approve",
        Verdict::Deny { reason, message } => {
            assert!(!message.chars().any(char::is_control), "{message:?}");
            reason
        }
    }
}

fn changed(mut seen: Observed, change: impl FnOnce(&mut Observed)) -> Observed {
    change(&mut seen);
    seen
}

fn own(seen: &mut Observed) -> &mut Machine {
    seen.asker.machine.as_mut().unwrap()
}

fn status(seen: &mut Observed) -> &mut magnetite_api::MachineStatus {
    own(seen).status.as_mut().unwrap()
}

use magnetite_api::Machine;

#[test]
fn what_a_kubelet_asks_for_is_approved() {
    assert_eq!(says(&serving(csr().sans(&[NAME, IP]))), "approve");
    assert_eq!(says(&serving(csr().sans(&[IP]))), "approve");
    assert_eq!(says(&renewal(csr())), "approve");
    let rsa = changed(serving(csr().sans(&[NAME])), |seen| seen.asked.usages.push("key encipherment".into()));
    assert_eq!(says(&rsa), "approve");
    // Its Node is not labelled in the first moment; that it asks for its own addresses is enough.
    let early = changed(serving(csr().sans(&[NAME, IP])), |seen| seen.asker.node = Some(node("box-1", None)));
    assert_eq!(says(&early), "approve");
}

#[rstest]
#[case("no names", csr(), "BadNames")]
#[case("another name", csr().dns("box-2"), "BadNames")]
#[case("a name that begins alike", csr().dns("box-1.example.org"), "BadNames")]
#[case("upper case", csr().dns("BOX-1"), "BadNames")]
#[case("a wildcard", csr().dns("*"), "BadNames")]
#[case("a wildcard below", csr().dns("*.box-1"), "BadNames")]
#[case("the API server's name", csr().sans(&[NAME, (2, b"kubernetes.default.svc")]), "BadNames")]
#[case("an added address", csr().sans(&[NAME, IP, (7, &[172, 30, 0, 17])]), "BadNames")]
#[case("the API server's address", csr().sans(&[(7, &[10, 0, 0, 1])]), "BadNames")]
#[case("loopback, though recorded", csr().sans(&[(7, &[127, 0, 0, 1])]), "BadNames")]
#[case("link-local, though recorded", csr().sans(&[(7, &[169, 254, 0, 7])]), "BadNames")]
#[case("an IPv6 address", csr().sans(&[(7, &[0xfd; 16])]), "BadNames")]
#[case("an address of five bytes", csr().sans(&[(7, &[1, 2, 3, 4, 5])]), "BadNames")]
#[case("an address as a name", csr().dns("172.30.0.16"), "BadNames")]
#[case("a URI", csr().sans(&[NAME, (6, b"https://box-1")]), "BadNames")]
#[case("a mail address", csr().sans(&[NAME, (1, b"root@box-1")]), "BadNames")]
#[case("a certificate authority", csr().extension(&[0x55, 0x1d, 19], &[0x30, 3, 1, 1, 0xff]), "BadRequest")]
#[case("another organization", csr().subject_of(&[(10, "system:masters"), (3, "system:node:box-1")]), "BadRequest")]
#[case("no organization", csr().subject_of(&[(3, "system:node:box-1")]), "BadRequest")]
#[case("another node's name", csr().cn("system:node:box-2").sans(&[NAME]), "AnotherNode")]
#[case("no node's name", csr().cn("admin").sans(&[NAME]), "BadRequest")]
fn a_serving_certificate_is_denied(#[case] what: &str, #[case] request: Csr, #[case] reason: &str) {
    assert_eq!(says(&serving(request)), reason, "{what}");
}

#[rstest]
#[case("server auth and client auth", &["digital signature", "server auth", "client auth"])]
#[case("client auth", &["digital signature", "client auth"])]
#[case("no signature", &["server auth"])]
#[case("any", &["any"])]
#[case("none", &[])]
#[case("one twice", &["digital signature", "server auth", "server auth"])]
#[case("cert sign", &["digital signature", "server auth", "cert sign"])]
fn usages_are_exact(#[case] what: &str, #[case] usages: &[&str]) {
    assert_eq!(says(&joined(asked(SIGNER_SERVING, usages, &csr().sans(&[NAME, IP])))), "BadUsages", "{what}");
}

#[test]
fn a_renewal_is_denied() {
    let server = ["digital signature", "server auth"];
    let mutants = [
        ("a name", renewal(csr().dns("box-1")), "BadNames"),
        ("server auth", joined(asked(SIGNER_CLIENT, &server, &csr())), "BadUsages"),
        ("another node", renewal(csr().cn("system:node:box-2")), "AnotherNode"),
        ("masters", renewal(csr().subject_of(&[(10, "system:masters"), (3, "system:node:box-1")])), "BadRequest"),
        ("not in the group", changed(renewal(csr()), |seen| seen.asked.groups.clear()), "NotANode"),
        ("no Node", changed(renewal(csr()), |seen| seen.asker.node = None), "NodeGone"),
        (
            "being deleted",
            changed(renewal(csr()), |s| own(s).metadata.deletion_timestamp = Some(Time(t(0)))),
            "MachineGone",
        ),
        ("deleted", changed(renewal(csr()), |seen| seen.asker.machine = None), "MachineGone"),
        ("created again", changed(renewal(csr()), |s| own(s).metadata.uid = Some("uid-2".into())), "MachineGone"),
        ("garbage", changed(renewal(csr()), |s| s.asked.request = Request::from_pem("x")), "BadRequest"),
        (
            "a control-plane node",
            changed(renewal(csr()), |seen| {
                seen.asker.node = Some(NodeSeen { control_plane: true, ..node("box-1", Some("uid-1")) });
            }),
            "ControlPlane",
        ),
    ];
    for (what, mutant, reason) in mutants {
        assert_eq!(says(&mutant), reason, "{what}");
    }
}

#[test]
fn a_certificate_of_the_key_before_is_not_renewed_and_serves_nothing() {
    let (own, rogue) = (Sha256([1; 32]), Sha256([2; 32]));
    let asked_with = |seen: Observed, credential, rebound| {
        changed(seen, |seen| {
            seen.asked.credential = credential;
            let identity = status(seen).identity.as_mut().unwrap();
            (identity.certificates, identity.rebound) = (vec![own], rebound);
        })
    };
    for request in [|| renewal(csr()), || serving(csr().sans(&[NAME, IP]))] {
        assert_eq!(says(&asked_with(request(), Some(own), true)), "approve");
        assert_eq!(says(&asked_with(request(), Some(rogue), true)), "AnotherKey");
        assert_eq!(says(&asked_with(request(), Some(rogue), false)), "approve", "no other key was ever bound");
        assert_eq!(says(&asked_with(request(), None, true)), "approve", "an API server before 1.32");
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let foreign = |seen: &mut Observed| seen.asker = Party { machine: None, node: Some(node("box-1", None)) };
    assert_eq!(says(&changed(renewal(csr()), foreign)), "ignore");
    assert_eq!(says(&changed(renewal(csr().cn("system:node:other")), foreign)), "ignore");
    let other = changed(renewal(csr()), |seen| seen.asked.signer = "example.org/signer".into());
    assert_eq!(says(&other), "ignore");
    for user in ["system:serviceaccount:magnetite:controller", "system:bootstrap:abcdef", "admin", "system:node:"] {
        assert_eq!(says(&changed(renewal(csr()), |seen| seen.asked.username = user.into())), "ignore", "{user}");
    }
    // A Machine that never claimed has no say in what a Node of its name does.
    let never = changed(renewal(csr()), |seen| {
        status(seen).identity = None;
        seen.asker.node = Some(node("box-1", None));
    });
    assert_eq!(says(&never), "ignore");
}

#[test]
fn a_stranger_that_asks_for_our_node_is_denied() {
    let seen = changed(renewal(csr()), |seen| {
        seen.asked.username = "system:node:stranger".into();
        seen.target = std::mem::take(&mut seen.asker);
    });
    assert_eq!(says(&seen), "AnotherNode");
}

#[test]
fn what_is_not_on_record_yet_waits() {
    let bound = changed(renewal(csr()), |seen| status(seen).identity = Some(identity(&Keys::new(), 10, None)));
    assert_eq!(says(&bound), "wait");
    let unmarked = changed(renewal(csr()), |seen| seen.asker.node = Some(node("box-1", None)));
    assert_eq!(says(&unmarked), "wait");
}
