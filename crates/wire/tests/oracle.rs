//! dhcproto as an oracle: on well-formed packets only, since it panics on others (docs/adr/0001), and on everything that
//! Magnetite reads of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::Ipv4Addr;

use dhcproto::{
    Decodable, Decoder, Encodable,
    v4::{self, DhcpOption},
};
use magnetite_wire::dhcp::{Arch, MessageType, OptionCode, Options, Packet};
use proptest::{collection::vec, option, prelude::*};

/// The options that are read or echoed.
const READ: [OptionCode; 16] = [
    OptionCode::VENDOR,
    OptionCode::REQUESTED_IP,
    OptionCode::MESSAGE_TYPE,
    OptionCode::SERVER_ID,
    OptionCode::PARAMETERS,
    OptionCode::MAX_SIZE,
    OptionCode::VENDOR_CLASS,
    OptionCode::CLIENT_ID,
    OptionCode::TFTP_SERVER,
    OptionCode::BOOTFILE,
    OptionCode::USER_CLASS,
    OptionCode::RELAY_AGENT,
    OptionCode::ARCH,
    OptionCode::NDI,
    OptionCode::UUID,
    OptionCode::IPXE,
];

/// Values in the form that each option asks for, every option there or not.
fn options() -> impl Strategy<Value = Options> {
    let bytes = |len| option::of(vec(any::<u8>(), len));
    let addresses = (option::of(any::<[u8; 4]>()), option::of(any::<[u8; 4]>()));
    let numbers =
        (option::of(1u8..=8), option::of(any::<[u8; 2]>()), option::of(any::<[u8; 2]>()), option::of(any::<[u8; 3]>()));
    let uuid = option::of(any::<[u8; 16]>().prop_map(|uuid| [&[0], &uuid[..]].concat()));
    // A circuit and a remote id (RFC 3046): what dhcproto knows, in its order.
    let relay = option::of((vec(any::<u8>(), 1..20), vec(any::<u8>(), 1..20)).prop_map(|(circuit, remote)| {
        [&[1, circuit.len() as u8], &circuit[..], &[2, remote.len() as u8], &remote[..]].concat()
    }));
    let class = option::of("(PXE|HTTP)Client:Arch:0[0-9]{4}:UNDI:00[0-9]{4}".prop_map(String::into_bytes));
    let user =
        option::of(prop_oneof![Just(b"iPXE".to_vec()), Just(b"\x04iPXE\x03lab".to_vec()), vec(any::<u8>(), 1..30)]);
    // Longer than 255 bytes too: in several parts on the wire (RFC 3396), one value to both.
    let long = (bytes(1..600), bytes(1..600));
    (addresses, numbers, uuid, relay, class, user, (bytes(1..60), bytes(2..40), bytes(1..60), bytes(1..80)), long)
        .prop_map(
            |(
                (requested, server),
                (kind, max, arch, ndi),
                uuid,
                relay,
                class,
                user,
                (asked, id, tftp, name),
                (vendor, ipxe),
            )| {
                let mut options = Options::default();
                let mut put = |code: OptionCode, value: Option<Vec<u8>>| {
                    if let Some(value) = value {
                        options.push(code, value);
                    }
                };
                put(OptionCode::MESSAGE_TYPE, kind.map(|kind| vec![kind]));
                put(OptionCode::REQUESTED_IP, requested.map(Vec::from));
                put(OptionCode::SERVER_ID, server.map(Vec::from));
                put(OptionCode::MAX_SIZE, max.map(Vec::from));
                put(OptionCode::ARCH, arch.map(Vec::from));
                put(OptionCode::NDI, ndi.map(Vec::from));
                put(OptionCode::UUID, uuid);
                put(OptionCode::VENDOR_CLASS, class);
                put(OptionCode::USER_CLASS, user);
                put(OptionCode::PARAMETERS, asked);
                put(OptionCode::CLIENT_ID, id);
                put(OptionCode::TFTP_SERVER, tftp);
                put(OptionCode::BOOTFILE, name);
                put(OptionCode::VENDOR, vendor);
                put(OptionCode::IPXE, ipxe);
                put(OptionCode::RELAY_AGENT, relay);
                options
            },
        )
}

fn well_formed() -> impl Strategy<Value = Packet> {
    let numbers = any::<(u32, u16, u16, u8)>();
    // dhcproto leaves a name without a NUL out.
    let names = ("[a-z0-9./]{0,63}", "[a-zA-Z0-9./:]{0,127}");
    (1u8..=2, numbers, any::<[[u8; 4]; 4]>(), (0u8..=16, any::<[u8; 16]>()), names, options()).prop_map(
        |(op, (xid, secs, flags, hops), addresses, (hlen, chaddr), (server, name), options)| {
            let [ciaddr, yiaddr, siaddr, giaddr] = addresses.map(Ipv4Addr::from);
            let (mut sname, mut file) = ([0; 64], [0; 128]);
            sname[..server.len()].copy_from_slice(server.as_bytes());
            file[..name.len()].copy_from_slice(name.as_bytes());
            let htype = 1;
            Packet {
                op,
                htype,
                hlen,
                hops,
                xid,
                secs,
                flags,
                ciaddr,
                yiaddr,
                siaddr,
                giaddr,
                chaddr,
                sname,
                file,
                options,
            }
        },
    )
}

fn bytes(packet: &Packet) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(&mut out).unwrap();
    out
}

/// An option's bytes, its parts joined.
fn value(option: &DhcpOption) -> Vec<u8> {
    let raw = option.to_vec().unwrap();
    let (mut rest, mut value) = (&raw[..], Vec::new());
    while let [_, len, more @ ..] = rest {
        let (part, after) = more.split_at(usize::from(*len));
        value.extend(part);
        rest = after;
    }
    value
}

/// What stands in a packet, whatever the order of its options and however many parts each has.
fn content(packet: &Packet) -> Packet {
    let mut codes: Vec<_> = packet.options.iter().map(|(code, _)| code).collect();
    codes.sort();
    codes.dedup();
    let mut options = Options::default();
    for code in codes {
        options.push(code, packet.options.get(code).unwrap());
    }
    Packet { options, ..packet.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_ours_writes_theirs_reads(packet in well_formed()) {
        let theirs = v4::Message::decode(&mut Decoder::new(&bytes(&packet))).unwrap();
        let header = (u8::from(theirs.opcode()), u8::from(theirs.htype()), theirs.hlen(), theirs.hops(), theirs.xid());
        prop_assert_eq!(header, (packet.op, packet.htype, packet.hlen, packet.hops, packet.xid));
        prop_assert_eq!((theirs.secs(), u16::from(theirs.flags())), (packet.secs, packet.flags));
        let addresses = [theirs.ciaddr(), theirs.yiaddr(), theirs.siaddr(), theirs.giaddr()];
        prop_assert_eq!(addresses, [packet.ciaddr, packet.yiaddr, packet.siaddr, packet.giaddr]);
        prop_assert_eq!(theirs.chaddr(), &packet.chaddr[..usize::from(packet.hlen)]);
        let name = |field: Option<&[u8]>| field.map(|name| name.strip_suffix(&[0]).unwrap_or(name).to_vec()).unwrap_or_default();
        let until_nul = |field: &[u8]| field.iter().copied().take_while(|byte| *byte != 0).collect::<Vec<u8>>();
        prop_assert_eq!(name(theirs.fname()), until_nul(&packet.file));
        prop_assert_eq!(name(theirs.sname()), until_nul(&packet.sname));
        for code in READ {
            let read = theirs.opts().get(code.0.into()).map(value);
            let ours = packet.options.get(code).map(|value| value.into_owned());
            prop_assert_eq!(read, ours, "option {}", code.0);
        }
    }

    #[test]
    fn what_theirs_writes_ours_reads(packet in well_formed()) {
        let theirs = v4::Message::decode(&mut Decoder::new(&bytes(&packet))).unwrap();
        let back = Packet::decode(&theirs.to_vec().unwrap()).unwrap();
        prop_assert_eq!(content(&back), content(&packet));
    }

    /// The getters, against dhcproto's values and not against our bytes.
    #[test]
    fn both_mean_the_same(packet in well_formed()) {
        let theirs = v4::Message::decode(&mut Decoder::new(&bytes(&packet))).unwrap();
        let (ours, get) = (&packet.options, |code: OptionCode| theirs.opts().get(code.0.into()).cloned());
        let kind = theirs.opts().msg_type().map(|kind| MessageType(kind.into()));
        prop_assert_eq!(ours.message_type(), Ok(kind));
        let Ok(server) = ours.server_id().map(|id| id.map(DhcpOption::ServerIdentifier)) else { panic!("54") };
        prop_assert_eq!(server, get(OptionCode::SERVER_ID));
        let Ok(requested) = ours.requested_ip().map(|ip| ip.map(DhcpOption::RequestedIpAddress)) else { panic!("50") };
        prop_assert_eq!(requested, get(OptionCode::REQUESTED_IP));
        let Ok(size) = ours.max_size().map(|size| size.map(DhcpOption::MaxMessageSize)) else { panic!("57") };
        prop_assert_eq!(size, get(OptionCode::MAX_SIZE));
        let Ok(ndi) = ours.ndi().map(|ndi| ndi.map(|[a, b, c]| DhcpOption::ClientNetworkInterface(a, b, c))) else { panic!("94") };
        prop_assert_eq!(ndi, get(OptionCode::NDI));
        let arch = ours.arches().unwrap().first().map(|Arch(code)| DhcpOption::ClientSystemArchitecture((*code).into()));
        prop_assert_eq!(arch, get(OptionCode::ARCH));
        let asked: Vec<v4::OptionCode> = ours.parameters().into_iter().map(|code| code.0.into()).collect();
        let asked = (!asked.is_empty()).then_some(DhcpOption::ParameterRequestList(asked));
        prop_assert_eq!(asked, get(OptionCode::PARAMETERS));
        prop_assert_eq!(ours.client_id().unwrap().map(|id| DhcpOption::ClientIdentifier(id.into_owned())), get(OptionCode::CLIENT_ID));
        prop_assert_eq!(ours.vendor_class().map(|class| DhcpOption::ClassIdentifier(class.into_owned())), get(OptionCode::VENDOR_CLASS));
        let uuid = ours.smbios_uuid().unwrap().map(|uuid| DhcpOption::ClientMachineIdentifier([&[0], &uuid[..]].concat()));
        prop_assert_eq!(uuid, get(OptionCode::UUID));
    }
}
