//! ProxyDHCP on port 67 and the PXE boot server on 4011.

use std::{
    collections::HashSet,
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
};

use magnetite_api::{MacAddr, MachineUuid};
use magnetite_boot::{
    client::{ClientClass, Request},
    fleet::{Found, Identity},
    plan::{self, Answer, Ignored},
};
use magnetite_daemon::clock;
use magnetite_wire::dhcp::{
    MessageType, Packet,
    reply::{self, BootAnswer, Class, Destination},
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::{app::App, metrics::count};

/// How many strangers are remembered, to log each once.
const MOST_STRANGERS: usize = 4096;
/// As many errors in a row mean that the socket is broken.
const MOST_ERRORS: u32 = 100;

/// Which of the two services a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Port 67: answers DISCOVERs.
    Proxy,
    /// Port 4011: answers REQUESTs and INFORMs sent to it.
    BootServer,
}

/// One of the two services, on a bound socket.
pub struct Server {
    socket: UdpSocket,
    service: Service,
    app: Arc<App>,
    strangers: Arc<Mutex<HashSet<MacAddr>>>,
}

impl Server {
    /// Takes a bound socket. Servers that share `strangers` log an unknown box once between them.
    pub fn new(socket: UdpSocket, service: Service, app: Arc<App>, strangers: Arc<Mutex<HashSet<MacAddr>>>) -> Self {
        Self { socket, service, app, strangers }
    }

    /// Serves until `stop`. The answer is made without waiting for anything, so packets need no queue beyond the socket's own.
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
                    tracing::warn!(error = &error as &dyn std::error::Error, "a DHCP packet could not be received");
                    if errors >= MOST_ERRORS {
                        return Err(error);
                    }
                    continue;
                }
            };
            errors = 0;
            let Some((packet, to)) = self.answer(buffer.get(..len).unwrap_or_default(), peer) else { continue };
            let mut bytes = Vec::with_capacity(320);
            if packet.encode(&mut bytes).is_err() {
                continue;
            }
            if let Err(error) = self.socket.send_to(&bytes, SocketAddr::V4(to.address())).await {
                count(&self.app.metrics.dhcp, "send_failed");
                tracing::warn!(error = &error as &dyn std::error::Error, peer = %to.address(), "a DHCP answer could not be sent");
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
        let answer = self.decide(&request, class)?;
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
                tracing::error!(error = &error as &dyn std::error::Error, "a boot file's name does not fit");
                None
            }
        }
    }

    fn decide(&self, request: &Request, class: Class) -> Option<BootAnswer> {
        let view = self.app.view();
        let found = view.fleet.find(&request.identity);
        let now = clock::now();
        let bootfile = match (plan::answer(request, &found), &found) {
            (Answer::Ignore(why), _) => self.stranger(request, &found, why)?,
            (Answer::Script { architecture, firmware }, Found::Machine(machine)) => {
                self.app.records.firmware(machine, &request.identity, firmware, architecture, now);
                self.app.script_link(machine, architecture, unix(now))
            }
            (Answer::Loader(platform), Found::Machine(machine)) => {
                self.app.records.firmware(machine, &request.identity, platform.firmware, platform.architecture, now);
                format!("m/{}/{}", magnetite_boot::capability::machine_id(machine), platform.loader)
            }
            (Answer::LoaderUrl(platform), Found::Machine(machine)) => {
                self.app.records.firmware(machine, &request.identity, platform.firmware, platform.architecture, now);
                let id = magnetite_boot::capability::machine_id(machine);
                format!("{}/ipxe/{id}/{}", self.app.base(), platform.loader)
            }
            (Answer::Script { .. } | Answer::Loader(_) | Answer::LoaderUrl(_), _) => return None,
        };
        if let Found::Machine(machine) = &found {
            tracing::info!(machine = machine.metadata.name, mac = ?request.identity.mac, ipxe = request.ipxe, file = bootfile, "boot offered");
        }
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
        let mut known = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST_STRANGERS && known.insert(mac) {
            match found {
                Found::Conflict(names) => {
                    tracing::warn!(%mac, machines = names.join(","), "not answered: more than one Machine claims this identity");
                }
                Found::Unknown | Found::Machine(_) => {
                    tracing::info!(%mac, uuid = ?request.identity.uuid, arches = ?request.arches, reason = why.as_str(), "not answered: declare a Machine with this MAC or UUID to boot it");
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
mod tests {
    use std::{net::Ipv4Addr, path::Path};

    use magnetite_wire::dhcp::{OptionCode, Options};

    use super::*;
    use crate::{fixtures::Site, net};

    fn server(site: &Site, service: Service) -> Server {
        let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
        Server::new(socket, service, Arc::clone(&site.app), Arc::default())
    }

    fn request(mac: &str, kind: MessageType, class: &[u8], ipxe: bool) -> Vec<u8> {
        let mut chaddr = [0; 16];
        chaddr[..6].copy_from_slice(&mac.parse::<MacAddr>().unwrap().0);
        let nobody = Ipv4Addr::UNSPECIFIED;
        let mut options = Options::default();
        options.push(OptionCode::MESSAGE_TYPE, [kind.0]);
        options.push(OptionCode::VENDOR_CLASS, class);
        options.push(OptionCode::ARCH, [0, 0]);
        if ipxe {
            options.push(OptionCode::USER_CLASS, *b"iPXE");
        }
        let packet = Packet {
            op: 1,
            htype: 1,
            hlen: 6,
            hops: 0,
            xid: 7,
            secs: 0,
            flags: 0,
            ciaddr: nobody,
            yiaddr: nobody,
            siaddr: nobody,
            giaddr: nobody,
            chaddr,
            sname: [0; 64],
            file: [0; 128],
            options,
        };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes).unwrap();
        bytes
    }

    const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 68);

    #[tokio::test]
    async fn declared_boxes_are_answered_and_nobody_else() {
        let site = Site::new().await;
        let (proxy, boot) = (server(&site, Service::Proxy), server(&site, Service::BootServer));
        let file = |answer: Option<(Packet, Destination)>| {
            answer.map(|(packet, _)| String::from_utf8(packet.bootfile()).unwrap())
        };
        let mine = crate::fixtures::MAC;
        let loader =
            file(proxy.answer(&request(mine, MessageType::DISCOVER, b"PXEClient:Arch:00000", false), PEER)).unwrap();
        assert_eq!(Path::new(&loader).file_name().unwrap(), "undionly.kpxe");
        let script = file(proxy.answer(&request(mine, MessageType::DISCOVER, b"PXEClient", true), PEER)).unwrap();
        assert!(script.starts_with("http://127.0.0.1:8080/m/") && script.ends_with("/x86_64/boot.ipxe"), "{script}");
        assert_eq!(file(boot.answer(&request(mine, MessageType::REQUEST, b"PXEClient", false), PEER)).unwrap(), loader);
        // The choice of the site's own server, a DISCOVER of no firmware, and a stranger.
        for bytes in [
            request(mine, MessageType::REQUEST, b"PXEClient", false),
            request(mine, MessageType::DISCOVER, b"udhcp 1.35.0", false),
            request("52:54:00:99:99:99", MessageType::DISCOVER, b"PXEClient", false),
            vec![1; 12],
        ] {
            assert!(proxy.answer(&bytes, PEER).is_none());
        }
    }

    #[tokio::test]
    async fn strangers_get_ipxe_where_serial_numbers_are_asked_for() {
        let site = Site::with(|app| app.identify_by_serial = true).await;
        let proxy = server(&site, Service::Proxy);
        let file = |ipxe| {
            let bytes = request("52:54:00:99:99:99", MessageType::DISCOVER, b"PXEClient", ipxe);
            proxy.answer(&bytes, PEER).map(|(packet, _)| String::from_utf8(packet.bootfile()).unwrap())
        };
        assert_eq!(file(false).unwrap(), "undionly.kpxe");
        assert_eq!(file(true).unwrap(), "http://127.0.0.1:8080/identify.ipxe");
    }

    #[tokio::test]
    async fn a_stranger_is_remembered_once_and_only_so_many() {
        let site = Site::new().await;
        let proxy = server(&site, Service::Proxy);
        for _ in 0..3 {
            proxy.answer(&request("52:54:00:99:99:99", MessageType::DISCOVER, b"PXEClient", false), PEER);
        }
        assert_eq!(proxy.strangers.lock().unwrap().len(), 1);
        for number in 0..5000u16 {
            let [high, low] = number.to_be_bytes();
            let mac = format!("52:54:00:77:{high:02x}:{low:02x}");
            proxy.answer(&request(&mac, MessageType::DISCOVER, b"PXEClient", false), PEER);
        }
        assert_eq!(proxy.strangers.lock().unwrap().len(), MOST_STRANGERS);
    }
}
