//! TFTP: sends loaders, from memory, and nothing else. Read-only by construction: there is no file to write.

mod engine;
mod send;
mod session;

use std::{
    net::{IpAddr, UdpSocket as StdSocket},
    sync::Arc,
};

use magnetite_wire::tftp::transfer::Limits;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::{app::App, net, thread};
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
        thread::run("tftp", stop, move |stop| engine.run(stop)).await
    }
}

fn port(source: &Source) -> std::io::Result<StdSocket> {
    net::udp(source.interface.as_deref(), source.address, 0).map_err(std::io::Error::other)?.into_std()
}

#[cfg(test)]
mod tests;
