//! A secret for one TPM: what `TPM2_MakeCredential` makes (Part 1, 24), without a TPM.

use aes::Aes128;
use cfb_mode::{Encryptor, cipher::KeyIvInit};
use getrandom::SysRng;
use hmac::{Hmac, KeyInit, Mac};
use rsa::{BoxedUint, Oaep, RsaPublicKey, rand_core::UnwrapErr};
use sha2::Sha256;

use crate::{
    binding::SECRET,
    public::{AttestationKey, EndorsementKey},
    reader::put_sized,
    sha256,
};

/// Why no challenge could be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The random source failed.
    #[error("there is no randomness")]
    Random,
    /// The number in the EK is no RSA modulus.
    #[error("the endorsement key is no RSA key")]
    Key(#[source] rsa::Error),
}

/// A secret that only the TPM with both keys can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `TPMS_ID_OBJECT`: the encrypted secret, and what shows that it is for this AK.
    pub credential: Vec<u8>,
    /// What the EK decrypts.
    pub encrypted_secret: Vec<u8>,
    /// SHA-256 of the secret. Of 32 random bytes: that one may be known by anybody.
    pub digest: [u8; 32],
}

impl Challenge {
    /// A new one.
    ///
    /// # Errors
    /// The EK's number is no modulus, or there is no randomness.
    pub fn new(endorsement: &EndorsementKey, attestation: &AttestationKey) -> Result<Self, MakeError> {
        let (mut secret, mut seed) = ([0; SECRET], [0; 32]);
        for bytes in [&mut secret, &mut seed] {
            getrandom::fill(bytes).map_err(|_| MakeError::Random)?;
        }
        let name = attestation.name();
        let key = kdfa(&seed, b"STORAGE", &name, 128);
        let mut identity = Vec::new();
        put_sized(&mut identity, &secret);
        let key: &[u8; 16] = key.first_chunk().ok_or(MakeError::Random)?;
        // The initial vector is zero, for the key is used once (Part 1, 24.5).
        Encryptor::<Aes128>::new(key.into(), &[0; 16].into()).encrypt(&mut identity);
        let integrity = mac(&kdfa(&seed, b"INTEGRITY", &[], 256), &[&identity, &name]);
        let mut credential = Vec::new();
        put_sized(&mut credential, &integrity);
        credential.extend(identity);
        Ok(Self { credential, encrypted_secret: encrypt(endorsement, &seed)?, digest: sha256(&secret) })
    }
}

/// RSAES-OAEP with SHA-256; the label ends in a zero (Part 1, B.10.4).
fn encrypt(endorsement: &EndorsementKey, seed: &[u8]) -> Result<Vec<u8>, MakeError> {
    let modulus = BoxedUint::from_be_slice_vartime(endorsement.modulus());
    let key = RsaPublicKey::new(modulus, BoxedUint::from(65537u32)).map_err(MakeError::Key)?;
    let padding = Oaep::<Sha256>::new_with_label(b"IDENTITY\0".as_slice());
    key.encrypt(&mut UnwrapErr(SysRng), padding, seed).map_err(MakeError::Key)
}

/// KDFa (Part 1, 11.4.10.2) with HMAC-SHA-256: one round of it, of which the first `bits` are the key.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> [u8; 32] {
    mac(key, &[&1u32.to_be_bytes(), label, &[0], context, &bits.to_be_bytes()])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
