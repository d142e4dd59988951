//! TPM 2.0: how a box proves by its TPM that it is that box.
//!
//! The box makes two keys in its TPM: the endorsement key (EK), which is always the same one and cannot sign, and an attestation
//! key (AK), which signs only what the TPM itself says. The verifier encrypts a secret so that only a TPM that holds *both* can
//! read it; the box then lets the AK sign a quote over that secret and over what it claims with. So EK, AK, claim and quote are
//! one thing: none of them can be taken from elsewhere.
//!
//! [`client`] is the box's half, [`verifier`] the other; both stand on the same few structures, which are read as everything is
//! that a stranger wrote: nothing indexes, nothing unwraps, nothing allocates by a length that the peer chose. Section numbers are
//! those of the TCG's "TPM 2.0 Library", Part 2 (structures) and 3 (commands), and of its "EK Credential Profile".
//!
//! Beside it, and for the box alone, [`root`]: what a box remembers by its TPM when it has lost everything else.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects, missing_docs)
)]

pub mod attest;
pub mod binding;
pub mod client;
pub mod codes;
pub mod public;
pub mod reader;
pub mod root;
#[cfg(feature = "verifier")]
pub mod verifier;

use sha2::{Digest, Sha256};

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
