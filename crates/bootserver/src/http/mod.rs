//! HTTP: what is public by construction, and over TLS the agents' claims and reports.

mod body;
mod boot;
mod claim;
mod files;
mod guard;
mod held;
mod install;
mod paced;
mod progress;
mod serve;
mod signed;
mod stream;
mod templates;

#[cfg(test)]
mod tests;

pub use claim::{Passed, owner};
pub use guard::Guarded;
pub use serve::{plain, tls};
pub use signed::Signatures;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use magnetite_api::join::Refusal;
use magnetite_boot::scheme::Scheme;
use tokio::sync::Semaphore;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};

use magnetite_daemon::clock;

use crate::{
    app::App,
    fence::Door,
    metrics::{Answered, count},
};
use guard::{Guard, Routes};

/// Requests that are worked on at once. More get 503 and come again: iPXE and Ignition both do.
const MOST: usize = 4096;
/// The largest body that is read.
const BODY: usize = 64 << 10;
/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long an answer may take to begin. A claim may take the longest: it waits for the controller.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Why a loader is anybody's.
const LOADERS: &str = "loaders are published programs; a machine's own script beside one is found by an id that only the boot server makes";
/// Why the questions for a serial number are anybody's.
const IDENTIFY: &str = "off unless --identify-by-serial: then who knows a declared serial number gets that machine's link, and its window decides";

/// The plain HTTP routes.
pub fn public(app: &Arc<App>) -> Guarded {
    Routes::new(app, Door::Boot)
        .get("/m/{id}/{cap}/{arch}/boot.ipxe", Guard::Script, boot::script)
        .get("/m/{id}/{cap}/{arch}/config.ign", Guard::Boot, boot::ignition)
        .get("/m/{id}/{cap}/{arch}/t/{template}", Guard::Boot, templates::template)
        .get("/m/{id}/{cap}/{arch}/kernel", Guard::Boot, files::kernel)
        .get("/m/{id}/{cap}/{arch}/initrd/{index}", Guard::Boot, files::initrd)
        .get("/m/{id}/{cap}/{arch}/files/{name}", Guard::Boot, files::file)
        .get("/m/{id}/{cap}/{arch}/agent", Guard::Boot, files::agent)
        .get("/ipxe/{*loader}", Guard::Public(LOADERS), files::loader)
        .get("/identify.ipxe", Guard::Public(IDENTIFY), boot::identify_script)
        .get("/identify", Guard::Public(IDENTIFY), boot::identify)
        .finish()
}

/// The routes for agents, to be served over TLS.
pub fn private(app: &Arc<App>) -> Guarded {
    Routes::new(app, Door::Agents)
        .post("/a/{id}/{cap}/claim", Guard::Agent, claim::claim)
        .post("/a/{id}/{cap}/report", Guard::Agent, progress::report)
        .post("/a/{id}/{cap}/inventory", Guard::Held, held::inventory)
        .get("/a/{id}/{cap}/install/{arch}", Guard::Agent, install::order)
        .get("/a/{id}/{cap}/wipe", Guard::Agent, install::wipe)
        .get("/a/{id}/{cap}/files", Guard::Sealed, claim::files)
        .finish()
}

fn layers(routes: Router, app: Arc<App>, door: Door) -> Router {
    let gate = Gate { app, door, places: Arc::new(Semaphore::new(MOST)) };
    routes
        .layer(DefaultBodyLimit::max(BODY))
        .layer(RequestBodyTimeoutLayer::new(BODY_TIME))
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn_with_state(gate, admit))
}

#[derive(Clone)]
struct Gate {
    app: Arc<App>,
    door: Door,
    places: Arc<Semaphore>,
}

/// Admits a request if there is room and its sender has not had more than its share, and counts the answer by its route.
/// Whoever is turned away here is told to come again: a boot must not fail because many happen at once.
async fn admit(State(Gate { app, door, places }): State<Gate>, peer: Peer, request: Request, next: Next) -> Response {
    // As if nothing were there. By the connection's own address: what a header says of others is anybody's word.
    if !app.fence.lets_in(door, [peer.ip()], &app.metrics) {
        return refuse_unknown();
    }
    let route = request.extensions().get::<MatchedPath>().map_or("other", |path| label(path.as_str()));
    let response = match places.try_acquire() {
        _ if !app.limits.http.admit(peer.ip(), clock::now()) => later("Busy", "too many requests of one address", 2),
        Err(_) => later("Busy", "too many requests at once", 2),
        Ok(_place) => match tokio::time::timeout(ANSWER_TIME, next.run(request)).await {
            Ok(response) => response,
            Err(_) => later("Slow", "the answer took too long", 5),
        },
    };
    if route == "claim" && response.status() == StatusCode::NOT_FOUND {
        count(&app.metrics.claims, "unknown");
    }
    app.metrics.http.get_or_create(&Answered { route, status: response.status().as_u16() }).inc();
    response
}

/// A label from a closed set.
fn label(path: &str) -> &'static str {
    match path.rsplit('/').next().unwrap_or_default() {
        "boot.ipxe" => "script",
        "config.ign" => "ignition",
        "{template}" => "template",
        "kernel" => "kernel",
        "{index}" => "initrd",
        "{name}" => "file",
        "agent" => "agent",
        "{*loader}" => "loader",
        "claim" => "claim",
        "report" => "report",
        "files" => "sealed",
        "{arch}" => "install",
        "inventory" => "inventory",
        "wipe" => "wipe",
        "identify" | "identify.ipxe" => "identify",
        _ => "other",
    }
}

/// What an unknown machine, a foreign capability and an expired one all get: the same bytes.
pub fn refuse_unknown() -> Response {
    (StatusCode::NOT_FOUND, "not found\n").into_response()
}

/// Not yet: never 404 and never 429, on both of which Ignition gives up for good.
pub fn later(reason: &str, message: impl Into<String>, seconds: u32) -> Response {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, reason, message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// A refusal as JSON.
pub fn refuse(status: StatusCode, reason: &str, message: impl Into<String>) -> Response {
    (status, Json(Refusal { reason: reason.to_owned(), message: message.into() })).into_response()
}

/// Text with its length and type.
pub fn text(content_type: &'static str, body: String) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// The address of whoever asks.
pub type Peer = axum::extract::ConnectInfo<SocketAddr>;

/// How a client reached us.
#[derive(Debug)]
pub struct Reached {
    /// The `Host` that it asked: which of our addresses it knows.
    pub host: Option<String>,
    /// Over TLS, or plainly.
    pub scheme: Scheme,
}

impl<S: Sync> FromRequestParts<S> for Reached {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let scheme = parts.extensions.get::<Scheme>().copied().unwrap_or_default();
        Ok(Self { host: host.map(str::to_owned), scheme })
    }
}
