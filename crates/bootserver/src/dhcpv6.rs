//! DHCPv6 beside the site's own server, on port 547, and the second question of EDK2's PXE client, on 4011. What is
//! answered, and why so, is told in [`magnetite_wire::dhcpv6::reply`]. No addresses are given out, ever.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use magnetite_api::{MacAddr, Machine, MachineUuid, netboot::NetbootSpec};
use magnetite_boot::{
    client::{ClientClass, Request},
    fleet::{Found, Identity},
    ladder,
    plan::{self, Ignored, Loaders},
    site::Site,
};
use magnetite_daemon::{clock, log::chain};
use magnetite_wire::{
    dhcp::reply::Class,
    dhcpv6::{
        CLIENT_PORT, Duid, Message, MessageType, Packet, Relay, SERVER_PORT,
        reply::{self, BootAnswer},
    },
};
use tokio::{net::UdpSocket, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    dhcp::{MOST_ERRORS, Strangers, unix},
    fence::Door,
    metrics::count,
    view::View,
};

/// The port of PXE boot servers, in IPv6 too (EDK2's PXEBC_BS_DISCOVER_PORT).
pub const BOOT_SERVER_PORT: u16 = 4011;

/// When an answer on 4011 is sent a second time.
const AGAIN: Duration = Duration::from_millis(400);
/// So many wait for that.
const MOST_AGAIN: usize = 512;

/// Which of the two services a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Port 547.
    Server,
    /// Port 4011, from which EDK2 sends its REQUEST a second time, and to which it wants the answer.
    BootServer,
}

/// One of the two services, on a bound socket.
pub struct Server {
    socket: Arc<UdpSocket>,
    service: Service,
    /// Places of answers that are sent once more.
    again: Arc<Semaphore>,
    us: Us,
    app: Arc<App>,
    strangers: Arc<Strangers>,
}

/// Who we are.
#[derive(Debug, Clone)]
pub struct Us {
    /// In DHCPv6.
    pub id: Duid,
    /// In the URLs that boxes are told.
    pub address: Ipv6Addr,
    /// The interface.
    pub iface: String,
}

impl Server {
    /// Takes a bound socket that hears the group of all DHCPv6 servers.
    pub fn new(socket: UdpSocket, service: Service, us: Us, app: Arc<App>, strangers: Arc<Strangers>) -> Self {
        let (socket, again) = (Arc::new(socket), Arc::new(Semaphore::new(MOST_AGAIN)));
        Self { socket, service, again, us, app, strangers }
    }

    /// Serves until `stop`. As for DHCPv4 the answer is made without waiting for anything.
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
                Ok((len, SocketAddr::V6(peer))) => (len, peer),
                Ok(_) => continue,
                Err(error) => {
                    errors += 1;
                    count(&self.app.metrics.dhcpv6, "receive_failed");
                    tracing::warn!(error = chain(&error), "a DHCPv6 packet could not be received");
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
                tracing::error!(error = chain(&error), "a DHCPv6 answer could not be written");
                continue;
            }
            if let Err(error) = self.socket.send_to(&bytes, to).await {
                count(&self.app.metrics.dhcpv6, "send_failed");
                tracing::warn!(error = chain(&error), peer = %to, "a DHCPv6 answer could not be sent");
            }
            if self.service == Service::BootServer {
                self.send_again(bytes, to);
            }
        }
    }

    /// EDK2 asks on 4011 once, gives up after three seconds, and was seen to miss an answer that came at once.
    fn send_again(&self, bytes: Vec<u8>, to: SocketAddrV6) {
        let Ok(place) = Arc::clone(&self.again).try_acquire_owned() else { return };
        let socket = Arc::clone(&self.socket);
        tokio::spawn(async move {
            tokio::time::sleep(AGAIN).await;
            drop(socket.send_to(&bytes, to).await);
            drop(place);
        });
    }

    /// The answer to a packet, if it gets one, and where it goes.
    pub fn answer(&self, bytes: &[u8], peer: SocketAddrV6) -> Option<(Packet, SocketAddrV6)> {
        let Ok((relays, message)) = Packet::decode(bytes).and_then(Packet::unwrap_relays) else {
            self.count("malformed");
            return None;
        };
        // A link that is not named (RFC 8415, 19.1.1: a relay on the client's own) is the relay's.
        let link = relays.last().map(|relay| relay.link).filter(|link| !link.is_unspecified());
        let sources = [Some(*peer.ip()), link].into_iter().flatten().map(IpAddr::V6);
        if !self.app.fence.lets_in(Door::Dhcpv6, sources, &self.app.metrics) {
            return None;
        }
        let from_relays = relays.iter().all(|relay| relay.kind == MessageType::RELAY_FORWARD);
        let Some(kind) = reply::kind(&message, &self.us.id).filter(|_| from_relays) else {
            self.count("not_ours");
            return None;
        };
        let Some((request, class)) = read(&message, &relays, *peer.ip()) else {
            self.count("not_pxe");
            return None;
        };
        if request.ipxe && kind == MessageType::ADVERTISE {
            // It takes an address and all else from one server, and we have none to give.
            self.count("wants_address");
            return None;
        }
        let sender = sender(&message, &request.identity);
        if !self.app.limits.dhcp.admit(sender.0, clock::now()) {
            self.count("too_many");
            return None;
        }
        let [a, b, c] = message.xid;
        let xid = u32::from_be_bytes([0, a, b, c]);
        let span =
            tracing::info_span!("dhcpv6", iface = self.us.iface, %peer, mac = %sender, xid = format_args!("{xid:06x}"));
        let url = span.in_scope(|| self.decide(&request, sender))?;
        let answer = BootAnswer { server: self.us.id.clone(), url, parameters: Vec::new(), class };
        let packet = match reply::answer(&message, kind, &answer, !relays.is_empty()) {
            Ok(message) => reply::through_relays(&relays, message),
            Err(error) => {
                tracing::error!(error = chain(&error), "a boot file's URL does not fit");
                return None;
            }
        };
        self.count(if kind == MessageType::ADVERTISE { "advertised" } else { "replied" });
        let port = match (relays.is_empty(), self.service) {
            (false, _) => SERVER_PORT,
            (true, Service::Server) => CLIENT_PORT,
            (true, Service::BootServer) => peer.port(),
        };
        Some((packet.ok()?, SocketAddrV6::new(*peer.ip(), port, 0, peer.scope_id())))
    }

    /// The URL for a box, if it gets one.
    fn decide(&self, request: &Request, sender: MacAddr) -> Option<String> {
        let view = self.app.view();
        match self.app.find_client(&view, &request.identity, clock::now()) {
            Found::Machine(machine) => self.machine(&view, &machine, request, sender),
            found @ (Found::Unknown | Found::Conflict(_)) => self.nobody(request, sender, &found),
        }
    }

    fn machine(&self, view: &View, machine: &Arc<Machine>, request: &Request, sender: MacAddr) -> Option<String> {
        let now = clock::now();
        let profile = self.app.profile(view, machine).ok();
        let below = profile.as_ref().and_then(|profile| profile.spec.netboot.as_ref());
        let netboot = NetbootSpec::over(machine.spec.netboot.as_ref(), below);
        let found = Found::Machine(Arc::clone(machine));
        let (answer, news) = self.app.records.asked(machine, request, now, |failed| {
            let at_hand = |name: &str| self.app.loaders.contains_key(name);
            plan::answer(request, &found, &Loaders { netboot: &netboot, failed, at_hand: &at_hand })
        });
        if request.ipxe && self.us.address.is_unicast_link_local() {
            // iPXE follows no link to an address that would need its interface named.
            self.count("link_local");
            return None;
        }
        let Some(file) = self.site(request).bootfile(&answer, request.class, machine, unix(now)) else {
            self.count(Ignored::NoLoader.as_str());
            if self.strangers.is_new(sender) {
                let (machine, arches, reason) = (&machine.metadata.name, &request.arches, Ignored::NoLoader.as_str());
                tracing::warn!(
                    machine,
                    reason,
                    ?arches,
                    "not answered: there is no loader for this firmware; see --ipxe-dir and --secure-boot-dir"
                );
            }
            return None;
        };
        if news {
            // Not the file: a script's URL holds a capability.
            tracing::info!(machine = machine.metadata.name, ipxe = request.ipxe, arches = ?request.arches, "boot offered");
        }
        Some(self.url(file))
    }

    fn site(&self, request: &Request) -> Site<'_> {
        self.app.site(IpAddr::V6(self.us.address)).told(request)
    }

    /// DHCPv6 has URLs only: a name is TFTP's.
    fn url(&self, file: String) -> String {
        if file.contains("://") { file } else { format!("tftp://[{}]/{file}", self.us.address) }
    }

    /// A box that is nobody: counted, logged once, and answered only if its serial number is wanted.
    fn nobody(&self, request: &Request, sender: MacAddr, found: &Found) -> Option<String> {
        let why = if matches!(found, Found::Conflict(_)) { Ignored::Conflict } else { Ignored::Unknown };
        self.count(why.as_str());
        if why == Ignored::Unknown && self.app.identify_by_serial {
            return self.identify(request);
        }
        if self.strangers.is_new(sender) {
            let Identity { mac, uuid, serial: _ } = request.identity;
            let (arches, reason) = (&request.arches, why.as_str());
            if let Found::Conflict(names) = found {
                let machines = names.join(",");
                tracing::warn!(
                    ?mac,
                    ?uuid,
                    reason,
                    machines,
                    "not answered: more than one Machine claims this identity"
                );
            } else {
                tracing::info!(
                    ?mac,
                    ?uuid,
                    ?arches,
                    reason,
                    "not answered: declare a Machine with this MAC or UUID to boot it"
                );
            }
        }
        None
    }

    /// The way to ask a box for its serial number: iPXE, and then a script of questions.
    fn identify(&self, request: &Request) -> Option<String> {
        let base = self.site(request).base();
        if request.ipxe {
            return (!self.us.address.is_unicast_link_local()).then(|| format!("{base}/identify.ipxe"));
        }
        let at_hand = |name: &str| self.app.loaders.contains_key(name);
        let loader = ladder::loader(ladder::platform(request)?, &NetbootSpec::default(), &[], at_hand)?;
        Some(match request.class {
            ClientClass::Pxe => self.url(loader),
            ClientClass::Http => format!("{base}/ipxe/{loader}"),
        })
    }

    fn count(&self, outcome: &'static str) {
        count(&self.app.metrics.dhcpv6, outcome);
    }
}

/// Whom to count it for: its card, or the end of its DUID, which is as much its own.
fn sender(message: &Message, identity: &Identity) -> MacAddr {
    let duid = message.options.client_id().ok().flatten();
    let end = duid.as_ref().and_then(|duid| duid.as_bytes().last_chunk::<6>());
    identity.mac.or(end.copied().map(MacAddr)).unwrap_or(MacAddr([0; 6]))
}

/// The facts of a message; nothing if it is neither PXE nor HTTP boot.
///
/// Its card: as a relay saw it, else as its link-local address tells, else as its DUID does, which may be that of
/// another card. Its UUID: a DUID of that kind, which EDK2 fills with the bytes as SMBIOS has them, and iPXE in network
/// order.
fn read(message: &Message, relays: &[Relay], peer: Ipv6Addr) -> Option<(Request, Class)> {
    let options = &message.options;
    let ipxe = options.is_ipxe();
    let class = options.vendor_class().ok().flatten().and_then(|class| class.boot_class());
    let class = class.or(ipxe.then_some(Class::Pxe))?;
    let duid = options.client_id().ok().flatten();
    // The relay next to the client.
    let relay = relays.last();
    let seen = relay.and_then(|relay| relay.options.client_mac());
    let of_address = reply::mac_of_link_local(relay.map_or(peer, |relay| relay.peer));
    let mac = seen.or(of_address).or_else(|| duid.as_ref()?.mac()).map(MacAddr);
    let uuid = duid.as_ref().and_then(Duid::uuid);
    let uuid = uuid.map(if ipxe { MachineUuid } else { MachineUuid::from_smbios });
    let request = Request {
        class: match class {
            Class::Pxe => ClientClass::Pxe,
            Class::Http => ClientClass::Http,
        },
        arches: options.arches().unwrap_or_default().into_iter().map(|arch| arch.0).collect(),
        ipxe,
        // Over DHCPv6 it sends no feature flags.
        https: false,
        identity: Identity { mac, uuid, serial: None },
    };
    Some((request, class))
}

#[cfg(test)]
mod tests;
