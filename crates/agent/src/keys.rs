//! The two keys that never leave the box, and what they sign.
//!
//! The claim key says that it is the same box that asks again; the kubelet's key becomes its identity in the
//! cluster. Both are made once and found again by an agent that was killed: a box that came with a new key would be
//! another box, and the controller would freeze the machine. Where the box has a TPM they are derived there, so that a box whose
//! system lives in memory has the same ones after every restart within an intent.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use magnetite_api::{
    Fingerprint, Sha256,
    join::{ClaimRequest, IdentityFacts, ReportRequest, ReportSignature, signed_text},
    report::Inventory,
};
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SigningKey};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::{
    files::{self, FileError, Paths},
    inventory,
    plan::CertificateFacts,
    sign,
    tpm::Derived,
};

const CLAIM_KEY: &str = "claim.key";
const KUBELET_KEY: &str = "kubelet.key";

/// Why there are no keys or no request.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file of theirs could not be read or written.
    #[error("the keys could not be kept")]
    File(#[from] FileError),
    /// A key's file holds something else.
    #[error("{0} in the state folder holds no key; if you remove it, this box claims as a new one")]
    Unreadable(&'static str, #[source] rcgen::Error),
    /// A key or a signature could not be made.
    #[error("{0} could not be made")]
    Make(&'static str, #[source] rcgen::Error),
    /// A key of the TPM's could not be written down.
    #[error("{0} of the TPM could not be encoded")]
    Encode(&'static str, #[source] p256::pkcs8::Error),
    /// The random source failed.
    #[error("the signature could not be made")]
    Sign(#[source] rcgen::Error),
}

/// Both keys: ECDSA P-256.
pub struct Keys {
    claim: KeyPair,
    kubelet: KeyPair,
}

/// True if both keys are there.
pub fn exist(paths: &Paths) -> Result<bool, KeyError> {
    Ok(files::read(&paths.state(CLAIM_KEY))?.is_some() && files::read(&paths.state(KUBELET_KEY))?.is_some())
}

/// Makes whichever of the two is not there: as the TPM has it, or by chance.
pub fn make(paths: &Paths, derived: Option<&Derived>) -> Result<(), KeyError> {
    files::folder(&paths.state(""), 0o700)?;
    if let Some(Derived { resets, .. }) = derived {
        // Before the keys: nothing is signed with them that counts as older than what they signed before the box forgot.
        sign::begin_after(paths, *resets)?;
    }
    let both = [(CLAIM_KEY, derived.map(|keys| &keys.claim)), (KUBELET_KEY, derived.map(|keys| &keys.kubelet))];
    for (name, derived) in both {
        let path = paths.state(name);
        if files::read(&path)?.is_none() {
            let pem = match derived {
                Some(key) => key.to_pkcs8_pem(LineEnding::LF).map_err(|error| KeyError::Encode(name, error))?,
                None => {
                    let key = KeyPair::generate().map_err(|error| KeyError::Make(name, error))?;
                    key.serialize_pem().into()
                }
            };
            files::write(&path, 0o600, pem.as_bytes())?;
        }
    }
    Ok(())
}

/// The kubelet's key as its file has it, PKCS#8 in PEM.
pub fn kubelet_pem(paths: &Paths) -> Result<Vec<u8>, KeyError> {
    Ok(files::read(&paths.state(KUBELET_KEY))?.unwrap_or_default())
}

/// The claim key as its file has it, PKCS#8 in PEM.
pub fn claim_pem(paths: &Paths) -> Result<String, KeyError> {
    let bytes = files::read(&paths.state(CLAIM_KEY))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Keys {
    /// Reads both.
    pub fn load(paths: &Paths) -> Result<Self, KeyError> {
        let one = |name| {
            let bytes = files::read(&paths.state(name))?.unwrap_or_default();
            KeyPair::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|error| KeyError::Unreadable(name, error))
        };
        Ok(Self { claim: one(CLAIM_KEY)?, kubelet: one(KUBELET_KEY)? })
    }

    /// The claim key as the cluster shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        Sha256::of(&self.claim.subject_public_key_info()).into()
    }

    /// The claim of a machine in an intent, signed.
    pub fn request(
        &self,
        machine: &str,
        intent: &str,
        node_name: &str,
        inventory: &Inventory,
    ) -> Result<ClaimRequest, KeyError> {
        let facts: IdentityFacts = inventory::facts(inventory);
        let certificate_request = self.certificate_request(node_name)?;
        let signature = self.claim.sign(&signed_text(machine, intent, &certificate_request)).map_err(KeyError::Sign)?;
        Ok(ClaimRequest {
            machine: machine.to_owned(),
            intent: intent.to_owned(),
            claim_key: BASE64_STANDARD.encode(self.claim.subject_public_key_info()),
            certificate_request,
            signature: BASE64_STANDARD.encode(signature),
            facts,
            tpm: None,
            proof: None,
        })
    }

    /// The claim key's word for a report.
    pub fn sign_report(
        &self,
        machine: &str,
        intent: &str,
        number: u64,
        report: &ReportRequest,
    ) -> Result<ReportSignature, KeyError> {
        let value = self.claim.sign(&report.signed_text(machine, intent, number)).map_err(KeyError::Sign)?;
        let claim_key = BASE64_STANDARD.encode(self.claim.subject_public_key_info());
        Ok(ReportSignature { claim_key, number, value: BASE64_STANDARD.encode(value) })
    }

    /// The claim key, SubjectPublicKeyInfo in DER.
    pub fn claim_key(&self) -> Vec<u8> {
        self.claim.subject_public_key_info()
    }

    /// What Kubernetes' signer of kubelet client certificates asks for: this organisation, this name, and no other
    /// name of any kind.
    fn certificate_request(&self, node_name: &str) -> Result<String, KeyError> {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "system:nodes");
        name.push(DnType::CommonName, common_name(node_name));
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        let request = params.serialize_request(&self.kubelet).and_then(|request| request.pem());
        request.map_err(|error| KeyError::Make("the certificate request", error))
    }
}

fn common_name(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// What matters of a certificate and its key, both in PEM; none if it is no certificate with a key.
pub fn certificate_facts(certificate: &[u8], key: &[u8], node_name: &str) -> Option<CertificateFacts> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().ok()?;
    let leaf = chain.first()?.clone();
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).ok()?;
    let wanted = common_name(node_name);
    let named = parsed.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == wanted));
    // Not by rcgen: a key that the kubelet made when it rotated is in another form (SEC 1).
    let key = PrivateKeyDer::from_pem_slice(key).ok()?;
    let key = CertifiedKey::from_der(chain.clone(), key, &ring::default_provider());
    Some(CertificateFacts {
        not_after: Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?,
        ours: named && key.is_ok(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use magnetite_swtpm::Swtpm;
    use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

    use super::*;
    use crate::tpm::{self, Whose};

    fn fresh() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = Paths::new(folder.path(), Path::new("/state"));
        (folder, paths)
    }

    #[test]
    fn keys_are_made_once() {
        let (_folder, paths) = fresh();
        assert!(!exist(&paths).expect("readable"));
        make(&paths, None).expect("made");
        let first = kubelet_pem(&paths).expect("there");
        make(&paths, None).expect("kept");
        assert!(exist(&paths).expect("readable"));
        assert_eq!(kubelet_pem(&paths).expect("there"), first);
        assert!(first.starts_with(b"-----BEGIN PRIVATE KEY-----"), "PKCS#8");
    }

    /// A box without a disk, twice: after a restart it is who it was.
    #[tokio::test]
    async fn with_a_tpm_they_are_the_same_after_the_box_lost_everything_else() {
        let mut tpm = Swtpm::new();
        let mut boot = async |machine: &str, machine_uid: &str, intent: &str| {
            let (folder, paths) = fresh();
            std::fs::create_dir(folder.path().join("dev")).expect("a folder");
            std::os::unix::fs::symlink(tpm.socket(), folder.path().join("dev/tpmrm0")).expect("a link");
            let derived = tpm::derive(&paths, &Whose { machine, machine_uid, intent }).await.expect("two keys");
            make(&paths, Some(&derived)).expect("made");
            tpm.restart();
            let keys = Keys::load(&paths).expect("loaded");
            (keys.fingerprint(), kubelet_pem(&paths).expect("there"))
        };
        let first = boot("box-1", "u1", "created").await;
        assert_eq!(boot("box-1", "u1", "created").await, first);
        let others = [("box-2", "u1", "created"), ("box-1", "u2", "created"), ("box-1", "u1", "again")];
        for (machine, uid, intent) in others {
            let other = boot(machine, uid, intent).await;
            assert!(other.0 != first.0 && other.1 != first.1, "another Machine or intent is another key");
        }
        let lines = |pem: &[u8]| String::from_utf8_lossy(pem).lines().count();
        assert!(first.1.starts_with(b"-----BEGIN PRIVATE KEY-----\n") && lines(&first.1) == 5, "PKCS#8");
    }

    #[tokio::test]
    async fn a_box_without_a_tpm_has_none_of_its_own() {
        let (_folder, paths) = fresh();
        let whose = Whose { machine: "box-1", machine_uid: "", intent: "created" };
        assert!(tpm::derive(&paths, &whose).await.is_none());
    }

    #[test]
    fn a_broken_key_is_not_replaced_in_silence() {
        let (_folder, paths) = fresh();
        make(&paths, None).expect("made");
        files::write(&paths.state(CLAIM_KEY), 0o600, b"").expect("written");
        assert!(matches!(Keys::load(&paths), Err(KeyError::Unreadable(CLAIM_KEY, _))));
    }

    #[test]
    fn the_request_says_what_the_signer_wants_and_no_more() {
        let (_folder, paths) = fresh();
        make(&paths, None).expect("made");
        let keys = Keys::load(&paths).expect("loaded");
        let claim = keys.request("m", "i", "box-1", &Inventory::default()).expect("a claim");
        let pem = pem_bytes(&claim.certificate_request);
        let (_, request) = X509CertificationRequest::from_der(&pem).expect("PKCS#10");
        request.verify_signature().expect("signed by its own key");
        let info = &request.certification_request_info;
        assert_eq!(info.subject.to_string(), "O=system:nodes, CN=system:node:box-1");
        assert_eq!(info.iter_attributes().count(), 0, "no SAN, no other extension");
        assert_ne!(info.subject_pki.raw, keys.claim.subject_public_key_info(), "two keys");
        let signature = BASE64_STANDARD.decode(&claim.signature).expect("base64");
        let text = signed_text("m", "i", &claim.certificate_request);
        let spki = BASE64_STANDARD.decode(&claim.claim_key).expect("base64");
        let (_, key) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki).expect("a key");
        x509_parser::verify::verify_signature(
            &key,
            &x509_parser::x509::AlgorithmIdentifier::new(x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256, None),
            &x509_parser::der_parser::asn1_rs::BitString::new(0, &signature),
            &text,
        )
        .expect("the signature is the claim key's");
    }

    fn pem_bytes(pem: &str) -> Vec<u8> {
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        BASE64_STANDARD.decode(base64).expect("base64")
    }

    #[test]
    fn a_certificate_is_ours_by_its_key_and_its_name() {
        let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:box-1");
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = params.self_signed(&key).expect("signed").pem();
        let facts = |key: &KeyPair, node| {
            certificate_facts(certificate.as_bytes(), key.serialize_pem().as_bytes(), node).expect("a certificate")
        };
        let not_after = "2030-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(facts(&key, "box-1"), CertificateFacts { not_after, ours: true });
        assert!(!facts(&other, "box-1").ours);
        assert!(!facts(&key, "box-2").ours);
        assert_eq!(certificate_facts(b"", b"", "box-1"), None);
    }
}
