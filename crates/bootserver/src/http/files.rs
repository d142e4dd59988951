//! Files: loaders, kernels, initrds, what else a Profile names, and the agent.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use magnetite_api::{Machine, profile::Artifact, report::BootStepName};
use magnetite_daemon::clock;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio_util::io::ReaderStream;

use super::{Peer, boot::open, later, refuse_unknown};
use crate::{app::App, artifacts::Checked, record::Detail};

type Id = (String, String, String);

/// How a file is asked for.
pub struct Asked {
    method: Method,
    range: Option<String>,
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Asked {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        let range = parts.headers.get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Self { method: parts.method.clone(), range })
    }
}

/// The kernel.
pub async fn kernel(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, cap, arch)): Path<Id>,
    asked: Asked,
) -> Response {
    let step = BootStepName::KernelFetched;
    artifact(&app, peer, (&id, &cap, &arch), asked, step, "kernel", |boot| Some(&boot.kernel)).await
}

/// An initrd, by its place in the list.
pub async fn initrd(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, cap, arch, index)): Path<(String, String, String, usize)>,
    asked: Asked,
) -> Response {
    let step = BootStepName::InitrdFetched;
    artifact(&app, peer, (&id, &cap, &arch), asked, step, &format!("initrd {index}"), |boot| boot.initrds.get(index))
        .await
}

/// Another file, by its name.
pub async fn file(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, cap, arch, name)): Path<(String, String, String, String)>,
    asked: Asked,
) -> Response {
    let step = BootStepName::FileFetched;
    artifact(&app, peer, (&id, &cap, &arch), asked, step, &name, |boot| boot.files.get(&name)).await
}

async fn artifact(
    app: &Arc<App>,
    peer: Peer,
    (id, cap, arch): (&str, &str, &str),
    asked: Asked,
    step: BootStepName,
    what: &str,
    pick: impl Fn(&magnetite_api::profile::ArchBoot) -> Option<&Artifact>,
) -> Response {
    let view = app.view();
    let Some((machine, architecture)) = open(app, &view, id, cap, arch) else { return refuse_unknown() };
    let Ok(profile) = view.profile(&machine) else { return later("NoProfile", "the Machine has no Profile now", 10) };
    let Some(artifact) = profile.spec.boot.for_architecture(architecture).and_then(pick) else {
        // The Profile changed under the machine: it must start anew with the new script.
        return later("ProfileChanged", format!("the Profile has no {what} any more; restart the machine"), 30);
    };
    match app.library.get(artifact) {
        Some(checked) => send(app, Some((machine, step, what.to_owned())), peer, &checked, asked).await,
        None => later("ArtifactNotReady", app.library.obstacle(what, artifact).unwrap_or_default(), 5),
    }
}

/// The agent for the machine's architecture.
pub async fn agent(State(app): State<Arc<App>>, peer: Peer, Path((id, cap, arch)): Path<Id>, asked: Asked) -> Response {
    let Some((machine, architecture)) = open(&app, &app.view(), &id, &cap, &arch) else { return refuse_unknown() };
    match app.agents.get(architecture.as_str()) {
        Some(agent) => {
            send(&app, Some((machine, BootStepName::AgentFetched, String::new())), peer, &agent.file.clone(), asked)
                .await
        }
        None => later("NoAgent", format!("this boot server has no agent for {architecture}"), 30),
    }
}

/// A loader for UEFI HTTP boot.
pub async fn loader(State(app): State<Arc<App>>, Path(loader): Path<String>, asked: Asked) -> Response {
    match app.loaders.get(&loader) {
        Some(bytes) => efi(bytes, &asked),
        None => refuse_unknown(),
    }
}

/// The same, by a link that says which machine it was offered to.
pub async fn machine_loader(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, loader)): Path<(String, String)>,
    asked: Asked,
) -> Response {
    let Some(bytes) = app.loaders.get(&loader) else { return refuse_unknown() };
    if asked.method == Method::GET
        && let Some(machine) = app.view().fleet.by_id(&id)
    {
        let detail =
            Detail { bytes: Some(bytes.len() as u64), words: Some(loader), address: Some(peer.ip().to_string()) };
        app.records.step(&machine, BootStepName::LoaderSent, detail, clock::now());
    }
    efi(bytes, &asked)
}

/// `application/efi`: some firmware takes no other type.
fn efi(bytes: &Arc<[u8]>, asked: &Asked) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/efi"));
    headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(bytes.len()));
    let body =
        if asked.method == Method::HEAD { Body::empty() } else { Body::from(Bytes::from_owner(Arc::clone(bytes))) };
    (headers, body).into_response()
}

/// Streams a checked file, whole or one range of it; records the step once the last byte left.
async fn send(
    app: &Arc<App>,
    step: Option<(Arc<Machine>, BootStepName, String)>,
    peer: Peer,
    checked: &Checked,
    asked: Asked,
) -> Response {
    let opened = tokio::fs::File::open(&checked.path).await;
    let meta = match &opened {
        Ok(file) => file.metadata().await.ok(),
        Err(_) => None,
    };
    let (Ok(mut file), Some(meta)) = (opened, meta) else { return later("ArtifactNotReady", "the file is gone", 5) };
    if !checked.is_same(&meta) {
        return later("ArtifactNotReady", "the file changed; it is being checked again", 5);
    }
    let (start, end, status) = match range(asked.range.as_deref(), checked.size) {
        Range::Whole => (0, checked.size, StatusCode::OK),
        Range::Part(start, end) => (start, end, StatusCode::PARTIAL_CONTENT),
        Range::Bad => {
            return (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{}", checked.size))])
                .into_response();
        }
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(end - start));
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = format!("bytes {start}-{}/{}", end - 1, checked.size).parse()
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    if asked.method == Method::HEAD {
        return (status, headers).into_response();
    }
    if start > 0 && file.seek(SeekFrom::Start(start)).await.is_err() {
        return later("ArtifactNotReady", "the file cannot be read", 5);
    }
    let mut sent = Sent { app: Arc::clone(app), step, peer, bytes: 0, want: end - start };
    let stream = ReaderStream::with_capacity(file.take(end - start), 128 << 10).map(move |chunk| {
        if let Ok(chunk) = &chunk {
            sent.add(chunk.len() as u64);
        }
        chunk
    });
    (status, headers, Body::from_stream(stream)).into_response()
}

/// Counts what was sent. Dropped with the stream, when the client has it all or went away.
struct Sent {
    app: Arc<App>,
    step: Option<(Arc<Machine>, BootStepName, String)>,
    peer: Peer,
    bytes: u64,
    want: u64,
}

impl Sent {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let Some((machine, step, what)) = self.step.take() else { return };
        let (bytes, want) = (self.bytes, self.want);
        let words = match (bytes == want, what.is_empty()) {
            (false, _) => Some(format!("{what} cut off after {bytes} of {want} bytes")),
            (true, false) => Some(what),
            (true, true) => None,
        };
        let detail = Detail { bytes: Some(bytes), words, address: Some(self.peer.ip().to_string()) };
        self.app.records.step(&machine, step, detail, clock::now());
    }
}

enum Range {
    Whole,
    Part(u64, u64),
    Bad,
}

/// One range of bytes (RFC 9110, 14.2). Several at once, and other units, are answered with the whole file, as the RFC allows.
fn range(asked: Option<&str>, size: u64) -> Range {
    let Some((first, last)) = asked.and_then(|text| text.strip_prefix("bytes=")).and_then(|text| text.split_once('-'))
    else {
        return Range::Whole;
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(tail)) if first.is_empty() => (size.saturating_sub(tail), size),
        _ => return Range::Whole,
    };
    if start < end { Range::Part(start, end) } else { Range::Bad }
}
