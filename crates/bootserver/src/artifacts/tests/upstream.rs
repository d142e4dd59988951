//! A server that has one file, and does to whoever fetches it what servers and lines do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

/// What the server does now.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    pub file: Vec<u8>,
    pub etag: Option<&'static str>,
    pub modified: Option<&'static str>,
    /// It knows ranges.
    pub ranges: bool,
    /// It takes any `If-Range` for the version that it has.
    pub lies: bool,
    /// It says no length.
    pub unknown_length: bool,
    /// The connection breaks after so many bytes of a body.
    pub cut: Option<usize>,
    /// After so many bytes of a body no more come.
    pub stall: Option<usize>,
    /// What it answers instead.
    pub status: Option<u16>,
}

/// The server, and what it was asked: the ranges.
pub struct Upstream {
    pub address: SocketAddr,
    pub ways: Mutex<Ways>,
    asked: Mutex<Vec<Option<String>>>,
}

impl Upstream {
    pub async fn start(ways: Ways) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = Arc::new(Self { address, ways: Mutex::new(ways), asked: Mutex::default() });
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&this));
        tokio::spawn(async { axum::serve(listener, routes).await });
        this
    }

    pub fn url(&self) -> String {
        format!("http://{}/file?signature=secret", self.address)
    }

    pub fn change(&self, change: impl FnOnce(&mut Ways)) {
        change(&mut self.ways.lock().unwrap());
    }

    /// The ranges that were asked for since the last time.
    pub fn asked(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn answer(State(upstream): State<Arc<Upstream>>, headers: HeaderMap) -> Response {
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let (range, condition) = (header(header::RANGE), header(header::IF_RANGE));
    upstream.asked.lock().unwrap().push(range.clone());
    let ways = upstream.ways.lock().unwrap().clone();
    if let Some(status) = ways.status {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    let same = ways.lies || condition.as_deref().is_some_and(|name| [ways.etag, ways.modified].contains(&Some(name)));
    let start = range.filter(|_| ways.ranges && same).and_then(|range| {
        range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).and_then(|start| start.parse().ok())
    });
    let total = ways.file.len();
    let mut out = HeaderMap::new();
    if start.is_some_and(|start: usize| start >= total) {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let body = ways.file[start.unwrap_or(0)..].to_vec();
    if let Some(start) = start {
        out.insert(header::CONTENT_RANGE, format!("bytes {start}-{}/{total}", total - 1).parse().unwrap());
    }
    let named = [(header::ETAG, ways.etag), (header::LAST_MODIFIED, ways.modified)];
    named.into_iter().for_each(|(name, value)| drop(value.map(|value| out.insert(name, value.parse().unwrap()))));
    if !ways.unknown_length {
        out.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let cut = ways.cut.filter(|cut| *cut < body.len());
    let (end, stall) = (cut.or(ways.stall).unwrap_or(body.len()), ways.stall.is_some());
    let chunks = futures::stream::unfold((body, 0), move |(body, sent)| async move {
        match sent {
            0 => Some((Ok(body[..end].to_vec()), (body, 1))),
            1 if stall => std::future::pending().await,
            1 if cut.is_some() => {
                // What came before the break is sent off first.
                tokio::task::yield_now().await;
                Some((Err(std::io::Error::other("the line broke")), (body, 2)))
            }
            _ => None,
        }
    });
    let status = if start.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    (status, out, Body::from_stream(chunks)).into_response()
}
