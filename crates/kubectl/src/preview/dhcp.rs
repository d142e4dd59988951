//! The DHCP answers: to the firmware, and to the iPXE that it starts.

use std::{fmt::Write, net::Ipv4Addr};

use magnetite_api::{
    MacAddr, Machine, MachineUuid,
    netboot::{NetbootSpec, ProxyDialect},
};
use magnetite_boot::{
    client::{ClientClass, Request},
    fleet::{Found, Identity},
    plan::{self, Answer, Ignored, Loaders},
    site::Site,
};
use magnetite_wire::dhcp::{
    MessageType, OptionCode, Packet,
    reply::{self, BootAnswer, Class, Destination},
    request::Persona,
};

/// What is asked, and of whom.
pub struct Asked<'a> {
    /// The boot server.
    pub site: &'a Site<'a>,
    /// Its address.
    pub server: Ipv4Addr,
    /// The Machine, as the fleet finds it by what the packet says.
    pub found: &'a Found,
    /// What Machine and Profile say of loader and dialect.
    pub netboot: &'a NetbootSpec,
    /// Loaders that failed on the box.
    pub failed: &'a [String],
    /// Whether the boot server has a loader.
    pub at_hand: &'a dyn Fn(&str) -> bool,
    /// Seconds since 1970.
    pub now: u64,
}

/// The request of a client of a kind, as the box would send it.
pub fn request(persona: Persona, kind: MessageType, machine: &Machine) -> Packet {
    let seen = machine.status.as_ref().and_then(|status| status.boot.as_ref());
    let mac = seen.and_then(|boot| boot.mac).or_else(|| machine.spec.macs.first().copied());
    // The order of SMBIOS and that of text are each the other's inverse.
    let uuid = machine.spec.uuid.map(|uuid| MachineUuid::from_smbios(uuid.0).0);
    persona.request(kind, mac.map_or([2, 0, 0, 0, 0, 1], |mac| mac.0), uuid, 0x6d61_676e)
}

/// Who sent a packet, by what it says.
pub fn identity(packet: &Packet) -> Identity {
    let uuid = packet.options.smbios_uuid().unwrap_or_default().map(MachineUuid::from_smbios);
    Identity { mac: packet.mac().map(MacAddr), uuid, serial: None }
}

/// What a client is answered, as text; what it does not get, as an error.
pub fn answers(asked: &Asked<'_>, persona: Persona, machine: &Machine) -> Result<String, String> {
    let packet = request(persona, MessageType::DISCOVER, machine);
    let class = Class::of(persona.vendor_class.as_bytes()).ok_or("this client is neither PXE nor HTTP boot")?;
    let class_of = match class {
        Class::Pxe => ClientClass::Pxe,
        Class::Http => ClientClass::Http,
    };
    let request = Request {
        class: class_of,
        arches: vec![persona.arch],
        ipxe: persona.ipxe,
        https: packet.options.ipxe_has_https(),
        identity: identity(&packet),
    };
    let Asked { site, server, found, netboot, failed, at_hand, now } = *asked;
    let answer = plan::answer(&request, found, &Loaders { netboot, failed, at_hand });
    if let Answer::Ignore(why) = &answer {
        return Err(ignored(*why, found, netboot));
    }
    let bootfile = site.bootfile(&answer, class_of, machine, now).ok_or("there is nothing to boot")?;
    let direct = netboot.dialect.unwrap_or_default() == ProxyDialect::Direct;
    let answer = BootAnswer { server, bootfile, class, direct };
    let (offer, to) = reply::proxy_offer(&packet, &answer).map_err(|error| error.to_string())?;
    let mut text = show("OFFER", 67, server, &offer, to);
    if !direct && class == Class::Pxe && !persona.ipxe {
        let packet = self::request(persona, MessageType::REQUEST, machine);
        let peer = std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 4011);
        let (ack, _) = reply::boot_server_ack(&packet, &answer, peer).map_err(|error| error.to_string())?;
        text.push_str("then, when it asks on port 4011:\n");
        text.push_str(&show("ACK", 4011, server, &ack, Destination::Peer(peer)));
    }
    Ok(text)
}

fn ignored(why: Ignored, found: &Found, netboot: &NetbootSpec) -> String {
    match (why, found) {
        (Ignored::Conflict, Found::Conflict(names)) => {
            format!("no answer: the Machines {} claim the same identity; change one of them", names.join(", "))
        }
        (Ignored::Unknown | Ignored::Conflict, _) => {
            "no answer: neither MAC nor UUID is declared; a box that is known by its serial \
             number alone boots from a boot server with --identify-by-serial"
                .to_owned()
        }
        (Ignored::NoLoader, _) => match &netboot.loader {
            Some(loader) => format!("no answer: netboot.loader {loader:?} is not at hand for this firmware"),
            None => "no answer: no loader is at hand for this firmware; see --ipxe-dir".to_owned(),
        },
    }
}

fn show(what: &str, port: u16, server: Ipv4Addr, packet: &Packet, to: Destination) -> String {
    let mut out = String::new();
    let to = match to {
        Destination::Peer(_) => "where it asked from".to_owned(),
        other => other.address().to_string(),
    };
    // Writing to a String does not fail.
    let _ = writeln!(out, "{what} from {server}:{port} to {to}");
    let _ = writeln!(out, "  field   siaddr                {}", packet.siaddr);
    let _ = writeln!(out, "  field   yiaddr                {} (a proxy gives no address)", packet.yiaddr);
    let file = packet.file.split(|octet| *octet == 0).next().unwrap_or_default();
    if !file.is_empty() {
        let _ = writeln!(out, "  field   file                  {}", String::from_utf8_lossy(file));
    }
    for (code, value) in packet.options.iter() {
        let _ = writeln!(out, "  option  {:<3} {:<17} {}", code.0, name(code), meaning(code, value));
    }
    out
}

fn name(code: OptionCode) -> &'static str {
    match code {
        OptionCode::VENDOR => "vendor (PXE)",
        OptionCode::MESSAGE_TYPE => "message type",
        OptionCode::SERVER_ID => "server identifier",
        OptionCode::VENDOR_CLASS => "vendor class",
        OptionCode::TFTP_SERVER => "TFTP server",
        OptionCode::BOOTFILE => "boot file",
        OptionCode::UUID => "client UUID",
        OptionCode::IPXE => "iPXE",
        _ => "",
    }
}

fn meaning(code: OptionCode, value: &[u8]) -> String {
    let hex = || value.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(" ");
    match (code, value) {
        (OptionCode::MESSAGE_TYPE, [2]) => "OFFER".to_owned(),
        (OptionCode::MESSAGE_TYPE, [5]) => "ACK".to_owned(),
        (OptionCode::SERVER_ID, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        (OptionCode::VENDOR, [6, 1, 8, ..]) => format!("{} (boot from this offer, ask nobody else)", hex()),
        (OptionCode::UUID, [0, uuid @ ..]) => match <[u8; 16]>::try_from(uuid) {
            Ok(uuid) => format!("{} (as the box sent it)", MachineUuid::from_smbios(uuid)),
            Err(_) => hex(),
        },
        (OptionCode::VENDOR_CLASS | OptionCode::BOOTFILE | OptionCode::TFTP_SERVER, text) => {
            String::from_utf8_lossy(text).into_owned()
        }
        _ => hex(),
    }
}
