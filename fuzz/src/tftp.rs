//! TFTP packets, and what is agreed on with a request.

use magnetite_wire::tftp::{DecodeError, Negotiated, Packet, ReadRequest, transfer::Limits};

use crate::bounded;

/// What decodes is in bounds and is written back to what reads the same; what is agreed on keeps to the limits.
pub fn check(bytes: &[u8]) {
    let packet = match bounded(bytes, 8, || Packet::decode(bytes)) {
        Ok(packet) => packet,
        Err(error) => return bad(bytes, error),
    };
    let mut written = Vec::new();
    packet.encode(&mut written);
    // A byte that is no text becomes a mark of three bytes in an error's message.
    assert!(written.len() <= 3 * bytes.len() + 1, "{} bytes from {}", written.len(), bytes.len());
    assert_eq!(Packet::decode(&written).as_ref(), Ok(&packet), "read, written and read again");
    match &packet {
        Packet::Read(request) => agreed(bytes, request),
        Packet::Error { message, .. } => assert!(message.chars().count() <= 128 && !message.contains('\0')),
        Packet::Oack(options) => assert!(options.len() <= 16, "{} options", options.len()),
        Packet::Data { bytes: data, .. } => assert_eq!(data.len() + 4, bytes.len()),
        Packet::Ack(_) | Packet::Write => {}
    }
}

fn agreed(bytes: &[u8], request: &ReadRequest) {
    assert!((1..=255).contains(&request.file.len()) && !request.file.contains('\0'), "{:?}", request.file);
    assert!(request.block_size.is_none_or(|size| (8..=65464).contains(&size)), "{:?}", request.block_size);
    assert!(request.window != Some(0) && request.timeout != Some(0));
    for limits in [Limits { block_size: 1468, window: 16 }, Limits { block_size: 0, window: 0 }] {
        let agreed = Negotiated::from_request(request, limits);
        let asked = request.block_size.unwrap_or(512);
        assert!((8..=asked).contains(&agreed.block_size), "{agreed:?} of {request:?}");
        assert!(request.block_size.is_none() || agreed.block_size <= limits.block_size.max(8), "{agreed:?}");
        assert!((1..=request.window.unwrap_or(1)).contains(&agreed.window), "{agreed:?} of {request:?}");
        let options = agreed.acknowledge(request, u64::MAX);
        assert_eq!(agreed.oack, !options.is_empty(), "an OACK acknowledges something");
        let mut oack = Vec::new();
        Packet::Oack(options).encode(&mut oack);
        // A forged request must not make much of little: only the digits of the size are added.
        assert!(oack.len() <= bytes.len() + 20, "{} bytes for {}", oack.len(), bytes.len());
    }
}

fn bad(bytes: &[u8], error: DecodeError) {
    if let DecodeError::Short { at, .. } = error {
        assert!(at <= bytes.len(), "{error}, of {} bytes", bytes.len());
    }
    assert!(error.to_string().len() < 200, "an error is a line");
}
