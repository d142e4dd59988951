//! DHCP on port 67 and the PXE boot server on 4011: packets in, packets out.

mod decide;
mod repeat;
mod reservation;
mod strangers;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, SocketAddrV4, UdpSocket as StdSocket},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::Arc,
    time::Instant,
};

use magnetite_api::MacAddr;
use magnetite_daemon::{clock, log::chain};
use magnetite_wire::dhcp::{
    MessageType, Packet,
    reply::{self, Destination},
};
use nix::poll::{PollFd, PollFlags, poll};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use repeat::{Asker, Repeats};
pub use strangers::Strangers;

use crate::{
    app::App,
    fence::Door,
    metrics::count,
    net::{
        Interface,
        batch::{Batch, Datagram},
    },
    thread,
};

/// As many errors in a row mean that the socket is broken.
pub const MOST_ERRORS: u32 = 100;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Port 67: answers DISCOVERs with boot information, beside a server that gives addresses.
    Proxy,
    /// Port 67: gives declared machines their declared addresses.
    Reservations,
    /// Port 4011: answers REQUESTs and INFORMs sent to it.
    BootServer,
}

impl Service {
    fn door(self) -> Door {
        match self {
            Self::Proxy | Self::Reservations => Door::Dhcp,
            Self::BootServer => Door::Pxe,
        }
    }
}

/// One service on one interface.
pub struct Server {
    service: Service,
    interface: Interface,
    app: Arc<App>,
    strangers: Arc<Strangers>,
}

impl Server {
    /// Servers that share `strangers` log an unknown box once between them.
    pub fn new(service: Service, interface: Interface, app: Arc<App>, strangers: Arc<Strangers>) -> Self {
        Self { service, interface, app, strangers }
    }

    /// Serves on a bound socket until `stop`. The answer is made without waiting for anything, so packets need no queue beyond the
    /// socket's own, and what that cannot hold is dropped.
    ///
    /// # Errors
    /// If the socket fails again and again.
    pub async fn run(self, socket: UdpSocket, stop: CancellationToken) -> io::Result<()> {
        let socket = socket.into_std()?;
        thread::run("dhcp", stop, move |stop| self.serve(&socket, &stop)).await
    }

    /// Until the other end of `stop` is closed.
    fn serve(&self, socket: &StdSocket, stop: &UnixStream) -> io::Result<()> {
        let (mut batch, mut repeats, mut errors) = (Batch::default(), Repeats::default(), 0);
        while !wait(socket, stop, repeats.next())? {
            match batch.receive(socket) {
                Ok(_) => errors = 0,
                Err(error) => {
                    errors += 1;
                    self.count("receive_failed");
                    tracing::warn!(error = chain(&error), "a DHCP packet could not be received");
                    if errors >= MOST_ERRORS {
                        return Err(error);
                    }
                }
            }
            let mut goes_on = Vec::new();
            let answers = batch.packets().filter_map(|(bytes, peer)| self.packet(bytes, peer, &mut goes_on));
            let (askers, answers): (Vec<_>, Vec<_>) = answers.unzip();
            self.send(&mut batch, socket, &answers);
            if self.service == Service::Proxy {
                let now = Instant::now();
                askers.into_iter().zip(answers).for_each(|(asker, answer)| repeats.sent(now, asker, answer));
                // After what was sent: a box's DISCOVER and the REQUEST that follows it may have come together.
                goes_on.into_iter().for_each(|asker| repeats.heard(asker));
            }
            let again: Vec<_> = std::iter::from_fn(|| repeats.due(Instant::now())).collect();
            again.iter().for_each(|_| self.count("offered_again"));
            self.send(&mut batch, socket, &again);
        }
        Ok(())
    }

    /// What a packet is answered, and who asked. Who chooses a server with it, `goes_on`.
    fn packet(&self, bytes: &[u8], peer: SocketAddrV4, goes_on: &mut Vec<Asker>) -> Option<(Asker, Datagram)> {
        let Ok(question) = Packet::decode(bytes) else {
            self.count("malformed");
            return None;
        };
        // What comes through a relay is as much of the relay's network as of who sent it last.
        let relay = Some(question.giaddr).filter(|relay| !relay.is_unspecified());
        let sources = [Some(*peer.ip()), relay].into_iter().flatten().map(IpAddr::V4);
        if !self.app.fence.lets_in(self.service.door(), sources, &self.app.metrics) {
            return None;
        }
        let asker = (question.mac().unwrap_or_default(), question.xid);
        if question.options.message_type() == Ok(Some(MessageType::REQUEST)) {
            goes_on.push(asker);
        }
        let (packet, to) = self.answer(&question, peer)?;
        let mut bytes = Vec::with_capacity(512);
        if let Err(error) = packet.encode(&mut bytes) {
            tracing::error!(error = chain(&error), "a DHCP answer could not be written");
            return None;
        }
        Some((asker, Datagram { bytes, to: to.address() }))
    }

    fn send(&self, batch: &mut Batch, socket: &StdSocket, packets: &[Datagram]) {
        for (peer, error) in batch.send(socket, self.interface.address, packets) {
            self.count("send_failed");
            tracing::warn!(error = chain(&error), %peer, "a DHCP answer could not be sent");
        }
    }

    /// The answer to a packet, if it gets one.
    pub fn answer(&self, packet: &Packet, peer: SocketAddrV4) -> Option<(Packet, Destination)> {
        let kind = packet.options.message_type().ok().flatten();
        let ours = match self.service {
            // A REQUEST on 67 is for the site's own server.
            Service::Proxy => kind == Some(MessageType::DISCOVER),
            Service::Reservations => {
                matches!(kind, Some(MessageType::DISCOVER | MessageType::REQUEST | MessageType::DECLINE))
            }
            Service::BootServer => matches!(kind, Some(MessageType::REQUEST | MessageType::INFORM)),
        };
        let Some(kind) = kind.filter(|_| ours && packet.op == 1) else {
            // A reply is nobody's question.
            self.count("not_ours");
            return None;
        };
        let request = decide::read(packet);
        if request.is_none() && self.service != Service::Reservations {
            self.count("not_pxe");
            return None;
        }
        let sender = packet.mac().unwrap_or_default();
        if !self.app.limits.dhcp.admit(sender, clock::now()) {
            self.count("too_many");
            return None;
        }
        let (interface, mac) = (&self.interface.name, MacAddr(sender));
        let span =
            tracing::info_span!("dhcp", iface = interface, %peer, %mac, xid = format_args!("{:08x}", packet.xid));
        let reply = span.in_scope(|| match (self.service, &request) {
            (Service::Reservations, request) => self.reserve(packet, kind, request.as_ref()),
            (Service::Proxy, Some((request, class))) => {
                Some(reply::proxy_offer(packet, &self.decide(request, *class)?))
            }
            (Service::BootServer, Some((request, class))) => {
                Some(reply::boot_server_ack(packet, &self.decide(request, *class)?, peer))
            }
            (Service::Proxy | Service::BootServer, None) => None,
        })?;
        match reply {
            Ok((packet, to)) => {
                self.count(outcome(&packet));
                Some((packet, to))
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "a boot file's name does not fit");
                None
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        count(&self.app.metrics.dhcp, outcome);
    }
}

/// Waits for a packet, or until `until`. True if the other end of `stop` was closed.
fn wait(socket: &StdSocket, stop: &UnixStream, until: Option<Instant>) -> io::Result<bool> {
    let timeout = thread::timeout(until.map(|until| until.saturating_duration_since(Instant::now())));
    let mut both = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut both, timeout) {
        Ok(_) => Ok(both[1].any().unwrap_or_default()),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn outcome(answer: &Packet) -> &'static str {
    match answer.options.message_type() {
        Ok(Some(MessageType::OFFER)) => "offered",
        Ok(Some(MessageType::NAK)) => "refused",
        _ => "acknowledged",
    }
}

/// Seconds since 1970.
pub fn unix(now: jiff::Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or(0)
}
