//! DHCPv4 packets.

use magnetite_wire::dhcp::{DecodeError, OptionCode, Packet};

use crate::bounded;

/// An empty option is the worst case: two bytes on the wire, 32 in memory, and a vector that grows holds three times what it
/// needs for a moment.
const PER_BYTE: u64 = 64;

/// What decodes is in bounds, can be asked anything, and is written back to what reads the same; what does not decode says
/// where, inside the packet.
pub fn check(bytes: &[u8]) {
    match bounded(bytes, PER_BYTE, || Packet::decode(bytes)) {
        Ok(packet) => good(bytes, &packet),
        Err(error) => bad(bytes, error),
    }
}

fn good(bytes: &[u8], packet: &Packet) {
    assert!(matches!(packet.op, 1 | 2) && packet.hlen <= 16, "op {}, hlen {}", packet.op, packet.hlen);
    assert_eq!(bytes.get(236..240), Some(&[99, 130, 83, 99][..]), "the cookie is compared");
    assert!(packet.options.len() <= 1024, "{} options", packet.options.len());
    ask_everything(packet);

    let mut written = vec![7];
    packet.encode(&mut written).expect("what was read can be written");
    let written = written.strip_prefix(&[7]).expect("what was in the buffer stays");
    // Options of an overloaded `file` and `sname` move to the end; nothing else can grow.
    assert!(written.len() <= (bytes.len() + 1 + 192).max(300), "{} bytes from {}", written.len(), bytes.len());
    assert_eq!(Packet::decode(written).as_ref(), Ok(packet), "read, written and read again");

    // Pads before the end, and anything after it, mean nothing.
    let padded = [bytes, &[0; 3]].concat();
    assert_eq!(Packet::decode(&padded).as_ref(), Ok(packet), "with three pads");
}

fn bad(bytes: &[u8], error: DecodeError) {
    let told = match error {
        DecodeError::Short { had } => had == bytes.len() && had < 240,
        DecodeError::Op(op) => bytes.first() == Some(&op) && !matches!(op, 1 | 2),
        DecodeError::Hlen(hlen) => bytes.get(2) == Some(&hlen) && hlen > 16,
        DecodeError::Cookie(cookie) => bytes.get(236..240) == Some(&cookie[..]) && cookie != [99, 130, 83, 99],
        DecodeError::Option { code, at, want, had } => bytes.get(at) == Some(&code) && want > had && had < bytes.len(),
        DecodeError::TooMany => bytes.len() > 2 * 1024,
    };
    assert!(told, "{error} is not so");
    assert!(error.to_string().len() < 200, "an error is a line");
}

/// Every getter agrees with the option that it reads.
fn ask_everything(packet: &Packet) {
    let options = &packet.options;
    let len = |code| options.get(code).map(|value| value.len());
    assert_eq!(options.message_type().is_ok_and(|kind| kind.is_some()), len(OptionCode::MESSAGE_TYPE) == Some(1));
    assert_eq!(options.server_id().is_ok_and(|id| id.is_some()), len(OptionCode::SERVER_ID) == Some(4));
    assert_eq!(options.requested_ip().is_ok_and(|ip| ip.is_some()), len(OptionCode::REQUESTED_IP) == Some(4));
    assert_eq!(options.max_size().is_ok_and(|size| size.is_some()), len(OptionCode::MAX_SIZE) == Some(2));
    assert_eq!(options.ndi().is_ok_and(|ndi| ndi.is_some()), len(OptionCode::NDI) == Some(3));
    assert_eq!(options.client_id().is_err(), len(OptionCode::CLIENT_ID).is_some_and(|len| len < 2));
    assert_eq!(options.parameters().len(), len(OptionCode::PARAMETERS).unwrap_or(0));
    if let Ok(Some(_)) = options.smbios_uuid() {
        assert_eq!(len(OptionCode::UUID), Some(17));
    }
    if let Ok(arches) = options.arches() {
        assert_eq!(2 * arches.len(), len(OptionCode::ARCH).unwrap_or(0));
    }
    let named: usize = options.user_classes().iter().map(Vec::len).sum();
    assert!(named <= len(OptionCode::USER_CLASS).unwrap_or(0));
    assert!(!options.is_ipxe() || len(OptionCode::USER_CLASS).is_some() || len(OptionCode::IPXE).is_some());
    assert_eq!(packet.mac().is_some(), packet.htype == 1 && packet.hlen == 6);
    assert!(!packet.bootfile().contains(&0), "a name ends at its NUL");
}
