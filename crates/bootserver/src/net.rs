//! Sockets on one interface.

use std::net::{Ipv4Addr, SocketAddrV4};

use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Why a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The interface has no IPv4 address, or does not exist.
    #[error("the interface {0} has no IPv4 address; `ip -4 addr show` lists those that have one")]
    NoAddress(String),
    /// Interfaces could not be listed.
    #[error("the interfaces of this host could not be listed")]
    Interfaces(#[source] nix::Error),
    /// A port could not be bound.
    #[error("UDP port {port} cannot be bound{hint}")]
    Bind {
        /// The port.
        port: u16,
        /// What may be done.
        hint: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The first IPv4 address of an interface.
pub fn address(interface: &str) -> Result<Ipv4Addr, NetError> {
    let all = getifaddrs().map_err(NetError::Interfaces)?;
    let mut own = all.filter(|one| one.interface_name == interface);
    own.find_map(|one| Some(one.address?.as_sockaddr_in()?.ip()))
        .ok_or_else(|| NetError::NoAddress(interface.to_owned()))
}

/// A UDP socket that hears one interface only. A broadcast that it sends goes out there, from the interface's own address.
pub fn udp(interface: Option<&str>, address: Ipv4Addr, port: u16) -> Result<UdpSocket, NetError> {
    let attempt = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_broadcast(true)?;
        // A site's boxes power on at once; the default buffer holds some hundred packets.
        drop(socket.set_recv_buffer_size(4 << 20));
        if let Some(interface) = interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.bind(&SocketAddrV4::new(address, port).into())?;
        UdpSocket::from_std(socket.into())
    };
    attempt().map_err(|source| {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another DHCP or TFTP server of this host holds it (`ss -lunp` names it)"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
            _ => "",
        };
        NetError::Bind { port, hint, source }
    })
}
