//! Sockets on one interface.

use magnetite_daemon::log::chain;

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use nix::{
    ifaddrs::getifaddrs,
    libc::{in_addr, in_pktinfo},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

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

/// The largest IP packet that an interface carries; Ethernet's where nobody says.
pub fn mtu(interface: &str) -> u16 {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1500)
}

/// Allows as many open files as this process may have: each transfer and each connection is one.
pub fn allow_open_files() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(error = chain(&error), "the limit of open files stays as it is");
    }
}

/// Sends a packet from an address of this host. An interface may have several, and firmware compares the sender with
/// what the packet says.
pub async fn send_from(socket: &UdpSocket, source: Ipv4Addr, bytes: &[u8], to: SocketAddrV4) -> std::io::Result<()> {
    let address = |ip: Ipv4Addr| in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
    // The interface stays the socket's own.
    let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address(source), ipi_addr: address(Ipv4Addr::UNSPECIFIED) };
    let (parts, control, to) = ([IoSlice::new(bytes)], [ControlMessage::Ipv4PacketInfo(&info)], SockaddrIn::from(to));
    let send =
        || sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to)).map(drop).map_err(Into::into);
    socket.async_io(Interest::WRITABLE, send).await
}

/// A UDP socket that hears one interface only, if one is given; what it sends goes out there.
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
