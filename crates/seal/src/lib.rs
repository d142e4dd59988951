//! Files with secrets, sealed to one machine's claim key.
//!
//! HPKE (RFC 9180) in base mode with DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. What is sealed may pass
//! through a boot server that has fallen, and lie in a backup of etcd: only the box that holds the key opens it.
//! Base mode does not say who sealed; the agent gets it over the same channel, known by its key, as its certificate.

use base64::{Engine, engine::general_purpose::STANDARD};
use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256, kem::DhP256HkdfSha256,
    setup_receiver, setup_sender,
};
use magnetite_api::join::SealedFiles;
use p256::{
    PublicKey, SecretKey,
    elliptic_curve::sec1::ToSec1Point,
    pkcs8::{DecodePrivateKey, DecodePublicKey},
};
use serde::{Deserialize, Serialize};

type Kem = DhP256HkdfSha256;
type PublicPart = <Kem as hpke::Kem>::PublicKey;
type PrivatePart = <Kem as hpke::Kem>::PrivateKey;
type Encapsulated = <Kem as hpke::Kem>::EncappedKey;

/// What the sealed text is for: a text that was sealed for something else does not open.
const PURPOSE: &[u8] = b"magnetite.dev/v1alpha1 secret files";

/// Why something could not be sealed or opened. Says nothing of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a public key on P-256.
    #[error("the claim key is no public key on P-256")]
    PublicKey,
    /// Not a private key on P-256.
    #[error("the claim key's file holds no private key on P-256")]
    PrivateKey,
    /// Not what was sealed for this key and machine.
    #[error("it was not sealed for this key and this machine, or it was changed on the way")]
    Broken,
}

/// One file in the clear. Its `Debug` shows nothing of its contents.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlainFile {
    /// Where it goes.
    pub path: String,
    /// Its mode.
    pub mode: u32,
    /// Its contents, base64.
    contents: String,
}

impl std::fmt::Debug for PlainFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlainFile({} {:04o}, ..)", self.path, self.mode)
    }
}

impl PlainFile {
    /// A file.
    pub fn new(path: &str, mode: u32, contents: &[u8]) -> Self {
        Self { path: path.to_owned(), mode, contents: STANDARD.encode(contents) }
    }

    /// Its contents.
    ///
    /// # Errors
    /// They are not what was sealed.
    pub fn contents(&self) -> Result<Vec<u8>, SealError> {
        STANDARD.decode(&self.contents).map_err(|_| SealError::Broken)
    }
}

/// Seals files to a claim key, a SubjectPublicKeyInfo in DER, for one machine. `revision` names what was sealed.
///
/// # Errors
/// The key is none on P-256.
pub fn seal(claim_key: &[u8], machine: &str, files: &[PlainFile], revision: String) -> Result<SealedFiles, SealError> {
    let key = PublicKey::from_public_key_der(claim_key).map_err(|_| SealError::PublicKey)?;
    let point = key.to_sec1_point(false);
    let key = PublicPart::from_bytes(point.as_bytes()).map_err(|_| SealError::PublicKey)?;
    let plain = serde_json::to_vec(files).expect("texts and numbers are always JSON");
    let (encapsulated, mut sender) =
        setup_sender::<AesGcm256, HkdfSha256, Kem>(&OpModeS::Base, &key, PURPOSE).map_err(|_| SealError::PublicKey)?;
    let ciphertext = sender.seal(&plain, machine.as_bytes()).map_err(|_| SealError::PublicKey)?;
    Ok(SealedFiles {
        revision,
        encapsulated_key: STANDARD.encode(encapsulated.to_bytes()),
        ciphertext: STANDARD.encode(ciphertext),
    })
}

/// Opens what was sealed, with the claim key, PKCS#8 in PEM.
///
/// # Errors
/// The key is none on P-256, or it is not the one, or the text was changed.
pub fn open(claim_key: &str, machine: &str, sealed: &SealedFiles) -> Result<Vec<PlainFile>, SealError> {
    let key = SecretKey::from_pkcs8_pem(claim_key).map_err(|_| SealError::PrivateKey)?;
    let key = PrivatePart::from_bytes(&key.to_bytes()).map_err(|_| SealError::PrivateKey)?;
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| SealError::Broken);
    let encapsulated = Encapsulated::from_bytes(&bytes(&sealed.encapsulated_key)?).map_err(|_| SealError::Broken)?;
    let mut receiver = setup_receiver::<AesGcm256, HkdfSha256, Kem>(&OpModeR::Base, &key, &encapsulated, PURPOSE)
        .map_err(|_| SealError::Broken)?;
    let plain = receiver.open(&bytes(&sealed.ciphertext)?, machine.as_bytes()).map_err(|_| SealError::Broken)?;
    serde_json::from_slice(&plain).map_err(|_| SealError::Broken)
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;

    fn sealed(key: &KeyPair) -> SealedFiles {
        let files = [PlainFile::new("/etc/registry.key", 0o600, b"canary \0\xff")];
        seal(&key.subject_public_key_info(), "box-1", &files, "r1".to_owned()).expect("sealed")
    }

    #[test]
    fn only_the_key_and_the_machine_it_was_sealed_for_open_it() {
        let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let sealed = sealed(&key);
        let files = open(&key.serialize_pem(), "box-1", &sealed).expect("opened");
        assert_eq!((files[0].path.as_str(), files[0].mode), ("/etc/registry.key", 0o600));
        assert_eq!(files[0].contents().expect("contents"), b"canary \0\xff");
        assert_eq!(open(&other.serialize_pem(), "box-1", &sealed), Err(SealError::Broken));
        assert_eq!(open(&key.serialize_pem(), "box-2", &sealed), Err(SealError::Broken));
        assert_eq!(open("", "box-1", &sealed), Err(SealError::PrivateKey));
    }

    #[test]
    fn a_changed_byte_opens_nothing() {
        let key = KeyPair::generate().expect("a key");
        let whole = sealed(&key);
        let bytes = STANDARD.decode(&whole.ciphertext).expect("base64");
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            let bent = SealedFiles { ciphertext: STANDARD.encode(bent), ..whole.clone() };
            assert_eq!(open(&key.serialize_pem(), "box-1", &bent), Err(SealError::Broken), "byte {at}");
        }
        for text in ["", "%", "AAAA"] {
            let bent = SealedFiles { encapsulated_key: text.to_owned(), ..whole.clone() };
            assert_eq!(open(&key.serialize_pem(), "box-1", &bent), Err(SealError::Broken), "{text}");
        }
    }

    #[test]
    fn nothing_of_it_shows() {
        let key = KeyPair::generate().expect("a key");
        let files = open(&key.serialize_pem(), "box-1", &sealed(&key)).expect("opened");
        assert_eq!(format!("{files:?}"), "[PlainFile(/etc/registry.key 0600, ..)]");
        assert_ne!(sealed(&key).ciphertext, sealed(&key).ciphertext, "another one each time");
    }

    #[test]
    fn what_is_no_key_on_p256_is_refused() {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        for key in [vec![], b"hello".to_vec(), p384.subject_public_key_info()] {
            assert_eq!(seal(&key, "box-1", &[], String::new()), Err(SealError::PublicKey));
        }
    }
}
