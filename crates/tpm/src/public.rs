//! The public halves of the two keys (`TPM2B_PUBLIC`, Part 2, 12.2.5), and the templates by which a TPM makes them.
//!
//! A key is taken only if it is what its template makes, to the bit, but for the key itself. So there is no list of attributes to
//! forget one of: an AK that is not restricted, or may be copied out of its TPM, is another thing than the template.

use crate::{
    codes::{AES, CFB, ECC, ECDSA, HMAC, KEYED_HASH, NULL, P256, RSA, SHA256},
    reader::{ReadError, Reader, put_sized},
    sha256,
};

/// `TPMA_OBJECT` of the EK: fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const EK_ATTRIBUTES: u32 = 0x0003_00b2;
/// `TPMA_OBJECT` of the AK: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const AK_ATTRIBUTES: u32 = 0x0005_0472;
/// `TPMA_OBJECT` of the root: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign.
const ROOT_ATTRIBUTES: u32 = 0x0004_0472;
/// PolicyA_SHA256 of the EK Credential Profile: `PolicySecret(TPM_RH_ENDORSEMENT)`.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
const KEY_BITS: u16 = 2048;
const MODULUS: usize = 256;
const COORDINATE: usize = 32;

/// A key is not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Its bytes are no public area.
    #[error("it cannot be read: {0}")]
    Read(#[from] ReadError),
    /// It is a key of another kind, or with other rights.
    #[error("it is not what the template makes")]
    OtherKind,
    /// Its modulus or point has not the template's size.
    #[error("its key has another size than the template's")]
    Size,
}

/// An endorsement key: RSA 2048, template L-1 of the EK Credential Profile, the one that every PC has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndorsementKey {
    modulus: [u8; MODULUS],
}

/// An attestation key: ECDSA on P-256, restricted to what the TPM itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationKey {
    x: [u8; COORDINATE],
    y: [u8; COORDINATE],
}

/// Everything of the EK's public area before the key.
fn ek_head() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(RSA.to_be_bytes());
    out.extend(SHA256.to_be_bytes());
    out.extend(EK_ATTRIBUTES.to_be_bytes());
    put_sized(&mut out, &EK_POLICY);
    // What it protects is encrypted with AES-128 in CFB; it has no scheme of its own, and the usual exponent.
    for word in [AES, 128, CFB, NULL, KEY_BITS] {
        out.extend(word.to_be_bytes());
    }
    out.extend(0u32.to_be_bytes());
    out
}

/// Everything of the AK's public area before the key.
fn ak_head() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(ECC.to_be_bytes());
    out.extend(SHA256.to_be_bytes());
    out.extend(AK_ATTRIBUTES.to_be_bytes());
    put_sized(&mut out, &[]);
    for word in [NULL, ECDSA, SHA256, P256, NULL] {
        out.extend(word.to_be_bytes());
    }
    out
}

/// The `TPM2B_PUBLIC` by which a TPM makes the key that other keys are derived from: HMAC with SHA-256. It is the same in every box, and what
/// comes of it another in each, since a TPM makes it from a seed of its own.
pub fn root_template() -> Vec<u8> {
    let mut area = Vec::new();
    area.extend(KEYED_HASH.to_be_bytes());
    area.extend(SHA256.to_be_bytes());
    area.extend(ROOT_ATTRIBUTES.to_be_bytes());
    // No policy; how it signs; and nothing to tell it from others.
    put_sized(&mut area, &[]);
    for word in [HMAC, SHA256] {
        area.extend(word.to_be_bytes());
    }
    put_sized(&mut area, &[]);
    whole(&area)
}

/// Reads the head of a `TPM2B_PUBLIC`, which must be this one, and leaves what follows it.
fn after_head<'a>(bytes: &'a [u8], head: &[u8]) -> Result<Reader<'a>, KeyError> {
    let mut outer = Reader::new(bytes);
    let area = outer.sized("public area")?;
    outer.end()?;
    let rest = area.strip_prefix(head).ok_or(KeyError::OtherKind)?;
    Ok(Reader::new(rest))
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], KeyError> {
    bytes.try_into().map_err(|_| KeyError::Size)
}

fn whole(area: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_sized(&mut out, area);
    out
}

impl EndorsementKey {
    /// The `TPM2B_PUBLIC` by which any TPM makes its own.
    pub fn template() -> Vec<u8> {
        Self { modulus: [0; MODULUS] }.encode()
    }

    /// Reads a `TPM2B_PUBLIC`.
    ///
    /// # Errors
    /// It is none, or none by the template.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut rest = after_head(bytes, &ek_head())?;
        let modulus = exact(rest.sized("modulus")?)?;
        rest.end()?;
        // A modulus of 2048 bits has its first bit set, and is odd.
        match (modulus.first(), modulus.last()) {
            (Some(first), Some(last)) if first & 0x80 != 0 && last & 1 == 1 => Ok(Self { modulus }),
            _ => Err(KeyError::Size),
        }
    }

    /// The `TPM2B_PUBLIC`.
    pub fn encode(&self) -> Vec<u8> {
        let mut area = ek_head();
        put_sized(&mut area, &self.modulus);
        whole(&area)
    }

    /// The modulus, big-endian.
    pub fn modulus(&self) -> &[u8; MODULUS] {
        &self.modulus
    }

    /// SubjectPublicKeyInfo in DER (RFC 8017, A.1.1; the exponent is 65537).
    pub fn spki(&self) -> Vec<u8> {
        const HEAD: [u8; 33] = [
            0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05,
            0x00, 0x03, 0x82, 0x01, 0x0f, 0x00, 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00,
        ];
        [HEAD.as_slice(), &self.modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat()
    }

    /// What people know the TPM by: SHA-256 of [`Self::spki`].
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.spki())
    }
}

impl AttestationKey {
    /// The `TPM2B_PUBLIC` by which a TPM makes one. The same `seed` in the same TPM makes the same key, so that an agent that was
    /// killed comes again with the one that it had: nothing needs to be kept.
    pub fn template(seed: &[u8; COORDINATE]) -> Vec<u8> {
        Self { x: *seed, y: [0; COORDINATE] }.encode()
    }

    /// Reads a `TPM2B_PUBLIC`.
    ///
    /// # Errors
    /// It is none, or none by the template.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut rest = after_head(bytes, &ak_head())?;
        let x = exact(rest.sized("x")?)?;
        let y = exact(rest.sized("y")?)?;
        rest.end()?;
        Ok(Self { x, y })
    }

    /// The `TPM2B_PUBLIC`.
    pub fn encode(&self) -> Vec<u8> {
        whole(&self.area())
    }

    fn area(&self) -> Vec<u8> {
        let mut area = ak_head();
        put_sized(&mut area, &self.x);
        put_sized(&mut area, &self.y);
        area
    }

    /// The Name by which a TPM knows it (Part 1, 16): its hash algorithm and the digest of all that is public of it.
    pub fn name(&self) -> Vec<u8> {
        [SHA256.to_be_bytes().as_slice(), &sha256(&self.area())].concat()
    }

    /// The point, uncompressed (SEC 1, 2.3.3).
    pub fn point(&self) -> Vec<u8> {
        [[4].as_slice(), &self.x, &self.y].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endorsement() -> EndorsementKey {
        EndorsementKey { modulus: [0xc1; MODULUS] }
    }

    #[test]
    fn what_is_written_is_read() {
        let key = endorsement();
        assert_eq!(EndorsementKey::decode(&key.encode()), Ok(key));
        let key = AttestationKey { x: [1; 32], y: [2; 32] };
        assert_eq!(AttestationKey::decode(&key.encode()), Ok(key));
    }

    #[test]
    fn no_bit_of_the_head_may_differ() {
        let written = AttestationKey { x: [1; 32], y: [2; 32] }.encode();
        for bit in 16..(2 + ak_head().len()) * 8 {
            let mut other = written.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(AttestationKey::decode(&other), Err(KeyError::OtherKind), "bit {bit}");
        }
        let mut other = endorsement().encode();
        // fixedTPM.
        other[9] ^= 2;
        assert_eq!(EndorsementKey::decode(&other), Err(KeyError::OtherKind));
    }

    #[test]
    fn sizes_are_exact() {
        let written = endorsement().encode();
        assert!(matches!(EndorsementKey::decode(&written[..300]), Err(KeyError::Read(ReadError::Short { .. }))));
        assert_eq!(EndorsementKey::decode(&[&written[..], &[0]].concat()), Err(KeyError::Read(ReadError::Trailing(1))));
        assert_eq!(EndorsementKey::decode(&EndorsementKey::template()), Err(KeyError::Size), "a modulus of zeros");
    }
}
