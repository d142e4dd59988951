//! Other servers that tell boxes what to boot, as far as their answers can be heard.
//!
//! Firmware takes the first offer that it likes, and of two proxies nobody can say whose that is. Answers that are broadcast reach every
//! host on the link, on port 68, which is the DHCP client's. So this is off unless it is asked for (`--report-other-servers`), and the
//! socket is bound to the broadcast address: what a client of this host is sent by name does not come here.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use magnetite_api::MacAddr;
use magnetite_daemon::{clock, log::chain};
use magnetite_wire::dhcp::{MessageType, Packet, reply::Class};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    dhcp::MOST_ERRORS,
    net::{self, NetError},
    record::clean,
    told::Told,
};

/// The port of DHCP clients.
const CLIENTS: u16 = 68;

/// Hears what others answer, on one interface.
pub struct Watcher {
    iface: String,
    socket: UdpSocket,
    app: Arc<App>,
    told: Told<Ipv4Addr>,
}

impl Watcher {
    /// Binds the port of DHCP clients beside whoever has it.
    ///
    /// # Errors
    /// If somebody has it for himself alone.
    pub fn bind(iface: &str, app: &Arc<App>) -> Result<Self, NetError> {
        let socket = net::broadcasts(iface, CLIENTS)?;
        Ok(Self { iface: iface.to_owned(), socket, app: Arc::clone(app), told: Told::default() })
    }

    /// Tells of others until `stop`.
    ///
    /// # Errors
    /// If the socket fails again and again.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let (mut buffer, mut errors) = (vec![0; 2048], 0);
        while let Some(received) = stop.run_until_cancelled(self.socket.recv_from(&mut buffer)).await {
            match received {
                Ok((len, SocketAddr::V4(from))) => {
                    errors = 0;
                    self.heard(buffer.get(..len).unwrap_or_default(), *from.ip());
                }
                Ok(_) => {}
                Err(error) => {
                    errors += 1;
                    tracing::warn!(error = chain(&error), "a DHCP answer of others could not be received");
                    if errors >= MOST_ERRORS {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn heard(&self, bytes: &[u8], from: Ipv4Addr) {
        let Ok(packet) = Packet::decode(bytes) else { return };
        let ours: Vec<_> = self.app.interfaces.iter().map(|interface| interface.address).collect();
        let Some(server) = rival(&packet, from, &ours) else { return };
        self.app.metrics.rivals.inc();
        if self.told.is_new(server, clock::now()) {
            let (iface, mac) = (&self.iface, packet.mac().map(MacAddr).map(tracing::field::display));
            let file = clean(&String::from_utf8_lossy(&packet.bootfile()), 80);
            tracing::warn!(iface, source = %server, mac, file, "another server tells boxes what to boot; take it away, or let it leave these boxes out");
        }
    }
}

/// Who says what a box is to boot, if it is neither one of us nor another boot server of ours.
fn rival(packet: &Packet, from: Ipv4Addr, ours: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let kind = packet.options.message_type().ok().flatten();
    if packet.op != 2 || !matches!(kind, Some(MessageType::OFFER | MessageType::ACK)) {
        return None;
    }
    let file = packet.bootfile();
    let proxy = packet.options.vendor_class().is_some_and(|class| Class::of(&class).is_some());
    let server = packet.options.server_id().ok().flatten().unwrap_or(from);
    let foreign = !ours.contains(&from) && !ours.contains(&server) && !is_of_ours(&file);
    ((proxy || !file.is_empty()) && foreign).then_some(server)
}

/// Whether a boot file is one as our boot servers name them: a link with a machine's id.
fn is_of_ours(file: &[u8]) -> bool {
    let Ok(file) = str::from_utf8(file) else { return false };
    let mut parts = file.split('/').skip_while(|part| !matches!(*part, "m" | "ipxe")).skip(1);
    parts.next().is_some_and(|id| id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use magnetite_wire::dhcp::{
        OptionCode,
        reply::{BootAnswer, proxy_offer},
        request::Persona,
    };

    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    /// What a proxy offers.
    fn offer(server: Ipv4Addr, file: &str) -> Packet {
        let question = Persona::BIOS.request(MessageType::DISCOVER, [2, 0, 0, 0, 0, 1], None, 7);
        let answer = BootAnswer { server, bootfile: file.to_owned(), class: Class::Pxe, direct: true };
        proxy_offer(&question, &answer).unwrap().0
    }

    #[test]
    fn another_proxy_is_seen_by_what_it_offers() {
        let heard = |packet: &Packet, from| rival(packet, from, &[US]);
        assert_eq!(heard(&offer(OTHER, "pxelinux.0"), OTHER), Some(OTHER));
        assert_eq!(heard(&offer(US, "m/0123456789abcdef/undionly.kpxe"), US), None, "our own, which comes back to us");
        for ours in [
            "m/0123456789abcdef/undionly.kpxe",
            "http://10.0.0.9:8080/m/0123456789abcdef/cap/x86_64/boot.ipxe",
            "http://10.0.0.9:8080/ipxe/0123456789abcdef/snponly.efi",
        ] {
            assert_eq!(heard(&offer(OTHER, ours), OTHER), None, "another boot server of ours: {ours}");
        }
        for theirs in ["m/pxelinux.0", "http://10.0.0.9/ipxe/boot.ipxe", "m"] {
            assert_eq!(heard(&offer(OTHER, theirs), OTHER), Some(OTHER), "{theirs}");
        }
    }

    #[test]
    fn the_site_s_own_server_that_says_nothing_of_booting_is_no_rival() {
        let mut lease = offer(OTHER, "x");
        lease.options.remove(OptionCode::VENDOR_CLASS);
        assert_eq!(rival(&lease, OTHER, &[US]), Some(OTHER), "it names a file");
        lease.options.remove(OptionCode::BOOTFILE);
        lease.file = [0; 128];
        assert_eq!(rival(&lease, OTHER, &[US]), None);
        let question = Persona::BIOS.request(MessageType::DISCOVER, [2, 0, 0, 0, 0, 1], None, 7);
        assert_eq!(rival(&question, OTHER, &[US]), None, "a question");
    }

    #[tokio::test]
    async fn each_answer_is_counted_and_each_server_told_once() {
        let site = crate::fixtures::Site::new().await;
        let socket = net::udp(None, Ipv4Addr::LOCALHOST, 0).unwrap();
        let told = Told::default();
        let watcher = Watcher { iface: "lo".to_owned(), socket, app: Arc::clone(&site.app), told };
        let mut bytes = Vec::new();
        offer(OTHER, "pxelinux.0").encode(&mut bytes).unwrap();
        for _ in 0..3 {
            watcher.heard(&bytes, OTHER);
            watcher.heard(&[2; 300], OTHER);
        }
        assert_eq!((site.app.metrics.rivals.get(), watcher.told.len()), (3, 1));
    }
}
