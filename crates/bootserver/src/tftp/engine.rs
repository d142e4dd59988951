//! The engine: one thread, a few sockets, every transfer.
//!
//! A transfer is named by the client's address and port, and by the socket of ours that it runs on. RFC 1350 has the
//! server choose a port for each; what that is for, that two transfers to one port of a client are told apart, is kept:
//! the second goes out from another socket. A few sockets serve thousands of clients, and one system call is made per
//! packet or, towards the client, per window.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::Arc,
    time::Instant,
};

use magnetite_daemon::log::chain;
use magnetite_wire::tftp::{
    ErrorCode, Event, Negotiated, Packet, ReadRequest, Step,
    transfer::{Limits, PATIENCE, RETRANSMIT},
};
use nix::poll::{PollFd, PollFlags, poll};

use super::{send, session::Session};
use crate::{app::App, dhcp::MOST_ERRORS, fence::Door, loaders, metrics::count, thread};

/// Sockets that transfers go out from, if not from the one that requests come to.
pub const PORTS: usize = 4;
/// Transfers at once.
const MOST: usize = 4096;
/// Packets that are taken from one socket before the others are looked at.
const TURN: usize = 64;

/// What names a transfer: the socket's place in the list, and the client.
type Key = (usize, SocketAddr);

/// All transfers.
pub struct Engine {
    /// The first is the one that requests come to.
    sockets: Vec<UdpSocket>,
    address: IpAddr,
    limits: Limits,
    app: Arc<App>,
    sessions: HashMap<Key, Session>,
    /// Transfers of each client, the quiet ones apart.
    clients: HashMap<IpAddr, usize>,
    /// Transfers that only wait for an ACK, the oldest first, and some that did once. They give way to whoever needs room.
    quiet: VecDeque<(Key, u64)>,
    /// One entry for each transfer, no later than its timer: which is moved with every packet, and looked at twice a second. Another
    /// entry than that of the session's next look is stale.
    timers: BinaryHeap<Reverse<(Instant, u64, Key)>>,
    /// Counts transfers.
    started: u64,
    stopping: bool,
    errors: u32,
    now: Instant,
}

impl Engine {
    /// Requests come to the first socket. Transfers go out from the others; if there are none, from it too.
    pub fn new(sockets: Vec<UdpSocket>, address: IpAddr, limits: Limits, app: Arc<App>) -> Self {
        Self {
            sockets,
            address,
            limits,
            app,
            sessions: HashMap::new(),
            clients: HashMap::new(),
            quiet: VecDeque::new(),
            timers: BinaryHeap::new(),
            started: 0,
            stopping: false,
            errors: 0,
            now: Instant::now(),
        }
    }

    /// Runs until the other end of `stop` is closed, and then until no transfer is left.
    pub fn run(mut self, stop: UnixStream) -> io::Result<()> {
        let mut buffer = [0; 2048];
        while !(self.stopping && self.sessions.is_empty()) {
            let ready = self.wait(&stop)?;
            self.now = Instant::now();
            // Transfers first: one that just ended makes room for a request that came after it.
            for socket in (0..self.sockets.len()).rev() {
                if ready & (1 << socket) != 0 {
                    self.receive(socket, &mut buffer)?;
                }
            }
            self.timers();
        }
        Ok(())
    }

    /// Waits for packets, or for the next timer. The answer has a bit for each socket.
    fn wait(&mut self, stop: &UnixStream) -> io::Result<u32> {
        let until = self.timers.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        let timeout = thread::timeout(until);
        let mut fds: Vec<_> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        if !self.stopping {
            fds.push(PollFd::new(stop.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or_default();
        let bits = fds.iter().take(self.sockets.len()).enumerate();
        let bits = bits.fold(0, |bits, (at, fd)| bits | u32::from(ready(fd)) << at);
        let told = fds.get(self.sockets.len()).is_some_and(ready);
        self.stopping |= told;
        Ok(bits)
    }

    fn receive(&mut self, socket: usize, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..TURN {
            let Some(from) = self.sockets.get(socket) else { return Ok(()) };
            match from.recv_from(buffer) {
                Ok((len, peer)) => {
                    self.errors = 0;
                    self.packet((socket, peer), buffer.get(..len).unwrap_or_default());
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
                Err(error) => {
                    self.errors += 1;
                    tracing::warn!(error = chain(&error), "a TFTP packet could not be received");
                    return if self.errors >= MOST_ERRORS { Err(error) } else { Ok(()) };
                }
            }
        }
        Ok(())
    }

    fn packet(&mut self, key: Key, bytes: &[u8]) {
        // By far most packets are acknowledgements.
        if let [0, 4, high, low, ..] = *bytes {
            self.event(key, Event::Ack(u16::from_be_bytes([high, low])));
            return;
        }
        if key.0 == 0 && !self.app.fence.lets_in(Door::Tftp, [key.1.ip()], &self.app.metrics) {
            return;
        }
        match Packet::decode(bytes) {
            Ok(Packet::Error { code, message: _ }) => self.event(key, Event::Error(code)),
            Ok(Packet::Read(request)) if key.0 == 0 => self.request(key.1, &request),
            Ok(Packet::Write) if key.0 == 0 => self.refuse(key.1, ErrorCode::ACCESS, "read only", "write_refused"),
            // A late packet of a transfer that is over; answering it would only add noise.
            Ok(_) => {}
            Err(_) if key.0 == 0 => count(&self.app.metrics.tftp, "malformed"),
            Err(_) => {}
        }
    }

    fn refuse(&self, peer: SocketAddr, code: ErrorCode, message: &str, outcome: &'static str) {
        count(&self.app.metrics.tftp, outcome);
        if let Some(socket) = self.sockets.first() {
            send::packet(socket, peer, &Packet::Error { code, message: message.to_owned() });
        }
    }

    fn request(&mut self, peer: SocketAddr, request: &ReadRequest) {
        if self.stopping {
            return;
        }
        let Some(file) = loaders::find(&self.app, &request.file, &self.app.site(self.address)) else {
            self.refuse(peer, ErrorCode::NOT_FOUND, "no such file", "not_found");
            return;
        };
        let Some(key) = self.place(peer, request) else { return };
        let most = self.app.limits.transfers;
        let of_client = self.clients.get(&peer.ip()).copied().unwrap_or(0);
        if self.sessions.len() >= MOST && !self.make_room() {
            count(&self.app.metrics.tftp, "too_many");
            return;
        }
        if most > 0 && of_client >= most {
            count(&self.app.metrics.tftp, "too_many_of_one_client");
            return;
        }
        self.clients.insert(peer.ip(), of_client + 1);
        self.started += 1;
        let agreed = Negotiated::from_request(request, self.limits);
        let timer = self.now + RETRANSMIT;
        self.timers.push(Reverse((timer, self.started, key)));
        self.sessions.insert(key, Session::new(self.started, request, agreed, file, timer));
        self.event(key, Event::Start);
    }

    /// A socket that has no transfer to this port of the client. Where there is only one socket, the same request again is
    /// a client that has not heard from us, whose timer is ours; another one is a client that began anew.
    fn place(&mut self, peer: SocketAddr, request: &ReadRequest) -> Option<Key> {
        let first = usize::from(self.sockets.len() > 1);
        let mut keys = (first..self.sockets.len()).map(|socket| (socket, peer));
        // A client that asks again from the same port has not heard our answer to what it asked before.
        let quiet = |key: &Key| self.sessions.get(key).is_some_and(|session| session.transfer.is_quiet());
        if let Some(key) = keys.clone().find(quiet) {
            self.end(key, "silent");
            return Some(key);
        }
        if let Some(key) = keys.find(|key| !self.sessions.contains_key(key)) {
            return Some(key);
        }
        let key = (first, peer);
        if self.sessions.get(&key).is_some_and(|session| session.is_unanswered(request)) {
            return None;
        }
        self.end(key, "aborted");
        Some(key)
    }

    fn event(&mut self, key: Key, event: Event) {
        let Some((session, socket)) = self.sessions.get_mut(&key).zip(self.sockets.get(key.0)) else { return };
        let was_quiet = session.transfer.is_quiet();
        let step = session.transfer.step(event);
        if was_quiet && !session.transfer.is_quiet() {
            *self.clients.entry(key.1.ip()).or_default() += 1;
            // Its timer is far off, and must not be.
            session.look = self.now + RETRANSMIT;
            self.timers.push(Reverse((session.look, session.id, key)));
        }
        let outcome = match step {
            Step::Nothing => return,
            Step::Oack | Step::Blocks { .. } => {
                session.timer = self.now + RETRANSMIT;
                session.send(socket, key.1, step);
                return;
            }
            Step::Quiet => {
                session.timer = self.now + PATIENCE;
                let id = session.id;
                self.fell_quiet(key, id);
                return;
            }
            Step::Done => "done",
            Step::Failed(failure) => super::session::outcome(failure),
        };
        self.end(key, outcome);
    }

    fn fell_quiet(&mut self, key: Key, id: u64) {
        self.less_of(key.1.ip());
        // All have the same patience, so those that are over are the oldest.
        while self.quiet.front().is_some_and(|(key, id)| !self.is_quiet(*key, *id)) {
            self.quiet.pop_front();
        }
        self.quiet.push_back((key, id));
    }

    fn is_quiet(&self, key: Key, id: u64) -> bool {
        self.sessions.get(&key).is_some_and(|session| session.id == id && session.transfer.is_quiet())
    }

    /// Ends the oldest transfer that only waits for an ACK; whether there was one.
    fn make_room(&mut self) -> bool {
        while let Some((key, id)) = self.quiet.pop_front() {
            if self.is_quiet(key, id) {
                self.end(key, "silent");
                return true;
            }
        }
        false
    }

    fn less_of(&mut self, client: IpAddr) {
        if let Some(places) = self.clients.get_mut(&client) {
            *places = places.saturating_sub(1);
            if *places == 0 {
                self.clients.remove(&client);
            }
        }
    }

    fn end(&mut self, (socket, peer): Key, outcome: &'static str) {
        let Some(session) = self.sessions.remove(&(socket, peer)) else { return };
        // A quiet one was taken off the count when it fell quiet.
        if !session.transfer.is_quiet() {
            self.less_of(peer.ip());
        }
        session.over(&self.app, peer, outcome);
    }

    /// Every timer that went off.
    fn timers(&mut self) {
        while let Some(&Reverse((at, id, key))) = self.timers.peek()
            && at <= self.now
        {
            self.timers.pop();
            let current = |session: &&mut Session| session.id == id && session.look == at;
            let Some(session) = self.sessions.get_mut(&key).filter(current) else { continue };
            if session.timer <= self.now {
                self.event(key, Event::Timer);
            }
            if let Some(session) = self.sessions.get_mut(&key) {
                session.look = session.timer;
                self.timers.push(Reverse((session.timer, id, key)));
            }
        }
    }
}
