//! Files: loaders, kernels, initrds, what else a Profile names, and the agent.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use magnetite_api::{
    Machine,
    profile::{ArchBoot, Artifact},
    report::BootStepName,
};
use magnetite_daemon::clock;
use tokio::task::spawn_blocking;

use super::{
    Peer, Reached,
    guard::BootLink,
    later, refuse_unknown,
    stream::{self, Sent},
};
use crate::{
    app::App,
    artifacts::{Checked, Named},
    loaders,
    metrics::Way,
    record::Detail,
};

/// How a file is asked for.
pub struct Asked {
    method: Method,
    range: Option<String>,
    if_range: Option<String>,
    if_none_match: Option<String>,
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Asked {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (range, if_range) = (text(header::RANGE), text(header::IF_RANGE));
        Ok(Self { method: parts.method.clone(), range, if_range, if_none_match: text(header::IF_NONE_MATCH) })
    }
}

/// The kernel.
pub async fn kernel(State(app): State<Arc<App>>, peer: Peer, link: BootLink, asked: Asked) -> Response {
    let step = BootStepName::KernelFetched;
    artifact(&app, peer, link, asked, step, "kernel", |boot| Some(boot.kernel.clone())).await
}

/// An initrd, by its place in the list. A place that is no number is read after the link: who has none learns nothing.
pub async fn initrd(
    State(app): State<Arc<App>>,
    peer: Peer,
    link: BootLink,
    Path((_, _, _, index)): Path<(String, String, String, String)>,
    asked: Asked,
) -> Response {
    let step = BootStepName::InitrdFetched;
    let pick = |boot: &ArchBoot| boot.initrds.get(index.parse::<usize>().ok()?).cloned();
    artifact(&app, peer, link, asked, step, &format!("initrd {index}"), pick).await
}

/// Another file, by its name.
pub async fn file(
    State(app): State<Arc<App>>,
    peer: Peer,
    link: BootLink,
    Path((_, _, _, name)): Path<(String, String, String, String)>,
    asked: Asked,
) -> Response {
    let step = BootStepName::FileFetched;
    artifact(&app, peer, link, asked, step, &name, |boot| boot.files.get(&name).cloned()).await
}

async fn artifact(
    app: &Arc<App>,
    peer: Peer,
    BootLink { view, machine, architecture, now: _ }: BootLink,
    asked: Asked,
    step: BootStepName,
    what: &str,
    pick: impl Fn(&ArchBoot) -> Option<Artifact>,
) -> Response {
    let Ok(profile) = app.profile(&view, &machine) else {
        return later("NoProfile", "the Machine has no Profile now", 10);
    };
    let Some(artifact) = profile.spec.boot.for_architecture(architecture).and_then(pick) else {
        // The Profile changed under the machine: it must start anew with the new script.
        return later("ProfileChanged", format!("the Profile has no {what} any more; restart the machine"), 30);
    };
    let kernel_of = (step == BootStepName::KernelFetched).then_some(architecture);
    let named = Named { artifact: &artifact, kernel_of };
    match app.library.get(named) {
        Some(checked) => {
            let tag = format!("\"{}\"", artifact.sha256);
            send(app, (machine, step, what.to_owned()), peer, (checked, Some(tag)), asked).await
        }
        None => {
            let why = app.library.obstacle(what, named).map(|obstacle| obstacle.message);
            later("ArtifactNotReady", why.unwrap_or_default(), 5)
        }
    }
}

/// The agent for the machine's architecture.
pub async fn agent(State(app): State<Arc<App>>, peer: Peer, link: BootLink, asked: Asked) -> Response {
    let BootLink { machine, architecture, .. } = link;
    match app.agents.get(architecture.as_str()) {
        Some(agent) => {
            let file = (agent.file.clone(), None);
            send(&app, (machine, BootStepName::AgentFetched, String::new()), peer, file, asked).await
        }
        None => later("NoAgent", format!("this boot server has no agent for {architecture}"), 30),
    }
}

/// A loader for UEFI HTTP boot: `<loader>`, or `<machine id>/<loader>`, which says to whom it was offered.
pub async fn loader(
    State(app): State<Arc<App>>,
    reached: Reached,
    peer: Peer,
    Path(path): Path<String>,
    asked: Asked,
) -> Response {
    let name = if path.contains('/') { format!("m/{path}") } else { path };
    let Some(loaders::Asked { machine, name, bytes }) = loaders::find(&app, &name, &app.site_asked(&reached)) else {
        return refuse_unknown();
    };
    let efi = !name.ends_with(".ipxe");
    // Some firmware takes no other type.
    let kind = if efi { "application/efi" } else { "text/plain; charset=utf-8" };
    let size = bytes.len() as u64;
    let Part { status, headers, range } = part(&asked, size, kind, None);
    if let (Some((start, end)), &Method::GET) = (range, &asked.method) {
        app.metrics.sent(Way::Http, end - start);
        // A part that is not the last is no loader yet.
        if let (Some(machine), true) = (machine, efi && end == size) {
            let detail = Detail { bytes: Some(size), ..Detail::words(name) }.at_peer(peer.ip());
            app.records.step(&machine, BootStepName::LoaderSent, detail, clock::now());
        }
    }
    let range = range.and_then(|(start, end)| usize::try_from(start).ok().zip(usize::try_from(end).ok()));
    let body = match range {
        Some((start, end)) if asked.method != Method::HEAD => Body::from(Bytes::from_owner(bytes).slice(start..end)),
        _ => Body::empty(),
    };
    (status, headers, body).into_response()
}

/// What of a file is asked for, and how the answer begins.
struct Part {
    status: StatusCode,
    headers: HeaderMap,
    /// The first byte and the one after the last; nothing, if the answer has no bytes.
    range: Option<(u64, u64)>,
}

/// Reads a request for a file of `size` bytes. The answer is whole, a part of it, or that nothing is to be sent: since the client
/// has the file of this `tag` (304), or the file is shorter (416).
fn part(asked: &Asked, size: u64, kind: &'static str, tag: Option<&str>) -> Part {
    let mut headers = HeaderMap::new();
    if let Some(value) = tag.and_then(|tag| tag.parse().ok()) {
        headers.insert(header::ETAG, value);
    }
    let has =
        |list: &str| list.trim() == "*" || list.split(',').any(|one| Some(one.trim().trim_start_matches("W/")) == tag);
    if tag.is_some() && asked.if_none_match.as_deref().is_some_and(has) {
        return Part { status: StatusCode::NOT_MODIFIED, headers, range: None };
    }
    // A part of another file is of no use (RFC 9110, 13.1.5).
    let same = asked.if_range.as_deref().is_none_or(|wanted| Some(wanted.trim()) == tag);
    let (start, end, status) = match range(asked.range.as_deref().filter(|_| same), size) {
        Range::Whole => (0, size, StatusCode::OK),
        Range::Part(start, end) => (start, end, StatusCode::PARTIAL_CONTENT),
        Range::Bad => {
            if let Ok(value) = format!("bytes */{size}").parse() {
                headers.insert(header::CONTENT_RANGE, value);
            }
            return Part { status: StatusCode::RANGE_NOT_SATISFIABLE, headers, range: None };
        }
    };
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(end - start));
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = format!("bytes {start}-{}/{size}", end - 1).parse()
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    Part { status, headers, range: Some((start, end)) }
}

/// Streams a checked file, whole or one range of it; records the step once the last byte left.
async fn send(
    app: &Arc<App>,
    step: (Arc<Machine>, BootStepName, String),
    peer: Peer,
    (checked, tag): (Checked, Option<String>),
    asked: Asked,
) -> Response {
    let Part { status, headers, range } = part(&asked, checked.size(), "application/octet-stream", tag.as_deref());
    let Some((start, end)) = range else { return (status, headers).into_response() };
    let opened = checked.clone();
    let Ok(Some(file)) = spawn_blocking(move || stream::open(&opened, start)).await else {
        return later("ArtifactNotReady", "the file changed or is gone; it is being checked again", 5);
    };
    if asked.method == Method::HEAD {
        return (status, headers).into_response();
    }
    let Ok(place) = Arc::clone(&app.streams).try_acquire_owned() else {
        return later("Busy", "too many files are being sent at once", 2);
    };
    let sent = Sent::new(Arc::clone(app), step, peer, end - start, end == checked.size(), place);
    (status, headers, Body::from_stream(stream::bytes(file, checked, sent))).into_response()
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
