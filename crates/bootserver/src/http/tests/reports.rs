//! Reports are what a box says: hostile input, and after a claim its key's word or nobody's.

use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_api::{
    Machine, Sha256,
    join::{Refusal, ReportRequest, ReportSignature},
};
use magnetite_boot::fleet::Fleet;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::json;

use super::*;
use crate::limits::Limiter;

async fn site(reports: u32) -> Site {
    Site::with(|app| {
        app.limits.http = Limiter::new(0);
        app.limits.reports = Limiter::new(reports);
    })
    .await
}

/// A key claims the machine.
fn claim(site: &Site, key: &KeyPair, intent: &str) {
    let status = json!({ "identity": {
        "level": "mac", "intent": intent, "claimKey": Sha256::of(&key.subject_public_key_info()), "kubeletKey": "",
        "claim": "box-0", "boundAt": "2026-11-21T10:00:00Z",
    }});
    let machine = Machine { status: Some(serde_json::from_value(status).unwrap()), ..site.machine.clone() };
    let machine = Arc::new(machine);
    site.change(|view| view.fleet = Arc::new(Fleet::index([Arc::clone(&machine)])));
}

fn signed(key: &KeyPair, report: serde_json::Value, number: u64) -> String {
    let report: ReportRequest = serde_json::from_value(report).unwrap();
    let value = STANDARD.encode(key.sign(&report.signed_text("box", "created", number)).unwrap());
    let claim_key = STANDARD.encode(key.subject_public_key_info());
    let signature = Some(ReportSignature { claim_key, number, value });
    serde_json::to_string(&ReportRequest { signature, ..report }).unwrap()
}

/// S20.
#[tokio::test]
async fn after_the_claim_a_report_is_its_key_s_word_or_refused() {
    let (site, key, other) = (site(0).await, KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let path = agent_path(&site, "report");
    let failure = json!({ "reason": "X", "message": "y" });
    let failed = json!({ "step": "KubeletStarted", "failure": failure });
    assert_eq!(post(&site, &path, r#"{"step":"AgentStarted"}"#).await.status, StatusCode::NO_CONTENT);
    claim(&site, &key, "created");
    for wrong in [r#"{"step":"NodeReady"}"#.to_owned(), failed.to_string(), signed(&other, failed.clone(), 1)] {
        let answer = post(&site, &path, &wrong).await;
        let refusal: Refusal = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, refusal.reason.as_str()), (StatusCode::FORBIDDEN, "ReportNotSigned"), "{wrong}");
    }
    assert_eq!(steps(&site), [BootStepName::AgentStarted], "what nobody signed is no step");
    assert!(site.app.records.all()["box"].boot.failure.is_none());
    let good = signed(&key, json!({ "step": "KubeletStarted", "detail": "v1", "inventory": { "product": "P" } }), 2);
    assert_eq!(post(&site, &path, &good).await.status, StatusCode::NO_CONTENT);
    assert_eq!(post(&site, &path, &good).await.status, StatusCode::NO_CONTENT, "once more, since the answer was lost");
    let old = signed(&key, json!({ "step": "NodeReady" }), 1);
    assert_eq!(post(&site, &path, &old).await.status, StatusCode::FORBIDDEN);
    assert_eq!(steps(&site), [BootStepName::AgentStarted, BootStepName::KubeletStarted]);
    for (outcome, times) in [("taken", 3), ("unsigned", 2), ("another_key", 1), ("old", 1), ("forged", 0)] {
        assert_eq!(site.counted(&site.app.metrics.progress, outcome), times, "{outcome}");
    }
    assert_eq!(site.app.signatures.told.len(), 1, "and told once in a while");
}

#[tokio::test]
async fn who_cannot_sign_takes_nothing_of_the_share_of_who_can() {
    let (site, key) = (site(1).await, KeyPair::generate().unwrap());
    claim(&site, &key, "created");
    let path = agent_path(&site, "report");
    for _ in 0..50 {
        assert_eq!(post(&site, &path, r#"{"step":"NodeReady"}"#).await.status, StatusCode::FORBIDDEN);
    }
    let good = signed(&key, json!({ "step": "KubeletStarted" }), 1);
    assert_eq!(post(&site, &path, &good).await.status, StatusCode::NO_CONTENT);
}

/// S20: none is taken, none is an error of ours.
#[tokio::test]
async fn twenty_malformed_bodies_are_told_so() {
    let site = site(0).await;
    let path = agent_path(&site, "report");
    let deep = |levels: usize| {
        format!(r#"{{"step":"AgentStarted","inventory":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    let bodies = [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"AgentStarted\"".to_owned(),
        "{}".to_owned(),
        r#"{"step":null}"#.to_owned(),
        r#"{"step":"Nonsense"}"#.to_owned(),
        r#"{"step":"ScriptServed"}"#.to_owned(),
        r#"{"step":"AgentStarted","x":1}"#.to_owned(),
        r#"{"step":"AgentStarted","detail":7}"#.to_owned(),
        r#"{"step":"AgentStarted","step":"NodeReady"}"#.to_owned(),
        r#"{"step":"AgentStarted","failure":"x"}"#.to_owned(),
        r#"{"step":"AgentStarted","failure":{"reason":"x"}}"#.to_owned(),
        r#"{"step":"AgentStarted","signature":{"claimKey":"","number":-1,"value":""}}"#.to_owned(),
        r#"{"step":"AgentStarted","signature":{"claimKey":"","number":1,"value":""}}"#.to_owned(),
        "{\"step\":\"AgentStarted\",\"detail\":\"a\nb\"}".to_owned(),
        r#"{"step":"AgentStarted"}x"#.to_owned(),
        deep(17),
        deep(60_000 / 2),
        format!(r#"{{"step":"AgentStarted","detail":"{}"}}"#, "x".repeat(70_000)),
    ];
    for body in &bodies {
        let answer = post(&site, &path, body).await;
        assert!(answer.status.is_client_error(), "{}: {body:.80}", answer.status);
    }
    let request =
        Request::post(&path).header(header::CONTENT_TYPE, "text/plain").body(Body::from(r#"{"step":"AgentStarted"}"#));
    assert!(send(private(&site.app).into_router(), request.unwrap()).await.status.is_client_error());
    assert!(steps(&site).is_empty());
    let good = r#"{"step":"AgentStarted","detail":"\u0000\"\\ \ud83d\ude00"}"#;
    assert_eq!(post(&site, &path, good).await.status, StatusCode::NO_CONTENT, "and the next box is heard");
}

/// S20: what one box may make us write is one change a second, of which at most every second is written (`SPACING`).
#[tokio::test]
async fn ten_thousand_reports_are_one_change_a_second() {
    let site = site(1).await;
    let path = agent_path(&site, "report");
    let (began, router) = (std::time::Instant::now(), private(&site.app).into_router());
    let mut put_off = 0;
    for _ in 0..10_000 {
        let request = Request::post(&path).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(r#"{"step":"AgentStarted"}"#)).unwrap();
        let answer = send(router.clone(), request).await;
        put_off += u64::from(answer.status == StatusCode::SERVICE_UNAVAILABLE);
    }
    let seconds = began.elapsed().as_secs() + 2;
    let versions = site.app.records.versions();
    assert!(versions[0].1 <= seconds, "{versions:?} in {seconds} seconds");
    assert!(put_off >= 10_000 - seconds, "{put_off}");
}
