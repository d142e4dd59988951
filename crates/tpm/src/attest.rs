//! What a TPM says under its AK: `TPMS_ATTEST` of a quote (Part 2, 10.12), and the signature below it.

use crate::{
    codes::{ATTEST_QUOTE, ECDSA, GENERATED, SHA256},
    reader::{ReadError, Reader},
    sha256,
};

/// The PCRs that are quoted: firmware, its settings, what it started, and Secure Boot's keys (PC Client Platform Firmware Profile).
pub const PCRS: usize = 8;
/// Bits of [`PCRS`] in a selection of 24.
const BITMAP: [u8; 3] = [0xff, 0, 0];

/// Digests of the PCRs 0 to 7, of their SHA-256 bank.
pub type PcrValues = [[u8; 32]; PCRS];

/// A `TPML_PCR_SELECTION` of the SHA-256 PCRs 0 to 7.
pub fn selection() -> Vec<u8> {
    let mut out = vec![0, 0, 0, 1];
    out.extend(SHA256.to_be_bytes());
    out.push(3);
    out.extend(BITMAP);
    out
}

/// What a quote of these values says of them.
pub fn digest_of(values: &PcrValues) -> [u8; 32] {
    sha256(values.as_flattened())
}

/// What is wrong with a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// Its bytes are no attestation.
    #[error("it cannot be read: {0}")]
    Read(#[from] ReadError),
    /// No TPM says such a thing.
    #[error("it does not begin as what a TPM says of itself")]
    Magic,
    /// It is about something else.
    #[error("it is no quote")]
    NoQuote,
    /// It is about other PCRs, or another bank.
    #[error("it is not about the SHA-256 PCRs 0 to 7; is that bank switched on in the firmware?")]
    Selection,
    /// The signature is of another kind.
    #[error("its signature is not ECDSA with SHA-256")]
    Scheme,
}

/// What matters of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote<'a> {
    /// What the box wanted to have in it.
    pub extra_data: &'a [u8],
    /// Digest over the PCRs.
    pub pcr_digest: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Reads a `TPMS_ATTEST`.
    ///
    /// # Errors
    /// It is none, or no quote of the SHA-256 PCRs 0 to 7.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, AttestError> {
        let mut reader = Reader::new(bytes);
        if reader.u32("magic")? != GENERATED {
            return Err(AttestError::Magic);
        }
        if reader.u16("type")? != ATTEST_QUOTE {
            return Err(AttestError::NoQuote);
        }
        reader.sized("qualifiedSigner")?;
        let extra_data = reader.sized("extraData")?;
        // clock, resetCount, restartCount, safe; firmwareVersion.
        reader.take::<17>("clockInfo")?;
        reader.take::<8>("firmwareVersion")?;
        let wanted = selection();
        if reader.slice("pcrSelect", wanted.len())? != wanted {
            return Err(AttestError::Selection);
        }
        let pcr_digest = reader.sized("pcrDigest")?;
        reader.end()?;
        Ok(Self { extra_data, pcr_digest })
    }
}

/// Reads a `TPMT_SIGNATURE` of ECDSA with SHA-256: r and s, 32 bytes each.
///
/// # Errors
/// It is none.
pub fn signature(bytes: &[u8]) -> Result<[u8; 64], AttestError> {
    let mut reader = Reader::new(bytes);
    if (reader.u16("sigAlg")?, reader.u16("hash")?) != (ECDSA, SHA256) {
        return Err(AttestError::Scheme);
    }
    let mut out = [0; 64];
    let (r, s) = out.split_at_mut(32);
    for (half, field) in [(r, "r"), (s, "s")] {
        let number = reader.sized(field)?;
        // Some TPMs leave zeros in front away.
        let at = half.len().checked_sub(number.len()).ok_or(AttestError::Scheme)?;
        half.iter_mut().skip(at).zip(number).for_each(|(out, byte)| *out = *byte);
    }
    reader.end()?;
    Ok(out)
}

/// Reads the answer to `PCR_Read`: all eight values.
///
/// # Errors
/// They are not there: the bank is off.
pub fn pcr_values(bytes: &[u8]) -> Result<PcrValues, AttestError> {
    let mut reader = Reader::new(bytes);
    reader.u32("pcrUpdateCounter")?;
    let wanted = selection();
    let got = reader.slice("pcrSelectionOut", wanted.len()).map_err(|_| AttestError::Selection)?;
    if got != wanted || reader.u32("pcrValues")? != 8 {
        return Err(AttestError::Selection);
    }
    let mut values = PcrValues::default();
    for value in &mut values {
        *value = reader.sized("digest")?.try_into().map_err(|_| AttestError::Selection)?;
    }
    reader.end()?;
    Ok(values)
}
