//! The boot server as machines see it: the links that they are given, and who may use them.

use std::net::IpAddr;

use magnetite_api::{Architecture, Machine, machine::IntentStatus};

use crate::{
    capability::{CapabilityKey, Purpose, machine_id, machine_key},
    client::ClientClass,
    ladder::Platform,
    plan::Answer,
    render::{AgentLink, Links},
};

/// How long a link to a script is good, in seconds: from the OFFER to iPXE's request for it.
const SCRIPT_LINK: u64 = 15 * 60;
/// How long the agent may report after its window closed, in seconds.
const AFTER_WINDOW: u64 = 60 * 60;

/// The boot server at one of its addresses.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The address that machines reach it at.
    pub address: IpAddr,
    /// TCP port of plain HTTP.
    pub http_port: u16,
    /// TCP port of the agents' HTTPS.
    pub https_port: u16,
    /// Key of capability URLs.
    pub key: &'a CapabilityKey,
    /// Pin of the agents' TLS.
    pub pin: &'a str,
}

impl Site<'_> {
    fn authority(&self, port: u16) -> String {
        match self.address {
            IpAddr::V4(address) => format!("{address}:{port}"),
            IpAddr::V6(address) => format!("[{address}]:{port}"),
        }
    }

    /// `http://<address>:<port>`.
    pub fn base(&self) -> String {
        format!("http://{}", self.authority(self.http_port))
    }

    /// Links for a machine: short ones for its script, and for what the script leads to as long as its window is open.
    pub fn links(
        &self,
        machine: &Machine,
        architecture: Architecture,
        intent: Option<&IntentStatus>,
        now: u64,
    ) -> Links {
        let expires = now.saturating_add(SCRIPT_LINK).max(window_end(intent));
        let cap = self.key.mint(Purpose::Boot, &machine_key(machine), machine.wanted_intent(), expires);
        Links { base: format!("{}/m/{}/{cap}/{architecture}", self.base(), machine_id(machine)) }
    }

    /// The link of an OFFER.
    pub fn script_link(&self, machine: &Machine, architecture: Architecture, now: u64) -> String {
        self.links(machine, architecture, None, now).script()
    }

    /// The boot file of an answer to a machine: a name for TFTP, a URL for UEFI HTTP boot and for iPXE. `now`: seconds since 1970.
    pub fn bootfile(&self, answer: &Answer, class: ClientClass, machine: &Machine, now: u64) -> Option<String> {
        let id = machine_id(machine);
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
        let link = self.script_link(machine, architecture, now);
        // Over IPv6 it is a router that must be heard; iPXE's `dhcp` is DHCPv4 alone.
        let configure = if self.address.is_ipv6() { "ifconf --configurator ipv6" } else { "dhcp" };
        format!(
            "#!ipxe\n:address\n{configure} || goto again\nchain --replace --autofree {link} || goto again\n:again\nsleep 1\ngoto address\n"
        )
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
        let expires = now.max(window_end(intent)).saturating_add(AFTER_WINDOW);
        let cap = self.key.mint(Purpose::Agent, &machine_key(machine), machine.wanted_intent(), expires);
        AgentLink {
            url: format!("{}/agent", links.base),
            verification: verification.to_owned(),
            server: format!("https://{}/a/{}/{cap}", self.authority(self.https_port), machine_id(machine)),
            pin: self.pin.to_owned(),
            intent: machine.wanted_intent().to_owned(),
        }
    }
}

fn window_end(intent: Option<&IntentStatus>) -> u64 {
    intent.map_or(0, |intent| u64::try_from(intent.expires_at.0.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Request, fixtures::machine, fleet::Identity, ladder};

    fn site(key: &CapabilityKey, address: &str) -> String {
        let site = Site { address: address.parse().unwrap(), http_port: 8080, https_port: 8443, key, pin: "sha256/00" };
        let machine = machine("box").arc();
        let request = Request { class: ClientClass::Pxe, arches: vec![7], ipxe: false, identity: Identity::default() };
        let answer = Answer::Loader { platform: ladder::platform(&request).unwrap(), file: "snponly.efi".into() };
        let tftp = site.bootfile(&answer, ClientClass::Pxe, &machine, 0).unwrap();
        let http = site.bootfile(&answer, ClientClass::Http, &machine, 0).unwrap();
        format!("{tftp} {http}").replace(&machine_id(&machine), "ID")
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
        let site = Site { address: [10, 0, 0, 1].into(), http_port: 80, https_port: 443, key: &key, pin: "sha256/00" };
        let script = site.autoexec(&machine("box").arc(), Architecture::Aarch64, 0);
        assert!(script.starts_with("#!ipxe\n") && script.contains("dhcp || goto again"), "{script}");
        assert!(script.contains("/aarch64/boot.ipxe || goto again"), "{script}");
        let six = Site { address: "fd30::1".parse().unwrap(), ..site };
        let script = six.autoexec(&machine("box").arc(), Architecture::X86_64, 0);
        assert!(script.contains("ifconf --configurator ipv6 || goto again"), "{script}");
        assert!(script.contains(" http://[fd30::1]:80/m/"), "{script}");
    }
}
