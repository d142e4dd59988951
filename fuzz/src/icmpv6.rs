//! Router discovery: solicitations and advertisements.

use magnetite_wire::icmpv6::{DecodeError, Message};

use crate::bounded;

/// What decodes is written back byte for byte, but for checksum and reserved bits; what does not says where.
pub fn check(bytes: &[u8]) {
    // An option of eight bytes is 32 in memory besides its value, and a vector that grows holds three times what it needs.
    let message = match bounded(bytes, 32, || Message::decode(bytes)) {
        Ok(message) => message,
        Err(error) => return bad(bytes, error),
    };
    let mut written = vec![7];
    message.encode(&mut written).expect("what was read can be written");
    let written = written.strip_prefix(&[7]).expect("what was in the buffer stays");
    assert_eq!(Message::decode(written).as_ref(), Ok(&message), "read, written and read again");
    let meant = if matches!(message, Message::Solicitation(_)) { 8.. } else { 4.. };
    assert_eq!(written.get(meant.clone()), bytes.get(meant), "byte for byte");
    if let Message::Advertisement(advertisement) = &message {
        // The top two flags say that addresses, or other things, come by DHCPv6: that is something said.
        let silent = advertisement.lifetime == 0 && advertisement.flags < 0x40 && advertisement.options.is_empty();
        assert!(!(silent && advertisement.is_of_a_router()), "{advertisement:?}");
    }
}

fn bad(bytes: &[u8], error: DecodeError) {
    let told = match error {
        DecodeError::Kind(kind) => bytes.first() == Some(&kind),
        DecodeError::Code(code) => bytes.get(1) == Some(&code) && code != 0,
        DecodeError::Short { want, had } => had == bytes.len() && want > had,
        DecodeError::Option { kind, at, want, had } => {
            bytes.get(at) == Some(&kind) && (want == 0 || want > had) && at + had == bytes.len()
        }
        DecodeError::TooMany => bytes.len() > 8 * 256,
    };
    assert!(told, "{error} is not so");
    assert!(error.to_string().len() < 200, "an error is a line");
}
