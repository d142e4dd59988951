//! TFTP clients, each with an address of its own, fetching a file again and again.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::net::UdpSocket;

use super::{Seen, client, something, udp};

/// Who asks, and for what.
#[derive(Debug, Clone)]
pub struct Tftp {
    /// The server, port 69.
    pub server: Ipv4Addr,
    /// The file's name.
    pub file: String,
    /// What it holds.
    pub bytes: std::sync::Arc<[u8]>,
    /// Clients at once.
    pub clients: usize,
    /// Block size asked for, in bytes.
    pub block: usize,
    /// Blocks of a window asked for; 1 asks for no window.
    pub window: usize,
    /// How long.
    pub time: Duration,
}

/// A client and its transfer.
struct Client {
    socket: UdpSocket,
    peer: Option<SocketAddr>,
    /// Blocks that came in order.
    blocks: usize,
    /// Of these, blocks since the last ACK.
    unacknowledged: usize,
    /// Agreed with the server.
    block: usize,
    window: usize,
    last: Instant,
}

impl Tftp {
    /// Fetches, for as long as is wanted. Every byte is compared; the rate is that of right bytes.
    pub fn run(&self) -> Result<Seen> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut clients = Vec::new();
        for number in 0..self.clients {
            let socket = UdpSocket::from(udp((client(number), 0).into())?);
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            let mut new = Client {
                socket,
                peer: None,
                blocks: 0,
                unacknowledged: 0,
                block: 512,
                window: 1,
                last: Instant::now(),
            };
            self.ask(&mut new)?;
            clients.push(new);
        }
        let (mut seen, mut right) = (Seen::default(), 0);
        let (mut events, mut buffer) = (vec![EpollEvent::empty(); 64], vec![0; 65_536]);
        let start = Instant::now();
        while start.elapsed() < self.time {
            let ready = epoll.wait(&mut events, EpollTimeout::from(100_u8))?;
            for event in events.iter().take(ready) {
                let client = clients.get_mut(usize::try_from(event.data())?).context("a client")?;
                while let Ok((len, from)) = client.socket.recv_from(&mut buffer) {
                    right += self.packet(client, &buffer[..len], from)?;
                }
            }
            for client in clients.iter_mut().filter(|client| client.last.elapsed() > Duration::from_secs(1)) {
                seen.errors += 1;
                match client.peer {
                    Some(peer) => acknowledge(client, peer)?,
                    None => self.ask(client)?,
                }
            }
        }
        seen.rate = right as f64 / start.elapsed().as_secs_f64();
        something(seen, "block")
    }

    fn ask(&self, client: &mut Client) -> Result<()> {
        (client.peer, client.blocks, client.unacknowledged) = (None, 0, 0);
        (client.block, client.window, client.last) = (512, 1, Instant::now());
        let window = if self.window > 1 { format!("windowsize\0{}\0", self.window) } else { String::new() };
        let request = format!("\0\x01{}\0octet\0tsize\x000\0blksize\0{}\0{window}", self.file, self.block);
        client.socket.send_to(request.as_bytes(), SocketAddr::from((self.server, 69)))?;
        Ok(())
    }

    /// Takes a packet; how many right bytes it brought.
    fn packet(&self, client: &mut Client, packet: &[u8], from: SocketAddr) -> Result<usize> {
        let ([0, kind, rest @ ..], None) = (packet, client.peer.filter(|peer| *peer != from)) else { return Ok(0) };
        client.last = Instant::now();
        match (kind, rest) {
            (6, options) if client.blocks == 0 => {
                client.peer = Some(from);
                let words: Vec<_> = options.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
                for pair in words.chunks_exact(2) {
                    match pair[0].to_ascii_lowercase().as_str() {
                        "blksize" => client.block = pair[1].parse()?,
                        "windowsize" => client.window = pair[1].parse()?,
                        "tsize" => ensure!(pair[1] == self.bytes.len().to_string().as_str(), "the size is {}", pair[1]),
                        _ => {}
                    }
                }
                acknowledge(client, from)?;
                Ok(0)
            }
            (3, [high, low, data @ ..]) => {
                client.peer = Some(from);
                let number = u16::from_be_bytes([*high, *low]);
                if number != wire(client.blocks + 1) {
                    return Ok(0);
                }
                let at = client.blocks * client.block;
                ensure!(self.bytes.get(at..at + data.len()) == Some(data), "block {number} is not the file's");
                client.blocks += 1;
                client.unacknowledged += 1;
                let end = data.len() < client.block;
                if end || client.unacknowledged >= client.window {
                    acknowledge(client, from)?;
                }
                if end {
                    ensure!(at + data.len() == self.bytes.len(), "the file ends after {} bytes", at + data.len());
                    self.ask(client)?;
                }
                Ok(data.len())
            }
            (5, words) => anyhow::bail!("the server says {:?}", String::from_utf8_lossy(words)),
            _ => Ok(0),
        }
    }
}

fn wire(block: usize) -> u16 {
    u16::try_from(block & 0xffff).unwrap_or(0)
}

fn acknowledge(client: &mut Client, to: SocketAddr) -> Result<()> {
    let [high, low] = wire(client.blocks).to_be_bytes();
    client.socket.send_to(&[0, 4, high, low], to)?;
    (client.unacknowledged, client.last) = (0, Instant::now());
    Ok(())
}
