//! The boot server as machines see it: the links that they are given, and who may use them.

use std::net::IpAddr;

use magnetite_api::{Architecture, Machine, machine::IntentStatus};

use crate::{
    capability::{CapabilityKey, Purpose, machine_key},
    client::{ClientClass, Request},
    ladder::Platform,
    plan::Answer,
    render::{AgentLink, Links},
    scheme::{Scheme, Trust},
};

/// How long a link to a script is good, in seconds: from the OFFER to iPXE's request for it.
const SCRIPT_LINK: u64 = 15 * 60;
/// How long the agent may report after its window closed, in seconds.
const AFTER_WINDOW: u64 = 60 * 60;
/// The same of a box that boots its Profile again after its window: the control plane may be away for as long as boots go on.
const AGAIN: u64 = 24 * 60 * 60;
/// How long the agent of a box that is held may ask what becomes of it. After that the box restarts, and gets another link.
const HELD: u64 = 24 * 60 * 60;
/// The same of one that is out of service, whose restart would disturb whoever works on it.
const MAINTAINED: u64 = 90 * 24 * 60 * 60;

/// The boot server at one of its addresses.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The address that machines reach it at.
    pub address: IpAddr,
    /// By which protocol whoever is spoken to goes on.
    pub scheme: Scheme,
    /// TCP port of plain HTTP.
    pub http_port: u16,
    /// The same over TLS.
    pub tls: Tls,
    /// TCP port of the agents' HTTPS.
    pub https_port: u16,
    /// Key of capability URLs.
    pub key: &'a CapabilityKey,
    /// Pin of the agents' TLS.
    pub pin: &'a str,
}

/// What is served over plain HTTP, over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tls {
    /// TCP port.
    pub port: u16,
    /// Who is sent there.
    pub trust: Trust,
}

impl<'a> Site<'a> {
    /// A boot server without HTTPS but for the agents.
    pub fn plain(address: IpAddr, http_port: u16, https_port: u16, key: &'a CapabilityKey, pin: &'a str) -> Self {
        Self { address, scheme: Scheme::Http, http_port, tls: Tls::default(), https_port, key, pin }
    }

    /// As it is told to a client that asked by DHCP.
    pub fn told(self, request: &Request) -> Self {
        Self { scheme: self.tls.trust.scheme(request), ..self }
    }
}

impl Site<'_> {
    fn authority(&self, port: u16) -> String {
        match self.address {
            IpAddr::V4(address) => format!("{address}:{port}"),
            IpAddr::V6(address) => format!("[{address}]:{port}"),
        }
    }

    /// `http://<address>:<port>`, or the same with `https`.
    pub fn base(&self) -> String {
        self.by(self.scheme)
    }

    fn by(&self, scheme: Scheme) -> String {
        let port = match scheme {
            Scheme::Http => self.http_port,
            Scheme::Https => self.tls.port,
        };
        format!("{}://{}", scheme.as_str(), self.authority(port))
    }

    /// Links for a machine: short ones for its script, and for what the script leads to as long as its window is open. What iPXE
    /// fetches comes as the script does; what the system fetches comes as the site's systems trust.
    pub fn links(
        &self,
        machine: &Machine,
        architecture: Architecture,
        intent: Option<&IntentStatus>,
        now: u64,
    ) -> Links {
        let expires = now.saturating_add(SCRIPT_LINK).max(window_end(intent));
        let cap = self.key.mint(Purpose::Boot, &machine_key(machine), machine.wanted_intent(), expires);
        let path = format!("/m/{}/{cap}/{architecture}", self.key.machine_id(machine));
        Links { base: self.base() + &path, system: self.by(self.tls.trust.of_system()) + &path }
    }

    /// The link of an OFFER.
    pub fn script_link(&self, machine: &Machine, architecture: Architecture, now: u64) -> String {
        self.links(machine, architecture, None, now).script()
    }

    /// The boot file of an answer to a machine: a name for TFTP, a URL for UEFI HTTP boot and for iPXE. `now`: seconds since 1970.
    pub fn bootfile(&self, answer: &Answer, class: ClientClass, machine: &Machine, now: u64) -> Option<String> {
        let id = self.key.machine_id(machine);
        match (answer, class) {
            (Answer::Ignore(_), _) => None,
            (Answer::Script { platform: Platform { architecture, .. } }, _) => {
                Some(self.script_link(machine, *architecture, now))
            }
            (Answer::Loader { file, .. }, ClientClass::Pxe) => Some(format!("m/{id}/{file}")),
            (Answer::Loader { file, .. }, ClientClass::Http) => Some(format!("{}/ipxe/{id}/{file}", self.base())),
        }
    }

    /// What a loader runs on its own (iPXE 1.21.1+git and later asks for `autoexec.ipxe` beside itself): it asks for an address until it has one, where
    /// iPXE by itself asks once and gives up, and then for the machine's script.
    pub fn autoexec(&self, machine: &Machine, architecture: Architecture, now: u64) -> String {
        let chain = |scheme| {
            let link = Self { scheme, ..*self }.script_link(machine, architecture, now);
            format!("chain --replace --autofree {link} || ")
        };
        let mut chains = chain(self.scheme);
        if self.scheme == Scheme::Http && self.tls.trust.ipxe {
            // It came by TFTP, and nobody knows which iPXE asked: one without HTTPS says so at once and goes on.
            chains.insert_str(0, &chain(Scheme::Https));
        }
        // Over IPv6 it is a router that must be heard; iPXE's `dhcp` is DHCPv4 alone.
        let configure = if self.address.is_ipv6() { "ifconf --configurator ipv6" } else { "dhcp" };
        format!("#!ipxe\n:address\n{configure} || goto again\n{chains}goto again\n:again\nsleep 1\ngoto address\n")
    }

    /// What the agent is told. `verification`: the digest of its binary as Ignition writes one.
    pub fn agent_link(
        &self,
        machine: &Machine,
        links: &Links,
        verification: &str,
        intent: Option<&IntentStatus>,
        now: u64,
    ) -> AgentLink {
        let after = match machine.maintenance() {
            Some(_) => MAINTAINED,
            None if machine.is_held() => HELD,
            None if window_end(intent) <= now => AGAIN,
            None => AFTER_WINDOW,
        };
        let expires = now.max(window_end(intent)).saturating_add(after);
        let cap = self.key.mint(Purpose::Agent, &machine_key(machine), machine.wanted_intent(), expires);
        AgentLink {
            url: format!("{}/agent", links.system),
            verification: verification.to_owned(),
            server: format!("https://{}/a/{}/{cap}", self.authority(self.https_port), self.key.machine_id(machine)),
            pin: self.pin.to_owned(),
            intent: machine.wanted_intent().to_owned(),
        }
    }
}

/// Path of a machine's sealed files. It is good until the machine's next intent: a node runs for years.
pub fn sealed_path(key: &CapabilityKey, machine: &Machine) -> String {
    let cap = key.mint(Purpose::Sealed, &machine_key(machine), machine.wanted_intent(), u64::MAX);
    format!("/a/{}/{cap}/files", key.machine_id(machine))
}

fn window_end(intent: Option<&IntentStatus>) -> u64 {
    intent.map_or(0, |intent| u64::try_from(intent.expires_at.0.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use magnetite_api::{machine::IntentState, time::seconds};

    use super::*;
    use crate::{client::Request, fixtures::machine, fleet::Identity, ladder};

    fn site(key: &CapabilityKey, address: &str) -> String {
        let site = Site::plain(address.parse().unwrap(), 8080, 8443, key, "sha256/00");
        let machine = machine("box").arc();
        let request = Request {
            class: ClientClass::Pxe,
            arches: vec![7],
            ipxe: false,
            https: false,
            identity: Identity::default(),
        };
        let answer = Answer::Loader { platform: ladder::platform(&request).unwrap(), file: "snponly.efi".into() };
        let tftp = site.bootfile(&answer, ClientClass::Pxe, &machine, 0).unwrap();
        let http = site.bootfile(&answer, ClientClass::Http, &machine, 0).unwrap();
        format!("{tftp} {http}").replace(&key.machine_id(&machine), "ID")
    }

    #[test]
    fn loaders_by_either_protocol_and_family() {
        let key = CapabilityKey::new([7; 32]);
        assert_eq!(site(&key, "10.0.0.1"), "m/ID/snponly.efi http://10.0.0.1:8080/ipxe/ID/snponly.efi");
        assert_eq!(site(&key, "fd30::1"), "m/ID/snponly.efi http://[fd30::1]:8080/ipxe/ID/snponly.efi");
    }

    #[test]
    fn a_loader_asks_until_it_has_an_address() {
        let key = CapabilityKey::new([7; 32]);
        let site = Site::plain([10, 0, 0, 1].into(), 80, 443, &key, "sha256/00");
        let script = site.autoexec(&machine("box").arc(), Architecture::Aarch64, 0);
        assert!(script.starts_with("#!ipxe\n") && script.contains("dhcp || goto again"), "{script}");
        assert!(script.contains("/aarch64/boot.ipxe || goto again"), "{script}");
        let six = Site { address: "fd30::1".parse().unwrap(), ..site };
        let script = six.autoexec(&machine("box").arc(), Architecture::X86_64, 0);
        assert!(script.contains("ifconf --configurator ipv6 || goto again"), "{script}");
        assert!(script.contains(" http://[fd30::1]:80/m/"), "{script}");
    }

    /// S9: what an offer holds is good for a quarter of an hour, for this machine and this intent.
    #[test]
    fn a_link_of_an_offer_is_good_for_fifteen_minutes() {
        let key = CapabilityKey::new([7; 32]);
        let site = Site::plain([10, 0, 0, 1].into(), 8080, 8443, &key, "sha256/00");
        let (mine, again) = (machine("box").arc(), machine("box").intent("again").arc());
        let link = site.script_link(&mine, Architecture::X86_64, 1000);
        let cap = link.split('/').nth(5).unwrap();
        let good =
            |machine: &Machine, now| key.check(cap, Purpose::Boot, &machine_key(machine), machine.wanted_intent(), now);
        assert!(good(&mine, 1000) && good(&mine, 1000 + 900), "{link}");
        assert!(!good(&mine, 1000 + 901) && !good(&again, 1000) && !good(&machine("other").arc(), 1000));
    }

    /// An agent may report for an hour after its window, or for a day where it boots again or waits for a person.
    #[test]
    fn how_long_an_agent_is_heard() {
        let key = CapabilityKey::new([7; 32]);
        let site = Site::plain([10, 0, 0, 1].into(), 8080, 8443, &key, "sha256/00");
        let second = |second| seconds(Timestamp::from_second(second).unwrap());
        let intent = |machine: &Machine| IntentStatus {
            id: machine.wanted_intent().into(),
            state: IntentState::Open,
            opened_at: second(0),
            expires_at: second(3600),
        };
        let free = machine("box").arc();
        let mut held = Machine::clone(&free);
        held.spec.hold = true;
        for (machine, now, until) in [
            (&*free, 10, 3600 + AFTER_WINDOW),
            (&*free, 3599, 3600 + AFTER_WINDOW),
            (&*free, 3600, 3600 + AGAIN),
            (&*free, 90_000, 90_000 + AGAIN),
            (&held, 10, 3600 + HELD),
        ] {
            let intent = intent(machine);
            let links = site.links(machine, Architecture::X86_64, Some(&intent), now);
            let server = site.agent_link(machine, &links, "sha512-00", Some(&intent), now).server;
            let cap = server.split('/').nth(5).unwrap();
            let good = |at| key.check(cap, Purpose::Agent, &machine_key(machine), machine.wanted_intent(), at);
            assert!(good(until) && !good(until + 1), "at {now}");
        }
    }

    /// A site with HTTPS that some trust.
    fn with_tls(key: &CapabilityKey, trust: Trust) -> Site<'_> {
        let tls = Tls { port: 8444, trust };
        Site { tls, ..Site::plain([10, 0, 0, 1].into(), 8080, 8443, key, "sha256/00") }
    }

    /// What iPXE fetches comes as it was asked for, what the system fetches as was said of systems.
    #[test]
    fn links_stay_with_their_scheme() {
        let key = CapabilityKey::new([7; 32]);
        let machine = machine("box").arc();
        let system = Trust { system: true, ..Trust::default() };
        for (scheme, trust, base, below) in [
            (Scheme::Http, Trust::default(), "http://10.0.0.1:8080/m/", "http://10.0.0.1:8080/m/"),
            (Scheme::Https, Trust::default(), "https://10.0.0.1:8444/m/", "http://10.0.0.1:8080/m/"),
            (Scheme::Http, system, "http://10.0.0.1:8080/m/", "https://10.0.0.1:8444/m/"),
            (Scheme::Https, system, "https://10.0.0.1:8444/m/", "https://10.0.0.1:8444/m/"),
        ] {
            let site = Site { scheme, ..with_tls(&key, trust) };
            let links = site.links(&machine, Architecture::X86_64, None, 0);
            for link in [links.script(), links.kernel(), links.initrd(0)] {
                assert!(link.starts_with(base), "{link} {scheme:?} {trust:?}");
            }
            let agent = site.agent_link(&machine, &links, "sha512-00", None, 0);
            for link in [links.ignition(), links.file("rootfs"), agent.url] {
                assert!(link.starts_with(below), "{link} {scheme:?} {trust:?}");
            }
            assert!(agent.server.starts_with("https://10.0.0.1:8443/a/"), "{}", agent.server);
        }
    }

    #[test]
    fn firmware_fetches_its_loader_by_https_only_if_it_trusts_us() {
        let key = CapabilityKey::new([7; 32]);
        let machine = machine("box").arc();
        let request = Request {
            class: ClientClass::Http,
            arches: vec![16],
            ipxe: false,
            https: false,
            identity: Identity::default(),
        };
        let answer = Answer::Loader { platform: ladder::platform(&request).unwrap(), file: "snponly.efi".into() };
        for (firmware, want) in [(false, "http://10.0.0.1:8080/ipxe/"), (true, "https://10.0.0.1:8444/ipxe/")] {
            let site = with_tls(&key, Trust { firmware, ..Trust::default() }).told(&request);
            let url = site.bootfile(&answer, ClientClass::Http, &machine, 0).unwrap();
            assert!(url.starts_with(want) && url.ends_with("/snponly.efi"), "{url}");
        }
    }

    /// By TFTP nobody knows which iPXE asks; who asked by HTTPS has it.
    #[test]
    fn a_loader_s_script_tries_https_and_goes_on_without() {
        let key = CapabilityKey::new([7; 32]);
        let site = with_tls(&key, Trust { ipxe: true, ..Trust::default() });
        let script = |site: Site<'_>| site.autoexec(&machine("box").arc(), Architecture::X86_64, 0);
        let schemes = |script: &str| {
            let links = script.lines().find(|line| line.starts_with("chain ")).unwrap();
            links
                .split_whitespace()
                .filter_map(|word| word.split_once("://"))
                .map(|(scheme, _)| scheme.to_owned())
                .collect()
        };
        let tftp: Vec<_> = schemes(&script(site));
        assert_eq!(tftp, ["https", "http"]);
        let https: Vec<_> = schemes(&script(Site { scheme: Scheme::Https, ..site }));
        assert_eq!(https, ["https"]);
        let nobody: Vec<_> = schemes(&script(with_tls(&key, Trust::default())));
        assert_eq!(nobody, ["http"]);
    }
}
