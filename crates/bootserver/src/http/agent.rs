//! The agents' claims and reports. A claim is passed on and its answer passed back; nothing is decided here.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use magnetite_api::{
    Machine, MachineClaim, MachineClaimSpec, Sha256,
    claim::Decision,
    join::{ClaimRequest, ClaimResponse, ReportRequest},
    names,
    report::BootStepName,
    time::seconds,
};
use magnetite_boot::capability::{Purpose, machine_key};
use magnetite_daemon::clock;

use super::{Peer, later, refuse, refuse_unknown};
use crate::{
    app::{App, Cluster},
    dhcp::unix,
    metrics::count,
    record::{Detail, clean},
    view::Reader,
};

/// How long an answer is waited for before the agent is sent away to come again.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the API server may take for one call.
const CALL: Duration = Duration::from_secs(5);
/// Keys that may claim one machine in one intent before no more are passed on: a flood must not fill etcd.
const MOST_KEYS: usize = 8;

/// A box asks for the identity of a Machine.
pub async fn claim(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, cap)): Path<(String, String)>,
    body: Result<Json<ClaimRequest>, JsonRejection>,
) -> Response {
    let now = clock::now();
    let Some(machine) = app.authorize(&app.view(), &id, &cap, Purpose::Agent, unix(now)) else {
        count(&app.metrics.claims, "unknown");
        return refuse_unknown();
    };
    let request = match body {
        Ok(Json(request)) => request,
        Err(error) => {
            count(&app.metrics.claims, "malformed");
            return refuse(StatusCode::BAD_REQUEST, "BadRequest", error.body_text());
        }
    };
    let name = machine.name_any();
    if request.machine != name {
        count(&app.metrics.claims, "malformed");
        return refuse(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            format!("the claim is for {}, and the link is for {name}", clean(&request.machine, 63)),
        );
    }
    let Cluster::Client(client) = &app.cluster else {
        count(&app.metrics.claims, "unavailable");
        return later(
            "NoCluster",
            "this boot server runs from a catalog, where nobody can issue a certificate; set join.mode to None in the Profile",
            60,
        );
    };
    let response = pass_on(&app, client, &machine, request, &peer).await;
    // A refused claim may be a rogue's: it is no step of the machine's own boot. Its Event tells of it.
    if response.status() != StatusCode::CONFLICT {
        app.records.step(&machine, BootStepName::Claiming, Detail::default().at_peer(peer.ip()), now);
    }
    let outcome = match response.status().as_u16() {
        200 => "approved",
        409 => "denied",
        503 => "unavailable",
        _ => "malformed",
    };
    count(&app.metrics.claims, outcome);
    tracing::info!(machine = name, peer = %peer.0, outcome, "claim answered");
    response
}

async fn pass_on(app: &App, client: &Client, machine: &Arc<Machine>, request: ClaimRequest, peer: &Peer) -> Response {
    let Ok(key) = STANDARD.decode(&request.claim_key) else {
        return refuse(StatusCode::BAD_REQUEST, "BadRequest", "claimKey is not base64");
    };
    let name = claim_name(&machine.name_any(), &key, &request.intent);
    let view = app.view();
    let rivals = view.claims.values().filter(|claim| {
        claim.spec.machine == request.machine && claim.spec.intent == request.intent && claim.name_any() != name
    });
    if rivals.count() >= MOST_KEYS {
        return refuse(
            StatusCode::CONFLICT,
            "ClaimConflict",
            "too many keys have claimed this machine; a person must set another spec.bootIntent",
        );
    }
    let api: Api<MachineClaim> = Api::all(client.clone());
    if let Err(response) = create(&api, app, &name, machine, request, peer).await {
        return response;
    }
    answer(app.view.clone(), &api, &name).await
}

async fn create(
    api: &Api<MachineClaim>,
    app: &App,
    name: &str,
    machine: &Arc<Machine>,
    request: ClaimRequest,
    peer: &Peer,
) -> Result<(), Response> {
    if app.view().claims.contains_key(name) {
        return Ok(());
    }
    let ClaimRequest { machine: machine_name, intent, claim_key, certificate_request, signature, facts } = request;
    let spec = MachineClaimSpec {
        machine: machine_name,
        machine_uid: machine_key(machine),
        intent,
        claim_key,
        certificate_request,
        signature,
        facts,
        address: peer.ip().to_canonical().to_string(),
        server: app.server.clone(),
    };
    let mut claim = MachineClaim::new(name, spec);
    claim.metadata = ObjectMeta { name: Some(name.to_owned()), ..claim.metadata };
    claim.metadata.labels = Some([(names::LABEL_MACHINE.to_owned(), machine.name_any())].into());
    claim.metadata.owner_references = owner(machine.as_ref()).map(|owner| vec![owner]);
    let unavailable =
        || later("ApiServerAway", "the API server does not answer; the claim is kept by nobody, come again", 5);
    match tokio::time::timeout(CALL, api.create(&PostParams::default(), &claim)).await {
        Ok(Ok(_)) => Ok(()),
        // The same key again: its answer is, or will be, there.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 400 || status.code == 422 => {
            Err(refuse(StatusCode::BAD_REQUEST, "BadRequest", clean(&status.message, 300)))
        }
        Ok(Err(error)) => {
            tracing::warn!(
                machine = machine.name_any(),
                error = &error as &dyn std::error::Error,
                "a claim could not be passed on"
            );
            Err(unavailable())
        }
        Err(_) => Err(unavailable()),
    }
}

/// Waits for the controller's answer.
async fn answer(mut view: Reader, api: &Api<MachineClaim>, name: &str) -> Response {
    let decided = async {
        loop {
            let claim = view.borrow_and_update().claims.get(name).cloned();
            if let Some(response) = claim.as_deref().and_then(respond) {
                return response;
            }
            if view.changed().await.is_err() {
                return later("Stopping", "this boot server is stopping", 2);
            }
        }
    };
    match tokio::time::timeout(PATIENCE, decided).await {
        Ok(response) => response,
        // The watch may lag behind: ask once before the agent is sent away.
        Err(_) => match tokio::time::timeout(CALL, api.get_opt(name)).await {
            Ok(Ok(Some(claim))) => {
                respond(&claim).unwrap_or_else(|| later("Undecided", "the controller has not decided yet", 2))
            }
            Ok(Ok(None)) => later("Undecided", "the claim is gone; come again", 2),
            _ => later("ApiServerAway", "the API server does not answer", 5),
        },
    }
}

/// The answer to a claim, once there is one.
fn respond(claim: &MachineClaim) -> Option<Response> {
    let status = claim.status.as_ref()?;
    match (status.decision?, &status.join) {
        (Decision::Approved, Some(join)) => {
            let response = ClaimResponse { join: join.clone(), server_time: seconds(clock::now()) };
            Some(Json(response).into_response())
        }
        (Decision::Denied, _) => {
            let reason = status.reason.as_deref().unwrap_or("Denied");
            Some(refuse(StatusCode::CONFLICT, reason, status.message.clone().unwrap_or_default()))
        }
        (Decision::Approved | Decision::Bound, _) => None,
    }
}

/// A claim's name: the same for a key that comes again in an intent, another in another intent. A box keeps its keys
/// over intents, and a claim that was refused in one must not answer for the next.
fn claim_name(machine: &str, key: &[u8], intent: &str) -> String {
    let digest = Sha256::of(&[key, b"\n", intent.as_bytes()].concat());
    format!("{machine}-{}", digest.short())
}

/// Ties an object to its Machine or Profile: it goes when that goes.
pub fn owner<K: Resource<DynamicType = ()>>(of: &K) -> Option<OwnerReference> {
    let mut owner = of.owner_ref(&())?;
    // A boot server may not hold up a deletion, and has no right to say so.
    (owner.block_owner_deletion, owner.controller) = (None, None);
    Some(owner)
}

/// A box tells how far it is.
pub async fn report(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, cap)): Path<(String, String)>,
    body: Result<Json<ReportRequest>, JsonRejection>,
) -> Response {
    let now = clock::now();
    let Some(machine) = app.authorize(&app.view(), &id, &cap, Purpose::Agent, unix(now)) else {
        return refuse_unknown();
    };
    let ReportRequest { step, detail, failure, inventory } = match body {
        Ok(Json(report)) => report,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, "BadRequest", error.body_text()),
    };
    if step < BootStepName::AgentStarted {
        return refuse(StatusCode::BAD_REQUEST, "BadRequest", "an agent reports AgentStarted and what comes after it");
    }
    if let Some(inventory) = inventory {
        app.records.inventory(&machine, bounded(inventory), now);
    }
    match failure {
        Some(failure) => {
            tracing::warn!(
                machine = machine.name_any(),
                step = step.as_str(),
                reason = clean(&failure.reason, 64),
                "the box reports a failure"
            );
            app.records.fail(&machine, step, &failure.reason, &failure.message, now);
        }
        None => {
            tracing::info!(machine = machine.name_any(), step = step.as_str(), "the box reports");
            app.records.step(&machine, step, Detail { words: detail, ..Detail::default() }.at_peer(peer.ip()), now);
            if let (BootStepName::SystemBooted, Cluster::None(windows)) = (step, &app.cluster) {
                let mut windows = windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Err(error) = windows.fulfil(&machine.name_any()) {
                    tracing::error!(error = &error as &dyn std::error::Error, "a window's closing is not remembered");
                }
            }
        }
    }
    StatusCode::NO_CONTENT.into_response()
}

/// What a box says it is made of, cut to what the schema takes.
fn bounded(mut inventory: magnetite_api::report::Inventory) -> magnetite_api::report::Inventory {
    let trim = |text: &mut Option<String>| {
        if let Some(text) = text {
            *text = clean(text, 128);
        }
    };
    let inv = &mut inventory;
    for text in [
        &mut inv.manufacturer,
        &mut inv.product,
        &mut inv.serial,
        &mut inv.firmware_version,
        &mut inv.kernel,
        &mut inv.cpu_model,
    ] {
        trim(text);
    }
    inv.firmware = inv.firmware.as_deref().map(|text| clean(text, 16));
    inv.disks.truncate(64);
    inv.nics.truncate(64);
    inv.gpus.truncate(64);
    for disk in &mut inv.disks {
        disk.name = clean(&disk.name, 64);
        trim(&mut disk.model);
        trim(&mut disk.serial);
    }
    for nic in &mut inv.nics {
        nic.name = clean(&nic.name, 64);
        nic.driver = nic.driver.as_deref().map(|text| clean(text, 64));
    }
    for gpu in &mut inv.gpus {
        (gpu.address, gpu.vendor) = (clean(&gpu.address, 16), clean(&gpu.vendor, 4));
        (gpu.device, gpu.class) = (clean(&gpu.device, 4), clean(&gpu.class, 6));
    }
    inventory
}
