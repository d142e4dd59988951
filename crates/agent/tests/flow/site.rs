//! The other side of a join, with answers that are fixed beforehand: a boot server whose certificate is dated 1970,
//! and an API server that knows one Node.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::tls_rustls::{RustlsConfig, from_tcp_rustls};
use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_api::{
    Sha256,
    join::{ClaimRequest, ClaimResponse, InstallOrder, JoinBundle, Refusal, ReportRequest, SealedFiles, WipeOrder},
    time::seconds,
    tpm::{ClaimChallenge, TpmChallenge, decode, encode},
};
use magnetite_daemon::clock;
use magnetite_tpm::{
    binding::{Claimed, extra_data},
    public::{AttestationKey, EndorsementKey},
    verifier::{Challenge, check_quote},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PublicKeyData, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

pub const CAPABILITY: &str = "AAAAAAAAcapabilityAAAAAAAA";
pub const BOOT_ID: &str = "5b0a4b5e-1111-4222-8333-444455556666";

/// What the boot server answers to a claim.
#[derive(Debug, Clone)]
pub enum Reply {
    /// 503.
    NotYet,
    /// 409.
    Refuse(&'static str),
    /// 404.
    Gone,
    /// 200, and the certificate.
    Grant,
    /// 200, and beside the certificate a file with this secret.
    GrantSecret(&'static str),
    /// 202 to a claim without a proof by the TPM, 200 to one with it, once it was checked as the controller does.
    Prove,
    /// 200, for a node of another name.
    GrantTo(&'static str),
}

/// What the API server says of the Node.
#[derive(Debug, Clone, Copy)]
pub enum Node {
    Missing,
    NotReady,
    Ready,
    /// Ready, and asked for the end of this boot.
    Restart(&'static str),
}

/// What was said to the two servers, and what they will answer. The last answer is repeated.
#[derive(Debug, Default)]
pub struct Fixed {
    pub replies: VecDeque<Reply>,
    pub nodes: VecDeque<Node>,
    pub claims: Vec<ClaimRequest>,
    pub reports: Vec<ReportRequest>,
    /// What the file with a secret holds by now.
    pub file: Option<&'static str>,
    /// What is to be installed: none says that nothing is.
    pub order: Option<InstallOrder>,
    /// The intent in which the box is to be wiped: none says that nobody wants that.
    pub wipe: Option<&'static str>,
    /// The image of it.
    pub image: Vec<u8>,
    /// Digest of the secret of the last challenge.
    pub secret: Option<Sha256>,
}

/// A site with both servers.
#[derive(Clone)]
pub struct Site {
    fixed: Arc<Mutex<Fixed>>,
    authority: Arc<CertifiedIssuer<'static, KeyPair>>,
    pub server: SocketAddr,
    pub pin: String,
    api_server: SocketAddr,
    /// Where images come from.
    pub images: SocketAddr,
}

impl Site {
    /// Starts both servers on free ports.
    pub fn start(replies: &[Reply], nodes: &[Node]) -> Self {
        magnetite_daemon::crypto::install();
        let fixed = Fixed {
            replies: replies.iter().cloned().collect(),
            nodes: nodes.iter().copied().collect(),
            ..Fixed::default()
        };
        let boot_key = KeyPair::generate().expect("a key");
        let (boot, api, images) = (free_port(), free_port(), free_port());
        let site = Self {
            fixed: Arc::new(Mutex::new(fixed)),
            authority: Arc::new(authority()),
            server: boot.local_addr().expect("an address"),
            pin: format!("sha256/{}", Sha256::of(&boot_key.subject_public_key_info())),
            api_server: api.local_addr().expect("an address"),
            images: images.local_addr().expect("an address"),
        };
        let boot_router = Router::new()
            .route(&format!("/a/1/{CAPABILITY}/claim"), post(claim))
            .route(&format!("/a/1/{CAPABILITY}/report"), post(report))
            .route(&format!("/a/1/{CAPABILITY}/install/{}", std::env::consts::ARCH), get(order))
            .route(&format!("/a/1/{CAPABILITY}/wipe"), get(wipe))
            .route(&format!("/a/1/{CAPABILITY}/files"), get(files));
        // Images come by plain HTTP.
        let images = tokio::net::TcpListener::from_std(images).expect("a listener");
        let image_router = Router::new().route("/image", get(image)).with_state(site.clone());
        tokio::spawn(async move { axum::serve(images, image_router).await.expect("served") });
        serve(boot, boot_router.with_state(site.clone()), boot_server_tls(&boot_key));
        let api_router = Router::new().route("/api/v1/nodes/box-1", get(node)).with_state(site.clone());
        serve(api, api_router, site.api_server_tls());
        site
    }

    pub fn fixed(&self) -> MutexGuard<'_, Fixed> {
        self.fixed.lock().expect("not poisoned")
    }

    /// Names of the reported steps, with the reason of a failure.
    pub fn reported(&self) -> Vec<String> {
        let one = |report: &ReportRequest| match &report.failure {
            Some(failure) => format!("{} failed: {}", report.step.as_str(), failure.reason),
            None => report.step.as_str().to_owned(),
        };
        self.fixed().reports.iter().map(one).collect()
    }

    fn bundle(&self, request: &ClaimRequest, node_name: &str) -> JoinBundle {
        let mut csr = CertificateSigningRequestParams::from_pem(&request.certificate_request).expect("a request");
        csr.params.not_before = date_time_ymd(2020, 1, 1);
        csr.params.not_after = date_time_ymd(2099, 1, 1);
        csr.params.distinguished_name.push(DnType::CommonName, format!("system:node:{node_name}"));
        csr.params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        JoinBundle {
            node_name: node_name.to_owned(),
            api_server: format!("https://{}", self.api_server),
            certificate_authority: self.authority.pem(),
            certificate: csr.signed_by(&*self.authority).expect("signed").pem(),
            kubelet_configuration: r#"{"kind":"KubeletConfiguration","rotateCertificates":true}"#.to_owned(),
            kubelet_args: vec!["--node-labels=a=b".to_owned()],
            machine_uid: "uid-1".to_owned(),
            secret_files: None,
        }
    }

    fn api_server_tls(&self) -> ServerConfig {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &*self.authority).expect("signed");
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("a certificate");
        let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], private(&key))
            .expect("a configuration")
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// Not valid by its dates nor by its name, for any box that looked at them.
fn boot_server_tls(key: &KeyPair) -> ServerConfig {
    let mut params = CertificateParams::new(vec!["elsewhere.example".to_owned()]).expect("params");
    (params.not_before, params.not_after) = (date_time_ymd(1970, 1, 1), date_time_ymd(1970, 1, 2));
    let certificate: CertificateDer<'static> = params.self_signed(key).expect("signed").der().clone();
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private(key))
        .expect("a configuration")
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8")
}

fn free_port() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("non-blocking");
    listener
}

fn serve(listener: TcpListener, router: Router, tls: ServerConfig) {
    let tls = RustlsConfig::from_config(Arc::new(tls));
    let server = from_tcp_rustls(listener, tls).expect("a server");
    tokio::spawn(async move { server.serve(router.into_make_service()).await.expect("served") });
}

/// The next answer; the last is repeated.
fn next<T: Clone>(answers: &mut VecDeque<T>) -> T {
    let answer = answers.front().cloned().expect("an answer was fixed");
    if answers.len() > 1 {
        answers.pop_front();
    }
    answer
}

async fn order(State(site): State<Site>) -> Response {
    match site.fixed().order.clone() {
        Some(order) => Json(order).into_response(),
        None => {
            let refusal = Refusal { reason: "IntentAlreadyDone".to_owned(), message: "it is installed".to_owned() };
            (StatusCode::CONFLICT, Json(refusal)).into_response()
        }
    }
}

async fn wipe(State(site): State<Site>) -> Response {
    match site.fixed().wipe {
        Some(intent) => Json(WipeOrder { machine: "m-1".to_owned(), intent: intent.to_owned() }).into_response(),
        None => StatusCode::CONFLICT.into_response(),
    }
}

async fn image(State(site): State<Site>, headers: HeaderMap) -> Response {
    let image = site.fixed().image.clone();
    let range =
        headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-'));
    match range.map(|start| start.parse::<usize>().expect("a number")) {
        None => image.into_response(),
        Some(start) => (StatusCode::PARTIAL_CONTENT, image.get(start..).unwrap_or_default().to_vec()).into_response(),
    }
}

async fn claim(State(site): State<Site>, Json(request): Json<ClaimRequest>) -> Response {
    let reply = {
        let mut fixed = site.fixed();
        fixed.claims.push(request.clone());
        next(&mut fixed.replies)
    };
    let refusal = |reason: &str| {
        Json(Refusal { reason: reason.to_owned(), message: "another key is bound; open a new intent".to_owned() })
    };
    let grant = |name: &str| {
        Json(ClaimResponse { join: site.bundle(&request, name), server_time: seconds(clock::now()), refresh: None })
            .into_response()
    };
    match reply {
        Reply::NotYet => {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "1".parse().expect("a value"))]);
            (StatusCode::SERVICE_UNAVAILABLE, headers, refusal("Waiting")).into_response()
        }
        Reply::Refuse(reason) => (StatusCode::CONFLICT, refusal(reason)).into_response(),
        Reply::Gone => StatusCode::NOT_FOUND.into_response(),
        Reply::Grant => grant("box-1"),
        Reply::GrantSecret(text) => {
            let join =
                JoinBundle { secret_files: Some(sealed(&request.claim_key, text)), ..site.bundle(&request, "box-1") };
            let refresh = Some(format!("/a/1/{CAPABILITY}/files"));
            Json(ClaimResponse { join, server_time: seconds(clock::now()), refresh }).into_response()
        }
        Reply::GrantTo(name) => grant(name),
        Reply::Prove => match &request.proof {
            None => (StatusCode::ACCEPTED, Json(challenge(&site, &request))).into_response(),
            Some(_) if is_proven(&site, &request) => grant("box-1"),
            Some(_) => (StatusCode::CONFLICT, refusal("TpmNotProven")).into_response(),
        },
    }
}

/// What a controller seals for the box whose claim key this is.
fn sealed(claim_key: &str, text: &str) -> SealedFiles {
    let key = STANDARD.decode(claim_key).expect("base64");
    let file = magnetite_seal::PlainFile::new("/etc/containerd/registry.key", 0o640, text.as_bytes());
    magnetite_seal::seal(&key, "uid-1", &[file], Sha256::of(text.as_bytes()).short()).expect("sealed")
}

async fn files(State(site): State<Site>) -> Response {
    let (key, text) = {
        let fixed = site.fixed();
        (fixed.claims.first().expect("a claim").claim_key.clone(), fixed.file)
    };
    match text {
        Some(text) => Json(sealed(&key, text)).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn tpm_keys(request: &ClaimRequest) -> (EndorsementKey, AttestationKey) {
    let evidence = request.tpm.as_ref().expect("the agent was told to show its TPM");
    let bytes = |text: &str| decode(text).expect("base64");
    let endorsement = EndorsementKey::decode(&bytes(&evidence.endorsement_key)).expect("an EK");
    (endorsement, AttestationKey::decode(&bytes(&evidence.attestation_key)).expect("an AK"))
}

fn challenge(site: &Site, request: &ClaimRequest) -> ClaimChallenge {
    let (endorsement, attestation) = tpm_keys(request);
    let made = Challenge::new(&endorsement, &attestation).expect("a challenge");
    site.fixed().secret = Some(Sha256(made.digest));
    let challenge = TpmChallenge {
        credential: encode(&made.credential),
        encrypted_secret: encode(&made.encrypted_secret),
        secret_digest: Sha256(made.digest),
    };
    ClaimChallenge { claim: "m-1-0123456789".to_owned(), challenge }
}

fn is_proven(site: &Site, request: &ClaimRequest) -> bool {
    let proof = request.proof.as_ref().expect("a proof");
    let bytes = |text: &str| decode(text).expect("base64");
    let secret = bytes(&proof.secret);
    let claimed = Claimed {
        claim_key: &bytes(&request.claim_key),
        certificate_request: request.certificate_request.as_bytes(),
        machine: &request.machine,
        intent: &request.intent,
    };
    let pcrs: Vec<_> = proof.pcrs.iter().map(|value| value.0).collect();
    let extra = extra_data(&secret, &claimed);
    let (quote, signature) = (bytes(&proof.quote), bytes(&proof.signature));
    let quoted = check_quote(&tpm_keys(request).1, &quote, &signature, &extra, &pcrs.try_into().expect("eight values"));
    proof.claim == "m-1-0123456789" && site.fixed().secret == Some(Sha256::of(&secret)) && quoted.is_ok()
}

async fn report(State(site): State<Site>, Json(report): Json<ReportRequest>) -> StatusCode {
    site.fixed().reports.push(report);
    StatusCode::NO_CONTENT
}

async fn node(State(site): State<Site>) -> Response {
    let node = next(&mut site.fixed().nodes);
    let ready = match node {
        Node::Missing => return StatusCode::NOT_FOUND.into_response(),
        Node::NotReady => "False",
        Node::Ready | Node::Restart(_) => "True",
    };
    let asked = match node {
        Node::Restart(boot) => serde_json::json!({"magnetite.dev/restart": format!("created.0123456789.1@{boot}")}),
        Node::Missing | Node::NotReady | Node::Ready => serde_json::json!({}),
    };
    let condition = serde_json::json!({"type": "Ready", "status": ready, "message": "no network plugin"});
    Json(serde_json::json!({"metadata": {"annotations": asked}, "status": {"conditions": [condition], "nodeInfo": {"bootID": BOOT_ID}}})).into_response()
}
