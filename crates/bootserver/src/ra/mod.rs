//! Router advertisements that say: there is no router here. Without them iPXE waits 15 seconds for one, on each boot,
//! where a site has no IPv6. Lifetime 0 and no prefix: nobody gets a route or an address of it, and two boot servers
//! on one link are no routers to each other.

mod state;

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use magnetite_daemon::log::chain;
use magnetite_wire::icmpv6::{Advertisement, Message};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    dhcp::MOST_ERRORS,
    metrics::count,
    net::{self, NetError},
};
use state::{Advertiser, Event, Output};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// RFC 4861, 6.1: what passed a router is no router's word, and no neighbour's question.
const HOPS: u32 = 255;

/// The advertiser, on an open socket.
pub struct Server {
    socket: Raw,
    iface: String,
    app: Arc<App>,
}

/// A raw ICMPv6 socket, and the number of its interface. Nothing of UDP is used of it: that type is how a socket that
/// tokio has none for is waited on without `unsafe`.
pub struct Raw {
    socket: UdpSocket,
    number: u32,
}

/// Opens a raw ICMPv6 socket on an interface.
///
/// # Errors
/// If this process may not, or the interface has no link-local address to speak from.
pub fn open(interface: &str) -> Result<Raw, NetError> {
    let (number, _) = net::link(interface)?;
    if !net::has_link_local(interface)? {
        return Err(NetError::NoLinkLocal(interface.to_owned()));
    }
    let attempt = || -> io::Result<Raw> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_if_v6(number)?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_unicast_hops_v6(HOPS)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_recv_hoplimit_v6(true)?;
        socket.join_multicast_v6(&ALL_ROUTERS, number)?;
        Ok(Raw { socket: UdpSocket::from_std(socket.into())?, number })
    };
    attempt().map_err(NetError::Raw)
}

impl Server {
    /// Takes a socket of [`open`].
    pub fn new(socket: Raw, iface: String, app: Arc<App>) -> Self {
        Self { socket, iface, app }
    }

    /// Speaks and listens until `stop`.
    ///
    /// # Errors
    /// If the socket fails again and again.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let start = Instant::now();
        let mut advertiser = Advertiser::new(Duration::ZERO);
        let mut errors = 0;
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(start + advertiser.wake()) => Some((Event::Tick, None)),
                heard = self.hear() => match heard {
                    Ok(event) => {
                        errors = 0;
                        event
                    }
                    Err(error) => {
                        errors += 1;
                        tracing::warn!(iface = self.iface, error = chain(&error), "a router's packet could not be received");
                        if errors >= MOST_ERRORS {
                            return Err(error);
                        }
                        None
                    }
                },
            };
            let Some((event, peer)) = event else { continue };
            for output in advertiser.on(event, start.elapsed()) {
                self.act(output, peer).await;
            }
        }
    }

    async fn act(&self, output: Output, peer: Option<Ipv6Addr>) {
        let iface = &self.iface;
        let sent = match output {
            Output::Silenced => {
                let peer = peer.map(tracing::field::display);
                tracing::warn!(
                    iface,
                    peer,
                    "a router speaks on this link: no empty router advertisements while it is there"
                );
                return;
            }
            Output::Alone => {
                tracing::info!(iface, "no router speaks on this link: empty router advertisements from now on");
                return;
            }
            Output::Withheld => {
                count(&self.app.metrics.advertisements, "withheld");
                return;
            }
            Output::Solicit => self.send(&Message::Solicitation(Vec::new()), ALL_ROUTERS).await,
            Output::Advertise => {
                let sent = self.send(&Message::Advertisement(Advertisement::default()), ALL_NODES).await;
                count(&self.app.metrics.advertisements, if sent.is_ok() { "sent" } else { "send_failed" });
                sent
            }
        };
        if let Err(error) = sent {
            tracing::warn!(iface, error = chain(&error), "a router's packet could not be sent");
        }
    }

    async fn send(&self, message: &Message, to: Ipv6Addr) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(16);
        message.encode(&mut bytes).map_err(io::Error::other)?;
        let (parts, to) = ([IoSlice::new(&bytes)], SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, self.socket.number)));
        let socket = &self.socket.socket;
        let send =
            || sendmsg(socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), Some(&to)).map(drop).map_err(Into::into);
        socket.async_io(Interest::WRITABLE, send).await
    }

    /// The next packet, if it is one that matters.
    async fn hear(&self) -> io::Result<Option<(Event, Option<Ipv6Addr>)>> {
        let mut buffer = [0; 1500];
        let socket = &self.socket.socket;
        let receive = || -> io::Result<(usize, Option<SockaddrIn6>, i32)> {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut space = nix::cmsg_space!(i32);
            let received = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
            let hops = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Ipv6HopLimit(hops) => Some(hops),
                _ => None,
            });
            Ok((received.bytes, received.address, hops.unwrap_or_default()))
        };
        let (len, peer, hops) = socket.async_io(Interest::READABLE, receive).await?;
        let peer = peer.map(|peer| peer.ip());
        Ok(event(buffer.get(..len).unwrap_or_default(), peer, hops).map(|event| (event, peer)))
    }
}

/// What a packet means. One from afar means nothing (RFC 4861, 6.1); neither does an advertisement of another boot server.
fn event(bytes: &[u8], peer: Option<Ipv6Addr>, hops: i32) -> Option<Event> {
    if u32::try_from(hops) != Ok(HOPS) {
        return None;
    }
    match Message::decode(bytes).ok()? {
        Message::Solicitation(_) => Some(Event::Solicited),
        Message::Advertisement(advertisement) => {
            let router = advertisement.is_of_a_router() && peer.is_some_and(|peer| peer.is_unicast_link_local());
            let lifetime = Duration::from_secs(u64::from(advertisement.lifetime));
            router.then_some(Event::Router { lifetime })
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const EMPTY: &[u8] = &[134, 0, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const ROUTER: &[u8] = &[134, 0, 9, 9, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    const QUESTION: &[u8] = &[133, 0, 9, 9, 0, 0, 0, 0];

    #[rstest]
    #[case::question(QUESTION, "fe80::2", 255, Some(Event::Solicited))]
    #[case::question_before_it_has_an_address(QUESTION, "::", 255, Some(Event::Solicited))]
    #[case::question_from_afar(QUESTION, "2001:db8::2", 64, None)]
    #[case::router(ROUTER, "fe80::2", 255, Some(Event::Router { lifetime: Duration::from_secs(1800) }))]
    #[case::router_from_afar(ROUTER, "fe80::2", 254, None)]
    #[case::router_without_a_link(ROUTER, "2001:db8::2", 255, None)]
    #[case::another_boot_server(EMPTY, "fe80::2", 255, None)]
    #[case::neighbour(&[135, 0, 0, 0, 0, 0, 0, 0], "fe80::2", 255, None)]
    #[case::nonsense(&[134, 0], "fe80::2", 255, None)]
    fn what_a_packet_means(
        #[case] bytes: &[u8],
        #[case] peer: Ipv6Addr,
        #[case] hops: i32,
        #[case] want: Option<Event>,
    ) {
        assert_eq!(event(bytes, Some(peer), hops), want);
    }
}
