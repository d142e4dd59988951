//! TFTP: sends loaders, from memory, and nothing else. Read-only by construction: there is no file to write.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
};

use magnetite_api::report::BootStepName;
use magnetite_daemon::clock;
use magnetite_wire::tftp::{
    ErrorCode, Event, Failure, Negotiated, Output, Packet, ReadRequest, Transfer, transfer::Limits,
};
use tokio::{net::UdpSocket, sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{app::App, metrics::count, net, record::Detail};

/// For Ethernet's 1500 bytes, less the headers of IP (20), UDP (8) and TFTP (4).
const LIMITS: Limits = Limits { block_size: 1468, window: 16 };
/// Transfers at once.
const MOST: usize = 4096;
/// Transfers at once for one client: firmware has one, and one that it gave up on.
const MOST_A_CLIENT: usize = 4;

/// The TFTP server.
pub struct Server {
    socket: UdpSocket,
    app: Arc<App>,
    transfers: Arc<Semaphore>,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Server {
    /// Takes a bound socket.
    pub fn new(socket: UdpSocket, app: Arc<App>) -> Self {
        Self { socket, app, transfers: Arc::new(Semaphore::new(MOST)), clients: Arc::default() }
    }

    /// Serves until `stop`, then lets transfers under way end.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        let tracker = TaskTracker::new();
        let mut buffer = vec![0; 2048];
        loop {
            let received = tokio::select! {
                () = stop.cancelled() => break,
                received = self.socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((len, SocketAddr::V4(peer))) => {
                    self.request(buffer.get(..len).unwrap_or_default(), peer, &tracker).await;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a TFTP packet could not be received")
                }
            }
        }
        tracker.close();
        tracker.wait().await;
        Ok(())
    }

    async fn request(&self, bytes: &[u8], peer: SocketAddrV4, tracker: &TaskTracker) {
        let refusal = match Packet::decode(bytes) {
            Ok(Packet::Read(request)) => match self.find(&request) {
                Some(found) => {
                    self.start(request, found, peer, tracker);
                    return;
                }
                None => (ErrorCode::NOT_FOUND, "no such file", "not_found"),
            },
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

    /// The file of a request: `m/<machine id>/<loader>`, or `<loader>` alone. Names are compared, never made into a path.
    fn find(&self, request: &ReadRequest) -> Option<(Option<String>, String, Arc<[u8]>)> {
        let name = request.file.trim_start_matches('/');
        let (id, loader) = match name.strip_prefix("m/").and_then(|rest| rest.split_once('/')) {
            Some((id, loader)) => (Some(id.to_owned()), loader),
            None => (None, name),
        };
        let bytes = self.app.loaders.get(loader)?;
        Some((id, loader.to_owned(), Arc::clone(bytes)))
    }

    fn start(
        &self,
        request: ReadRequest,
        found: (Option<String>, String, Arc<[u8]>),
        peer: SocketAddrV4,
        tracker: &TaskTracker,
    ) {
        let Ok(permit) = Arc::clone(&self.transfers).try_acquire_owned() else {
            count(&self.app.metrics.tftp, "too_many");
            return;
        };
        let Some(place) = Place::take(&self.clients, IpAddr::V4(*peer.ip())) else {
            count(&self.app.metrics.tftp, "too_many_of_one_client");
            return;
        };
        let app = Arc::clone(&self.app);
        tracker.spawn(async move {
            let (id, loader, bytes) = found;
            let outcome = match send(app.address, peer, &request, &bytes).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, %peer, "a TFTP transfer broke");
                    End { outcome: "broken", resent: 0 }
                }
            };
            count(&app.metrics.tftp, outcome.outcome);
            if outcome.outcome == "done"
                && let Some(machine) = id.and_then(|id| app.view().fleet.by_id(&id))
            {
                let retries = if outcome.resent > 0 {
                    format!("{loader}, {} packets sent again", outcome.resent)
                } else {
                    loader
                };
                let detail = Detail {
                    bytes: Some(bytes.len() as u64),
                    words: Some(retries),
                    address: Some(peer.ip().to_string()),
                };
                app.records.step(&machine, BootStepName::LoaderSent, detail, clock::now());
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
    fn take(clients: &Arc<Mutex<HashMap<IpAddr, usize>>>, client: IpAddr) -> Option<Self> {
        let mut taken = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let places = taken.entry(client).or_default();
        if *places >= MOST_A_CLIENT {
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

struct End {
    outcome: &'static str,
    resent: u64,
}

/// Sends a file on a socket of its own (RFC 1350: the server's port names the transfer).
async fn send(
    address: std::net::Ipv4Addr,
    peer: SocketAddrV4,
    request: &ReadRequest,
    file: &[u8],
) -> std::io::Result<End> {
    let socket = net::udp(None, address, 0).map_err(std::io::Error::other)?;
    socket.connect(peer).await?;
    let agreed = Negotiated::from_request(request, LIMITS);
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
                Output::Done => return Ok(End { outcome: "done", resent: transfer.resent() }),
                Output::Failed(failure) => {
                    let outcome = match failure {
                        Failure::SizeProbe => "size_probe",
                        Failure::Aborted(_) => "aborted",
                        Failure::Silent => "silent",
                    };
                    return Ok(End { outcome, resent: transfer.resent() });
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

/// An ICMP error (the client's port is closed, for now): as good as silence.
async fn continue_after_error(deadline: Instant) -> Event {
    tokio::time::sleep_until(deadline).await;
    Event::Timer
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::fixtures::Site;

    /// A client in lock step, as every ROM is one.
    async fn fetch(server: SocketAddr, file: &str) -> Result<Vec<u8>, String> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut out = Vec::new();
        Packet::Read(ReadRequest {
            file: file.to_owned(),
            block_size: Some(1468),
            size: true,
            ..ReadRequest::default()
        })
        .encode(&mut out);
        socket.send_to(&out, server).await.unwrap();
        let (mut got, mut buffer) = (Vec::new(), [0; 2048]);
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let ack = match Packet::decode(&buffer[..len]).unwrap() {
                Packet::Oack(_) => 0,
                Packet::Data { block, bytes } => {
                    got.extend(bytes);
                    if bytes.len() < 1468 {
                        let mut out = Vec::new();
                        Packet::Ack(block).encode(&mut out);
                        socket.send_to(&out, peer).await.unwrap();
                        return Ok(got);
                    }
                    block
                }
                Packet::Error { message, .. } => return Err(message),
                other => panic!("{other:?}"),
            };
            let mut out = Vec::new();
            Packet::Ack(ack).encode(&mut out);
            socket.send_to(&out, peer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn loaders_are_sent_and_nothing_else_is() {
        let site = Site::new().await;
        let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(Server::new(socket, Arc::clone(&site.app)).run(stop.clone()));
        let id = magnetite_boot::capability::machine_id(&site.machine);
        assert_eq!(fetch(address, &format!("m/{id}/undionly.kpxe")).await.unwrap(), b"loader");
        assert_eq!(fetch(address, "/undionly.kpxe").await.unwrap(), b"loader");
        for name in ["../../etc/passwd", "/etc/passwd", "m/x/../undionly.kpxe", "undionly.kpxe/", "UNDIONLY.KPXE"] {
            assert_eq!(fetch(address, name).await, Err("no such file".to_owned()), "{name}");
        }
        stop.cancel();
        running.await.unwrap().unwrap();
        let steps = site.app.records.all()["box"].boot.steps.clone();
        assert_eq!((steps[0].name, steps[0].bytes), (BootStepName::LoaderSent, Some(6)));
    }
}
