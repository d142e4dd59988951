//! A certificate and its key from two files, such as those of a mounted Secret, read again when they change.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::ParsedCertificate,
};

/// Why a certificate cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A file could not be read.
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// No certificate is in the file.
    #[error(
        "{0} holds no certificate in PEM form; give the server's own first, then those between it and its authority"
    )]
    NoCertificate(PathBuf),
    /// No key is in the file.
    #[error("{0} holds no private key in PEM form that is not encrypted")]
    NoKey(PathBuf),
    /// They do not belong together, or are of a kind that TLS does not know.
    #[error("the certificate of {0} cannot be served with the key of {1}; replace both together")]
    NoPair(PathBuf, PathBuf, #[source] rustls::Error),
}

/// Two files, as they were when they were last read.
pub struct Pair {
    certificate: PathBuf,
    key: PathBuf,
    /// The bytes of both.
    seen: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pair {
    /// Two files that are still to be read.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self { certificate, key, seen: None }
    }

    /// The certificate's file.
    pub fn file(&self) -> &Path {
        &self.certificate
    }

    /// What to serve with, if the files changed since they were last read. They are compared by what is in them: a mounted Secret
    /// changes by a symbolic link somewhere above them. What was refused once is refused in silence until it changes again.
    ///
    /// # Errors
    /// If what is there now cannot be served with.
    pub fn look(&mut self) -> Result<Option<Served>, PairError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| PairError::Read(path.to_owned(), error));
        let now = match (read(&self.certificate), read(&self.key)) {
            (Ok(certificate), Ok(key)) => (certificate, key),
            (Err(error), _) | (_, Err(error)) => {
                // Once: the next look finds the same emptiness.
                let news = self.seen.replace((Vec::new(), Vec::new())) != Some((Vec::new(), Vec::new()));
                return if news { Err(error) } else { Ok(None) };
            }
        };
        if self.seen.as_ref() == Some(&now) {
            return Ok(None);
        }
        let served = self.parse(&now.0, &now.1);
        self.seen = Some(now);
        served.map(Some)
    }

    fn parse(&self, certificate: &[u8], key: &[u8]) -> Result<Served, PairError> {
        let no_certificate = || PairError::NoCertificate(self.certificate.clone());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(no_certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PairError::NoKey(self.key.clone()))?;
        Served::new(chain, key).map_err(|error| PairError::NoPair(self.certificate.clone(), self.key.clone(), error))
    }
}

/// A certificate with its key, ready to be served with.
#[derive(Debug)]
pub struct Served {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    own: CertificateDer<'static>,
}

impl Served {
    /// Takes a chain, the server's own certificate first.
    ///
    /// # Errors
    /// If the key is another certificate's, or TLS does not know its kind.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let own = chain.first().cloned().ok_or(rustls::Error::NoCertificatesPresented)?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        Ok(Self { config: Arc::new(config), own })
    }

    /// Whether it names an address. A machine that reaches us there refuses it otherwise.
    pub fn names(&self, address: IpAddr) -> bool {
        let parsed = ParsedCertificate::try_from(&self.own);
        parsed.is_ok_and(|own| verify_server_name(&own, &address.into()).is_ok())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate for an address, and its key.
    pub fn made(address: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![address.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A folder as the kubelet mounts a Secret: what files are is said by `..data`, and changes at once.
    pub struct Mount(tempfile::TempDir);

    impl Mount {
        pub fn new() -> (Self, Pair) {
            magnetite_daemon::crypto::install();
            let folder = tempfile::tempdir().unwrap();
            for file in ["tls.crt", "tls.key"] {
                symlink(format!("..data/{file}"), folder.path().join(file)).unwrap();
            }
            let pair = Pair::new(folder.path().join("tls.crt"), folder.path().join("tls.key"));
            (Self(folder), pair)
        }

        pub fn put(&self, version: &str, certificate: &str, key: &str) {
            let folder = self.0.path();
            std::fs::create_dir(folder.join(version)).unwrap();
            std::fs::write(folder.join(version).join("tls.crt"), certificate).unwrap();
            std::fs::write(folder.join(version).join("tls.key"), key).unwrap();
            symlink(version, folder.join("..tmp")).unwrap();
            std::fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        }
    }

    #[test]
    fn a_renewal_is_seen_and_a_broken_one_is_said_once() {
        let (mount, mut pair) = Mount::new();
        let ((first, first_key), (second, second_key)) = (made("10.0.0.1"), made("fd30::1"));
        mount.put("..1", &first, &first_key);
        let served = pair.look().unwrap().expect("it is new");
        assert!(served.names("10.0.0.1".parse().unwrap()) && !served.names("fd30::1".parse().unwrap()));
        assert!(pair.look().unwrap().is_none(), "nothing changed");
        mount.put("..2", &second, &first_key);
        let said = pair.look().unwrap_err().to_string();
        assert!(said.contains("/tls.crt") && said.contains("/tls.key") && said.contains("replace both"), "{said}");
        assert!(pair.look().unwrap().is_none(), "it was said");
        mount.put("..3", &second, &second_key);
        let served = pair.look().unwrap().expect("it is whole again");
        assert!(served.names("fd30::1".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_names_its_file() {
        let (certificate, key) = made("10.0.0.1");
        for (number, (certificate, key, named)) in [
            ("", key.as_str(), "tls.crt holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAA\n", &key, "tls.crt holds no certificate"),
            (&key, &key, "tls.crt holds no certificate"),
            (&certificate, &certificate, "tls.key holds no private key"),
            (
                &certificate,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "tls.key holds no",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let (mount, mut pair) = Mount::new();
            let said = pair.look().unwrap_err().to_string();
            assert!(said.ends_with("tls.crt cannot be read"), "{said}");
            assert!(pair.look().unwrap().is_none(), "it was said");
            mount.put(&format!("..{number}"), certificate, key);
            let said = pair.look().unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
        }
    }
}
