//! The other half: a challenge that only one TPM can answer, and the look at its answer. No state: everything that an answer is
//! checked against is in the challenge, and the challenge is kept by whoever made it.

mod authorities;
mod credential;

pub use authorities::{Authorities, AuthorityError, CertificateError};
pub use credential::{Challenge, MakeError};

use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::{
    attest::{AttestError, PcrValues, Quote, digest_of, signature},
    public::AttestationKey,
};

/// Why a quote proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// It is no quote, or of something else.
    #[error("the quote is not one: {0}")]
    Attest(#[from] AttestError),
    /// It is about another claim.
    #[error("the quote was made for another claim")]
    OtherClaim,
    /// The values are not those that were quoted.
    #[error("the PCR values are not those that were quoted")]
    OtherValues,
    /// Another key signed it.
    #[error("the quote is not signed by the attestation key")]
    Signature,
}

/// Sees to it that this quote was made by the TPM that holds the AK, for this claim, of these PCRs.
///
/// # Errors
/// What is not so.
pub fn check_quote(
    key: &AttestationKey,
    quoted: &[u8],
    signed: &[u8],
    extra_data: &[u8; 32],
    pcrs: &PcrValues,
) -> Result<(), QuoteError> {
    let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point());
    verifier.verify(quoted, &signature(signed)?).map_err(|_| QuoteError::Signature)?;
    let quote = Quote::decode(quoted)?;
    if quote.extra_data != extra_data {
        return Err(QuoteError::OtherClaim);
    }
    if quote.pcr_digest != digest_of(pcrs) {
        return Err(QuoteError::OtherValues);
    }
    Ok(())
}
