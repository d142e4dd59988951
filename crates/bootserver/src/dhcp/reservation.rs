//! `--dhcp reservations`: declared machines get their declared addresses, and nobody else gets any. There is no pool, so there are no leases to
//! keep: the Machine is the reservation.

use std::net::Ipv4Addr;

use magnetite_api::{Machine, netboot::NetworkSpec};
use magnetite_boot::{client::Request, fleet::Found, select::Chosen};
use magnetite_wire::dhcp::{
    MessageType, Packet,
    reply::{self, Class, Destination, Lease, ReplyError},
};

use super::{Server, decide::identity};
use crate::metrics::count;

/// How long an address is good where nobody says, in seconds: a day.
const LEASE_SECONDS: u32 = 86_400;

/// What is reserved for a Machine; nothing if it declares no address.
fn lease(machine: &Machine, profile: Option<&Chosen>) -> Option<Lease> {
    let cidr = machine.spec.address?;
    let below = profile.and_then(|profile| profile.spec.network.as_ref());
    let NetworkSpec { router, dns_servers, ntp_servers, domain, lease_seconds } =
        NetworkSpec::over(machine.spec.network.as_ref(), below);
    let seconds = lease_seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(LEASE_SECONDS);
    Some(Lease {
        address: cidr.address,
        mask: cidr.mask(),
        seconds,
        router,
        dns_servers,
        ntp_servers,
        host_name: machine.node_name(),
        domain,
    })
}

/// What a client's message comes to (RFC 2131, 4.3).
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The address is its own.
    Give(MessageType),
    /// It wants another.
    Refuse,
    /// It chose another server, or says nothing that needs an answer.
    Silent,
}

/// `us`: our address, by which a client that chose us says so.
fn verdict(packet: &Packet, kind: MessageType, reserved: Ipv4Addr, us: Ipv4Addr) -> Verdict {
    if kind == MessageType::DISCOVER {
        return Verdict::Give(MessageType::OFFER);
    }
    let chosen = packet.options.server_id().ok().flatten();
    if kind != MessageType::REQUEST || chosen.is_some_and(|chosen| chosen != us) {
        return Verdict::Silent;
    }
    // Option 50 of a client that chooses or comes back from a reboot; ciaddr of one that renews.
    let wanted = packet.options.requested_ip().ok().flatten().unwrap_or(packet.ciaddr);
    let own = packet.ciaddr.is_unspecified() || packet.ciaddr == reserved;
    if wanted == reserved && own { Verdict::Give(MessageType::ACK) } else { Verdict::Refuse }
}

impl Server {
    /// The answer to a client of port 67, if an address is reserved for it.
    pub(super) fn reserve(
        &self,
        packet: &Packet,
        kind: MessageType,
        request: Option<&(Request, Class)>,
    ) -> Option<Result<(Packet, Destination), ReplyError>> {
        let view = self.app.view();
        let Found::Machine(machine) = view.fleet.find(&identity(packet)) else {
            count(&self.app.metrics.dhcp, "unknown");
            return None;
        };
        let profile = self.app.profile(&view, &machine).ok();
        let Some(lease) = lease(&machine, profile.as_deref()) else {
            count(&self.app.metrics.dhcp, "no_address");
            if packet.mac().is_some_and(|mac| self.strangers.is_new(magnetite_api::MacAddr(mac))) {
                let machine = &machine.metadata.name;
                tracing::warn!(machine, reason = "no_address", "not answered: the Machine declares no spec.address");
            }
            return None;
        };
        let us = self.interface.address;
        match verdict(packet, kind, lease.address, us) {
            Verdict::Give(kind) => {
                let boot = request.and_then(|(request, class)| self.decide(request, *class));
                Some(reply::lease(packet, kind, us, &lease, boot.as_ref()))
            }
            Verdict::Refuse => Some(Ok(reply::refusal(packet, us))),
            Verdict::Silent => {
                if kind == MessageType::DECLINE {
                    let (machine, address) = (&machine.metadata.name, lease.address);
                    tracing::error!(machine, %address, "the address that is reserved for the machine is in use by another host");
                }
                count(&self.app.metrics.dhcp, "not_ours");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use magnetite_wire::dhcp::{OptionCode, request::Persona};
    use rstest::rstest;

    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 21);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

    /// Message, server chosen, address asked for, address that it has, and what comes of it.
    #[rstest]
    #[case::discover(MessageType::DISCOVER, None, None, None, Verdict::Give(MessageType::OFFER))]
    #[case::discover_hopes(MessageType::DISCOVER, None, Some(OTHER), None, Verdict::Give(MessageType::OFFER))]
    #[case::chose_us(MessageType::REQUEST, Some(US), Some(RESERVED), None, Verdict::Give(MessageType::ACK))]
    #[case::chose_us_and_lies(MessageType::REQUEST, Some(US), Some(OTHER), None, Verdict::Refuse)]
    #[case::chose_another(MessageType::REQUEST, Some(OTHER), Some(RESERVED), None, Verdict::Silent)]
    #[case::came_back(MessageType::REQUEST, None, Some(RESERVED), None, Verdict::Give(MessageType::ACK))]
    #[case::came_back_from_elsewhere(MessageType::REQUEST, None, Some(OTHER), None, Verdict::Refuse)]
    #[case::renews(MessageType::REQUEST, None, None, Some(RESERVED), Verdict::Give(MessageType::ACK))]
    #[case::renews_anothers(MessageType::REQUEST, None, None, Some(OTHER), Verdict::Refuse)]
    #[case::to_be_sent_elsewhere(MessageType::REQUEST, None, Some(RESERVED), Some(OTHER), Verdict::Refuse)]
    #[case::found_it_in_use(MessageType::DECLINE, Some(US), Some(RESERVED), None, Verdict::Silent)]
    fn what_a_message_comes_to(
        #[case] kind: MessageType,
        #[case] chosen: Option<Ipv4Addr>,
        #[case] wanted: Option<Ipv4Addr>,
        #[case] has: Option<Ipv4Addr>,
        #[case] want: Verdict,
    ) {
        let mut packet = Persona::UEFI.request(kind, [2, 0, 0, 0, 0, 1], None, 7);
        for (code, address) in [(OptionCode::SERVER_ID, chosen), (OptionCode::REQUESTED_IP, wanted)] {
            if let Some(address) = address {
                packet.options.push(code, address.octets());
            }
        }
        packet.ciaddr = has.unwrap_or(Ipv4Addr::UNSPECIFIED);
        assert_eq!(verdict(&packet, kind, RESERVED, US), want);
    }
}
