//! What the quote is made over: everything that must not be taken from elsewhere.

use sha2::{Digest, Sha256};

/// Bytes of the secret of a challenge.
pub const SECRET: usize = 32;

/// What a box claims.
#[derive(Debug, Clone, Copy)]
pub struct Claimed<'a> {
    /// The claim key: SubjectPublicKeyInfo in DER.
    pub claim_key: &'a [u8],
    /// The kubelet's certificate request, as it was sent.
    pub certificate_request: &'a [u8],
    /// Name of the Machine.
    pub machine: &'a str,
    /// The intent.
    pub intent: &'a str,
}

/// The quote's `extraData`. Each part has its length in front, so that no two different claims read alike.
pub fn extra_data(secret: &[u8], claimed: &Claimed<'_>) -> [u8; 32] {
    let Claimed { claim_key, certificate_request, machine, intent } = claimed;
    let mut digest = Sha256::new();
    for part in [b"magnetite-tpm-v1", secret, *claim_key, *certificate_request, machine.as_bytes(), intent.as_bytes()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_between_parts() {
        let claimed = Claimed { claim_key: b"k", certificate_request: b"r", machine: "ab", intent: "c" };
        let moved = Claimed { machine: "a", intent: "bc", ..claimed };
        assert_ne!(extra_data(b"s", &claimed), extra_data(b"s", &moved));
        assert_ne!(extra_data(b"s", &claimed), extra_data(b"t", &claimed));
    }
}
