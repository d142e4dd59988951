//! Sockets on one interface.

use magnetite_daemon::log::chain;

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    path::Path,
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
        hint: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// An interface on which machines boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Our address there.
    pub address: Ipv4Addr,
}

impl Interface {
    /// The interface of a name, at its first address unless another is given.
    pub fn find(name: &str, given: Option<Ipv4Addr>) -> Result<Self, NetError> {
        let address = match given {
            Some(address) => address,
            None => address(name)?,
        };
        Ok(Self { name: name.to_owned(), address })
    }
}

/// The first IPv4 address of an interface.
fn address(interface: &str) -> Result<Ipv4Addr, NetError> {
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

/// Who holds a port, and what may be done about it.
fn in_use(port: u16) -> String {
    let holder = match held_by(Path::new("/proc"), port) {
        Some(holder) => format!("; {holder} holds it"),
        None => "; another process of this host holds it (`ss -lunp` as root names it)".to_owned(),
    };
    let way_out = match port {
        67 => {
            ". Two ways out: run the boot server on another host of this network, or let the DHCP server that is here say option 60 \
             \"PXEClient\" and run with --dhcp boot-server, which needs port 4011 only"
        }
        _ => "",
    };
    holder + way_out
}

/// The process that holds a UDP port, as far as this process may see.
fn held_by(proc: &Path, port: u16) -> Option<String> {
    let table = std::fs::read_to_string(proc.join("net/udp")).ok()?;
    let inodes: Vec<String> = table.lines().skip(1).filter_map(|line| inode(line, port)).collect();
    let pids = std::fs::read_dir(proc).ok()?.flatten().map(|entry| entry.path());
    pids.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit)))
        .find(|path| {
            let links = std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
            let mut sockets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
            sockets.any(|socket| inodes.iter().any(|inode| socket.as_os_str() == format!("socket:[{inode}]").as_str()))
        })
        .map(|path| {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            format!("{} (process {})", name.trim(), path.file_name().unwrap_or_default().to_string_lossy())
        })
}

/// The socket of a line of /proc/net/udp, if it is of this port: `sl local_address rem_address st … inode …`.
fn inode(line: &str, port: u16) -> Option<String> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let (_, hex) = fields.get(1)?.rsplit_once(':')?;
    (u16::from_str_radix(hex, 16) == Ok(port)).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
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
            std::io::ErrorKind::AddrInUse => in_use(port),
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned(),
            _ => String::new(),
        };
        NetError::Bind { port, hint, source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_port_is_named() {
        let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let holder = held_by(Path::new("/proc"), port).expect("it is this process");
        assert!(holder.contains(&format!("(process {})", std::process::id())), "{holder}");
        let error = udp(None, Ipv4Addr::LOCALHOST, port).unwrap_err().to_string();
        assert!(error.contains(&holder), "{error}");
        assert!(in_use(67).contains("--dhcp boot-server"));
        drop(held);
        assert_eq!(held_by(Path::new("/proc"), port), None);
    }
}
