//! DHCPv6 packets, through relays and not, and the answer to them.

use magnetite_wire::{
    dhcp::reply::Class,
    dhcpv6::{
        DecodeError, Duid, Message, MessageType, OptionCode, Options, Packet, Relay,
        reply::{self, BootAnswer},
    },
};

use crate::bounded;

/// An empty option is the worst case: four bytes on the wire, 32 in memory, and a vector that grows holds three times what it
/// needs for a moment.
const PER_BYTE: u64 = 40;

/// What decodes is written back byte for byte, and can be asked anything; what is inside relays is answered through them.
pub fn check(bytes: &[u8]) {
    let packet = match bounded(bytes, PER_BYTE, || Packet::decode(bytes)) {
        Ok(packet) => packet,
        Err(error) => return bad(bytes, error),
    };
    let mut written = vec![7];
    packet.encode(&mut written).expect("what was read can be written");
    assert_eq!(written.strip_prefix(&[7]), Some(bytes), "byte for byte, after what was in the buffer");
    let options = match &packet {
        Packet::Message(message) => &message.options,
        Packet::Relay(relay) => &relay.options,
    };
    assert!(options.len() <= 1024, "{} options", options.len());
    ask_everything(options);

    // Each relay holds a copy of all that is inside, and there are at most eight.
    let Ok((relays, message)) = bounded(bytes, 10 * PER_BYTE, || packet.unwrap_relays()) else { return };
    assert!(relays.len() <= 8, "{} relays", relays.len());
    ask_everything(&message.options);
    answer(bytes, &relays, &message);
}

fn bad(bytes: &[u8], error: DecodeError) {
    let told = match error {
        DecodeError::Short { want, had } => had == bytes.len() && want > had,
        DecodeError::Option { at, want, had, .. } => want > had && had < bytes.len() && at < bytes.len(),
        DecodeError::TooMany => bytes.len() > 4 * 1024,
        DecodeError::NothingRelayed | DecodeError::TooDeep => false,
    };
    assert!(told, "{error} is not so");
    assert!(error.to_string().len() < 200, "an error is a line");
}

/// Every getter agrees with the option that it reads.
fn ask_everything(options: &Options) {
    let len = |code| options.get(code).map(<[u8]>::len);
    for (code, id) in [(OptionCode::CLIENT_ID, options.client_id()), (OptionCode::SERVER_ID, options.server_id())] {
        let fits = len(code).is_some_and(|len| (3..=130).contains(&len));
        assert_eq!(id.as_ref().is_ok_and(Option::is_some), fits, "{id:?}");
        if let Ok(Some(id)) = id {
            assert_eq!(Some(id.as_bytes()), options.get(code));
            assert!(id.mac().is_none() || matches!(id.kind(), Some(1 | 3)), "{id:?}");
            assert!(id.uuid().is_none() || id.kind() == Some(4), "{id:?}");
        }
    }
    let words = |code| len(code).unwrap_or(0) / 2;
    assert!(options.requested().map_or(true, |codes| codes.len() == words(OptionCode::REQUEST)));
    assert!(options.arches().map_or(true, |arches| arches.len() == words(OptionCode::ARCH)));
    assert_eq!(options.elapsed().is_ok_and(|time| time.is_some()), len(OptionCode::ELAPSED) == Some(2));
    assert_eq!(options.nii().is_ok_and(|nii| nii.is_some()), len(OptionCode::NII) == Some(3));
    assert_eq!(options.status().is_err(), len(OptionCode::STATUS).is_some_and(|len| len < 2));
    for (code, strings) in
        [(OptionCode::USER_CLASS, options.user_classes()), (OptionCode::BOOT_PARAMETERS, options.boot_parameters())]
    {
        let counted = strings.map(|strings| strings.iter().map(|string| string.len() + 2).sum::<usize>());
        assert!(counted.is_err() || counted == Ok(len(code).unwrap_or(0)), "{counted:?}");
    }
    assert!(!options.is_ipxe() || len(OptionCode::USER_CLASS).is_some());
    assert!(options.client_mac().is_none() || len(OptionCode::CLIENT_LINK_LAYER) == Some(8));
    let text = options.get(OptionCode::BOOT_URL).map(str::from_utf8).transpose();
    assert_eq!(options.boot_url().ok(), text.ok(), "a URL is the whole option, or none");
    if let Ok(Some(class)) = options.vendor_class() {
        let counted = 4 + class.classes.iter().map(|class| class.len() + 2).sum::<usize>();
        let mut values = options.iter().filter(|(code, _)| *code == OptionCode::VENDOR_CLASS);
        assert!(values.any(|(_, value)| value.len() == counted), "{class:?}");
    }
}

/// The answer has what EDK2 and iPXE compare with their own, nothing that would make them drop it, and goes the way back.
fn answer(bytes: &[u8], relays: &[Relay], request: &Message) {
    let ours = Duid::of_mac([0x52, 0x54, 0, 0x30, 0, 1]);
    let Some(kind) = reply::kind(request, &ours) else { return };
    let (client, relayed) = (request.options.get(OptionCode::CLIENT_ID), !relays.is_empty());
    assert!(client.is_some() && matches!(kind, MessageType::ADVERTISE | MessageType::REPLY));
    for class in [Class::Pxe, Class::Http] {
        let url = "http://[fd30::1]:8080/ipxe/0123456789abcdef/snponly.efi".to_owned();
        let boot = BootAnswer { server: ours.clone(), url, parameters: vec![b"a".to_vec()], class };
        let message = reply::answer(request, kind, &boot, relayed).expect("the URL fits");
        assert_eq!((message.kind, message.xid), (kind, request.xid));
        assert_eq!(message.options.get(OptionCode::CLIENT_ID), client, "the client's id is given back");
        assert_eq!(message.options.get(OptionCode::SERVER_ID), Some(ours.as_bytes()));
        for code in [OptionCode::IA_NA, OptionCode::STATUS] {
            assert_eq!(message.options.get(code), None, "no address is given, and none is refused");
        }
        let class = message.options.vendor_class().ok().flatten().and_then(|class| class.boot_class());
        assert_eq!(class, Some(boot.class));
        let later = kind == MessageType::ADVERTISE && boot.class == Class::Pxe && !relayed;
        assert_eq!(
            message.options.get(OptionCode::BOOT_URL).is_none(),
            later,
            "only a PXE client on our link asks twice"
        );

        let packet = reply::through_relays(relays, message.clone()).expect("an answer can be wrapped");
        let mut written = Vec::new();
        packet.encode(&mut written).expect("an answer can be written");
        assert!(written.len() <= bytes.len() + 200, "{} bytes for {}: an amplifier", written.len(), bytes.len());
        let read = Packet::decode(&written).and_then(Packet::unwrap_relays);
        let (back, inner) = read.expect("an answer can be read");
        assert_eq!(inner, message);
        let way = |relay: &Relay| {
            let interface = relay.options.get(OptionCode::INTERFACE_ID).map(<[u8]>::to_vec);
            (relay.hops, relay.link, relay.peer, interface)
        };
        assert!(back.iter().map(way).eq(relays.iter().map(way)), "by the relays that it came by");
    }
}
