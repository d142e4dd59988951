//! Asks a BMC by Redfish: basic authentication over TLS, one request after the other.
//!
//! No session is opened: a session that a killed controller left behind takes one of the few that a BMC has.

pub mod resource;

#[cfg(test)]
mod tests;

use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url, header, redirect};
use serde_json::{Value, json};

use crate::{
    Act, Credentials, NetworkBoot, Power,
    error::{Error, certificate_trouble, innermost},
    redfish::resource::System,
    said::said,
};

/// One request and its whole answer. BMCs are slow: some think for ten seconds.
const LIMIT: Duration = Duration::from_secs(20);
/// A BMC that does not take a connection within this time is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest answer that is read. The largest systems are described in a tenth of it.
const MOST_BYTES: usize = 1 << 20;

/// Who is believed to be the BMC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Whose certificate one of the system's authorities signed.
    System,
    /// Whose certificate one of these signed: PEM.
    Authorities(Vec<u8>),
    /// Anyone who answers.
    Anyone,
}

/// A BMC that speaks Redfish, and which of its systems is meant.
#[derive(Debug)]
pub struct Redfish {
    client: Client,
    base: Url,
    host: String,
    system: Option<String>,
    credentials: Credentials,
    limit: Duration,
}

/// An answer that was read to its end.
struct Answer {
    status: StatusCode,
    etag: Option<String>,
    body: Vec<u8>,
}

impl Redfish {
    /// Prepares to ask; connects to nothing yet. `url` has no path; `system` is an Id or a path.
    ///
    /// # Errors
    /// The URL is none for HTTPS, or an authority's certificate cannot be read.
    pub fn new(url: &str, system: Option<&str>, credentials: Credentials, trust: &Trust) -> Result<Self, Error> {
        let broken = |why: String| Error::Client { host: said(url), why };
        let base = Url::parse(url).map_err(|error| broken(error.to_string()))?;
        if base.scheme() != "https" {
            return Err(broken("the URL is not https: the password would be told to everyone on the way".to_owned()));
        }
        let builder = Client::builder().https_only(true);
        let builder = match trust {
            Trust::System => builder,
            Trust::Authorities(pem) => {
                let all = Certificate::from_pem_bundle(pem)
                    .map_err(|error| broken(format!("ca.crt: {}", innermost(&error))))?;
                if all.is_empty() {
                    return Err(broken("ca.crt holds no certificate in PEM".to_owned()));
                }
                builder.tls_certs_only(all)
            }
            Trust::Anyone => builder.tls_danger_accept_invalid_certs(true).tls_danger_accept_invalid_hostnames(true),
        };
        Self::with(builder, base, system, credentials, LIMIT)
    }

    fn with(
        builder: reqwest::ClientBuilder,
        base: Url,
        system: Option<&str>,
        credentials: Credentials,
        limit: Duration,
    ) -> Result<Self, Error> {
        let host = authority(&base);
        let own = base.origin();
        // Some send "/Systems" to "/Systems/". No other host is ever told a password, or asked anything.
        let redirects = redirect::Policy::custom(move |attempt| {
            if attempt.url().origin() == own && attempt.previous().len() <= 3 {
                attempt.follow()
            } else {
                attempt.stop()
            }
        });
        let client = builder
            .no_proxy()
            .redirect(redirects)
            .connect_timeout(CONNECT)
            .timeout(limit)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("magnetite-controller/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Client { host: host.clone(), why: innermost(&error) })?;
        let system = system.map(resource::system_path);
        Ok(Self { client, base, host, system, credentials, limit })
    }

    /// Whether the box is on.
    ///
    /// # Errors
    /// The BMC does not say.
    pub async fn power(&self) -> Result<Power, Error> {
        let (path, system) = self.system().await?;
        system.power.ok_or_else(|| self.unintelligible(&format!("{path} has no PowerState"), false))
    }

    /// The next boot, and only that, is to be from the network.
    ///
    /// # Errors
    /// The BMC did not take that.
    pub async fn boot_network_once(&self, how: NetworkBoot) -> Result<(), Error> {
        const WHAT: &str = "boot from the network once";
        let (path, mut system) = self.system().await?;
        let change = resource::boot_override(how, system.boot_targets.as_deref())
            .map_err(|offers| self.unsupported(WHAT, offers))?;
        // Some want to be told the version that they are changing; and it changes while the box does something.
        for last in [false, true] {
            let mut request = self.request(Method::PATCH, &path).json(&change);
            if let Some(etag) = &system.etag {
                request = request.header(header::IF_MATCH, etag);
            }
            let answer = self.send(request, true).await?;
            if answer.status == StatusCode::PRECONDITION_FAILED && !last {
                system = self.system().await?.1;
                continue;
            }
            return self.taken(WHAT, &answer);
        }
        Ok(())
    }

    /// Does something with the box's power.
    ///
    /// # Errors
    /// The BMC did not take it, or nobody knows.
    pub async fn act(&self, act: Act) -> Result<(), Error> {
        let (path, system) = self.system().await?;
        let target = system
            .reset
            .clone()
            .ok_or_else(|| self.unintelligible(&format!("{path} has no action ComputerSystem.Reset"), false))?;
        let kinds = match (system.kinds, system.action_info) {
            (Some(kinds), _) => Some(kinds),
            (None, Some(info)) => resource::kinds_of_action_info(&self.get(&info).await?.0),
            (None, None) => None,
        };
        let kind =
            resource::reset_type(act, kinds.as_deref()).map_err(|offers| self.unsupported(act.as_str(), offers))?;
        let answer = self.send(self.request(Method::POST, &target).json(&json!({ "ResetType": kind })), true).await?;
        self.taken(act.as_str(), &answer)
    }

    /// The system that is meant.
    async fn system(&self) -> Result<(String, System), Error> {
        let path = match &self.system {
            Some(path) => path.clone(),
            None => {
                let (list, _) = self.get(resource::SYSTEMS).await?;
                let members = resource::members(&list);
                resource::only_system(&members).map_err(|what| self.no_system(what))?.to_owned()
            }
        };
        match self.get(&path).await {
            Ok((document, etag)) => Ok((path, resource::system(&document, etag.as_deref()))),
            Err(Error::Refused { code, .. }) if self.system.is_some() && code.starts_with("404") => {
                Err(self.no_system(format!("has no system {path}: look at spec.bmc.redfish.system")))
            }
            Err(error) => Err(error),
        }
    }

    async fn get(&self, path: &str) -> Result<(Value, Option<String>), Error> {
        let answer = self.send(self.request(Method::GET, path), false).await?;
        self.taken(&format!("show {path}"), &answer)?;
        let document = serde_json::from_slice(&answer.body)
            .map_err(|error| self.unintelligible(&format!("{path} is no JSON ({error})"), false))?;
        Ok((document, answer.etag))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(path);
        url.set_query(None);
        let Credentials { username, password } = &self.credentials;
        self.client.request(method, url).basic_auth(username, Some(password)).header("OData-Version", "4.0")
    }

    /// `changes`: what is asked for would switch something.
    async fn send(&self, request: RequestBuilder, changes: bool) -> Result<Answer, Error> {
        let request = request.build().map_err(|error| self.broken(error, false))?;
        let asked = request.url().clone();
        let response = self.client.execute(request).await.map_err(|error| self.broken(error, changes))?;
        if changes && *response.url() != asked {
            // A change that was sent on came there as a question: a good answer to that says nothing.
            return Err(self.unintelligible("it sends a change on to another path", false));
        }
        let status = response.status();
        let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = self.body(response, changes).await?;
        Ok(Answer { status, etag, body })
    }

    async fn body(&self, mut response: Response, changes: bool) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error, changes))? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(self.unintelligible(&format!("it is longer than {MOST_BYTES} bytes"), changes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn broken(&self, error: reqwest::Error, changes: bool) -> Error {
        let host = self.host.clone();
        if let Some(why) = certificate_trouble(&error) {
            return Error::Certificate { host, why };
        }
        // Until there is a connection nothing was sent.
        let sent = changes && !error.is_connect();
        if error.is_timeout() {
            let after = if error.is_connect() { CONNECT.min(self.limit) } else { self.limit };
            return Error::Silent { host, after, sent };
        }
        let error = error.without_url();
        Error::Unreachable { host, why: innermost(&error), sent, source: Some(error) }
    }

    fn taken(&self, what: &str, answer: &Answer) -> Result<(), Error> {
        let Answer { status, etag: _, body } = answer;
        if status.is_success() {
            return Ok(());
        }
        let document = serde_json::from_slice(body).unwrap_or(Value::Null);
        let said = resource::error_said(&document);
        let host = self.host.clone();
        if matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Error::Unauthorized { host, said });
        }
        // 503: it is not ready, and did nothing. Any other failure of its own may have come after the deed.
        let perhaps = status.is_server_error() && *status != StatusCode::SERVICE_UNAVAILABLE;
        Err(Error::Refused { host, what: what.to_owned(), code: status.to_string(), said, perhaps })
    }

    fn unintelligible(&self, what: &str, perhaps: bool) -> Error {
        Error::Unintelligible { host: self.host.clone(), what: said(what), perhaps }
    }

    fn unsupported(&self, what: &str, offers: String) -> Error {
        Error::Unsupported { host: self.host.clone(), what: what.to_owned(), offers }
    }

    fn no_system(&self, what: String) -> Error {
        Error::NoSystem { host: self.host.clone(), what }
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
