//! TFTP: sends loaders, from memory, and nothing else. Read-only by construction: there is no file to write.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use magnetite_api::report::BootStepName;
use magnetite_daemon::{clock, log::chain};
use magnetite_wire::tftp::{
    ErrorCode, Event, Failure, Negotiated, Output, Packet, ReadRequest, Transfer, transfer::Limits,
};
use tokio::{net::UdpSocket, sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::App,
    dhcp::MOST_ERRORS,
    loaders,
    metrics::{Way, count},
    net,
    record::Detail,
};

/// The largest block: for Ethernet's 1500 bytes, less the headers of IP (20), UDP (8) and TFTP (4). No larger where
/// our own interface takes more, since the way to the client may not.
const LARGEST_BLOCK: u16 = 1468;
/// The largest window.
const WINDOW: u16 = 16;
/// Transfers at once.
const MOST: usize = 4096;

/// From where transfers go out: each has a socket of its own (RFC 1350: the server's port names the transfer).
#[derive(Debug, Clone)]
pub struct Source {
    /// Our address.
    pub address: IpAddr,
    /// Our interface; any, if none is named.
    pub interface: Option<String>,
}

/// The TFTP server.
pub struct Server {
    socket: UdpSocket,
    source: Source,
    limits: Limits,
    app: Arc<App>,
    transfers: Arc<Semaphore>,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Server {
    /// Takes a bound socket. Blocks are such that they fit the interface's `mtu`.
    pub fn new(socket: UdpSocket, source: Source, mtu: u16, app: Arc<App>) -> Self {
        // IPv6's header is 20 bytes longer than IPv4's.
        let mtu = if source.address.is_ipv6() { mtu.min(1500).saturating_sub(20) } else { mtu };
        let limits = Limits { block_size: mtu.saturating_sub(32).clamp(8, LARGEST_BLOCK), window: WINDOW };
        let transfers = Arc::new(Semaphore::new(MOST));
        Self { socket, source, limits, app, transfers, clients: Arc::default() }
    }

    /// Serves until `stop`, then lets transfers under way end.
    ///
    /// # Errors
    /// If the socket fails again and again.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        let tracker = TaskTracker::new();
        let mut buffer = vec![0; 2048];
        let mut errors = 0;
        loop {
            let received = tokio::select! {
                () = stop.cancelled() => break,
                received = self.socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((len, peer)) => {
                    errors = 0;
                    self.request(buffer.get(..len).unwrap_or_default(), peer, &tracker).await;
                }
                Err(error) => {
                    errors += 1;
                    tracing::warn!(error = chain(&error), "a TFTP packet could not be received");
                    if errors >= MOST_ERRORS {
                        return Err(error);
                    }
                }
            }
        }
        tracker.close();
        tracker.wait().await;
        Ok(())
    }

    async fn request(&self, bytes: &[u8], peer: SocketAddr, tracker: &TaskTracker) {
        let refusal = match Packet::decode(bytes) {
            Ok(Packet::Read(request)) => {
                match loaders::find(&self.app, &request.file, &self.app.site(self.source.address)) {
                    Some(found) => {
                        self.start(request, found, peer, tracker);
                        return;
                    }
                    None => (ErrorCode::NOT_FOUND, "no such file", "not_found"),
                }
            }
            Ok(Packet::Write) => (ErrorCode::ACCESS, "read only", "write_refused"),
            // A late packet of a transfer that is over; answering it would only add noise.
            Ok(_) => return,
            Err(_) => {
                count(&self.app.metrics.tftp, "malformed");
                return;
            }
        };
        let (code, message, outcome) = refusal;
        count(&self.app.metrics.tftp, outcome);
        let mut out = Vec::new();
        Packet::Error { code, message: message.to_owned() }.encode(&mut out);
        drop(self.socket.send_to(&out, peer).await);
    }

    fn start(&self, request: ReadRequest, found: loaders::Asked, peer: SocketAddr, tracker: &TaskTracker) {
        let Ok(permit) = Arc::clone(&self.transfers).try_acquire_owned() else {
            count(&self.app.metrics.tftp, "too_many");
            return;
        };
        let Some(place) = Place::take(&self.clients, peer.ip(), self.app.limits.transfers) else {
            count(&self.app.metrics.tftp, "too_many_of_one_client");
            return;
        };
        let (app, source, limits) = (Arc::clone(&self.app), self.source.clone(), self.limits);
        tracker.spawn(async move {
            let loaders::Asked { machine, name: loader, bytes } = found;
            let end = match send(&source, limits, peer, &request, &bytes).await {
                Ok(end) => end,
                Err(error) => {
                    tracing::warn!(error = chain(&error), %peer, "a TFTP transfer broke");
                    End { outcome: "broken", bytes: 0, resent: 0 }
                }
            };
            let End { outcome, bytes: sent, resent } = end;
            count(&app.metrics.tftp, outcome);
            app.metrics.sent(Way::Tftp, sent);
            let name = machine.as_ref().and_then(|machine| machine.metadata.name.as_deref());
            match (outcome, &machine) {
                // EDK2 asks twice: for the size, then for the file.
                ("size_probe", _) => tracing::debug!(%peer, file = loader, machine = name, "TFTP size told"),
                ("done", _) => {
                    tracing::info!(%peer, file = loader, machine = name, bytes = sent, retries = resent, "TFTP transfer done");
                }
                _ => {
                    tracing::warn!(%peer, file = loader, machine = name, bytes = sent, reason = outcome, "TFTP transfer not done");
                }
            }
            match (outcome, machine) {
                // A script beside the loader is no step.
                (_, Some(_)) if loader.ends_with(".ipxe") => {}
                ("done", Some(machine)) => {
                    let words = if resent > 0 { format!("{loader}, {resent} packets sent again") } else { loader };
                    let detail = Detail { bytes: Some(sent), ..Detail::words(words) }.at_peer(peer.ip());
                    app.records.step(&machine, BootStepName::LoaderSent, detail, clock::now());
                }
                ("size_probe", _) | (_, None) => {}
                // Not sent, so not a step; that it is sent after all clears it.
                (_, Some(machine)) => {
                    let size = bytes.len();
                    let message = format!("{loader} was cut off after {sent} of {size} bytes ({outcome}, {resent} packets sent again)");
                    app.records.cut(&machine, BootStepName::LoaderSent, &message, clock::now());
                }
            }
            drop((permit, place));
        });
    }
}

/// One of a client's places; given back when dropped.
struct Place {
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
}

impl Place {
    fn take(clients: &Arc<Mutex<HashMap<IpAddr, usize>>>, client: IpAddr, most: usize) -> Option<Self> {
        let mut taken = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let places = taken.entry(client).or_default();
        if most > 0 && *places >= most {
            return None;
        }
        *places += 1;
        Some(Self { clients: Arc::clone(clients), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = taken.get_mut(&self.client) {
            *places = places.saturating_sub(1);
            if *places == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

/// How a transfer ended.
struct End {
    outcome: &'static str,
    /// Bytes that the client has acknowledged.
    bytes: u64,
    resent: u64,
}

/// Sends a file.
async fn send(
    source: &Source,
    limits: Limits,
    peer: SocketAddr,
    request: &ReadRequest,
    file: &[u8],
) -> std::io::Result<End> {
    let socket = net::udp(source.interface.as_deref(), source.address, 0).map_err(std::io::Error::other)?;
    socket.connect(peer).await?;
    let agreed = Negotiated::from_request(request, limits);
    let options = agreed.acknowledge(request, file.len() as u64);
    let mut transfer = Transfer::new(file.len() as u64, agreed);
    let (mut out, mut buffer) = (Vec::with_capacity(1500), vec![0; 2048]);
    let mut deadline = Instant::now();
    let mut outputs = transfer.on(Event::Start);
    loop {
        for output in std::mem::take(&mut outputs) {
            out.clear();
            match output {
                Output::Oack => Packet::Oack(options.clone()).encode(&mut out),
                Output::Data { block } => {
                    let range = transfer.range(block);
                    let bytes = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                    let bytes = bytes.and_then(|(start, end)| file.get(start..end)).unwrap_or_default();
                    Packet::Data { block: Transfer::wire_number(block), bytes }.encode(&mut out);
                }
                Output::ArmTimer(after) => {
                    deadline = Instant::now() + after;
                    continue;
                }
                Output::Done => return Ok(end("done", &transfer)),
                Output::Failed(failure) => {
                    let outcome = match failure {
                        Failure::SizeProbe => "size_probe",
                        Failure::Aborted(_) => "aborted",
                        Failure::Silent => "silent",
                    };
                    return Ok(end(outcome, &transfer));
                }
            }
            // A full buffer, or a peer that is gone: the timer sends again, or gives up.
            drop(socket.send(&out).await);
        }
        let event = match tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await {
            Err(_) => Event::Timer,
            Ok(Err(_)) => continue_after_error(deadline).await,
            Ok(Ok(len)) => match Packet::decode(buffer.get(..len).unwrap_or_default()) {
                Ok(Packet::Ack(block)) => Event::Ack(block),
                Ok(Packet::Error { code, message: _ }) => Event::Error(code),
                _ => continue,
            },
        };
        outputs = transfer.on(event);
    }
}

fn end(outcome: &'static str, transfer: &Transfer) -> End {
    End { outcome, bytes: transfer.acknowledged(), resent: transfer.resent() }
}

/// An ICMP error (the client's port is closed, for now): as good as silence.
async fn continue_after_error(deadline: Instant) -> Event {
    tokio::time::sleep_until(deadline).await;
    Event::Timer
}

#[cfg(test)]
mod tests;
