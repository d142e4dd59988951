//! Keys that must outlive the process, made at the first start.

use std::path::{Path, PathBuf};

use magnetite_api::Sha256;
use magnetite_boot::capability::CapabilityKey;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::store::snapshot::{SnapshotError, write_whole};

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file could not be read.
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// A key file could not be written.
    #[error(transparent)]
    Write(#[from] SnapshotError),
    /// A key file holds something else.
    #[error(
        "{0} holds no key of ours; move it away to have a new one made (agents that trust the old one must boot again)"
    )]
    Damaged(PathBuf),
    /// A file of our own authority holds something else.
    #[error(
        "{0} is not what --tls-own-ca made; move all boot-ca.* and boot-tls.key away to have new ones made (machines that trust the old ones must be told of the new)"
    )]
    DamagedAuthority(PathBuf),
    /// A key could not be made.
    #[error("an RSA key could not be made")]
    Rsa(#[source] rsa::Error),
    /// A key could not be written as text.
    #[error("an RSA key could not be encoded")]
    Encode(#[source] rsa::pkcs8::Error),
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Certificate(#[source] rcgen::Error),
    /// TLS does not take them.
    #[error("TLS does not take our key")]
    Tls(#[source] rustls::Error),
}

/// A file's bytes, if it is there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, KeyError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KeyError::Read(path.to_owned(), error)),
    }
}

/// The key of capability URLs.
pub fn capability(data: &Path) -> Result<CapabilityKey, KeyError> {
    let path = data.join("capability.key");
    if let Some(bytes) = read(&path)? {
        let key = <[u8; 32]>::try_from(bytes).map_err(|_| KeyError::Damaged(path))?;
        return Ok(CapabilityKey::new(key));
    }
    let key: [u8; 32] = rand::random();
    write_whole(&path, &key, 0o600)?;
    Ok(CapabilityKey::new(key))
}

/// TLS for the agents, and the pin by which they know it.
pub struct AgentTls {
    /// Certificate and key.
    pub config: rustls::ServerConfig,
    /// `sha256/` and the digest of the SubjectPublicKeyInfo.
    pub pin: String,
}

/// The TLS identity of the agents' listener. The agents trust the key, not the certificate: it is made anew at each
/// start, and its dates matter to nobody.
pub fn tls(data: &Path) -> Result<AgentTls, KeyError> {
    let path = data.join("agent-tls.key");
    let key = match read(&path)? {
        Some(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| KeyError::Damaged(path.clone()))?;
            KeyPair::from_pem(&text).map_err(|_| KeyError::Damaged(path))?
        }
        None => {
            let key = KeyPair::generate().map_err(KeyError::Certificate)?;
            write_whole(&path, key.serialize_pem().as_bytes(), 0o600)?;
            key
        }
    };
    let parameters = CertificateParams::new(vec!["magnetite-bootserver".to_owned()]).map_err(KeyError::Certificate)?;
    let certificate = parameters.self_signed(&key).map_err(KeyError::Certificate)?;
    let pin = format!("sha256/{}", Sha256::of(&key.subject_public_key_info()));
    let private =
        PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).map_err(|_| KeyError::Damaged(data.into()))?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], private)
        .map_err(KeyError::Tls)?;
    Ok(AgentTls { config, pin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once() {
        magnetite_daemon::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let cap = |key: CapabilityKey| key.mint(magnetite_boot::capability::Purpose::Boot, "u", "i", 9);
        assert_eq!(cap(capability(folder.path()).unwrap()), cap(capability(folder.path()).unwrap()));
        assert_eq!(tls(folder.path()).unwrap().pin, tls(folder.path()).unwrap().pin);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(folder.path().join("agent-tls.key")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(folder.path().join("capability.key"), b"short").unwrap();
        assert!(matches!(capability(folder.path()), Err(KeyError::Damaged(_))));
    }
}
