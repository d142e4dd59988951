//! Many boxes at once: their sockets, their timers, and the air between, which may delay and reorder.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    boxes::{Effect, Firmware, Machine},
    packet::Answer,
    report::Report,
};

/// How a crowd boots.
#[derive(Debug, Clone)]
pub struct Options {
    /// The boxes: number and firmware. The number is the MAC's last three octets.
    pub boxes: Vec<(u32, Firmware)>,
    /// What the loader is, byte by byte.
    pub loader: Arc<[u8]>,
    /// The interface that broadcasts go to.
    pub interface: String,
    /// Boxes are powered on evenly within this time.
    pub within: Duration,
    /// Attempts before a box is given up.
    pub attempts: u32,
    /// Seconds for all of it.
    pub patience: Duration,
    /// The most that the air holds a UDP packet back, each by another time: packets overtake each other.
    pub delay: Duration,
    /// Where the air's and the boxes' random numbers begin.
    pub seed: u64,
}

/// The MAC of a box: 02:00:00 and its number.
pub fn mac(number: u32) -> [u8; 6] {
    let [_, a, b, c] = number.to_be_bytes();
    [2, 0, 0, a, b, c]
}

/// The number of an event on the socket that all share; others are a box's.
const SHARED: u64 = u64::MAX;

/// A box and its sockets.
struct Place {
    machine: Machine,
    on_since: Option<Instant>,
    /// The newest wait; older ones that run out mean nothing.
    wait: u64,
    tftp: Option<Port>,
    boot_server: Option<UdpSocket>,
    http: Option<Fetch>,
}

struct Fetch {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// A port of a box: what is on its way belongs to the port that it had then.
type Port = Rc<UdpSocket>;

/// Something that is to happen at a time.
enum Due {
    PowerOn,
    Wait(u64),
    /// A packet that the air held back, on its way to the box or from it.
    Dhcp(Vec<u8>),
    FromTftp(Port, SocketAddrV4, Vec<u8>),
    ToAll(Vec<u8>),
    ToTftp(Port, SocketAddrV4, Vec<u8>),
}

/// Boots a crowd, in the network namespace of the calling thread.
///
/// # Errors
/// If sockets cannot be had. Boxes that do not boot are in the report. `watch` is told how many booted by now.
pub fn boot(options: &Options, right: impl Fn(u32, &str) -> bool, mut watch: impl FnMut(usize)) -> Result<Report> {
    allow_open_files();
    let mut crowd = Crowd::new(options)?;
    crowd.run(&right, &mut watch)?;
    crowd.report.sort();
    Ok(crowd.report)
}

struct Crowd<'a> {
    options: &'a Options,
    epoll: Epoll,
    shared: UdpSocket,
    places: Vec<Place>,
    numbers: Vec<u32>,
    xids: HashMap<u32, usize>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    /// What is due, by its number.
    dues: HashMap<u64, (usize, Due)>,
    serial: u64,
    random: u64,
    start: Instant,
    report: Report,
    gone: usize,
}

impl<'a> Crowd<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let shared = udp(Ipv4Addr::UNSPECIFIED, 68)?;
        shared.set_broadcast(true)?;
        socket2::SockRef::from(&shared).bind_device(Some(options.interface.as_bytes()))?;
        epoll.add(&shared, EpollEvent::new(EpollFlags::EPOLLIN, SHARED))?;
        let place = |(number, firmware): &(u32, Firmware)| Place {
            machine: Machine::new(mac(*number), *firmware, Arc::clone(&options.loader)),
            on_since: None,
            wait: 0,
            tftp: None,
            boot_server: None,
            http: None,
        };
        let mut crowd = Self {
            options,
            epoll,
            shared,
            places: options.boxes.iter().map(place).collect(),
            numbers: options.boxes.iter().map(|(number, _)| *number).collect(),
            xids: HashMap::new(),
            due: BinaryHeap::new(),
            dues: HashMap::new(),
            serial: 0,
            random: options.seed | 1,
            start: Instant::now(),
            report: Report { boxes: options.boxes.len(), ..Report::default() },
            gone: 0,
        };
        let count = u32::try_from(crowd.places.len()).context("too many boxes")?.max(1);
        for (turn, index) in (0..count).zip(0..) {
            crowd.later(crowd.start + options.within * turn / count, index, Due::PowerOn);
        }
        Ok(crowd)
    }

    fn run(&mut self, right: &impl Fn(u32, &str) -> bool, watch: &mut impl FnMut(usize)) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 256];
        let mut buffer = vec![0; 65_536];
        while self.gone < self.places.len() && self.start.elapsed() < self.options.patience {
            self.due(right)?;
            let wait = self.due.peek().map_or(Duration::from_millis(100), |Reverse((at, ..))| {
                at.saturating_duration_since(Instant::now()).min(Duration::from_millis(100))
            });
            let ready = self.epoll.wait(&mut events, EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO))?;
            let before = self.gone;
            for event in events.iter().take(ready) {
                self.ready(event.data(), &mut buffer, right)?;
            }
            if self.gone != before {
                watch(self.report.within(usize::MAX));
            }
        }
        let late = self.places.iter().filter(|place| !place.machine.booted()).count();
        if self.gone < self.places.len() {
            *self.report.failures.entry("still at it when time was up".into()).or_default() += late;
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn later(&mut self, at: Instant, index: usize, due: Due) {
        self.serial += 1;
        self.due.push(Reverse((at, self.serial)));
        self.dues.insert(self.serial, (index, due));
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A transaction number that no other box has.
    fn xid(&mut self, index: usize) -> u32 {
        loop {
            let [.., a, b, c, d] = self.random().to_be_bytes();
            let xid = u32::from_be_bytes([a, b, c, d]);
            if !self.xids.contains_key(&xid) {
                let old = self.places[index].machine.xid();
                self.xids.remove(&old);
                self.xids.insert(xid, index);
                return xid;
            }
        }
    }

    /// Holds a packet back as the air does; gives it back if there is no delay.
    fn air(&mut self, index: usize, due: Due) -> Option<Due> {
        let most = u64::try_from(self.options.delay.as_micros()).unwrap_or(u64::MAX);
        if most == 0 {
            return Some(due);
        }
        let wait = Duration::from_micros(self.random() % most);
        self.later(Instant::now() + wait, index, due);
        None
    }

    fn due(&mut self, right: &impl Fn(u32, &str) -> bool) -> Result<()> {
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= Instant::now()) {
            let due = self.due.pop().and_then(|Reverse((_, serial))| self.dues.remove(&serial));
            let Some((index, due)) = due else { continue };
            self.happen(index, due, right)?;
            // What comes in must not wait for a whole crowd's power-on.
            let mut buffer = [0; 2048];
            self.drain(&mut buffer, right)?;
        }
        Ok(())
    }

    fn happen(&mut self, index: usize, due: Due, right: &impl Fn(u32, &str) -> bool) -> Result<()> {
        let (now, mut out) = (self.now(), Vec::new());
        match due {
            Due::PowerOn => {
                let xid = self.xid(index);
                let place = &mut self.places[index];
                (place.tftp, place.boot_server, place.http) = (None, None, None);
                place.on_since.get_or_insert_with(Instant::now);
                place.machine.power_on(now, xid, &mut out);
            }
            Due::Wait(wait) if wait == self.places[index].wait => self.places[index].machine.tick(now, &mut out),
            Due::Wait(_) => {}
            Due::Dhcp(bytes) => {
                if let Some(answer) = Answer::read(&bytes) {
                    self.places[index].machine.dhcp(now, &answer, &mut out);
                }
            }
            Due::FromTftp(port, ..) if !self.places[index].tftp.as_ref().is_some_and(|own| Rc::ptr_eq(own, &port)) => {}
            Due::FromTftp(_, from, bytes) => {
                let machine = &mut self.places[index].machine;
                let (old, new) = (machine.xid(), machine.xid().wrapping_add(1));
                machine.tftp(now, from, &bytes, new, &mut out);
                if machine.xid() != old {
                    // The loader is whole: iPXE asks by a number of its own.
                    self.xids.insert(new, index);
                }
            }
            Due::ToAll(bytes) => lossy(self.shared.send_to(&bytes, (Ipv4Addr::BROADCAST, 67)))?,
            Due::ToTftp(port, to, bytes) => lossy(port.send_to(&bytes, to))?,
        }
        self.carry_out(index, out, right)
    }

    fn carry_out(&mut self, index: usize, out: Vec<Effect>, right: &impl Fn(u32, &str) -> bool) -> Result<()> {
        for effect in out {
            match effect {
                Effect::Broadcast(bytes) => {
                    if let Some(Due::ToAll(bytes)) = self.air(index, Due::ToAll(bytes)) {
                        lossy(self.shared.send_to(&bytes, (Ipv4Addr::BROADCAST, 67)))?;
                    }
                }
                Effect::AskBootServer(server, bytes) => self.ask_boot_server(index, server, &bytes)?,
                Effect::NewPort => {
                    let place = &mut self.places[index];
                    let socket = udp(place.machine.address.unwrap_or(Ipv4Addr::UNSPECIFIED), 0)?;
                    self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
                    place.tftp = Some(Rc::new(socket));
                }
                Effect::Tftp(to, bytes) => {
                    let Some(port) = self.places[index].tftp.clone() else { continue };
                    if let Some(Due::ToTftp(port, to, bytes)) = self.air(index, Due::ToTftp(port, to, bytes)) {
                        lossy(port.send_to(&bytes, to))?;
                    }
                }
                Effect::Get(url) => {
                    if let Err(error) = self.get(index, &url) {
                        self.fetched(index, Err(format!("HTTP: {error:#}")), right)?;
                    }
                }
                Effect::Wait(at) => {
                    self.serial += 1;
                    let wait = self.serial;
                    self.places[index].wait = wait;
                    self.later(self.start + at, index, Due::Wait(wait));
                }
                Effect::Offered(after) => self.report.offers.push(after),
                Effect::Booted => self.booted(index),
                Effect::Failed(why) => self.failed(index, why),
            }
        }
        Ok(())
    }

    fn booted(&mut self, index: usize) {
        let place = &mut self.places[index];
        let attempt = place.machine.attempts as usize;
        self.report.booted.resize(self.report.booted.len().max(attempt), 0);
        self.report.booted[attempt - 1] += 1;
        self.report.scripts.extend(place.on_since.map(|since| since.elapsed()));
        (place.tftp, place.boot_server, place.http) = (None, None, None);
        self.gone += 1;
    }

    fn failed(&mut self, index: usize, why: String) {
        *self.report.failures.entry(why).or_default() += 1;
        // A wait of before must not run out in the next attempt.
        self.serial += 1;
        self.places[index].wait = self.serial;
        if self.places[index].machine.attempts >= self.options.attempts {
            self.gone += 1;
            return;
        }
        self.later(Instant::now() + Duration::from_secs(1), index, Due::PowerOn);
    }

    fn ask_boot_server(&mut self, index: usize, server: Ipv4Addr, bytes: &[u8]) -> Result<()> {
        let place = &mut self.places[index];
        if place.boot_server.is_none() {
            let socket = udp(place.machine.address.unwrap_or(Ipv4Addr::UNSPECIFIED), 4011)?;
            self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            place.boot_server = Some(socket);
        }
        match &place.boot_server {
            Some(socket) => lossy(socket.send_to(bytes, (server, 4011))),
            None => Ok(()),
        }
    }

    fn get(&mut self, index: usize, url: &str) -> Result<()> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not HTTP"))?;
        let (host, path) = rest.split_once('/').with_context(|| format!("{url} has no path"))?;
        let address: SocketAddr = if host.contains(':') { host.to_owned() } else { format!("{host}:80") }.parse()?;
        let place = &mut self.places[index];
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let own = place.machine.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        socket.bind(&SocketAddr::from((own, 0)).into())?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
                return Err(error.into());
            }
            Ok(()) | Err(_) => {}
        }
        let stream = TcpStream::from(socket);
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLOUT, index as u64))?;
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: iPXE/1.21.1\r\nConnection: keep-alive\r\n\r\n"
        );
        place.http = Some(Fetch { stream, request: request.into_bytes(), answer: Vec::new() });
        Ok(())
    }

    fn ready(&mut self, of: u64, buffer: &mut [u8], right: &impl Fn(u32, &str) -> bool) -> Result<()> {
        if of == SHARED {
            return self.drain(buffer, right);
        }
        let index = usize::try_from(of)?;
        while let Some(port) = self.places[index].tftp.clone()
            && let Some((from, len)) = receive(Some(&port), buffer)
        {
            let due = Due::FromTftp(port, from, buffer[..len].to_vec());
            if let Some(due) = self.air(index, due) {
                self.happen(index, due, right)?;
            }
        }
        while let Some((_, len)) = receive(self.places[index].boot_server.as_ref(), buffer) {
            let due = Due::Dhcp(buffer[..len].to_vec());
            self.happen(index, due, right)?;
        }
        let Some(fetch) = &mut self.places[index].http else { return Ok(()) };
        match fetch.go_on(&self.epoll, of, buffer) {
            Ok(None) => Ok(()),
            Ok(Some(body)) => self.fetched(index, Ok(&body), right),
            Err(error) => self.fetched(index, Err(format!("HTTP: {error:#}")), right),
        }
    }

    /// Takes all that came on port 68.
    fn drain(&mut self, buffer: &mut [u8], right: &impl Fn(u32, &str) -> bool) -> Result<()> {
        while let Some((_, len)) = receive(Some(&self.shared), buffer) {
            let Some(xid) = buffer.get(4..8).and_then(|xid| xid.try_into().ok()).map(u32::from_be_bytes) else {
                continue;
            };
            let Some(&index) = self.xids.get(&xid).filter(|_| len > 240) else { continue };
            let due = Due::Dhcp(buffer[..len].to_vec());
            if let Some(due) = self.air(index, due) {
                self.happen(index, due, right)?;
            }
        }
        Ok(())
    }

    fn fetched(&mut self, index: usize, body: Result<&str, String>, right: &impl Fn(u32, &str) -> bool) -> Result<()> {
        self.places[index].http = None;
        let (mut out, number) = (Vec::new(), self.numbers[index]);
        self.places[index].machine.fetched(body, |text| right(number, text), &mut out);
        self.carry_out(index, out, right)
    }
}

impl Fetch {
    /// Sends what is to be sent, takes what came; the body once it is whole.
    fn go_on(&mut self, epoll: &Epoll, of: u64, buffer: &mut [u8]) -> Result<Option<String>> {
        if !self.request.is_empty() {
            match self.stream.write(&self.request) {
                Ok(sent) => drop(self.request.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if self.request.is_empty() {
                epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, of))?;
            }
        }
        loop {
            match self.stream.read(buffer) {
                Ok(0) => anyhow::bail!("the server hung up after {} bytes", self.answer.len()),
                Ok(len) => self.answer.extend(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if let Some(body) = whole(&self.answer)? {
                return Ok(Some(body));
            }
        }
    }
}

/// The body of an answer that is whole; an error if its status is not 200.
fn whole(answer: &[u8]) -> Result<Option<String>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.context("an answer without Content-Length")?;
    let body = answer.get(end + 4..end + 4 + length);
    Ok(body.map(|body| String::from_utf8_lossy(body).into_owned()))
}

/// A UDP socket with room for a crowd's answers.
fn udp(address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if port != 0 {
        socket.set_reuse_address(true)?;
        // As root the limit of the system may be passed: what is lost must be lost on the way, not here.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20))?;
    }
    socket.bind(&SocketAddr::from((address, port)).into()).with_context(|| format!("bind {address}:{port}"))?;
    Ok(socket.into())
}

fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Option<(SocketAddrV4, usize)> {
    // An error is a port that was unreachable: the box hears nothing of it.
    match socket?.recv_from(buffer) {
        Ok((len, SocketAddr::V4(from))) => Some((from, len)),
        _ => None,
    }
}

/// A packet that the firewall drops on its way out is lost, as on any way.
fn lossy(sent: std::io::Result<usize>) -> Result<()> {
    match sent {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::WouldBlock | ErrorKind::ConnectionRefused => Ok(()),
            _ => Err(error).context("send"),
        },
    }
}

fn allow_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If it cannot be, opening says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_is_waited_for() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n#!ipxe";
        assert_eq!(whole(answer).unwrap().as_deref(), Some("#!ipxe"));
        assert_eq!(whole(&answer[..answer.len() - 1]).unwrap(), None);
        assert!(whole(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }

    #[test]
    fn a_box_is_known_by_its_number() {
        assert_eq!(mac(0x01_02_03), [2, 0, 0, 1, 2, 3]);
    }
}
