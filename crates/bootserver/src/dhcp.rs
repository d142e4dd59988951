//! ProxyDHCP on port 67 and the PXE boot server on 4011.

use std::{
    collections::HashSet,
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
};

use magnetite_api::{MacAddr, MachineUuid};
use magnetite_boot::{
    capability::machine_id,
    client::{ClientClass, Platform, Request},
    fleet::{Found, Identity},
    plan::{self, Answer, Ignored},
};
use magnetite_daemon::{clock, log::chain};
use magnetite_wire::dhcp::{
    MessageType, Packet,
    reply::{self, BootAnswer, Class, Destination},
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::{app::App, metrics::count, net};

/// How many strangers are remembered, to log each once.
const MOST_STRANGERS: usize = 4096;
/// As many errors in a row mean that the socket is broken.
pub const MOST_ERRORS: u32 = 100;

/// Which of the two services a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Port 67: answers DISCOVERs.
    Proxy,
    /// Port 4011: answers REQUESTs and INFORMs sent to it.
    BootServer,
}

/// Boxes that were not answered, to log each once. Bounded: a forged address costs its sender nothing.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<HashSet<MacAddr>>);

impl Strangers {
    /// True if the box is seen for the first time, and there is room to remember it.
    fn is_new(&self, mac: MacAddr) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = known.len() < MOST_STRANGERS && known.insert(mac);
        if new && known.len() == MOST_STRANGERS {
            tracing::warn!(boxes = MOST_STRANGERS, "so many unknown boxes asked that further ones are only counted");
        }
        new
    }
}

/// One of the two services, on a bound socket.
pub struct Server {
    socket: UdpSocket,
    service: Service,
    app: Arc<App>,
    strangers: Arc<Strangers>,
}

impl Server {
    /// Takes a bound socket. Servers that share `strangers` log an unknown box once between them.
    pub fn new(socket: UdpSocket, service: Service, app: Arc<App>, strangers: Arc<Strangers>) -> Self {
        Self { socket, service, app, strangers }
    }

    /// Serves until `stop`. The answer is made without waiting for anything, so packets need no queue beyond the socket's own,
    /// and what that cannot hold is dropped.
    ///
    /// # Errors
    /// If the socket fails again and again.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        let mut buffer = vec![0; 4096];
        let mut errors = 0;
        loop {
            let received = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                received = self.socket.recv_from(&mut buffer) => received,
            };
            let (len, peer) = match received {
                Ok((len, SocketAddr::V4(peer))) => (len, peer),
                Ok(_) => continue,
                Err(error) => {
                    errors += 1;
                    count(&self.app.metrics.dhcp, "receive_failed");
                    tracing::warn!(error = chain(&error), "a DHCP packet could not be received");
                    if errors >= MOST_ERRORS {
                        return Err(error);
                    }
                    continue;
                }
            };
            errors = 0;
            let Some((packet, to)) = self.answer(buffer.get(..len).unwrap_or_default(), peer) else { continue };
            let mut bytes = Vec::with_capacity(320);
            if let Err(error) = packet.encode(&mut bytes) {
                tracing::error!(error = chain(&error), "a DHCP answer could not be written");
                continue;
            }
            if let Err(error) = net::send_from(&self.socket, self.app.address, &bytes, to.address()).await {
                count(&self.app.metrics.dhcp, "send_failed");
                tracing::warn!(error = chain(&error), peer = %to.address(), "a DHCP answer could not be sent");
            }
        }
    }

    /// The answer to a packet, if it gets one.
    pub fn answer(&self, bytes: &[u8], peer: SocketAddrV4) -> Option<(Packet, Destination)> {
        let counted = |outcome| count(&self.app.metrics.dhcp, outcome);
        let Ok(packet) = Packet::decode(bytes) else {
            counted("malformed");
            return None;
        };
        let kind = packet.options.message_type().ok().flatten();
        let ours = match self.service {
            Service::Proxy => kind == Some(MessageType::DISCOVER),
            Service::BootServer => matches!(kind, Some(MessageType::REQUEST | MessageType::INFORM)),
        };
        // A REQUEST on 67 is for the site's own server; a reply is nobody's question.
        if packet.op != 1 || !ours {
            counted("not_ours");
            return None;
        }
        let Some((request, class)) = read(&packet) else {
            counted("not_pxe");
            return None;
        };
        let sender = packet.mac().unwrap_or_default();
        if !self.app.limits.dhcp.admit(sender, clock::now()) {
            counted("too_many");
            return None;
        }
        let span = tracing::info_span!("dhcp", %peer, mac = %MacAddr(sender), xid = format_args!("{:08x}", packet.xid));
        let answer = span.in_scope(|| self.decide(&request, class))?;
        let reply = match self.service {
            Service::Proxy => reply::proxy_offer(&packet, &answer),
            Service::BootServer => reply::boot_server_ack(&packet, &answer, peer),
        };
        match reply {
            Ok(reply) => {
                counted(if self.service == Service::Proxy { "offered" } else { "acknowledged" });
                Some(reply)
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "a boot file's name does not fit");
                None
            }
        }
    }

    fn decide(&self, request: &Request, class: Class) -> Option<BootAnswer> {
        let view = self.app.view();
        let found = view.fleet.find(&request.identity);
        let now = clock::now();
        let answer = plan::answer(request, &found);
        let machine = match (&answer, &found) {
            (Answer::Ignore(why), _) => {
                let bootfile = self.stranger(request, &found, *why)?;
                return Some(BootAnswer { server: self.app.address, bootfile, class });
            }
            (Answer::Loader(platform) | Answer::LoaderUrl(platform), _)
                if !self.app.loaders.contains_key(platform.loader) =>
            {
                // An offer of what is not there would only keep the firmware from its next boot device.
                self.stranger(request, &found, Ignored::NoLoader);
                return None;
            }
            (_, Found::Machine(machine)) => machine,
            (_, Found::Unknown | Found::Conflict(_)) => return None,
        };
        let id = machine_id(machine);
        let (bootfile, architecture, firmware) = match answer {
            Answer::Ignore(_) => return None,
            Answer::Script { architecture, firmware } => {
                (self.app.script_link(machine, architecture, unix(now)), architecture, firmware)
            }
            Answer::Loader(Platform { architecture, firmware, loader }) => {
                (format!("m/{id}/{loader}"), architecture, firmware)
            }
            Answer::LoaderUrl(Platform { architecture, firmware, loader }) => {
                (format!("{}/ipxe/{id}/{loader}", self.app.base()), architecture, firmware)
            }
        };
        self.app.records.firmware(machine, &request.identity, firmware, architecture, now);
        // Not the name of the file: a script's holds a capability.
        tracing::info!(machine = machine.metadata.name, ipxe = request.ipxe, ?firmware, %architecture, "boot offered");
        Some(BootAnswer { server: self.app.address, bootfile, class })
    }

    /// A box that is nobody: counted, logged once, and answered only if its serial number is wanted.
    fn stranger(&self, request: &Request, found: &Found, why: Ignored) -> Option<String> {
        count(&self.app.metrics.dhcp, why.as_str());
        if why == Ignored::Unknown && self.app.identify_by_serial {
            let platform = request.platform()?;
            return Some(match (request.ipxe, request.class) {
                (true, _) => format!("{}/identify.ipxe", self.app.base()),
                (false, ClientClass::Pxe) => platform.loader.to_owned(),
                (false, ClientClass::Http) => format!("{}/ipxe/{}", self.app.base(), platform.loader),
            });
        }
        let mac = request.identity.mac?;
        if self.strangers.is_new(mac) {
            let (uuid, arches, reason) = (request.identity.uuid, &request.arches, why.as_str());
            match (why, found) {
                (_, Found::Conflict(names)) => {
                    let machines = names.join(",");
                    tracing::warn!(%mac, reason, machines, "not answered: more than one Machine claims this identity");
                }
                (Ignored::NoLoader, Found::Machine(_)) => {
                    tracing::warn!(%mac, reason, ?arches, "not answered: there is no loader for this firmware; see --ipxe-dir");
                }
                (_, Found::Unknown | Found::Machine(_)) => {
                    tracing::info!(%mac, ?uuid, ?arches, reason, "not answered: declare a Machine with this MAC or UUID to boot it");
                }
            }
        }
        None
    }
}

/// Seconds since 1970.
pub fn unix(now: jiff::Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or(0)
}

/// The facts of a packet; nothing if it is neither PXE nor HTTP boot.
fn read(packet: &Packet) -> Option<(Request, Class)> {
    let options = &packet.options;
    let class = Class::of(&options.vendor_class()?)?;
    // An option that does not have its form counts as absent: firmware lies, and the MAC may still be known.
    let arches = options.arches().unwrap_or_default().into_iter().map(|arch| arch.0).collect();
    let uuid = options.smbios_uuid().unwrap_or_default().map(MachineUuid::from_smbios);
    let request = Request {
        class: match class {
            Class::Pxe => ClientClass::Pxe,
            Class::Http => ClientClass::Http,
        },
        arches,
        ipxe: options.is_ipxe(),
        identity: Identity { mac: packet.mac().map(MacAddr), uuid, serial: None },
    };
    Some((request, class))
}

#[cfg(test)]
mod tests;
