//! Is the Node Ready? Asked of the API server with the kubelet's own certificate.

use std::time::Duration;

use jiff::Timestamp;
use magnetite_api::{join::JoinBundle, report::BootStepName};
use magnetite_daemon::{backoff::Backoff, log::chain};
use reqwest::Client;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::{
    files::{self, CURRENT, FileError, Paths},
    keys, plan,
    report::{Reporter, plain},
    server,
    systemd::Systemctl,
    tls,
};

/// How often the Node is looked at: soon at first, seldom later.
const POLL: Backoff = Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(10) };
/// A Node carries the names of the images that it has.
const NODE_LIMIT: usize = 4 * 1024 * 1024;

/// Why the watch could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The certificate ended or is gone, so that the API server cannot be asked and the kubelet cannot either.
    #[error("the kubelet's certificate is gone or has ended")]
    NoCertificate,
    /// Its file could not be read.
    #[error("the kubelet's certificate could not be read")]
    File(#[from] FileError),
}

/// What a look at the Node showed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum View {
    /// The API server did not say; why.
    Unknown(String),
    /// There is no such Node.
    Missing,
    /// There is one, of the time before this boot: the kubelet has not spoken yet.
    Old,
    /// It is there and not Ready; why.
    NotReady(String),
    /// It is Ready.
    Ready,
}

/// The API server, asked about this box's own Node with the kubelet's own credentials.
pub struct ApiServer<'a> {
    paths: &'a Paths,
    join: &'a JoinBundle,
    kept: Option<(Vec<u8>, Client)>,
}

/// What it answered.
pub struct Asked {
    /// The HTTP status.
    pub status: u16,
    /// The body; empty if it is longer than was asked for.
    pub body: Vec<u8>,
}

/// Why it could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is nothing to ask with.
    #[error("there is no certificate to ask with")]
    Watch(#[from] WatchError),
    /// TLS cannot be set up.
    #[error("TLS to the API server cannot be set up: {0}")]
    Tls(String),
    /// No answer.
    #[error("the API server did not answer")]
    Unreachable(#[from] reqwest::Error),
}

impl<'a> ApiServer<'a> {
    /// Connects to nothing yet.
    pub fn new(paths: &'a Paths, join: &'a JoinBundle) -> Self {
        Self { paths, join, kept: None }
    }

    /// Asks once, for the whole of the Node or a part. The certificate is read each time, since the kubelet rotates it.
    pub async fn ask(&mut self, accept: &str, limit: usize, now: Timestamp) -> Result<Asked, AskError> {
        let pair = files::read(&self.paths.at(CURRENT)).map_err(WatchError::from)?.ok_or(WatchError::NoCertificate)?;
        let client = match &self.kept {
            Some((old, client)) if *old == pair => client.clone(),
            _ => {
                let facts = keys::certificate_facts(&pair, &pair, &self.join.node_name);
                if facts.is_none_or(|facts| plan::ends(facts.not_after, now)) {
                    return Err(WatchError::NoCertificate.into());
                }
                let client = self.client(&pair).map_err(AskError::Tls)?;
                self.kept = Some((pair, client.clone()));
                client
            }
        };
        let base = self.join.api_server.trim_end_matches('/');
        let url = format!("{base}/api/v1/nodes/{}", self.join.node_name);
        let response = client.get(url).header(reqwest::header::ACCEPT, accept).send().await?;
        let status = response.status().as_u16();
        let body = server::body_of(response, limit).await?.unwrap_or_default();
        Ok(Asked { status, body })
    }

    fn client(&self, pair: &[u8]) -> Result<Client, String> {
        let config = tls::api_server(&self.join.certificate_authority, pair).map_err(|error| chain(&error))?;
        server::client(config).map_err(|error| chain(&error))
    }
}

/// Watches a Node until it is Ready.
pub struct NodeWatch<'a> {
    /// Where the certificate is.
    pub paths: &'a Paths,
    /// What was joined.
    pub join: &'a JoinBundle,
    /// The kernel's name for this boot.
    pub boot_id: Option<String>,
    /// Where to say how far it is.
    pub reporter: &'a Reporter,
    /// For the reasons of a failure.
    pub systemctl: &'a Systemctl,
    /// When to call it a failure.
    pub ready_within: Duration,
}

impl NodeWatch<'_> {
    /// Returns when the Node is Ready. Says when it is registered, and says so when it is not Ready in time; but
    /// goes on, for it may be a network that comes later.
    pub async fn until_ready(&self, now: impl Fn() -> Timestamp) -> Result<(), WatchError> {
        let mut server = ApiServer::new(self.paths, self.join);
        let mut registered = false;
        let mut polls = POLL.start();
        let mut deadline = Instant::now() + self.ready_within;
        loop {
            let view = self.look(&mut server, now()).await?;
            tracing::debug!(view = ?view, "node looked at");
            let there = matches!(view, View::NotReady(_) | View::Ready);
            if there && !registered {
                registered = true;
                tracing::info!(node = self.join.node_name, "node registered");
                self.reporter.reached(BootStepName::NodeRegistered, None);
            }
            if view == View::Ready {
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.complain(&view).await;
                deadline = Instant::now() + self.ready_within;
            }
            sleep(polls.next_delay()).await;
        }
    }

    async fn look(&self, server: &mut ApiServer<'_>, now: Timestamp) -> Result<View, WatchError> {
        match server.ask("application/json", NODE_LIMIT, now).await {
            Ok(Asked { status, body }) => Ok(judge(status, &body, self.boot_id.as_deref())),
            Err(AskError::Watch(error)) => Err(error),
            Err(AskError::Tls(why)) => Ok(View::Unknown(why)),
            Err(AskError::Unreachable(error)) => Ok(View::Unknown(chain(&error))),
        }
    }

    async fn complain(&self, view: &View) {
        let (step, reason, why) = match view {
            View::Unknown(why) => (BootStepName::NodeRegistered, "ApiServerUnreachable", why.as_str()),
            View::Missing => (BootStepName::NodeRegistered, "NodeNotRegistered", "the Node is not registered"),
            View::Old => {
                (BootStepName::NodeRegistered, "NodeNotRegistered", "the Node is of the time before this boot")
            }
            View::NotReady(why) => (BootStepName::NodeReady, "NodeNotReady", why.as_str()),
            View::Ready => return,
        };
        let message =
            format!("{}; {}; look at `journalctl -u kubelet`", plain(why, 160), self.systemctl.condition().await);
        tracing::warn!(reason, message = plain(&message, 512), "node is not ready in time");
        self.reporter.failed(step, reason, &message);
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    status: NodeStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct NodeStatus {
    conditions: Vec<NodeCondition>,
    node_info: NodeInfo,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct NodeInfo {
    #[serde(rename = "bootID")]
    boot_id: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NodeCondition {
    r#type: String,
    status: String,
    message: String,
}

/// What an answer about the Node means. A Node stays Ready for a while after its box lost power, so it counts only
/// if it speaks of this boot.
fn judge(status: u16, body: &[u8], boot_id: Option<&str>) -> View {
    let node: Node = match status {
        404 => return View::Missing,
        200 => match serde_json::from_slice(body) {
            Ok(node) => node,
            Err(error) => return View::Unknown(format!("the API server sent no Node: {error}")),
        },
        status => return View::Unknown(format!("the API server answered with status {status}")),
    };
    let NodeStatus { conditions, node_info } = node.status;
    if boot_id.is_some_and(|ours| !ours.eq_ignore_ascii_case(&node_info.boot_id)) {
        return View::Old;
    }
    match conditions.into_iter().find(|condition| condition.r#type == "Ready") {
        Some(ready) if ready.status == "True" => View::Ready,
        Some(ready) => View::NotReady(ready.message),
        None => View::NotReady("the kubelet has not said how the Node is".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn node(boot_id: &str, ready: &str) -> String {
        let ready = format!(r#"{{"type":"Ready","status":"{ready}","message":"no network","reason":"x"}}"#);
        let other = r#"{"type":"DiskPressure","status":"False"}"#;
        format!(r#"{{"kind":"Node","status":{{"conditions":[{other},{ready}],"nodeInfo":{{"bootID":"{boot_id}"}}}}}}"#)
    }

    #[rstest]
    #[case(200, node("b", "True"), View::Ready)]
    #[case(200, node("B", "False"), View::NotReady("no network".into()))]
    #[case(200, node("b", "Unknown"), View::NotReady("no network".into()))]
    #[case::before_the_reboot(200, node("a", "True"), View::Old)]
    #[case::created_and_no_more(200, r#"{"kind":"Node"}"#.into(), View::Old)]
    #[case(404, String::new(), View::Missing)]
    #[case(401, String::new(), View::Unknown("the API server answered with status 401".into()))]
    fn what_the_api_server_says(#[case] status: u16, #[case] body: String, #[case] view: View) {
        assert_eq!(judge(status, body.as_bytes(), Some("b")), view);
    }

    #[test]
    fn a_box_without_a_boot_id_believes_the_node() {
        assert_eq!(judge(200, node("a", "True").as_bytes(), None), View::Ready);
    }
}
