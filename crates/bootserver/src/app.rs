//! What every driver has at hand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use jiff::Timestamp;
use magnetite_api::{Architecture, MacAddr, Machine, discovery::HELD_INTENT, machine::IntentStatus};
use magnetite_boot::{
    capability::{CapabilityKey, Purpose, held_key, held_mac, machine_key},
    fleet::{Found, Identity},
    plan,
    render::{AgentLink, Links},
    select::{Chosen, SelectError},
    site::{Site, Tls},
};

use tokio::sync::Semaphore;

use crate::{
    args::LimitArgs,
    artifacts::{Checked, Library},
    discovery::Discovery,
    fence::Fence,
    http::{Passed, Reached, Signatures},
    limits::Limiter,
    loaders::Loaders,
    metrics::Metrics,
    net::Interface,
    record::Records,
    report::RecordFolder,
    store::windows::Windows,
    view::{Reader, View},
};

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

/// What one client may have. A boot asks for some ten things in a minute.
#[derive(Debug)]
pub struct Limits {
    /// DHCP packets, by MAC.
    pub dhcp: Limiter<[u8; 6]>,
    /// HTTP requests, by address: many boxes may stand behind one that translates theirs.
    pub http: Limiter<IpAddr>,
    /// Reports, by Machine.
    pub reports: Limiter<String>,
    /// TFTP transfers at once, by address; 0: as many as it likes.
    pub transfers: usize,
}

impl From<&LimitArgs> for Limits {
    fn from(args: &LimitArgs) -> Self {
        let LimitArgs { client_requests_per_second, client_transfers, client_dhcp_per_second } = args;
        Self {
            dhcp: Limiter::new(*client_dhcp_per_second),
            http: Limiter::new(*client_requests_per_second),
            reports: Limiter::new(1),
            transfers: *client_transfers,
        }
    }
}

/// What every driver has at hand. Nothing in it is slow: the boot path reads memory only.
pub struct App {
    /// What is declared.
    pub view: Reader,
    /// What machines did.
    pub records: Arc<Records>,
    /// Where that is kept.
    pub folder: RecordFolder,
    /// The Profiles' files.
    pub library: Arc<Library>,
    /// Loaders, by name: whole, in memory.
    pub loaders: Loaders,
    /// Agents, by architecture.
    pub agents: BTreeMap<&'static str, Agent>,
    /// Key of capability URLs.
    pub key: CapabilityKey,
    /// Pin of the agents' TLS.
    pub pin: String,
    /// The interfaces on which machines boot, and our addresses there.
    pub interfaces: Vec<Interface>,
    /// HTTP port.
    pub http_port: u16,
    /// HTTPS port.
    pub https_port: u16,
    /// What is served over HTTP, over TLS.
    pub tls: Tls,
    /// Our name in reports.
    pub server: String,
    /// Boxes that no Machine declares, if they are to be found.
    pub discovery: Discovery,
    /// Whether unknown firmware is asked for its serial number.
    pub identify_by_serial: bool,
    /// Whether all TFTP packets go out from the port that requests come to.
    pub tftp_single_port: bool,
    /// Where claims go.
    pub cluster: Cluster,
    /// Claims that were passed on.
    pub passed: Passed,
    /// What one client may have.
    pub limits: Limits,
    /// Who is answered at all.
    pub fence: Fence,
    /// What is remembered of signed reports.
    pub signatures: Signatures,
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

    /// The boot server at one of its addresses.
    pub fn site(&self, address: IpAddr) -> Site<'_> {
        let Self { http_port, https_port, tls, key, pin, .. } = self;
        Site { tls: *tls, ..Site::plain(address, *http_port, *https_port, key, pin) }
    }

    /// The boot server at the address that a client asked, by its `Host`: a machine goes on with the address that it reached, and
    /// by the same protocol. A name that is none of our addresses is nobody's word: the first address is told.
    pub fn site_asked(&self, Reached { host, scheme }: &Reached) -> Site<'_> {
        let asked = host.as_deref().and_then(named);
        let own = self.interfaces.iter().flat_map(|Interface { name: _, address, address6 }| {
            [Some(IpAddr::V4(*address)), address6.map(IpAddr::V6)].into_iter().flatten()
        });
        let first = self.interfaces.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |first| IpAddr::V4(first.address));
        let address = asked.filter(|asked| own.clone().any(|own| own == *asked)).unwrap_or(first);
        Site { scheme: *scheme, ..self.site(address) }
    }

    /// True if the system of a Machine's wanted intent is on its disk, as far as this boot server or the cluster knows.
    pub fn is_installed(&self, machine: &Machine) -> bool {
        machine.is_installed() || self.records.is_installed(machine)
    }

    /// Which Machine a client is. Where boxes are to be found, one that nobody declares is a Machine that is held, until there is one of its own.
    pub fn find(&self, view: &View, identity: &Identity, now: Timestamp) -> Found {
        match view.fleet.find(identity) {
            Found::Unknown => match identity.mac.and_then(|mac| self.discovery.welcome(mac, now)) {
                Some(machine) => Found::Machine(machine),
                None => Found::Unknown,
            },
            found @ (Found::Machine(_) | Found::Conflict(_)) => found,
        }
    }

    /// Which Machine it is that asks by DHCP. Where serial numbers are asked for, they say more than that nobody declares a MAC.
    pub fn find_client(&self, view: &View, identity: &Identity, now: Timestamp) -> Found {
        if self.identify_by_serial { view.fleet.find(identity) } else { self.find(view, identity, now) }
    }

    /// The Profile of a Machine; of one that is held the one that all such boot. One that is out of service boots its own, in memory.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn profile(&self, view: &View, machine: &Machine) -> Result<Arc<Chosen>, SelectError> {
        if machine.spec.hold && machine.is_held() {
            view.of_held(self.discovery.profile())
        } else {
            view.profile(machine)
        }
    }

    /// What a machine does next, by all that this boot server knows of it.
    pub fn next(
        &self,
        view: &View,
        machine: &Machine,
        profile: Result<&Chosen, &SelectError>,
        now: Timestamp,
    ) -> plan::Next {
        let conflicted = !view.fleet.conflicts(machine).is_empty();
        plan::next(machine, profile, view.intent(machine), conflicted, self.is_installed(machine), now)
    }

    /// Whether a machine's link opens what a boot is made of, by the same knowledge.
    pub fn opens(
        &self,
        view: &View,
        machine: &Machine,
        profile: Result<&Chosen, &SelectError>,
        now: Timestamp,
    ) -> plan::Opens {
        let conflicted = !view.fleet.conflicts(machine).is_empty();
        plan::opens(machine, profile, view.intent(machine), conflicted, self.is_installed(machine), now)
    }

    /// What the agent is told; nothing if there is none for the architecture.
    pub fn agent_link(
        &self,
        site: &Site<'_>,
        machine: &Machine,
        architecture: Architecture,
        links: &Links,
        intent: Option<&IntentStatus>,
        now: u64,
    ) -> Option<AgentLink> {
        let agent = self.agents.get(architecture.as_str())?;
        Some(site.agent_link(machine, links, &agent.verification, intent, now))
    }

    /// The Machine that a link is for, if the capability in it is good. Unknown machine and bad capability are told apart by nothing,
    /// not even by the work done: for an unknown one, another's capability is checked.
    pub fn authorize(&self, view: &View, id: &str, cap: &str, purpose: Purpose, now: u64) -> Option<Arc<Machine>> {
        if let Some(mac) = held_mac(id) {
            return self.of_held_link(view, mac, cap, purpose, now).filter(|machine| machine.is_held());
        }
        let (machine, is_it) = view.fleet.near_id(id, &self.key)?;
        let good = self.key.check(cap, purpose, &machine_key(&machine), machine.wanted_intent(), now);
        (good && is_it).then_some(machine)
    }

    /// The Machine that the box has become for which the link of a held one was made, whether it is held still or not.
    pub fn authorize_held(&self, view: &View, id: &str, cap: &str, now: u64) -> Option<Arc<Machine>> {
        let Some(mac) = held_mac(id) else {
            // A Machine that is held and declares no MAC.
            return self.authorize(view, id, cap, Purpose::Agent, now).filter(|machine| machine.is_held());
        };
        self.of_held_link(view, mac, cap, Purpose::Agent, now)
    }

    fn of_held_link(&self, view: &View, mac: MacAddr, cap: &str, purpose: Purpose, now: u64) -> Option<Arc<Machine>> {
        let good = self.key.check(cap, purpose, &held_key(mac), HELD_INTENT, now);
        self.held(view, mac).filter(|_| good)
    }

    /// The Machine of an id in the name of a loader, which is published and asks for no capability.
    pub fn named(&self, view: &View, id: &str) -> Option<Arc<Machine>> {
        match held_mac(id) {
            Some(mac) => self.held(view, mac),
            None => view.fleet.by_id(id, &self.key),
        }
    }

    fn held(&self, view: &View, mac: MacAddr) -> Option<Arc<Machine>> {
        match view.fleet.of_mac(mac) {
            Found::Machine(machine) => Some(machine),
            Found::Unknown => self.discovery.stand_in(mac),
            Found::Conflict(_) => None,
        }
    }
}

/// The address in a `Host`: `10.0.0.1:8080`, `10.0.0.1`, `[fd30::1]:8080`, `[fd30::1]`.
fn named(host: &str) -> Option<IpAddr> {
    if let Some(host) = host.strip_prefix('[') {
        return host.split_once(']')?.0.parse().ok().map(IpAddr::V6);
    }
    host.split_once(':').map_or(host, |(host, _port)| host).parse().ok().map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use magnetite_boot::scheme::Scheme;
    use rstest::rstest;

    use crate::{fixtures, http::Reached};

    /// A machine goes on with the address that it reached, and with no name that somebody made up.
    #[rstest]
    #[case(Some("127.0.0.1:8080"), "http://127.0.0.1:8080")]
    #[case(Some("[fd30::1]:8080"), "http://[fd30::1]:8080")]
    #[case(Some("[fd30::1]"), "http://[fd30::1]:8080")]
    #[case(Some("[fd30::2]:8080"), "http://127.0.0.1:8080")]
    #[case(Some("fd30::1"), "http://127.0.0.1:8080")]
    #[case(Some("[fd30::1"), "http://127.0.0.1:8080")]
    #[case(Some("evil.example"), "http://127.0.0.1:8080")]
    #[case(None, "http://127.0.0.1:8080")]
    #[tokio::test]
    async fn links_lead_to_where_they_were_asked_for(#[case] host: Option<&str>, #[case] base: &str) {
        let site = fixtures::Site::with(|app| app.interfaces[0].address6 = "fd30::1".parse().ok()).await;
        let reached = |scheme| Reached { host: host.map(str::to_owned), scheme };
        assert_eq!(site.app.site_asked(&reached(Scheme::Http)).base(), base);
        let over_tls = base.replace("http:", "https:").replace(":8080", ":8444");
        assert_eq!(site.app.site_asked(&reached(Scheme::Https)).base(), over_tls);
    }
}
