//! What every driver has at hand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use magnetite_api::{Architecture, Machine, machine::IntentStatus};
use magnetite_boot::{
    capability::{CapabilityKey, Purpose, machine_id, machine_key},
    render::{AgentLink, Links},
};

use tokio::sync::Semaphore;

use crate::{
    artifacts::{Checked, Library},
    http::Passed,
    limits::Limiter,
    metrics::Metrics,
    record::Records,
    store::windows::Windows,
    view::{Reader, View},
};

/// How long a link to a script is good, in seconds: from the OFFER to iPXE's request for it.
const SCRIPT_LINK: u64 = 15 * 60;
/// How long the agent may report after its window closed, in seconds.
const AFTER_WINDOW: u64 = 60 * 60;

/// An agent's binary, ready to be served.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The file.
    pub file: Checked,
    /// Its digest as Ignition writes one.
    pub verification: String,
}

/// Where claims go.
#[derive(Clone)]
pub enum Cluster {
    /// To a controller, through the API server.
    Client(kube::Client),
    /// Nowhere: there is no cluster. This server keeps the windows.
    None(Arc<Windows>),
}

/// Files that are sent at once, each with an open file and a buffer.
pub const MOST_STREAMS: usize = 2048;

/// How often one peer may ask within a second. A boot asks for some ten things in a minute.
#[derive(Debug)]
pub struct Limits {
    /// DHCP packets, by MAC.
    pub dhcp: Limiter<[u8; 6]>,
    /// HTTP requests, by address: many boxes may stand behind one that translates theirs.
    pub http: Limiter<IpAddr>,
    /// Reports, by Machine.
    pub reports: Limiter<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { dhcp: Limiter::new(20), http: Limiter::new(200), reports: Limiter::new(1) }
    }
}

/// What every driver has at hand. Nothing in it is slow: the boot path reads memory only.
pub struct App {
    /// What is declared.
    pub view: Reader,
    /// What machines did.
    pub records: Arc<Records>,
    /// The Profiles' files.
    pub library: Arc<Library>,
    /// Loaders, by name: whole, in memory.
    pub loaders: BTreeMap<String, Arc<[u8]>>,
    /// Agents, by architecture.
    pub agents: BTreeMap<&'static str, Agent>,
    /// Key of capability URLs.
    pub key: CapabilityKey,
    /// Pin of the agents' TLS.
    pub pin: String,
    /// Our address.
    pub address: Ipv4Addr,
    /// HTTP port.
    pub http_port: u16,
    /// HTTPS port.
    pub https_port: u16,
    /// Our name in reports.
    pub server: String,
    /// Whether unknown firmware is asked for its serial number.
    pub identify_by_serial: bool,
    /// Where claims go.
    pub cluster: Cluster,
    /// Claims that were passed on.
    pub passed: Passed,
    /// How often one peer may ask.
    pub limits: Limits,
    /// Places of files that are being sent.
    pub streams: Arc<Semaphore>,
    /// Counters.
    pub metrics: Metrics,
}

impl App {
    /// The view as it is now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// `http://<address>:<port>`.
    pub fn base(&self) -> String {
        format!("http://{}:{}", self.address, self.http_port)
    }

    /// Links for a machine: short ones for its script, and for what the script leads to as long as its window is open.
    pub fn links(
        &self,
        machine: &Machine,
        architecture: Architecture,
        intent: Option<&IntentStatus>,
        now: u64,
    ) -> Links {
        let expires = (now + SCRIPT_LINK).max(window_end(intent));
        let cap = self.key.mint(Purpose::Boot, &machine_key(machine), machine.wanted_intent(), expires);
        Links { base: format!("{}/m/{}/{cap}/{architecture}", self.base(), machine_id(machine)) }
    }

    /// The link of an OFFER.
    pub fn script_link(&self, machine: &Machine, architecture: Architecture, now: u64) -> String {
        self.links(machine, architecture, None, now).script()
    }

    /// What the agent is told; nothing if there is none for the architecture.
    pub fn agent_link(
        &self,
        machine: &Machine,
        architecture: Architecture,
        links: &Links,
        intent: Option<&IntentStatus>,
        now: u64,
    ) -> Option<AgentLink> {
        let agent = self.agents.get(architecture.as_str())?;
        let expires = now.max(window_end(intent)) + AFTER_WINDOW;
        let cap = self.key.mint(Purpose::Agent, &machine_key(machine), machine.wanted_intent(), expires);
        Some(AgentLink {
            url: format!("{}/agent", links.base),
            verification: agent.verification.clone(),
            server: format!("https://{}:{}/a/{}/{cap}", self.address, self.https_port, machine_id(machine)),
            pin: self.pin.clone(),
            intent: machine.wanted_intent().to_owned(),
        })
    }

    /// The Machine that a link is for, if the capability in it is good. Unknown machine and bad capability are
    /// told apart by nothing, not even by the work done.
    pub fn authorize(&self, view: &View, id: &str, cap: &str, purpose: Purpose, now: u64) -> Option<Arc<Machine>> {
        match view.fleet.by_id(id) {
            Some(machine) => {
                let good = self.key.check(cap, purpose, &machine_key(&machine), machine.wanted_intent(), now);
                good.then_some(machine)
            }
            None => {
                self.key.check(cap, purpose, "00000000-0000-0000-0000-000000000000", "created", now);
                None
            }
        }
    }
}

fn window_end(intent: Option<&IntentStatus>) -> u64 {
    intent.map_or(0, |intent| u64::try_from(intent.expires_at.0.as_second()).unwrap_or(0))
}
