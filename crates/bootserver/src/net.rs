//! Sockets on one interface.

pub mod batch;

use magnetite_daemon::log::chain;

use std::{
    io::IoSlice,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket as StdSocket},
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use nix::{
    ifaddrs::getifaddrs,
    libc::{in_addr, in_pktinfo},
    poll::{PollFd, PollFlags, poll},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// How long a full buffer may take to drain.
const DRAIN: u8 = 50;

/// Why a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The interface has no IPv4 address, or does not exist.
    #[error("the interface {0} has no IPv4 address; `ip -4 addr show` lists those that have one")]
    NoAddress(String),
    /// The interface has no IPv6 address, or does not exist.
    #[error("the interface {0} has no IPv6 address; `ip -6 addr show` lists those that have one")]
    NoAddress6(String),
    /// The interface has no link-local IPv6 address.
    #[error(
        "the interface {0} has no link-local IPv6 address, from which router advertisements come; is IPv6 off (`sysctl net.ipv6.conf`)?"
    )]
    NoLinkLocal(String),
    /// No raw socket.
    #[error(
        "a raw ICMPv6 socket cannot be had; router advertisements need root or CAP_NET_RAW, and an interface with multicast"
    )]
    Raw(#[source] std::io::Error),
    /// An interface has no number.
    #[error("the interface {0} does not exist; `ip link` lists those that do")]
    NoInterface(String, #[source] nix::Error),
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
    /// Our IPv6 address there, if we serve on one.
    pub address6: Option<Ipv6Addr>,
}

impl Interface {
    /// The interface of a name, at its first address unless another is given.
    pub fn find(name: &str, given: Option<Ipv4Addr>) -> Result<Self, NetError> {
        let address = match given {
            Some(address) => address,
            None => address(name)?,
        };
        Ok(Self { name: name.to_owned(), address, address6: None })
    }
}

/// The first IPv4 address of an interface.
fn address(interface: &str) -> Result<Ipv4Addr, NetError> {
    let all = getifaddrs().map_err(NetError::Interfaces)?;
    let mut own = all.filter(|one| one.interface_name == interface);
    own.find_map(|one| Some(one.address?.as_sockaddr_in()?.ip()))
        .ok_or_else(|| NetError::NoAddress(interface.to_owned()))
}

/// The IPv6 address of an interface that boxes can be told: the first global or unique-local one, else the link-local
/// one, of which firmware can make use and iPXE cannot.
pub fn address6(interface: &str) -> Result<Ipv6Addr, NetError> {
    let mut own = addresses6(interface)?;
    // Stable: of the same kind the first stays first.
    own.sort_by_key(Ipv6Addr::is_unicast_link_local);
    own.first().copied().ok_or_else(|| NetError::NoAddress6(interface.to_owned()))
}

/// Whether an interface has a link-local IPv6 address.
pub fn has_link_local(interface: &str) -> Result<bool, NetError> {
    Ok(addresses6(interface)?.iter().any(Ipv6Addr::is_unicast_link_local))
}

fn addresses6(interface: &str) -> Result<Vec<Ipv6Addr>, NetError> {
    let all = getifaddrs().map_err(NetError::Interfaces)?;
    let own = all.filter(|one| one.interface_name == interface);
    Ok(own.filter_map(|one| Some(one.address?.as_sockaddr_in6()?.ip())).collect())
}

/// An interface's number and MAC.
pub fn link(interface: &str) -> Result<(u32, [u8; 6]), NetError> {
    let number =
        nix::net::if_::if_nametoindex(interface).map_err(|error| NetError::NoInterface(interface.to_owned(), error))?;
    let all = getifaddrs().map_err(NetError::Interfaces)?;
    let mut own = all.filter(|one| one.interface_name == interface);
    let mac = own.find_map(|one| one.address?.as_link_addr()?.addr());
    Ok((number, mac.unwrap_or_default()))
}

/// A UDP socket on all addresses of one interface, that hears also what is sent to an IPv6 group.
pub fn udp_group(interface: &str, group: Ipv6Addr, port: u16) -> Result<UdpSocket, NetError> {
    let socket = udp(Some(interface), Ipv6Addr::UNSPECIFIED, port)?;
    let (number, _) = link(interface)?;
    let hint = "; the interface takes no part in IPv6 multicast".to_owned();
    socket.join_multicast_v6(&group, number).map_err(|source| NetError::Bind { port, hint, source })?;
    Ok(socket)
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
/// what the packet says. Waits for a full buffer to drain, but not for long: the client asks again.
pub fn send_from(socket: &StdSocket, source: Ipv4Addr, bytes: &[u8], to: SocketAddrV4) -> std::io::Result<()> {
    let info = packet_info(source);
    let (parts, control, to) = ([IoSlice::new(bytes)], [ControlMessage::Ipv4PacketInfo(&info)], SockaddrIn::from(to));
    let send = || sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to)).map(drop);
    match send() {
        Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => {
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], DRAIN)?;
            Ok(send()?)
        }
        other => Ok(other?),
    }
}

/// Says from which address a packet goes out. The interface stays the socket's own.
fn packet_info(source: Ipv4Addr) -> in_pktinfo {
    let address = |ip: Ipv4Addr| in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
    in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address(source), ipi_addr: address(Ipv4Addr::UNSPECIFIED) }
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
        547 => ". Run the boot server on another host of this network than the DHCPv6 server",
        _ => "",
    };
    holder + way_out
}

/// The process that holds a UDP port, as far as this process may see.
fn held_by(proc: &Path, port: u16) -> Option<String> {
    let table = |name| std::fs::read_to_string(proc.join("net").join(name));
    let tables = [table("udp").ok()?, table("udp6").unwrap_or_default()];
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let inodes: Vec<String> = lines.filter_map(|line| inode(line, port)).collect();
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

/// An address with what a link-local one needs: the interface that it is on.
pub fn socket_address(interface: Option<&str>, address: IpAddr, port: u16) -> std::io::Result<SocketAddr> {
    Ok(match (address, interface) {
        (IpAddr::V6(address), Some(interface)) if address.is_unicast_link_local() => {
            SocketAddrV6::new(address, port, 0, nix::net::if_::if_nametoindex(interface)?).into()
        }
        (address, _) => SocketAddr::new(address, port),
    })
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

/// A UDP socket that hears one interface only, if one is given; what it sends goes out there.
pub fn udp(interface: Option<&str>, address: impl Into<IpAddr>, port: u16) -> Result<UdpSocket, NetError> {
    let address = address.into();
    let attempt = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(domain(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        match address {
            IpAddr::V4(_) => socket.set_broadcast(true)?,
            IpAddr::V6(_) => socket.set_only_v6(true)?,
        }
        // A site's boxes power on at once; the default buffer holds some hundred packets.
        drop(socket.set_recv_buffer_size(4 << 20));
        if let Some(interface) = interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.bind(&socket_address(interface, address, port)?.into())?;
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

/// A UDP socket that hears only what is broadcast to a port of one interface, beside others that have the port.
pub fn broadcasts(interface: &str, port: u16) -> Result<UdpSocket, NetError> {
    let attempt = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::BROADCAST, port).into())?;
        UdpSocket::from_std(socket.into())
    };
    attempt().map_err(|source| {
        let hint = "; a DHCP client of this host may want it for itself: run without --report-other-servers".to_owned();
        NetError::Bind { port, hint, source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent to a client by name stays the client's, also where it was there first.
    #[tokio::test]
    async fn who_hears_broadcasts_takes_nothing_from_a_client() {
        let client = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        client.set_reuse_address(true).unwrap();
        client.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = client.local_addr().unwrap().as_socket().unwrap().port();
        let beside = broadcasts("lo", port).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"for you", ("127.0.0.1", port)).unwrap();
        let client = StdSocket::from(client);
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        assert_eq!(client.recv_from(&mut [0; 16]).unwrap().0, 7);
        assert!(beside.try_recv_from(&mut [0; 16]).is_err());
    }

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
