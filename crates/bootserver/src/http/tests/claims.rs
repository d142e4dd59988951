//! Claims, against API servers that are Fixed, Empty and Broken.

use std::sync::{Arc, Mutex};

use axum::http::{StatusCode, header};
use magnetite_api::{
    MachineClaim, MachineClaimSpec, MachineClaimStatus,
    claim::Decision,
    join::{ClaimResponse, IdentityFacts, JoinBundle, Refusal},
    report::BootStepName,
    tpm::{ClaimChallenge, TpmChallenge},
};
use serde_json::{Value, json};

use super::{Answer, agent_path, post, steps};
use crate::{
    app::Cluster,
    fixtures::{Call, Site, api, refusal},
};

const KEY: &str = "AA==";

/// The claim's object as it is created, whatever a test's key.
fn request(key: &str) -> String {
    json!({
        "machine": "box", "intent": "created", "claimKey": key, "certificateRequest": "pem", "signature": "sig",
        "facts": { "macs": ["52:54:00:30:00:10"] },
    })
    .to_string()
}

fn decided(name: &str, decision: Option<Decision>) -> MachineClaim {
    let spec = MachineClaimSpec {
        machine: "box".to_owned(),
        machine_uid: "box".to_owned(),
        intent: "created".to_owned(),
        claim_key: KEY.to_owned(),
        certificate_request: "pem".to_owned(),
        signature: "sig".to_owned(),
        facts: IdentityFacts::default(),
        tpm: None,
        proof: None,
        address: "192.0.2.7".to_owned(),
        server: "test".to_owned(),
    };
    let mut claim = MachineClaim::new(name, spec);
    claim.status = decision.map(|decision| MachineClaimStatus {
        decision: Some(decision),
        reason: Some("ClaimConflict".to_owned()),
        message: Some("another key is bound".to_owned()),
        join: (decision == Decision::Approved).then(JoinBundle::default),
        ..MachineClaimStatus::default()
    });
    claim
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// An API server on which claims are created, and read as `read` says.
fn cluster(calls: &Calls, read: impl Fn(&str) -> (u16, Value) + Clone + Send + 'static) -> Cluster {
    let calls = Arc::clone(calls);
    api(move |call| {
        calls.lock().unwrap().push(call.clone());
        Some(if call.method == "POST" { (201, call.body) } else { read(&call.name) })
    })
}

async fn claim(site: &Site, body: &str) -> Answer {
    post(site, &agent_path(site, "claim"), body).await
}

fn reason(answer: &Answer) -> String {
    serde_json::from_slice::<Refusal>(&answer.body).unwrap().reason
}

fn retry_after(answer: &Answer) -> &str {
    answer.headers[header::RETRY_AFTER].to_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn fixed_the_controller_says_yes() {
    let calls = Calls::default();
    let read = |name: &str| (200, serde_json::to_value(decided(name, Some(Decision::Approved))).unwrap());
    let site = Site::with(|app| app.cluster = cluster(&calls, read)).await;
    let answer = claim(&site, &request(KEY)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(serde_json::from_slice::<ClaimResponse>(&answer.body).unwrap().join, JoinBundle::default());
    assert_eq!(steps(&site), [BootStepName::Claiming]);
    let created = calls.lock().unwrap()[0].body.clone();
    let name = created["metadata"]["name"].as_str().unwrap();
    assert_eq!(name, magnetite_api::claim::claim_name("box", &[0], "created", None, None));
    assert_eq!((&created["spec"]["address"], &created["spec"]["server"]), (&json!("192.0.2.7"), &json!("test")));
    assert_eq!(created["metadata"]["labels"]["magnetite.dev/machine"], "box");
}

#[tokio::test(start_paused = true)]
async fn a_challenge_is_passed_back_and_its_answer_is_another_claim() {
    let calls = Calls::default();
    let read = |name: &str| {
        let mut claim = decided(name, Some(Decision::Challenged));
        claim.status.as_mut().unwrap().challenge = Some(TpmChallenge {
            credential: "AAA=".to_owned(),
            encrypted_secret: "BBB=".to_owned(),
            secret_digest: magnetite_api::Sha256::of(b"secret"),
        });
        (200, serde_json::to_value(claim).unwrap())
    };
    let site = Site::with(|app| app.cluster = cluster(&calls, read)).await;
    let evidence = json!({ "endorsementKey": "AAEC", "attestationKey": "AAED" });
    let mut first: Value = serde_json::from_str(&request(KEY)).unwrap();
    first["tpm"] = evidence;
    let answer = claim(&site, &first.to_string()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    let challenge: ClaimChallenge = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(challenge.challenge.credential, "AAA=");
    let mut second = first.clone();
    let pcrs = vec!["0".repeat(64); 8];
    second["proof"] =
        json!({ "claim": challenge.claim, "secret": "c2Vj", "quote": "AA==", "signature": "AA==", "pcrs": pcrs });
    claim(&site, &second.to_string()).await;
    // A restarted agent's quote is signed in another way, and is the same answer.
    second["proof"]["signature"] = json!("AB==");
    claim(&site, &second.to_string()).await;
    second["proof"]["secret"] = json!("c2Vk");
    claim(&site, &second.to_string()).await;
    let created: Vec<_> = {
        let calls = calls.lock().unwrap();
        calls.iter().filter(|call| call.method == "POST").map(|call| call.body.clone()).collect()
    };
    let names: Vec<_> = created.iter().map(|body| body["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert!(names[0] != names[1] && names[1] == names[2] && names[2] != names[3], "{names:?}");
    assert_eq!(created[0]["spec"]["tpm"]["endorsementKey"], "AAEC");
    assert_eq!(created[1]["spec"]["proof"]["claim"], challenge.claim.as_str());
    for (field, value) in [("quote", json!("A".repeat(2049))), ("pcrs", json!(pcrs[..7])), ("secret", json!(""))] {
        let mut bad = second.clone();
        bad["proof"][field] = value;
        assert_eq!(claim(&site, &bad.to_string()).await.status, StatusCode::BAD_REQUEST, "{field}");
    }
}

#[tokio::test(start_paused = true)]
async fn fixed_the_controller_says_no() {
    let read = |name: &str| (200, serde_json::to_value(decided(name, Some(Decision::Denied))).unwrap());
    let site = Site::with(|app| app.cluster = cluster(&Calls::default(), read)).await;
    let answer = claim(&site, &request(KEY)).await;
    assert_eq!((answer.status, reason(&answer).as_str()), (StatusCode::CONFLICT, "ClaimConflict"));
    assert!(steps(&site).is_empty(), "it may be a rogue's, and no step of the machine's own boot");
}

#[tokio::test(start_paused = true)]
async fn empty_nobody_has_decided_yet() {
    // What it waits for is passed on once there is a word for it, and then it is not for a moment.
    for (decision, seconds) in [(None, "2"), (Some(Decision::Bound), "5")] {
        let read = move |name: &str| (200, serde_json::to_value(decided(name, decision)).unwrap());
        let site = Site::with(|app| app.cluster = cluster(&Calls::default(), read)).await;
        let answer = claim(&site, &request(KEY)).await;
        assert_eq!((answer.status, retry_after(&answer)), (StatusCode::SERVICE_UNAVAILABLE, seconds));
    }
}

#[tokio::test(start_paused = true)]
async fn the_watch_answers_as_soon_as_it_knows() {
    let calls = Calls::default();
    let site = Site::with(|app| app.cluster = cluster(&calls, |_| refusal(500, "never asked"))).await;
    let name = magnetite_api::claim::claim_name("box", &[0], "created", None, None);
    let told = async {
        crate::fixtures::until("the claim to be created", || !calls.lock().unwrap().is_empty()).await;
        site.change(|view| {
            view.claims.insert(name.clone(), Arc::new(decided(&name, Some(Decision::Approved))));
        });
    };
    let body = request(KEY);
    let (answer, ()) = tokio::join!(claim(&site, &body), told);
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(calls.lock().unwrap().len(), 1, "created, and not asked for");
}

#[tokio::test(start_paused = true)]
async fn the_same_key_again_gets_the_same_answer() {
    let conflict = api(|call| match call.method.as_str() {
        "POST" => Some(refusal(409, "AlreadyExists")),
        _ => Some((200, serde_json::to_value(decided(&call.name, Some(Decision::Approved))).unwrap())),
    });
    let site = Site::with(|app| app.cluster = conflict).await;
    let answers = [claim(&site, &request(KEY)).await, claim(&site, &request(KEY)).await];
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_another_machine_answers_for_nobody() {
    let mut left = decided("left", Some(Decision::Approved));
    left.spec.machine_uid = "deleted".to_owned();
    let read = move |_: &str| (200, serde_json::to_value(&left).unwrap());
    let site = Site::with(|app| app.cluster = cluster(&Calls::default(), read)).await;
    let answer = claim(&site, &request(KEY)).await;
    assert_eq!((answer.status, retry_after(&answer)), (StatusCode::SERVICE_UNAVAILABLE, "30"), "{}", answer.text());
}

#[tokio::test(start_paused = true)]
async fn broken_the_api_server_is_away() {
    for broken in [api(|_| None), api(|_| Some(refusal(500, "etcd"))), api(|_| Some(refusal(403, "Forbidden")))] {
        let site = Site::with(|app| app.cluster = broken).await;
        let answer = claim(&site, &request(KEY)).await;
        assert_eq!((answer.status, retry_after(&answer)), (StatusCode::SERVICE_UNAVAILABLE, "5"), "{}", answer.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_ninth_key_is_not_passed_on() {
    let calls = Calls::default();
    let read = |name: &str| (200, serde_json::to_value(decided(name, None)).unwrap());
    let site = Site::with(|app| app.cluster = cluster(&calls, read)).await;
    let keys = ["AA==", "AQ==", "Ag==", "Aw==", "BA==", "BQ==", "Bg==", "Bw==", "CA=="];
    for key in &keys[..8] {
        assert_eq!(claim(&site, &request(key)).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    let created = || calls.lock().unwrap().iter().filter(|call| call.method == "POST").count();
    assert_eq!(created(), 8);
    let answer = claim(&site, &request(keys[8])).await;
    assert_eq!((answer.status, reason(&answer).as_str()), (StatusCode::CONFLICT, "ClaimConflict"));
    assert_eq!(created(), 8, "nothing was created for it");
    assert_eq!(claim(&site, &request(keys[0])).await.status, StatusCode::SERVICE_UNAVAILABLE, "the eight still ask");
}

#[tokio::test(start_paused = true)]
async fn a_box_that_restarts_while_the_api_server_is_away_uses_up_nothing() {
    let site = Site::with(|app| app.cluster = api(|_| None)).await;
    for key in ["AA==", "AQ==", "Ag==", "Aw==", "BA==", "BQ==", "Bg==", "Bw==", "CA==", "CQ=="] {
        assert_eq!(claim(&site, &request(key)).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn a_claim_that_cannot_be_meant_is_refused_at_once() {
    let calls = Calls::default();
    let site = Site::with(|app| app.cluster = cluster(&calls, |_| refusal(404, "NotFound"))).await;
    let good: Value = serde_json::from_str(&request(KEY)).unwrap();
    for (field, value) in [
        ("machine", json!("other")),
        ("intent", json!("again")),
        ("claimKey", json!("no base64!")),
        ("claimKey", json!("")),
        ("certificateRequest", json!("x".repeat(8193))),
        ("signature", json!("x".repeat(257))),
        ("facts", json!({ "serial": "x".repeat(129) })),
        ("facts", json!({ "macs": vec!["52:54:00:30:00:10"; 65] })),
        ("facts", json!({ "macs": ["nonsense"] })),
        ("more", json!(1)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let answer = claim(&site, &bad.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}: {}", answer.text());
    }
    assert!(calls.lock().unwrap().is_empty(), "the API server is spared");
    assert_eq!(site.counted(&site.app.metrics.claims, "malformed"), 10);
}

#[test]
fn an_intent_has_claims_of_its_own() {
    let name = magnetite_api::claim::claim_name;
    assert_ne!(name("box", b"key", "created", None, None), name("box", b"key", "again", None, None));
    assert_eq!(name("box", b"key", "created", None, None).len(), "box-".len() + 10);
}
