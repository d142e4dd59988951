//! The generators. Each runs on a thread of its own in the clients' namespace, with blocking or polled sockets and bytes that were made beforehand.

mod dhcp;
mod http;
mod tftp;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

pub use dhcp::{Dhcp, echo};
pub use http::Http;
pub use tftp::Tftp;

use crate::link::CLIENTS;

/// What a generator saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Right answers a second, or bytes a second.
    pub rate: f64,
    /// How long each took, where that is kept.
    pub latencies: Vec<Duration>,
    /// What went wrong, and how often.
    pub errors: u64,
}

/// One of the clients' addresses.
fn client(number: usize) -> Ipv4Addr {
    let [a, b, c, _] = CLIENTS;
    // There are 250 of them.
    Ipv4Addr::new(a, b, c, u8::try_from(number % 250).unwrap_or(0) + 1)
}

fn udp(from: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    drop(socket.set_recv_buffer_size(8 << 20));
    socket.bind(&from.into())?;
    Ok(socket)
}

/// Fails with what went wrong if nothing went right.
fn something(seen: Seen, what: &str) -> Result<Seen> {
    ensure!(seen.rate > 0.0, "no right {what} came; {} errors", seen.errors);
    Ok(seen)
}
