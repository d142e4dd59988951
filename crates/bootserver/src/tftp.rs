//! TFTP: sends loaders, from memory, and nothing else. Read-only by construction: there is no file to write.

mod engine;
mod send;
mod session;

use std::{
    net::{IpAddr, UdpSocket as StdSocket},
    os::unix::net::UnixStream,
    sync::Arc,
};

use magnetite_wire::tftp::transfer::Limits;
use tokio::{net::UdpSocket, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{app::App, net};
use engine::Engine;

/// The largest IP packet: Ethernet's. No larger where our own interface takes more, since the way to the client may not.
const LARGEST_PACKET: u16 = 1500;
/// The largest window.
const WINDOW: u16 = 16;

/// From where transfers go out.
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
}

impl Server {
    /// Takes a bound socket. Blocks are such that they fit the interface's `mtu`. Where the way is narrower, the kernel
    /// hears of it (ICMP "too big") and sends fragments from then on: the size of a block cannot change within a transfer.
    pub fn new(socket: UdpSocket, source: Source, mtu: u16, app: Arc<App>) -> Self {
        // Headers of IPv4 (20) or IPv6 (40), UDP (8) and TFTP (4).
        let headers = if source.address.is_ipv4() { 32 } else { 52 };
        let block_size = mtu.min(LARGEST_PACKET).saturating_sub(headers).max(8);
        Self { socket, source, limits: Limits { block_size, window: WINDOW }, app }
    }

    /// Serves until `stop`, then lets transfers under way end.
    ///
    /// # Errors
    /// If a socket cannot be had, or fails again and again.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        let Self { socket, source, limits, app } = self;
        let mut sockets = vec![socket.into_std()?];
        if !app.tftp_single_port {
            for _ in 0..engine::PORTS {
                sockets.push(port(&source)?);
            }
        }
        let engine = Engine::new(sockets, source.address, limits, app);
        // A thread of its own: a packet of every client waits for this one, and for none of the runtime's other tasks.
        // It ends once the other end of the pair is closed, be it that this task was dropped.
        let (ours, theirs) = UnixStream::pair()?;
        let (tell, mut told) = oneshot::channel();
        let work = move || drop(tell.send(engine.run(theirs)));
        std::thread::Builder::new().name("tftp".to_owned()).spawn(work)?;
        let died = |_| Err(std::io::Error::other("the TFTP thread panicked"));
        tokio::select! {
            () = stop.cancelled() => {}
            ended = &mut told => return ended.unwrap_or_else(died),
        }
        drop(ours);
        told.await.unwrap_or_else(died)
    }
}

fn port(source: &Source) -> std::io::Result<StdSocket> {
    net::udp(source.interface.as_deref(), source.address, 0).map_err(std::io::Error::other)?.into_std()
}

#[cfg(test)]
mod tests;
