//! What a TPM says, or a box that says to have one: keys, quotes, signatures, certificates, answers.

use magnetite_tpm::{
    attest::{self, AttestError, Quote},
    client::answer,
    public::{AttestationKey, EndorsementKey, KeyError},
    reader::ReadError,
    verifier::Authorities,
};

use crate::bounded;

/// A key that decodes is written back byte for byte; of everything else what was read lies within what was there; and what does not
/// decode says where.
pub fn check(bytes: &[u8]) {
    match bounded(bytes, 4, || EndorsementKey::decode(bytes)) {
        Ok(key) => assert_eq!(key.encode(), bytes),
        Err(error) => bad_key(bytes, error),
    }
    match bounded(bytes, 4, || AttestationKey::decode(bytes)) {
        Ok(key) => assert!(key.encode() == bytes && key.name().len() == 34 && key.point().len() == 65),
        Err(error) => bad_key(bytes, error),
    }
    match bounded(bytes, 4, || Quote::decode(bytes)) {
        Ok(quote) => assert!(quote.extra_data.len() + quote.pcr_digest.len() < bytes.len()),
        Err(error) => bad(bytes, error),
    }
    if let Err(error) = bounded(bytes, 4, || attest::signature(bytes)) {
        bad(bytes, error);
    }
    match bounded(bytes, 4, || attest::pcr_values(bytes)) {
        Ok(values) => assert!(bytes.ends_with(&values[7])),
        Err(error) => bad(bytes, error),
    }
    for (with_handle, with_sessions) in [(false, false), (true, false), (false, true), (true, true)] {
        match answer(bytes, with_handle, with_sessions) {
            Ok(Ok(answer)) => assert!(answer.parameters.len() + 10 <= bytes.len()),
            Ok(Err(code)) => assert!(code != 0 && bytes.get(6..10) == Some(&code.to_be_bytes())),
            Err(error) => bad_read(bytes, error),
        }
    }
    // Nobody is believed, so nothing may pass.
    assert!(Authorities::default().check(&some_key(), Some(bytes)).is_err());
}

fn some_key() -> EndorsementKey {
    let mut bytes = EndorsementKey::template();
    let modulus = bytes.len() - 256;
    bytes[modulus..].fill(0xc1);
    EndorsementKey::decode(&bytes).expect("a modulus, as far as anybody looks")
}

fn bad_key(bytes: &[u8], error: KeyError) {
    match error {
        KeyError::Read(error) => bad_read(bytes, error),
        KeyError::OtherKind | KeyError::Size => {}
    }
}

fn bad(bytes: &[u8], error: AttestError) {
    match error {
        AttestError::Read(error) => bad_read(bytes, error),
        AttestError::Magic | AttestError::NoQuote | AttestError::Selection | AttestError::Scheme => {}
    }
}

fn bad_read(bytes: &[u8], error: ReadError) {
    match error {
        ReadError::Short { field: _, at, want, had } => assert!(want > had && at + had <= bytes.len()),
        ReadError::Contradiction(_) => assert!(bytes.len() >= 10),
        ReadError::Trailing(count) => assert!(count > 0 && count < bytes.len()),
    }
    assert!(error.to_string().len() < 200, "an error is a line");
}
