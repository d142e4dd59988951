//! Asks the boot server over TLS pinned by key. One attempt; what to do about an error is decided elsewhere.

use std::time::Duration;

use jiff::Timestamp;
use magnetite_api::join::Refusal;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header, redirect};
use serde::Serialize;

use crate::tls::{self, Pin, WrongKey};

/// As much of an answer as is read.
/// The Profile's sealed files, or its Ignition config, are the most of it.
const BODY_LIMIT: usize = 1024 * 1024;

/// The boot server, as one machine may ask it.
#[derive(Debug, Clone)]
pub struct BootServer {
    http: Client,
    origin: String,
    base: String,
    pin: Pin,
    wrong_key: WrongKey,
}

/// What it answered, whatever the status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// How long it asks us to wait.
    pub retry_after: Option<Duration>,
    /// What time it thinks it is.
    pub server_time: Option<Timestamp>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Why it refuses, if it says so as a boot server does.
    pub fn refusal(&self) -> Option<Refusal> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Whoever answers is not who we were told to believe.
    #[error("the server at that address has the key {met}, not the pinned {pinned}")]
    WrongKey {
        /// The key that it has.
        met: Pin,
        /// The key that it should have.
        pinned: Pin,
    },
    /// No connection, or it broke.
    #[error("the boot server could not be asked")]
    Unreachable(#[source] reqwest::Error),
    /// It says more than it should.
    #[error("the boot server's answer is longer than {BODY_LIMIT} bytes")]
    TooLong,
}

impl ServerError {
    /// In one word, for who reads many.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::WrongKey { .. } => "WrongServerKey",
            Self::Unreachable(_) | Self::TooLong => "BootServerSilent",
        }
    }
}

impl BootServer {
    /// Prepares to ask; connects to nothing yet.
    pub fn new(url: &Url, pin: Pin) -> Result<Self, reqwest::Error> {
        let (config, wrong_key) = tls::pinned(pin);
        let http = client(config)?;
        let origin = url.origin().ascii_serialization();
        Ok(Self { http, origin, base: url.as_str().trim_end_matches('/').to_owned(), pin, wrong_key })
    }

    /// Posts a body below the machine's URL.
    pub async fn post(&self, what: &str, body: &impl Serialize, limit: Duration) -> Result<Answer, ServerError> {
        self.answer(self.http.post(format!("{}/{what}", self.base)).json(body).timeout(limit)).await
    }

    /// Asks for something below the machine's URL.
    pub async fn get_own(&self, what: &str, limit: Duration) -> Result<Answer, ServerError> {
        self.answer(self.http.get(format!("{}/{what}", self.base)).timeout(limit)).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Answer, ServerError> {
        let response = request.send().await.map_err(|error| self.explain(error))?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after =
            header(header::RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let server_time = header(header::DATE).and_then(http_date);
        let status = response.status();
        match body_of(response, BODY_LIMIT).await {
            Ok(Some(body)) => Ok(Answer { status, retry_after, server_time, body }),
            Ok(None) => Err(ServerError::TooLong),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Asks for a path of the same server.
    pub async fn get(&self, path: &str, limit: Duration) -> Result<Answer, ServerError> {
        let request = self.http.get(format!("{}{path}", self.origin)).timeout(limit);
        self.answer(request).await
    }

    fn explain(&self, error: reqwest::Error) -> ServerError {
        match self.wrong_key.take() {
            Some(met) => ServerError::WrongKey { met, pinned: self.pin },
            // The URL holds the capability, which belongs in no log.
            None => ServerError::Unreachable(error.without_url()),
        }
    }
}

/// A client that goes where it is told and nowhere else: no proxy from the environment, no redirect.
pub fn client(config: rustls::ClientConfig) -> Result<Client, reqwest::Error> {
    Client::builder()
        .tls_backend_preconfigured(config)
        .https_only(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .user_agent(concat!("magnetite-agent/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Reads a body; none if it is longer than the limit.
pub async fn body_of(mut response: Response, limit: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

fn http_date(text: &str) -> Option<Timestamp> {
    // RFC 9110 writes GMT where RFC 2822 wants an offset in digits.
    let text = text.strip_suffix("GMT")?;
    jiff::fmt::rfc2822::parse(&format!("{text}+0000")).ok().map(|time| time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        let time = http_date("Sat, 21 Nov 2026 10:11:12 GMT").expect("a date");
        assert_eq!(time.to_string(), "2026-11-21T10:11:12Z");
        assert_eq!(http_date("yesterday"), None);
    }
}
