//! The agents' claims: passed on, and the answer passed back. Nothing is decided here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use magnetite_api::{
    Machine, MachineClaim,
    claim::{Decision, claim_name},
    conditions::reason,
    join::{ClaimRequest, ClaimResponse},
    report::BootStepName,
    time::seconds,
    tpm::{ClaimChallenge, TpmEvidence, TpmProof},
};
use magnetite_boot::{capability::machine_key, site::sealed_path};
use magnetite_daemon::{clock, log::chain};

use super::{Peer, body::Posted, guard::AgentLink, later, refuse};
use crate::{
    app::{App, Cluster},
    metrics::count,
    record::{Detail, clean},
    view::{Reader, View},
};

/// How long an answer is waited for before the agent is sent away to come again.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the API server may take for one call.
const CALL: Duration = Duration::from_secs(5);
/// Keys that may claim one machine in one intent before no more are passed on: a flood must not fill etcd.
const MOST_KEYS: usize = 8;

/// The claims that this server passed on, by Machine, with the intent that they are for. The watch tells of them only
/// later, and a flood does not wait for it.
#[derive(Debug, Default)]
pub struct Passed(Mutex<HashMap<String, (String, BTreeSet<String>)>>);

impl Passed {
    /// True if one more claim may be passed on, or the same once more.
    fn admit(&self, view: &View, request: &ClaimRequest, name: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (intent, names) = all.entry(request.machine.clone()).or_default();
        if *intent != request.intent {
            (*intent, *names) = (request.intent.clone(), BTreeSet::new());
        }
        let mine =
            |claim: &&Arc<MachineClaim>| claim.spec.machine == request.machine && claim.spec.intent == request.intent;
        let watched = view.claims.values().filter(mine).map(|claim| claim.name_any());
        let rivals: BTreeSet<_> = watched.chain(names.iter().cloned()).filter(|other| other != name).collect();
        if rivals.len() >= MOST_KEYS {
            return false;
        }
        names.insert(name.to_owned());
        true
    }

    /// It was not passed on after all: a box that restarts while the API server is away has a new key each time.
    fn withdraw(&self, machine: &str, name: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, names)) = all.get_mut(machine) {
            names.remove(name);
        }
    }
}

/// A box asks for the identity of a Machine.
pub async fn claim(
    State(app): State<Arc<App>>,
    peer: Peer,
    AgentLink { machine, now }: AgentLink,
    Posted(body): Posted<ClaimRequest>,
) -> Response {
    let checked = body.and_then(|request| check(request, &machine));
    let (request, name) = match checked {
        Ok(checked) => checked,
        Err(message) => {
            count(&app.metrics.claims, "malformed");
            return refuse(StatusCode::BAD_REQUEST, "BadRequest", clean(&message, 300));
        }
    };
    if machine.is_held() {
        count(&app.metrics.claims, "unavailable");
        let (why, message) = match machine.maintenance() {
            Some(_) => (reason::IN_MEMORY, "the machine is out of service (spec.maintenance)"),
            None => (reason::HELD, "the Machine is held: kubectl magnetite approve says what it is to be"),
        };
        return later(why, message, 60);
    }
    let Cluster::Client(client) = &app.cluster else {
        count(&app.metrics.claims, "unavailable");
        return later(
            "NoCluster",
            "this boot server runs from a catalog, where nobody can issue a certificate; set join.mode to None in the Profile",
            60,
        );
    };
    let response = pass_on(&app, client, &machine, request, &name, &peer).await;
    // A refused claim may be a rogue's: it is no step of the machine's own boot. Its Event tells of it.
    if !response.status().is_client_error() {
        app.records.step(&machine, BootStepName::Claiming, Detail::default().at_peer(peer.ip()), now);
    }
    let outcome = match response.status().as_u16() {
        200 => "approved",
        202 => "challenged",
        409 => "denied",
        503 => "unavailable",
        _ => "malformed",
    };
    count(&app.metrics.claims, outcome);
    tracing::info!(machine = machine.name_any(), peer = %peer.0, claim = name, outcome, "claim answered");
    response
}

/// What can be seen of a claim without deciding anything: that it is for the machine and the intent of its link, and that
/// it fits the schema. With it, the name of its object.
fn check(request: ClaimRequest, machine: &Machine) -> Result<(ClaimRequest, String), String> {
    let ClaimRequest { machine: name, intent, claim_key, certificate_request, signature, facts, tpm, proof } = &request;
    for (what, said, link) in
        [("machine", name, machine.name_any().as_str()), ("intent", intent, machine.wanted_intent())]
    {
        if said != link {
            return Err(format!("the claim is for the {what} {}, and the link is for {link}", clean(said, 63)));
        }
    }
    let serial = facts.serial.as_deref().map_or(0, |serial| serial.chars().count());
    for (field, size, most) in [
        ("claimKey", claim_key.len(), 1024),
        ("certificateRequest", certificate_request.len(), 8192),
        ("signature", signature.len(), 256),
        ("facts.macs", facts.macs.len() + 1, 65),
        ("facts.serial", serial + 1, 129),
    ] {
        fits(field, size, most)?;
    }
    if let Some(evidence) = tpm {
        check_evidence(evidence)?;
    }
    if let Some(proof) = proof {
        check_proof(proof)?;
    }
    let key = STANDARD.decode(claim_key).map_err(|_| "claimKey is not base64".to_owned())?;
    let object = claim_name(name, &key, intent, tpm.as_ref(), proof.as_ref());
    Ok((request, object))
}

fn fits(field: &str, size: usize, most: usize) -> Result<(), String> {
    if size == 0 || size > most { Err(format!("{field} is missing or too long")) } else { Ok(()) }
}

fn check_evidence(evidence: &TpmEvidence) -> Result<(), String> {
    let TpmEvidence { endorsement_key, endorsement_certificate, attestation_key } = evidence;
    fits("tpm.endorsementKey", endorsement_key.len(), 1024)?;
    fits("tpm.endorsementCertificate", endorsement_certificate.as_ref().map_or(1, String::len), 8192)?;
    fits("tpm.attestationKey", attestation_key.len(), 1024)
}

fn check_proof(proof: &TpmProof) -> Result<(), String> {
    let TpmProof { claim, secret, quote, signature, pcrs } = proof;
    fits("proof.claim", claim.len(), 253)?;
    fits("proof.secret", secret.len(), 64)?;
    fits("proof.quote", quote.len(), 2048)?;
    fits("proof.signature", signature.len(), 512)?;
    if pcrs.len() == 8 { Ok(()) } else { Err("proof.pcrs has not eight values".to_owned()) }
}

async fn pass_on(
    app: &App,
    client: &Client,
    machine: &Machine,
    request: ClaimRequest,
    name: &str,
    peer: &Peer,
) -> Response {
    let view = app.view();
    if !app.passed.admit(&view, &request, name) {
        return refuse(
            StatusCode::CONFLICT,
            reason::CLAIM_CONFLICT,
            "too many keys have claimed this machine; a person must set another spec.bootIntent",
        );
    }
    let api: Api<MachineClaim> = Api::all(client.clone());
    let refresh = sealed_path(&app.key, machine);
    let asked = Asked { intent: request.intent.clone(), machine_uid: machine_key(machine), refresh };
    if !view.claims.contains_key(name)
        && let Err(response) = create(&api, object(app, machine, request, name, peer)).await
    {
        app.passed.withdraw(&machine.name_any(), name);
        return response;
    }
    answer(app.view.clone(), &api, name, &asked).await
}

fn object(app: &App, machine: &Machine, request: ClaimRequest, name: &str, peer: &Peer) -> MachineClaim {
    let address = peer.ip().to_canonical().to_string();
    let mut claim = MachineClaim::of_box(name, request, machine_key(machine), address, app.server.clone());
    claim.metadata.owner_references = owner(machine).map(|owner| vec![owner]);
    claim
}

async fn create(api: &Api<MachineClaim>, claim: MachineClaim) -> Result<(), Response> {
    match tokio::time::timeout(CALL, api.create(&PostParams::default(), &claim)).await {
        Ok(Ok(_)) => Ok(()),
        // The same key again: its answer is, or will be, there.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 400 || status.code == 422 => {
            Err(refuse(StatusCode::BAD_REQUEST, "BadRequest", clean(&status.message, 300)))
        }
        Ok(Err(error)) => {
            let machine = claim.spec.machine;
            tracing::warn!(machine, error = chain(&error), "a claim could not be passed on");
            Err(away())
        }
        Err(_) => Err(away()),
    }
}

fn away() -> Response {
    later("ApiServerAway", "the API server does not answer; the claim is not lost, come again", 5)
}

/// What an answer must be for. A claim is written once: one that is left of a Machine that was deleted, or that bears
/// this one's name by chance, is no answer to this one.
struct Asked {
    intent: String,
    machine_uid: String,
    /// Where its sealed files are to be had later.
    refresh: String,
}

/// Waits for the controller's answer.
async fn answer(mut view: Reader, api: &Api<MachineClaim>, name: &str, asked: &Asked) -> Response {
    let decided = async {
        loop {
            let claim = view.borrow_and_update().claims.get(name).cloned();
            if let Some(response) = claim.as_deref().and_then(|claim| respond(claim, asked)) {
                return response;
            }
            if view.changed().await.is_err() {
                return later("Stopping", "this boot server is stopping", 2);
            }
        }
    };
    if let Ok(response) = tokio::time::timeout(PATIENCE, decided).await {
        return response;
    }
    // The watch may lag behind: ask once before the agent is sent away.
    match tokio::time::timeout(CALL, api.get_opt(name)).await {
        Ok(Ok(Some(claim))) => respond(&claim, asked).unwrap_or_else(|| undecided(&claim)),
        Ok(Ok(None)) => later("Undecided", "the claim is gone; come again", 2),
        Ok(Err(_)) | Err(_) => away(),
    }
}

/// What a claim waits for, in the controller's words: a person at the console reads them.
fn undecided(claim: &MachineClaim) -> Response {
    let status = claim.status.clone().unwrap_or_default();
    match (status.reason, status.message) {
        (Some(reason), Some(message)) => later(&reason, message, 5),
        _ => later("Undecided", "the controller has not decided yet; come again", 2),
    }
}

/// The answer to a claim, once there is one.
fn respond(claim: &MachineClaim, asked: &Asked) -> Option<Response> {
    if (&claim.spec.intent, &claim.spec.machine_uid) != (&asked.intent, &asked.machine_uid) {
        let message = format!(
            "the MachineClaim {} is of another Machine or intent and in the way of this one; it goes, or is to be deleted",
            claim.name_any()
        );
        return Some(later(reason::CLAIM_REFUSED, message, 30));
    }
    let status = claim.status.as_ref()?;
    match (status.decision?, &status.join) {
        (Decision::Approved, Some(join)) => {
            let response = ClaimResponse {
                join: join.clone(),
                server_time: seconds(clock::now()),
                refresh: Some(asked.refresh.clone()),
            };
            Some(Json(response).into_response())
        }
        (Decision::Challenged, _) => {
            let challenge = ClaimChallenge { claim: claim.name_any(), challenge: status.challenge.clone()? };
            Some((StatusCode::ACCEPTED, Json(challenge)).into_response())
        }
        (Decision::Denied, _) => {
            let reason = status.reason.as_deref().unwrap_or("Denied");
            Some(refuse(StatusCode::CONFLICT, reason, status.message.clone().unwrap_or_default()))
        }
        (Decision::Approved | Decision::Bound, _) => None,
    }
}

/// A machine's files with secrets, as its claim carries them now. Only its key opens them, so that whoever is asked
/// need not know who asks.
pub async fn files(State(app): State<Arc<App>>, link: AgentLink) -> Response {
    let view = app.view();
    let identity = link.machine.status.as_ref().and_then(|status| status.identity.as_ref());
    let claim = identity.and_then(|identity| view.claims.get(&identity.claim));
    let join = claim.and_then(|claim| claim.status.as_ref()?.join.as_ref());
    match join.and_then(|join| join.secret_files.as_ref()) {
        Some(sealed) => Json(sealed).into_response(),
        // A claim that is not in sight yet, or a Profile that has none any more: the box keeps what it has.
        None => later("NoFiles", "there are no sealed files of this machine now", 60),
    }
}

/// Ties an object to what it is about: it goes when that goes.
pub fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Option<OwnerReference> {
    let mut owner = object.owner_ref(&())?;
    // A boot server may not hold up anybody's deletion, and has no right to say so.
    (owner.block_owner_deletion, owner.controller) = (None, None);
    Some(owner)
}
