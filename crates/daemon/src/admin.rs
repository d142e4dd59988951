//! The admin listener: `/healthz`, `/readyz`, `/metrics`. It listens on the loopback unless told otherwise, since
//! it asks nobody who they are.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where the admin listener listens; flatten it into the arguments of a binary.
#[derive(clap::Args, Debug, Clone)]
pub struct AdminArgs {
    /// Address of the admin listener (/healthz, /readyz, /metrics).
    #[arg(long, env = "MAGNETITE_ADMIN_ADDR", default_value = "127.0.0.1:9090", value_name = "ADDRESS:PORT")]
    pub admin_addr: SocketAddr,
}

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken or not ours.
    #[error("cannot listen on {0} for /healthz, /readyz and /metrics; choose another --admin-addr")]
    Bind(SocketAddr, #[source] std::io::Error),
    /// The listener broke.
    #[error("the admin listener broke")]
    Serve(#[source] std::io::Error),
}

/// What has to be so before the process is ready: a set of named gates. Make the gates before the listener runs,
/// for no gates at all means ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Arc<AtomicBool>>>>);

/// One thing that has to be so. Closed until it is opened.
#[derive(Debug, Clone)]
pub struct Gate(Arc<AtomicBool>);

impl Readiness {
    /// The gate of that name, made closed when there is none yet.
    pub fn gate(&self, name: &'static str) -> Gate {
        Gate(self.gates().entry(name).or_default().clone())
    }

    /// Names of the gates that are closed; none means ready.
    pub fn closed(&self) -> Vec<&'static str> {
        self.gates().iter().filter(|(_, open)| !open.load(Ordering::Relaxed)).map(|(name, _)| *name).collect()
    }

    fn gates(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Arc<AtomicBool>>> {
        // Nothing under this lock can leave the map half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// It is so.
    pub fn open(&self) {
        self.set(true);
    }

    /// It is not so, or no longer.
    pub fn close(&self) {
        self.set(false);
    }

    /// It is so, or not.
    pub fn set(&self, open: bool) {
        self.0.store(open, Ordering::Relaxed);
    }
}

/// The bound admin listener.
#[derive(Debug)]
pub struct Admin(TcpListener);

impl Admin {
    /// Binds the address, so that a process knows before it serves anything.
    pub async fn bind(args: &AdminArgs) -> Result<Self, AdminError> {
        TcpListener::bind(args.admin_addr).await.map(Self).map_err(|e| AdminError::Bind(args.admin_addr, e))
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until `stop`.
    pub async fn run(self, metrics: Registry, readiness: Readiness, stop: CancellationToken) -> Result<(), AdminError> {
        axum::serve(self.0, router(metrics, readiness))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .map_err(AdminError::Serve)
    }
}

/// The three routes.
pub fn router(metrics: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(scrape).with_state(Arc::new(metrics)))
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.closed() {
        closed if closed.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
        closed => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", closed.join(", "))),
    }
}

async fn scrape(State(metrics): State<Arc<Registry>>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], body)
            .into_response(),
        Err(error) => {
            tracing::error!(error = crate::log::chain(&error), "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("an answer");
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.expect("a body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn ready_means_that_every_gate_is_open() {
        let readiness = Readiness::default();
        let (sockets, store) = (readiness.gate("sockets"), readiness.gate("store"));
        let router = router(Registry::default(), readiness);
        sockets.open();
        assert_eq!(ask(&router, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, "waiting for: store\n".to_owned()));
        store.open();
        assert_eq!(ask(&router, "/readyz").await.0, StatusCode::OK);
        store.close();
        assert_eq!(ask(&router, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask(&router, "/healthz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_written_as_text() {
        let mut registry = Registry::default();
        let offers = Counter::<u64>::default();
        registry.register("magnetite_offers", "Offers sent", offers.clone());
        offers.inc();
        let (status, body) = ask(&router(registry, Readiness::default()), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("magnetite_offers_total 1"), "{body}");
    }

    #[tokio::test]
    async fn listens_where_told_and_ends_when_told() {
        let args = AdminArgs { admin_addr: "127.0.0.1:0".parse().expect("an address") };
        let admin = Admin::bind(&args).await.expect("a free port");
        let taken = AdminArgs { admin_addr: admin.local_addr().expect("an address") };
        assert!(matches!(Admin::bind(&taken).await, Err(AdminError::Bind(..))));
        let stop = CancellationToken::new();
        stop.cancel();
        admin.run(Registry::default(), Readiness::default(), stop).await.expect("a clean end");
    }
}
