//! TLS to the boot server, which is known by its key, and to the API server, which is known by the cluster's CA.
//!
//! A box that just booted has no clock to speak of and knows no certificate authority. What it has is the SHA-256
//! of one public key, from its Ignition config. So names and dates say nothing here: the key says everything, and
//! the handshake proves that the other side holds it.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use magnetite_api::Sha256;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

/// The SHA-256 of a SubjectPublicKeyInfo: `sha256/<64 hexadecimal digits>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub Sha256);

impl FromStr for Pin {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("sha256/").ok_or("write sha256/<64 hexadecimal digits>")?;
        digits.parse().map(Self).map_err(|error| format!("{error}"))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", self.0)
    }
}

/// Remembers the key of a server that was refused: what reqwest and hyper make of the error no longer says.
#[derive(Debug, Clone, Default)]
pub struct WrongKey(Arc<Mutex<Option<Pin>>>);

impl WrongKey {
    /// The key that was refused since the last time this was asked.
    pub fn take(&self) -> Option<Pin> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A configuration that believes a server with exactly this key, whatever its certificate says besides.
pub fn pinned(pin: Pin) -> (ClientConfig, WrongKey) {
    let wrong_key = WrongKey::default();
    let algorithms = crypto::ring::default_provider().signature_verification_algorithms;
    let verifier = PinVerifier { pin, wrong_key: wrong_key.clone(), algorithms };
    let config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    (config, wrong_key)
}

#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    wrong_key: WrongKey,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = Pin(Sha256::of(&ParsedCertificate::try_from(end_entity)?.subject_public_key_info()));
        if key == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        *self.wrong_key.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    // A certificate is public, so showing one proves nothing. These two prove that the server holds its key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Why there is no TLS to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiTlsError {
    /// The cluster's CA is no certificate.
    #[error("the cluster's certificate authority is no PEM certificate")]
    Authority(#[source] rustls::pki_types::pem::Error),
    /// The kubelet's certificate or key is not in its file.
    #[error("the kubelet's certificate file holds no certificate and key")]
    Pair(#[source] rustls::pki_types::pem::Error),
    /// They are there and do not fit.
    #[error("the kubelet's certificate cannot be used")]
    Unusable(#[source] Error),
}

/// A configuration for the API server: believes the cluster's CA, and says with the kubelet's certificate who asks.
pub fn api_server(authority: &str, pair: &[u8]) -> Result<ClientConfig, ApiTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.map_err(ApiTlsError::Authority)?).map_err(ApiTlsError::Unusable)?;
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair).collect::<Result<_, _>>().map_err(ApiTlsError::Pair)?;
    let key = PrivateKeyDer::from_pem_slice(pair).map_err(ApiTlsError::Pair)?;
    ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(ApiTlsError::Unusable)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData, date_time_ymd};
    use rustls::{
        ClientConnection, ServerConfig, ServerConnection,
        sign::{CertifiedKey, SingleCertAndKey},
    };

    use super::*;

    /// A server that shows the certificate of one key and holds another, or the same.
    fn server(shown: &KeyPair, held: &KeyPair) -> ServerConfig {
        let mut params = CertificateParams::new(vec!["elsewhere.example".to_owned()]).expect("params");
        (params.not_before, params.not_after) = (date_time_ymd(1970, 1, 1), date_time_ymd(1970, 1, 2));
        let certificate = params.self_signed(shown).expect("signed").der().clone();
        let key = PrivateKeyDer::try_from(held.serialize_der()).expect("PKCS#8");
        let signer = crypto::ring::sign::any_supported_type(&key).expect("a key");
        let pair = CertifiedKey::new(vec![certificate], signer);
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
    }

    /// Shakes hands in memory; what the client thinks of the server.
    fn handshake(client: ClientConfig, server: ServerConfig) -> Result<(), Error> {
        let name = ServerName::try_from("192.0.2.1").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).expect("in memory");
            server.read_tls(&mut sent.as_slice()).expect("in memory");
            server.process_new_packets()?;
            let mut answered = Vec::new();
            server.write_tls(&mut answered).expect("in memory");
            client.read_tls(&mut answered.as_slice()).expect("in memory");
            client.process_new_packets()?;
        }
        Ok(())
    }

    fn pin(key: &KeyPair) -> Pin {
        Pin(Sha256::of(&key.subject_public_key_info()))
    }

    #[test]
    fn the_key_is_all_that_counts() {
        magnetite_daemon::crypto::install();
        let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let (config, wrong_key) = pinned(pin(&key));
        handshake(config.clone(), server(&key, &key)).expect("dated 1970, of another name, and the right key");
        assert_eq!(wrong_key.take(), None);
        handshake(config, server(&other, &other)).expect_err("another key");
        assert_eq!(wrong_key.take(), Some(pin(&other)));
    }

    #[test]
    fn the_certificate_without_its_key_is_worth_nothing() {
        magnetite_daemon::crypto::install();
        let (key, thief) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let versions: [&[&'static rustls::SupportedProtocolVersion]; 2] =
            [&[&rustls::version::TLS12], &[&rustls::version::TLS13]];
        for version in versions {
            let provider = Arc::new(crypto::ring::default_provider());
            let algorithms = provider.signature_verification_algorithms;
            let verifier = PinVerifier { pin: pin(&key), wrong_key: WrongKey::default(), algorithms };
            let only = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(version)
                .expect("versions")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
            let error = handshake(only, server(&key, &thief)).expect_err("a stolen certificate");
            assert!(matches!(error, Error::InvalidCertificate(CertificateError::BadSignature)), "{error:?}");
        }
    }

    #[test]
    fn a_pin_is_written_as_it_is_read() {
        let text = format!("sha256/{}", "0f".repeat(32));
        assert_eq!(text.parse::<Pin>().expect("a pin").to_string(), text);
        for wrong in ["", "sha256/0f", "sha1/00", &text[7..]] {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
        }
    }
}
