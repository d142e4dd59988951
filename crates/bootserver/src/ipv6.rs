//! What is served on IPv6: the same as on IPv4, where it is asked for.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use anyhow::Result;
use axum_server::tls_rustls::RustlsConfig;
use magnetite_daemon::supervise::{Task, task};
use magnetite_wire::dhcpv6::{ALL_SERVERS, Duid, SERVER_PORT};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    args::{Args, Dhcpv6Mode, RouterAdvertisement},
    bind_tcp,
    dhcp::Strangers,
    dhcpv6, http,
    net::{self, Interface},
    ra, tftp,
};

/// Finds our IPv6 address on each interface, if we are to serve on one.
pub fn find_addresses(args: &Args, interfaces: &mut [Interface]) -> Result<()> {
    if interfaces.len() > 1 && args.address6.is_some() {
        anyhow::bail!(
            "--address6 is for one interface; {} are given: each is reached at its own first address",
            interfaces.len()
        );
    }
    for interface in interfaces {
        interface.address6 = match (args.address6, args.dhcpv6) {
            (Some(address), _) => Some(address),
            (None, Dhcpv6Mode::Proxy) => Some(net::address6(&interface.name)?),
            (None, Dhcpv6Mode::Off) => None,
        };
        if let Some(address) = interface.address6.filter(Ipv6Addr::is_unicast_link_local) {
            let iface = &interface.name;
            tracing::warn!(iface, %address, "only a link-local IPv6 address: firmware gets its loader, iPXE no script over IPv6");
        }
    }
    Ok(())
}

/// The IPv6 sockets of one interface, bound.
pub struct Sockets {
    interface: Interface,
    served: Option<Served>,
    router: Option<ra::Raw>,
}

struct Served {
    dhcp: Option<(dhcpv6::Us, [(dhcpv6::Service, UdpSocket); 2])>,
    address: Ipv6Addr,
    tftp: UdpSocket,
    http: TcpListener,
    https: TcpListener,
}

impl Sockets {
    /// Binds what is asked for; nothing, by default.
    pub async fn bind(args: &Args, interfaces: &[Interface]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for interface in interfaces {
            let router = match args.router_advertisement {
                RouterAdvertisement::Off => None,
                RouterAdvertisement::Empty => Some(ra::open(&interface.name)?),
            };
            let served = match interface.address6 {
                Some(address) => Some(Served::bind(args, &interface.name, address).await?),
                None => None,
            };
            all.push(Self { interface: interface.clone(), served, router });
        }
        Ok(all)
    }

    /// Serves on them.
    pub fn serve(
        self,
        app: &Arc<App>,
        tls: &RustlsConfig,
        strangers: &Arc<Strangers>,
        stop: &CancellationToken,
    ) -> Vec<Task> {
        let Self { interface: Interface { name: iface, .. }, served, router } = self;
        let mut tasks = Vec::new();
        if let Some(router) = router {
            let server = ra::Server::new(router, iface.clone(), Arc::clone(app));
            tasks.push(task("router advertisements", server.run(stop.clone())));
        }
        let Some(Served { dhcp, address, tftp, http, https }) = served else { return tasks };
        let mtu = net::mtu(&iface);
        let source = tftp::Source { address: IpAddr::V6(address), interface: Some(iface) };
        let tftp = tftp::Server::new(tftp, source, mtu, Arc::clone(app));
        tasks.extend([
            task("tftp over ipv6", tftp.run(stop.clone())),
            task("http over ipv6", http::plain(http, http::public(app), stop.clone())),
            task("https over ipv6", http::tls(https, http::private(app), tls.clone(), stop.clone())),
        ]);
        for (us, service, socket) in
            dhcp.into_iter().flat_map(|(us, sockets)| sockets.map(|(service, socket)| (us.clone(), service, socket)))
        {
            let server = dhcpv6::Server::new(socket, service, us, Arc::clone(app), Arc::clone(strangers));
            let name = if service == dhcpv6::Service::BootServer { "pxe over ipv6" } else { "dhcpv6" };
            tasks.push(task(name, server.run(stop.clone())));
        }
        tasks
    }
}

impl Served {
    async fn bind(args: &Args, iface: &str, address: Ipv6Addr) -> Result<Self> {
        let dhcp = match args.dhcpv6 {
            Dhcpv6Mode::Off => None,
            Dhcpv6Mode::Proxy => {
                let (_, mac) = net::link(iface)?;
                let us = dhcpv6::Us { id: Duid::of_mac(mac), address, iface: iface.to_owned() };
                let server = net::udp_group(iface, ALL_SERVERS, SERVER_PORT)?;
                let boot_server = net::udp_group(iface, ALL_SERVERS, dhcpv6::BOOT_SERVER_PORT)?;
                Some((us, [(dhcpv6::Service::Server, server), (dhcpv6::Service::BootServer, boot_server)]))
            }
        };
        let tcp = |port| net::socket_address(Some(iface), address.into(), port);
        let (http, https) = (bind_tcp(tcp(args.http_port)?).await?, bind_tcp(tcp(args.https_port)?).await?);
        Ok(Self { dhcp, address, tftp: net::udp(Some(iface), address, 69)?, http, https })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use magnetite_wire::tftp::{Packet, ReadRequest};

    use super::*;
    use crate::fixtures::Site;

    /// A block that fits Ethernet behind IPv4's header would be cut in two behind IPv6's.
    #[tokio::test]
    async fn tftp_over_ipv6_sends_blocks_that_fit_behind_the_longer_header() {
        let site = Site::new().await;
        let socket = net::udp(None, Ipv6Addr::LOCALHOST, 0).unwrap();
        let address = socket.local_addr().unwrap();
        let source = tftp::Source { address: Ipv6Addr::LOCALHOST.into(), interface: None };
        let stop = CancellationToken::new();
        let server = tftp::Server::new(socket, source, 1500, Arc::clone(&site.app));
        let running = tokio::spawn(server.run(stop.clone()));
        let client = UdpSocket::bind("[::1]:0").await.unwrap();
        let mut out = Vec::new();
        let file = "undionly.kpxe".to_owned();
        Packet::Read(ReadRequest { file, block_size: Some(1468), ..ReadRequest::default() }).encode(&mut out);
        client.send_to(&out, address).await.unwrap();
        let mut buffer = [0; 2048];
        let heard = tokio::time::timeout(Duration::from_secs(10), client.recv_from(&mut buffer)).await;
        let (len, peer) = heard.expect("an answer").unwrap();
        let Packet::Oack(options) = Packet::decode(&buffer[..len]).unwrap() else { panic!("no OACK") };
        assert!(options.contains(&("blksize".to_owned(), "1448".to_owned())), "{options:?}");
        let mut out = Vec::new();
        Packet::Ack(0).encode(&mut out);
        client.send_to(&out, peer).await.unwrap();
        let (len, peer) = client.recv_from(&mut buffer).await.unwrap();
        assert!(matches!(Packet::decode(&buffer[..len]).unwrap(), Packet::Data { block: 1, bytes: b"loader" }));
        let mut out = Vec::new();
        Packet::Ack(1).encode(&mut out);
        client.send_to(&out, peer).await.unwrap();
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
