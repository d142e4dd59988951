//! An authority of our own, for sites that have none: made once, kept in the data folder, and trusted by whoever was told to.
//!
//! Its keys are RSA because iPXE before 2.0 knows nothing else (docs/adr/0011). No date in a certificate means anything: a machine's
//! clock may say 1970, and who is no longer to be trusted is taken out of the firmware, as he was put in.

use std::{net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rsa::{RsaPrivateKey, pkcs8::EncodePrivateKey, rand_core::UnwrapErr};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::pair::Served;
use crate::{
    keys::{KeyError, read},
    store::snapshot::write_whole,
};

/// The authority's certificate, PEM.
pub const CERTIFICATE: &str = "boot-ca.pem";
/// The same as firmware wants it.
const DER: &str = "boot-ca.der";
/// The authority's key.
const KEY: &str = "boot-ca.key";
/// Our own key below it.
const OWN_KEY: &str = "boot-tls.key";
/// All firmware takes keys of this size.
const BITS: usize = 2048;

/// A certificate for our addresses and our name, by the authority in the data folder, which is made if there is none.
///
/// # Errors
/// If a file cannot be read or written, or holds something else.
pub fn served(data: &Path, addresses: &[IpAddr], name: &str) -> Result<Served, KeyError> {
    let damaged = |file: &str| KeyError::DamagedAuthority(data.join(file));
    let key = key(data, KEY)?;
    let authority = match text(data, CERTIFICATE)? {
        Some(text) => text,
        None => {
            let text = authority(name, &key)?;
            write_whole(&data.join(CERTIFICATE), text.as_bytes(), 0o644)?;
            text
        }
    };
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|_| damaged(CERTIFICATE))?;
    write_whole(&data.join(DER), &root, 0o644)?;
    let issuer = Issuer::from_ca_cert_pem(&authority, key).map_err(|_| damaged(CERTIFICATE))?;
    let own_key = self::key(data, OWN_KEY)?;
    let mut own = of(name);
    let ip = addresses.iter().copied().map(rcgen::SanType::IpAddress);
    let dns = name.try_into().map(rcgen::SanType::DnsName).ok();
    own.subject_alt_names = ip.chain(dns).collect();
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    own.use_authority_key_identifier_extension = true;
    let own = own.signed_by(&own_key, &issuer).map_err(KeyError::Certificate)?;
    let private = PrivateKeyDer::from_pem_slice(own_key.serialize_pem().as_bytes()).map_err(|_| damaged(OWN_KEY))?;
    // With the authority's own certificate: an iPXE that was built with TRUST= alone knows but its digest.
    Served::new(vec![own.der().clone(), root], private).map_err(KeyError::Tls)
}

fn text(data: &Path, file: &str) -> Result<Option<String>, KeyError> {
    let bytes = read(&data.join(file))?;
    bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| KeyError::DamagedAuthority(data.join(file)))).transpose()
}

fn key(data: &Path, file: &str) -> Result<KeyPair, KeyError> {
    if let Some(text) = text(data, file)? {
        return KeyPair::from_pem(&text).map_err(|_| KeyError::DamagedAuthority(data.join(file)));
    }
    tracing::info!(file = %data.join(file).display(), "making an RSA key");
    let key = RsaPrivateKey::new(&mut UnwrapErr(getrandom::SysRng), BITS).map_err(KeyError::Rsa)?;
    let pem = key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).map_err(KeyError::Encode)?;
    write_whole(&data.join(file), pem.as_bytes(), 0o600)?;
    KeyPair::from_pem(&pem).map_err(KeyError::Certificate)
}

fn authority(name: &str, key: &KeyPair) -> Result<String, KeyError> {
    let mut parameters = of(&format!("Magnetite boot server {name}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters.self_signed(key).map_err(KeyError::Certificate)?.pem())
}

fn of(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    (parameters.not_before, parameters.not_after) = (date_time_ymd(1970, 1, 1), date_time_ymd(2049, 12, 31));
    parameters
}
