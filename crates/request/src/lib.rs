//! Certificate requests and claim keys: hostile bytes in, checked values out. No client, no clock.
//!
//! What is passed on to the API server is never the text that came in, but the DER that was parsed here,
//! encoded anew: so the signer cannot read the text in another way than we did.

use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_api::{
    Sha256,
    join::signed_text,
    names::{NODE_USER_PREFIX, NODES_GROUP},
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_X509_COMMON_NAME,
        OID_X509_ORGANIZATION_NAME,
    },
    pem::parse_x509_pem,
    prelude::FromDer,
    public_key::PublicKey,
    x509::{AttributeTypeAndValue, SubjectPublicKeyInfo},
};

/// The longest request in DER that is looked at. An RSA-8192 key fits.
const LIMIT: usize = 8192;
const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const END: &str = "-----END CERTIFICATE REQUEST-----";

/// Why a request is not what it should be, in a sentence for people. Holds no text of the request itself
/// other than quoted and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Flaw(pub String);

fn flaw<T>(text: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw(text.into()))
}

/// A subject alternative name of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// A DNS name, as written.
    Dns(String),
    /// An IP address.
    Ip(std::net::IpAddr),
    /// Anything else: mail address, URI, directory name.
    Other,
}

/// A certificate request whose signature proves that its sender holds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The DER that was parsed, all of it.
    pub der: Vec<u8>,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: Sha256,
    /// Common name and organization, if the subject is exactly those two; else what is wrong with it.
    pub subject: Result<Subject, Flaw>,
    /// What is wrong with the key's kind, if anything.
    pub key_kind: Result<(), Flaw>,
    /// The subject alternative names.
    pub sans: Vec<San>,
    /// True if it asks for anything beside subject alternative names.
    pub asks_more: bool,
}

/// A subject of exactly one organization and one common name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The organization.
    pub organization: String,
    /// The common name.
    pub common_name: String,
}

impl Request {
    /// Reads a request in PEM: one block, nothing before and nothing after it.
    ///
    /// # Errors
    /// It is no request, or its own signature does not verify.
    pub fn from_pem(text: &str) -> Result<Self, Flaw> {
        let inner = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let Some(inner) = inner else {
            return flaw("the certificate request is not one PEM block CERTIFICATE REQUEST");
        };
        let digits: String = inner.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = STANDARD.decode(digits).map_err(|_| Flaw("the certificate request is not base64".to_owned()))?;
        Self::from_der(&der)
    }

    /// Reads a request in DER and checks that its key signed it.
    ///
    /// # Errors
    /// It is no request, or its own signature does not verify.
    pub fn from_der(der: &[u8]) -> Result<Self, Flaw> {
        Self::read(der, true)
    }

    /// As [`Request::from_der`], without the proof that its sender holds the key: for the fuzzer, which can sign nothing. What comes
    /// of it is nobody's word.
    ///
    /// # Errors
    /// It is no request.
    #[doc(hidden)]
    pub fn without_proof(der: &[u8]) -> Result<Self, Flaw> {
        Self::read(der, false)
    }

    fn read(der: &[u8], proven: bool) -> Result<Self, Flaw> {
        if der.len() > LIMIT {
            return flaw(format!("the certificate request has {} bytes; at most {LIMIT} are read", der.len()));
        }
        let Ok((rest, request)) = X509CertificationRequest::from_der(der) else {
            return flaw("the certificate request is not PKCS#10 in DER");
        };
        if !rest.is_empty() {
            return flaw("bytes follow the certificate request");
        }
        let info = &request.certification_request_info;
        if proven && (!is_canonical(der, &request) || request.verify_signature().is_err()) {
            return flaw("the certificate request is not signed by its own key");
        }
        let (sans, asks_more) = extensions(&request);
        Ok(Self {
            der: der.to_vec(),
            key: Sha256::of(info.subject_pki.raw),
            subject: subject(&info.subject),
            key_kind: key_kind(&info.subject_pki),
            sans,
            asks_more,
        })
    }

    /// The request in PEM, encoded anew.
    pub fn to_pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        let mut pem = format!("{BEGIN}\n");
        for line in text.as_bytes().chunks(64) {
            pem.extend(line.iter().map(|byte| char::from(*byte)));
            pem.push('\n');
        }
        pem + END + "\n"
    }

    /// The node that the subject names: organization exactly `system:nodes`, common name `system:node:<node>`.
    ///
    /// # Errors
    /// The subject is another one.
    pub fn node(&self) -> Result<&str, Flaw> {
        let subject = self.subject.as_ref().map_err(Clone::clone)?;
        if subject.organization != NODES_GROUP {
            return flaw(format!("the organization is {}, not {NODES_GROUP}", quoted(&subject.organization)));
        }
        match subject.common_name.strip_prefix(NODE_USER_PREFIX) {
            Some(node) if !node.is_empty() => Ok(node),
            _ => flaw(format!("the common name {} is not a node's", quoted(&subject.common_name))),
        }
    }
}

/// The rules for a kubelet's client certificate that look at the request alone (threats.md, S4).
///
/// # Errors
/// The first rule that it breaks.
pub fn check_client(request: &Request, node: &str) -> Result<(), Flaw> {
    let asked = request.node()?;
    if asked != node {
        return flaw(format!("the common name asks for the node {}; this machine's node is {node}", quoted(asked)));
    }
    if !request.sans.is_empty() {
        return flaw("a client certificate has no subject alternative name");
    }
    if request.asks_more {
        return flaw("the request asks for extensions or attributes; a kubelet's client certificate has none");
    }
    request.key_kind.clone()
}

/// The claim key of a claim, and proof that its holder signed this claim.
///
/// # Errors
/// The key is not P-256 in DER, or the signature is not by it over these texts.
pub fn check_claim_key(
    claim_key: &str,
    signature: &str,
    machine: &str,
    intent: &str,
    certificate_request: &str,
) -> Result<Sha256, Flaw> {
    let Ok(der) = STANDARD.decode(claim_key) else {
        return flaw("the claim key is not base64");
    };
    let Ok((rest, key)) = SubjectPublicKeyInfo::from_der(&der) else {
        return flaw("the claim key is not a SubjectPublicKeyInfo in DER");
    };
    if !rest.is_empty() || !is_curve(&key, &[OID_EC_P256]) {
        return flaw("the claim key is not an ECDSA P-256 key");
    }
    let Ok(signature) = STANDARD.decode(signature) else {
        return flaw("the claim's signature is not base64");
    };
    let text = signed_text(machine, intent, certificate_request);
    let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.subject_public_key.data);
    if verifier.verify(&text, &signature).is_err() {
        return flaw("the claim is not signed by its claim key for this machine, intent and request");
    }
    Ok(Sha256::of(&der))
}

/// SHA-256 of the SubjectPublicKeyInfo of the first certificate of a PEM text.
pub fn certificate_key(pem: &[u8]) -> Option<Sha256> {
    first_certificate(pem, |certificate, _| Sha256::of(certificate.public_key().raw))
}

/// SHA-256 of a certificate in DER, as API servers name the one with which a user came; of a chain, its first.
pub fn certificate_digest(pem: &[u8]) -> Option<Sha256> {
    first_certificate(pem, |_, der| Sha256::of(der))
}

/// When the first certificate of a PEM text ends, in seconds since 1970.
pub fn certificate_end(pem: &[u8]) -> Option<i64> {
    first_certificate(pem, |certificate, _| certificate.validity().not_after.timestamp())
}

/// What is read of the first certificate of a PEM text, and of its DER.
fn first_certificate<T>(pem: &[u8], read: impl FnOnce(&X509Certificate<'_>, &[u8]) -> T) -> Option<T> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    Some(read(&pem.parse_x509().ok()?, &pem.contents))
}

/// A text of a stranger, fit for a message: without control characters, cut, in quotes.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("{short:?}")
}

/// Signature algorithms, as the AlgorithmIdentifiers that belong to them (RFC 5758, RFC 4055).
const ALGORITHMS: [&[u8]; 5] = [
    &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
    &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
    &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0],
    &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12, 5, 0],
    &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13, 5, 0],
];

/// What the signature does not cover must be written in the one way that there is: the parser here reads more
/// than Go's does, and nothing should be approved here that means something else, or nothing, there.
fn is_canonical(der: &[u8], request: &X509CertificationRequest<'_>) -> bool {
    let info = request.certification_request_info.raw;
    let signature = tlv(3, &[&[0], request.signature_value.data.as_ref()].concat());
    ALGORITHMS.iter().any(|algorithm| der == tlv(0x30, &[info, algorithm, &signature].concat()))
}

/// Tag, length, value, as DER writes them.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = value.len().to_be_bytes();
    let digits: Vec<u8> = length.into_iter().skip_while(|digit| *digit == 0).collect();
    match (digits.as_slice(), u8::try_from(digits.len())) {
        ([], _) => out.push(0),
        ([short], _) if *short < 0x80 => out.push(*short),
        (_, count) => out.push(0x80 | count.unwrap_or_default()),
    }
    if value.len() >= 0x80 {
        out.extend(digits);
    }
    out.extend_from_slice(value);
    out
}

fn subject(name: &x509_parser::x509::X509Name<'_>) -> Result<Subject, Flaw> {
    let (mut organizations, mut common_names) = (Vec::new(), Vec::new());
    for part in name.iter_rdn() {
        let attributes: Vec<_> = part.iter().collect();
        let [attribute] = attributes.as_slice() else {
            return flaw("a part of the subject has more than one attribute");
        };
        let kind = attribute.attr_type();
        if *kind == OID_X509_ORGANIZATION_NAME {
            organizations.push(text(attribute)?);
        } else if *kind == OID_X509_COMMON_NAME {
            common_names.push(text(attribute)?);
        } else {
            return flaw("the subject has parts beside organization and common name");
        }
    }
    match (organizations.as_slice(), common_names.as_slice()) {
        ([organization], [common_name]) => {
            Ok(Subject { organization: organization.clone(), common_name: common_name.clone() })
        }
        (organizations, common_names) => flaw(format!(
            "the subject has {} organizations and {} common names; one of each is allowed",
            organizations.len(),
            common_names.len()
        )),
    }
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> Result<String, Flaw> {
    use x509_parser::der_parser::asn1_rs::Tag;
    // Other string types could mean other characters to the signer.
    let tag = attribute.attr_value().tag();
    if tag != Tag::Utf8String && tag != Tag::PrintableString {
        return flaw("the subject holds a text that is neither UTF8String nor PrintableString");
    }
    let text = attribute.as_str().map_err(|_| Flaw("the subject holds bytes that are no text".to_owned()))?;
    if text.chars().any(|c| !c.is_ascii_graphic()) {
        return flaw(format!("the subject holds {}; only printable ASCII is allowed", quoted(text)));
    }
    Ok(text.to_owned())
}

fn is_curve(key: &SubjectPublicKeyInfo<'_>, curves: &[x509_parser::der_parser::Oid<'_>]) -> bool {
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok())
            .is_some_and(|curve| curves.contains(&curve))
}

fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Flaw> {
    if is_curve(key, &[OID_EC_P256, OID_NIST_EC_P384]) {
        return Ok(());
    }
    if key.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION
        && let Ok(PublicKey::RSA(rsa)) = key.parsed()
        && rsa.key_size() >= 2048
    {
        return Ok(());
    }
    flaw("the key is none of ECDSA P-256, ECDSA P-384 and RSA of at least 2048 bits")
}

fn extensions(request: &X509CertificationRequest<'_>) -> (Vec<San>, bool) {
    let (mut sans, mut more) = (Vec::new(), false);
    let mut blocks = 0;
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
            more = true;
            continue;
        };
        blocks += 1;
        for extension in &asked.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => sans.extend(names.general_names.iter().map(san)),
                // Kubernetes' signers ignore these and set their own; kubelets and rcgen may ask for them.
                ParsedExtension::KeyUsage(_) | ParsedExtension::ExtendedKeyUsage(_) => {}
                _ => more = true,
            }
        }
    }
    // Two lists of extensions: which of them the signer reads cannot be told from here.
    (sans, more || blocks > 1)
}

fn san(name: &GeneralName<'_>) -> San {
    match name {
        GeneralName::DNSName(name) => San::Dns((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or(v6).map_or(San::Other, San::Ip)
        }
        _ => San::Other,
    }
}
