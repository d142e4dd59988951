//! The shape of the calls: which requests are made, in which order, guarded by what. One test for each shape; what
//! is decided is tested where it is decided.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
    },
};
use kube::{Client, client::Body, runtime::watcher};
use magnetite_api::{Machine, MachineClaim, Profile, Sha256, machine::IdentityStatus};
use magnetite_swtpm::Swtpm;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    claim,
    claim::tpm::tests::{Claimant, enrolled},
    context::Context,
    context::Settings,
    csr,
    error::Class,
    fixtures,
    fixtures::Keys,
    lease::Leader,
    machine,
    metrics::Metrics,
    stores::Stores,
};

type Handle = tower_test::mock::Handle<Request<Body>, Response<Body>>;

/// One expected request: method, path, what its body must hold, and the answer.
struct Call {
    method: Method,
    path: &'static str,
    holds: Value,
    answer: (StatusCode, Value),
}

fn call(method: Method, path: &'static str, answer: impl serde::Serialize) -> Call {
    let answer = serde_json::to_value(answer).unwrap();
    Call { method, path, holds: Value::Null, answer: (StatusCode::OK, answer) }
}

fn get(path: &'static str, answer: impl serde::Serialize) -> Call {
    call(Method::GET, path, answer)
}

fn put(path: &'static str, holds: Value, answer: impl serde::Serialize) -> Call {
    Call { holds, ..call(Method::PUT, path, answer) }
}

impl Call {
    fn refused(self, code: StatusCode) -> Self {
        let reason = if code == StatusCode::NOT_FOUND { "NotFound" } else { "Conflict" };
        let status = json!({ "kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason });
        Self { answer: (code, status), ..self }
    }
}

/// True if everything in `part` is in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match part {
        Value::Null => true,
        Value::Object(part) => part.iter().all(|(key, value)| contains(&whole[key], value)),
        part => whole == part,
    }
}

/// A context whose API server expects exactly these calls. The handle ends once they were made; a further
/// call fails the reconcile, because nobody answers it.
fn scenario(calls: Vec<Call>) -> (Arc<Context>, Stores, crate::stores::Writers, JoinHandle<()>) {
    let (service, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let client = Client::new(service, "default");
    let (stores, writers) = Stores::new("magnetite");
    let settings = Settings {
        join_api_server: Some("https://10.0.0.1:6443".into()),
        namespace: "magnetite".into(),
        ..Settings::default()
    };
    let leader = Leader::always();
    let ctx = Context::new(client, stores.clone(), settings, leader, Metrics::default(), || fixtures::t(60));
    (Arc::new(ctx), stores, writers, tokio::spawn(serve(handle, calls)))
}

async fn serve(mut handle: Handle, calls: Vec<Call>) {
    for expected in calls {
        let (request, answer) = handle.next_request().await.expect("a request");
        let (parts, body) = request.into_parts();
        assert_eq!((&parts.method, parts.uri.path()), (&expected.method, expected.path));
        let body = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        assert!(contains(&body, &expected.holds), "{body:#} lacks {:#}", expected.holds);
        let (code, value) = expected.answer;
        answer
            .send_response(Response::builder().status(code).body(Body::from(value.to_string().into_bytes())).unwrap());
    }
    assert!(handle.next_request().await.is_none(), "no further request");
}

const SECRET: &str = "/api/v1/namespaces/magnetite/secrets/registry";

/// A claim that was approved, of a machine that runs on it, with a file of a Secret in its Profile.
fn approved(keys: &Keys, stores: &mut crate::stores::Writers) -> MachineClaim {
    let mut claim = keys.claim(&keys.honest().pem());
    claim.metadata.name = Some("box-1-0000000000".into());
    claim.status = Some(magnetite_api::MachineClaimStatus {
        decision: Some(magnetite_api::claim::Decision::Approved),
        join: Some(magnetite_api::join::JoinBundle::default()),
        ..Default::default()
    });
    let mut machine = fixtures::machine();
    machine.status.as_mut().unwrap().identity = Some(fixtures::identity(keys, 10, Some(20)));
    let mut profile = fixtures::profile();
    profile.spec.secret_files = vec![magnetite_api::profile::SecretFile {
        path: "/etc/registry.key".into(),
        mode: "0600".into(),
        secret: magnetite_api::profile::SecretKey { name: "registry".into(), key: "key".into() },
    }];
    stores.machines.apply_watcher_event(&watcher::Event::Apply(machine));
    stores.profiles.apply_watcher_event(&watcher::Event::Apply(profile));
    claim
}

fn secret(version: &str) -> Value {
    json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": { "name": "registry", "uid": "uid-s", "resourceVersion": version },
        "data": { "key": "Y2FuYXJ5" },
    })
}

#[tokio::test]
async fn a_secret_is_sealed_to_the_key_that_was_bound_and_again_when_it_changes() {
    let keys = Keys::new();
    let told = json!({ "metadata": { "resourceVersion": "3" }, "status": { "decision": "Approved" } });
    let write = put(CLAIM_STATUS, told.clone(), json!({}));
    let (ctx, _stores, mut writers, server) = scenario(vec![get(SECRET, secret("1")), write]);
    let mut claim = approved(&keys, &mut writers);
    // What is answered is not read, so that the reconcile fails after its write; that is not what is looked at here.
    drop(claim::reconcile(Arc::new(claim.clone()), Arc::clone(&ctx)).await);
    end(ctx, server).await;

    // What a controller sealed only this box opens.
    let (ctx, _stores, mut writers, server) = scenario(vec![get(SECRET, secret("1"))]);
    approved(&keys, &mut writers);
    let profile = ctx.stores.profiles.state().first().cloned().unwrap();
    let sealed = claim::secrets::sealed(&claim.spec, &profile, None, &ctx).await.unwrap().ok().flatten().unwrap();
    let files = magnetite_seal::open(&keys.claim.serialize_pem(), "uid-1", &sealed).unwrap();
    assert_eq!((files[0].path.as_str(), files[0].contents().unwrap()), ("/etc/registry.key", b"canary".to_vec()));
    end(ctx, server).await;

    // Nothing changed: nothing is written. A Secret that is gone: told, and the machine keeps what it has.
    claim.status.as_mut().unwrap().join.as_mut().unwrap().secret_files = Some(sealed);
    let gone = get(SECRET, Value::Null).refused(StatusCode::NOT_FOUND);
    for calls in [vec![get(SECRET, secret("1"))], vec![gone, call(Method::POST, EVENTS, json!({}))]] {
        let (ctx, _stores, mut writers, server) = scenario(calls);
        approved(&keys, &mut writers);
        drop(claim::reconcile(Arc::new(claim.clone()), Arc::clone(&ctx)).await);
        end(ctx, server).await;
    }
}

#[tokio::test]
async fn a_bmc_s_secret_is_no_machine_s() {
    let keys = Keys::new();
    let mut theirs = secret("1");
    theirs["type"] = json!(magnetite_api::power::SECRET_TYPE);
    let (ctx, _stores, mut writers, server) = scenario(vec![get(SECRET, theirs)]);
    let claim = approved(&keys, &mut writers);
    let profile = ctx.stores.profiles.state().first().cloned().unwrap();
    let sealed = claim::secrets::sealed(&claim.spec, &profile, None, &ctx).await.unwrap();
    assert_eq!(sealed.unwrap_err().reason, magnetite_api::conditions::reason::SECRET_NOT_READABLE);
    end(ctx, server).await;
}

const BMC_SECRET: &str = "/api/v1/namespaces/magnetite/secrets/bmc";

#[tokio::test]
async fn what_is_wrong_with_a_bmc_is_written_though_the_status_changed_meanwhile_and_is_not_asked_again_at_once() {
    let mut machine = fixtures::machine();
    let bmc = json!({ "redfish": { "url": "https://10.0.8.21" }, "credentials": "bmc" });
    machine.spec.bmc = serde_json::from_value(bmc).unwrap();
    let mut newer = machine.clone();
    newer.metadata.resource_version = Some("8".into());
    let trouble = |version: &str| json!({ "metadata": { "resourceVersion": version }, "status": { "power": { "reason": "BmcSecretMissing" } } });
    let (ctx, _stores, _writers, server) = scenario(vec![
        get(BMC_SECRET, Value::Null).refused(StatusCode::NOT_FOUND),
        put(MACHINE_STATUS, trouble("7"), Value::Null).refused(StatusCode::CONFLICT),
        get(MACHINE, &newer),
        put(MACHINE_STATUS, trouble("8"), &newer),
    ]);
    let machine = Arc::new(machine);
    crate::power::reconcile(Arc::clone(&machine), Arc::clone(&ctx)).await.unwrap();
    // Its own write brings it back here, and that costs nothing.
    crate::power::reconcile(machine, Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

#[tokio::test]
async fn what_was_decided_on_another_spec_is_not_written() {
    let mut machine = fixtures::machine();
    let bmc = json!({ "redfish": { "url": "https://10.0.8.21" }, "credentials": "bmc" });
    machine.spec.bmc = serde_json::from_value(bmc).unwrap();
    let mut newer = machine.clone();
    newer.metadata.generation = Some(2);
    let (ctx, _stores, _writers, server) = scenario(vec![
        get(BMC_SECRET, Value::Null).refused(StatusCode::NOT_FOUND),
        put(MACHINE_STATUS, Value::Null, Value::Null).refused(StatusCode::CONFLICT),
        get(MACHINE, &newer),
    ]);
    let error = crate::power::reconcile(Arc::new(machine), Arc::clone(&ctx)).await.unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    end(ctx, server).await;
}

/// Ends a scenario: every call was made, and none besides.
async fn end(ctx: Arc<Context>, server: JoinHandle<()>) {
    drop(ctx);
    tokio::time::timeout(std::time::Duration::from_secs(5), server).await.expect("an end").expect("as expected");
}

const CLAIM: &str = "/apis/magnetite.dev/v1alpha1/machineclaims/box-1-0000000000";
const CLAIM_STATUS: &str = "/apis/magnetite.dev/v1alpha1/machineclaims/box-1-0000000000/status";
const MACHINE: &str = "/apis/magnetite.dev/v1alpha1/machines/box-1";
const MACHINE_STATUS: &str = "/apis/magnetite.dev/v1alpha1/machines/box-1/status";
const PROFILE: &str = "/apis/magnetite.dev/v1alpha1/profiles/p";
const NODE: &str = "/api/v1/nodes/box-1";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// The live reads of a claim's decision: S7.
fn reads(claim: &MachineClaim, machine: &Machine, profile: &Profile) -> Vec<Call> {
    vec![
        get(CLAIM, claim),
        get(MACHINE, machine),
        get(PROFILE, profile),
        get(NODE, Value::Null).refused(StatusCode::NOT_FOUND),
    ]
}

#[tokio::test]
async fn a_key_is_bound_by_compare_and_swap_and_then_the_claim_is_told() {
    let keys = Keys::new();
    let claim = keys.claim(&keys.honest().pem());
    let machine = fixtures::machine();
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    let bound = json!({
        "metadata": { "resourceVersion": "7" },
        "status": { "identity": { "intent": "created" }, "intent": { "state": "Open" } },
    });
    let mut kept = machine.clone();
    kept.status.as_mut().unwrap().identity = Some(fixtures::identity(&keys, 10, None));
    calls.push(put(MACHINE_STATUS, bound, &kept));
    let told = json!({ "metadata": { "resourceVersion": "3" }, "status": { "decision": "Bound" } });
    calls.push(put(CLAIM_STATUS, told, &claim));
    let (ctx, _stores, _writers, server) = scenario(calls);
    claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

#[tokio::test]
async fn a_key_that_older_crds_do_not_keep_is_not_bound_again_and_again() {
    let keys = Keys::new();
    let claim = keys.claim(&keys.honest().pem());
    let machine = fixtures::machine();
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(put(MACHINE_STATUS, json!({ "status": { "identity": { "intent": "created" } } }), &machine));
    let (ctx, _stores, _writers, server) = scenario(calls);
    let error = claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("status.identity of the Machine box-1"), "{error}");
    end(ctx, server).await;
}

#[tokio::test]
async fn who_comes_second_to_the_binding_writes_nothing_and_looks_again() {
    let keys = Keys::new();
    let claim = keys.claim(&keys.honest().pem());
    let machine = fixtures::machine();
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(put(MACHINE_STATUS, Value::Null, Value::Null).refused(StatusCode::CONFLICT));
    let (ctx, _stores, _writers, server) = scenario(calls);
    let error = claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    end(ctx, server).await;
}

#[tokio::test]
async fn a_second_key_freezes_the_machine_before_it_is_told() {
    let (keys, other) = (Keys::new(), Keys::new());
    let claim = other.claim(&other.honest().pem());
    let mut machine = fixtures::machine();
    machine.status.as_mut().unwrap().identity = Some(fixtures::identity(&keys, 10, None));
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(put(MACHINE_STATUS, json!({ "status": { "intent": { "state": "Frozen" } } }), &machine));
    let refused = json!({ "status": { "decision": "Denied", "reason": "ClaimConflict" } });
    calls.push(put(CLAIM_STATUS, refused, &claim));
    let warning =
        json!({ "type": "Warning", "reason": "ClaimConflict", "regarding": { "kind": "Machine", "name": "box-1" } });
    calls.push(Call { holds: warning, ..call(Method::POST, EVENTS, json!({})) });
    let (ctx, _stores, _writers, server) = scenario(calls);
    claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

#[tokio::test]
async fn a_challenge_is_the_end_of_its_claim_and_changes_no_machine() {
    let tpm = Swtpm::new();
    let node = Claimant::new(&tpm);
    let machine = enrolled(node.fingerprint());
    let claim = node.claim();
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    let told = json!({
        "metadata": { "resourceVersion": "3" },
        "status": { "decision": "Challenged", "reason": "ProveTpm", "join": null },
    });
    calls.push(put(CLAIM_STATUS, told, &claim));
    let (ctx, _stores, _writers, server) = scenario(calls);
    claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

#[tokio::test]
async fn a_proof_is_held_against_a_challenge_that_is_read_live_and_its_tpm_is_put_on_record() {
    const FIRST: &str = "/apis/magnetite.dev/v1alpha1/machineclaims/box-1-00000000aa";
    let tpm = Swtpm::new();
    let mut node = Claimant::new(&tpm);
    let machine = enrolled(node.fingerprint());
    let mut first = node.challenged(&machine);
    first.metadata.name = Some("box-1-00000000aa".into());
    let claim = node.answer(&first);
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(get(FIRST, &first));
    let bound = json!({
        "metadata": { "resourceVersion": "7" },
        "status": {
            "identity": { "level": "tpm-enrolled" },
            "tpm": { "endorsementKey": node.fingerprint() },
        },
    });
    let key = Sha256::of(&STANDARD.decode(&claim.spec.claim_key).unwrap()).to_string();
    let mut kept = machine.clone();
    let identity = IdentityStatus { claim_key: key, ..fixtures::identity(&Keys::new(), 10, None) };
    kept.status.get_or_insert_default().identity = Some(identity);
    calls.push(put(MACHINE_STATUS, bound, &kept));
    calls.push(put(CLAIM_STATUS, json!({ "status": { "decision": "Bound" } }), &claim));
    let (ctx, _stores, _writers, server) = scenario(calls);
    claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

/// The request as the API server gives it back, with what happened to it.
fn request_of(keys: &Keys, conditions: &[&str], certificate: Option<String>) -> CertificateSigningRequest {
    let condition = |kind: &&str| CertificateSigningRequestCondition {
        type_: (*kind).to_owned(),
        status: "True".to_owned(),
        ..CertificateSigningRequestCondition::default()
    };
    let mut csr = CertificateSigningRequest::default();
    csr.metadata.name = Some("magnetite-box-1".into());
    csr.metadata.resource_version = Some("9".into());
    csr.spec.signer_name = "kubernetes.io/kube-apiserver-client-kubelet".into();
    csr.spec.usages = Some(vec!["digital signature".into(), "client auth".into()]);
    csr.spec.expiration_seconds = Some(86_400);
    csr.spec.request = ByteString(keys.kubelet_request.clone().into_bytes());
    csr.status = Some(CertificateSigningRequestStatus {
        certificate: certificate.map(|text| ByteString(text.into_bytes())),
        conditions: Some(conditions.iter().map(condition).collect()),
    });
    csr
}

fn bound(keys: &Keys) -> (MachineClaim, Machine, &'static str) {
    let mut machine = fixtures::machine();
    let identity = fixtures::identity(keys, 10, None);
    let path = format!(
        "/apis/certificates.k8s.io/v1/certificatesigningrequests/magnetite-box-1-{}",
        magnetite_api::Sha256::of(b"claim-1").short()
    );
    machine.status.as_mut().unwrap().identity = Some(identity);
    (keys.claim(&keys.kubelet_request), machine, path.leak())
}

#[tokio::test]
async fn a_request_that_is_there_already_is_approved_and_not_made_again() {
    let keys = Keys::new();
    let (claim, machine, path) = bound(&keys);
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(get(path, request_of(&keys, &[], None)));
    let approval: &'static str = "/apis/certificates.k8s.io/v1/certificatesigningrequests/magnetite-box-1/approval";
    let guarded = json!({ "metadata": { "resourceVersion": "9" } });
    calls.push(put(approval, guarded, request_of(&keys, &["Approved"], None)));
    let (ctx, _stores, _writers, server) = scenario(calls);
    claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

#[tokio::test]
async fn the_certificate_is_on_record_before_it_is_handed_over() {
    let keys = Keys::new();
    let (claim, machine, path) = bound(&keys);
    let certificate = rcgen::CertificateParams::default().self_signed(&keys.kubelet).unwrap().pem();
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(get(path, request_of(&keys, &["Approved"], Some(certificate.clone()))));
    let record = json!({
        "metadata": { "resourceVersion": "7" },
        "status": { "identity": { "issuedAt": "2026-11-21T12:01:00Z" } },
    });
    calls.push(put(MACHINE_STATUS, record, &machine));
    calls.push(Call { holds: json!({ "reason": "CertificateIssued" }), ..call(Method::POST, EVENTS, json!({})) });
    let join = json!({ "nodeName": "box-1", "apiServer": "https://10.0.0.1:6443", "certificate": certificate });
    calls.push(put(CLAIM_STATUS, json!({ "status": { "decision": "Approved", "join": join } }), &claim));
    let (ctx, _stores, _writers, server) = scenario(calls);
    claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

/// A box that is back with the bound keys, after the certificate of its claim has ended: the claim, the Machine, and the path of the request.
fn back(keys: &Keys) -> (MachineClaim, Machine, &'static str) {
    let ended = keys.certificate(0);
    let mut claim = keys.claim(&keys.kubelet_request);
    claim.status = Some(magnetite_api::MachineClaimStatus {
        decision: Some(magnetite_api::claim::Decision::Approved),
        join: Some(magnetite_api::join::JoinBundle { certificate: ended.clone(), ..Default::default() }),
        ..Default::default()
    });
    let mut machine = fixtures::machine();
    let status = machine.status.as_mut().unwrap();
    let certificates = magnetite_request::certificate_digest(ended.as_bytes()).into_iter().collect();
    status.identity = Some(IdentityStatus { certificates, ..fixtures::identity(keys, 10, Some(20)) });
    status.intent = Some(fixtures::intent("created", magnetite_api::machine::IntentState::Fulfilled));
    let at = magnetite_api::time::seconds(fixtures::t(50));
    let step = json!({ "name": "Claiming", "firstAt": at, "lastAt": at, "count": 1 });
    let boot = json!({ "startedAt": at, "lastSeen": at, "server": "s", "steps": [step] });
    status.boot = serde_json::from_value(boot).unwrap();
    let name = Sha256::of(format!("claim-1\n{}", fixtures::t(0).as_second()).as_bytes()).short();
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/magnetite-box-1-{name}");
    (claim, machine, path.leak())
}

async fn reconcile_back(claim: MachineClaim, machine: &Machine, calls: Vec<Call>) {
    let (ctx, _stores, mut writers, server) = scenario(calls);
    writers.machines.apply_watcher_event(&watcher::Event::Apply(machine.clone()));
    claim::reconcile(Arc::new(claim), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

/// The same claim gets another certificate, which is on record before it is handed over, in the place of the one that has ended.
#[tokio::test]
async fn a_box_that_is_back_after_its_certificate_has_ended_gets_another() {
    let keys = Keys::new();
    let (claim, machine, path) = back(&keys);
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(get(path, Value::Null).refused(StatusCode::NOT_FOUND));
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let name = path.rsplit('/').next().unwrap();
    let holds = json!({ "metadata": { "name": name }, "spec": { "expirationSeconds": 86_400 } });
    calls.push(Call { holds, ..call(Method::POST, requests, request_of(&keys, &[], None)) });
    reconcile_back(claim, &machine, calls).await;

    let (claim, mut machine, path) = back(&keys);
    let certificate = keys.certificate(86_400);
    let digest = magnetite_request::certificate_digest(certificate.as_bytes()).unwrap();
    let issued = get(path, request_of(&keys, &["Approved"], Some(certificate.clone())));
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(issued);
    let record = json!({ "certificates": [digest], "certificateRequest": name, "issuedAt": "2026-11-21T12:00:20Z" });
    let guarded = json!({ "metadata": { "resourceVersion": "7" }, "status": { "identity": record } });
    calls.push(put(MACHINE_STATUS, guarded, &machine));
    calls.push(Call { holds: json!({ "reason": "CertificateIssued" }), ..call(Method::POST, EVENTS, json!({})) });
    let told = json!({ "status": { "decision": "Approved", "join": { "certificate": certificate } } });
    calls.push(put(CLAIM_STATUS, told.clone(), &claim));
    reconcile_back(claim, &machine, calls).await;

    // Killed between the record and the answer: only the answer is left to be written.
    let (claim, _, path) = back(&keys);
    let identity = machine.status.as_mut().unwrap().identity.as_mut().unwrap();
    (identity.certificates, identity.certificate_request) = (vec![digest], Some(name.to_owned()));
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(get(path, request_of(&keys, &["Approved"], Some(certificate))));
    calls.push(put(CLAIM_STATUS, told, &claim));
    reconcile_back(claim, &machine, calls).await;
}

/// The box comes with this claim, though the Machine's record names another of its key: it is served all the same.
#[tokio::test]
async fn a_box_that_is_back_with_an_older_claim_of_its_key_gets_what_the_newer_one_has() {
    let keys = Keys::new();
    let (claim, mut machine, _) = back(&keys);
    let certificate = keys.certificate(86_400);
    let mut newer = claim.clone();
    newer.metadata.name = Some("box-1-1111111111".into());
    newer.status.as_mut().unwrap().join.as_mut().unwrap().certificate = certificate.clone();
    let digest = magnetite_request::certificate_digest(certificate.as_bytes()).unwrap();
    let identity = machine.status.as_mut().unwrap().identity.as_mut().unwrap();
    (identity.certificates, identity.claim) = (vec![digest], newer.metadata.name.clone().unwrap());
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(get("/apis/magnetite.dev/v1alpha1/machineclaims/box-1-1111111111", &newer));
    let moved = json!({ "status": { "identity": { "claim": "box-1-0000000000", "certificates": [digest] } } });
    calls.push(put(MACHINE_STATUS, moved, &machine));
    let told = json!({ "status": { "decision": "Approved", "join": { "certificate": certificate } } });
    calls.push(put(CLAIM_STATUS, told, &claim));
    reconcile_back(claim, &machine, calls).await;
}

/// What was answered stays answered, and a person is told why there is no more.
#[tokio::test]
async fn a_box_that_is_back_and_may_not_join_keeps_its_answer_and_is_told_of() {
    let keys = Keys::new();
    let (claim, machine, path) = back(&keys);
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.pop();
    calls.push(get(NODE, json!({ "metadata": { "name": "box-1", "uid": "n" } })));
    let told = json!({ "type": "Warning", "reason": "NodeNameTaken" });
    calls.push(Call { holds: told, ..call(Method::POST, EVENTS, json!({})) });
    reconcile_back(claim, &machine, calls).await;

    // Somebody denied the request: the same.
    let (claim, machine, _) = back(&keys);
    let mut calls = reads(&claim, &machine, &fixtures::profile());
    calls.push(get(path, request_of(&keys, &["Denied"], None)));
    let told = json!({ "type": "Warning", "reason": "RequestDenied" });
    calls.push(Call { holds: told, ..call(Method::POST, EVENTS, json!({})) });
    reconcile_back(claim, &machine, calls).await;
}

#[tokio::test]
async fn the_finalizer_is_added_to_what_was_read() {
    let mut machine = fixtures::machine();
    machine.metadata.finalizers = Some(vec!["example.org/other".into()]);
    let all = json!(["example.org/other", "magnetite.dev/machine"]);
    let holds = json!({ "metadata": { "resourceVersion": "7", "finalizers": all } });
    let calls = vec![Call { holds, ..call(Method::PATCH, MACHINE, &machine) }];
    let (ctx, _stores, _writers, server) = scenario(calls);
    machine::reconcile(Arc::new(machine), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

#[tokio::test]
async fn a_status_is_written_once_and_only_if_it_differs() {
    let mut machine = fixtures::machine();
    machine.status = None;
    let written = json!({ "metadata": { "resourceVersion": "7" }, "status": { "intent": { "state": "Open" } } });
    let opened = Call { holds: json!({ "reason": "WindowOpened" }), ..call(Method::POST, EVENTS, json!({})) };
    let failed =
        Call { holds: json!({ "type": "Warning", "reason": "Failed" }), ..call(Method::POST, EVENTS, json!({})) };
    let calls = vec![put(MACHINE_STATUS, written, &machine), opened, failed];
    let (ctx, stores, _writers, server) = scenario(calls);
    machine::reconcile(Arc::new(machine.clone()), Arc::clone(&ctx)).await.unwrap();
    // What was written is read back: nothing more to do. (A further call would fail the scenario.)
    let seen = machine::observe::observe(&Arc::new(machine.clone()), &ctx);
    machine.status = machine::plan::plan(&seen, fixtures::t(60)).status;
    machine::reconcile(Arc::new(machine), Arc::clone(&ctx)).await.unwrap();
    drop(stores);
    end(ctx, server).await;
}

#[tokio::test]
async fn a_request_of_a_node_that_is_not_ours_is_left_alone() {
    let keys = Keys::new();
    let mut request = request_of(&keys, &[], None);
    request.spec.username = Some("system:node:box-1".into());
    let node = json!({ "metadata": { "name": "box-1", "uid": "n" } });
    let (ctx, _stores, _writers, server) = scenario(vec![get(NODE, node)]);
    csr::reconcile(Arc::new(request), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}

#[tokio::test]
async fn a_renewal_of_a_machine_that_the_cache_still_has_is_denied_once_it_is_gone() {
    let keys = Keys::new();
    let mut request = request_of(&keys, &[], None);
    request.spec.username = Some("system:node:box-1".into());
    let node =
        json!({ "metadata": { "name": "box-1", "uid": "n", "labels": { "magnetite.dev/machine-uid": "uid-1" } } });
    let approval: &'static str = "/apis/certificates.k8s.io/v1/certificatesigningrequests/magnetite-box-1/approval";
    let calls = vec![
        get(MACHINE, Value::Null).refused(StatusCode::NOT_FOUND),
        get(NODE, node),
        put(approval, json!({ "metadata": { "resourceVersion": "9" } }), &request),
        Call { holds: json!({ "reason": "CertificateRequestDenied" }), ..call(Method::POST, EVENTS, json!({})) },
    ];
    let (ctx, _stores, mut writers, server) = scenario(calls);
    writers.machines.apply_watcher_event(&watcher::Event::Apply(fixtures::machine()));
    csr::reconcile(Arc::new(request), Arc::clone(&ctx)).await.unwrap();
    end(ctx, server).await;
}
