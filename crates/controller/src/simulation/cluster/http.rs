//! The controller's client talks HTTP. Each request waits here until the world lets it happen.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::channel::oneshot;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::{Actor, Answer, Cluster, INVALID, Kind, NOT_FOUND, Refused};

/// A request that was sent and has not happened yet.
pub struct Call {
    pub method: Method,
    pub path: String,
    query: String,
    patch: bool,
    manager: String,
    body: Value,
    /// Where its answer goes. Nobody may be left to take it.
    pub reply: oneshot::Sender<Response<Body>>,
}

impl Call {
    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

/// Requests on their way.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<VecDeque<Call>>>);

impl Wire {
    pub fn take(&self) -> Option<Call> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl tower::Service<Request<Body>> for Wire {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let wire = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?;
            let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
            let content = parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let query = parts.uri.query().unwrap_or_default();
            let manager = query.split('&').find_map(|pair| pair.strip_prefix("fieldManager=")).unwrap_or_default();
            let (reply, answer) = oneshot::channel();
            let call = Call {
                path: parts.uri.path().to_owned(),
                query: query.to_owned(),
                patch: content.starts_with("application/apply-patch"),
                manager: manager.to_owned(),
                method: parts.method,
                body,
                reply,
            };
            wire.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(call);
            Ok(answer.await?)
        })
    }
}

/// Does what a request asks for.
pub fn handle(cluster: &mut Cluster, call: &Call, by: Actor) -> Answer {
    if cluster.away {
        return Err(Refused(503, "ServiceUnavailable"));
    }
    let words: Vec<&str> = call.path.trim_matches('/').split('/').collect();
    match (&call.method, words.as_slice()) {
        (&Method::GET, ["version"]) => return Ok(version()),
        (&Method::GET, ["api", "v1", "pods"]) => return Ok(cluster.pods.list(&call.query)),
        (&Method::POST, ["api", "v1", "namespaces", _, "pods", name, "eviction"]) => return cluster.pods.evict(name),
        _ => {}
    }
    let place = words.iter().position(|word| Kind::of_path(word).is_some()).ok_or(NOT_FOUND)?;
    let kind = Kind::of_path(words[place]).ok_or(NOT_FOUND)?;
    let (name, part) = (words.get(place + 1).copied(), words.get(place + 2).copied());
    match (&call.method, name, part) {
        (&Method::GET, Some(name), None) => cluster.get(kind, name),
        (&Method::POST, None, None) => {
            let mut body = call.body.clone();
            if kind == Kind::Request {
                body["spec"]["username"] = "system:serviceaccount:magnetite:controller".into();
            }
            cluster.create(kind, body, by)
        }
        (&Method::PUT, Some(name), Some(part)) => cluster.replace(kind, name, &call.body, part, by),
        (&Method::PATCH, Some(name), None) if call.patch => {
            cluster.apply_marks(kind, name, &call.body, &call.manager, by)
        }
        (&Method::PATCH, Some(name), None) => cluster.merge(kind, name, &call.body, by),
        (&Method::DELETE, Some(name), None) => {
            let uid = call.body.pointer("/preconditions/uid").and_then(Value::as_str).map(str::to_owned);
            cluster.delete(kind, name, uid.as_deref(), by)
        }
        _ => Err(INVALID),
    }
}

fn version() -> Value {
    let text = "x";
    json!({
        "major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": text, "gitTreeState": text, "buildDate": text,
        "goVersion": text, "compiler": text, "platform": text,
    })
}

/// An answer as bytes.
pub fn response(answer: &Answer) -> Response<Body> {
    let (code, body) = match answer {
        Ok(object) => (200, object.to_string()),
        Err(Refused(code, reason)) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                "reason": reason, "message": reason,
            });
            (*code, status.to_string())
        }
    };
    Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap()
}
