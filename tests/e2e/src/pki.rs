//! The cluster's certificates: one authority, as kubeadm's `ca`, and what it has signed. Made anew
//! for each site and kept in its run's folder.

use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

/// A certificate authority, and the folder that its work goes to.
pub struct Authority {
    dir: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// PEM
    pub certificate: PathBuf,
    /// PEM, PKCS#8
    pub key: PathBuf,
}

/// Who a certificate is for.
#[derive(Debug, Default)]
pub struct Subject<'a> {
    /// The user name, for Kubernetes.
    pub common_name: &'a str,
    /// The groups, for Kubernetes.
    pub organizations: &'a [&'a str],
    /// DNS names and addresses; with any, the certificate is a server's, otherwise a client's.
    pub names: &'a [&'a str],
}

impl Authority {
    /// Makes an authority: `ca.crt` and `ca.key` in `dir`.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        let mut params = params("lab cluster CA", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        std::fs::write(dir.join("ca.crt"), certificate.pem())?;
        write_secret(&dir.join("ca.key"), &key.serialize_pem())?;
        Ok(Self { dir: dir.to_owned(), pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate and key.
    #[must_use]
    pub fn pair(&self) -> Pair {
        Pair { certificate: self.dir.join("ca.crt"), key: self.dir.join("ca.key") }
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate: `NAME.crt` and `NAME.key`.
    pub fn issue(&self, name: &str, subject: &Subject<'_>) -> Result<Pair> {
        let mut params = params(subject.common_name, subject.organizations);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match subject.names {
            [] => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        for name in subject.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let pair =
            Pair { certificate: self.dir.join(format!("{name}.crt")), key: self.dir.join(format!("{name}.key")) };
        std::fs::write(&pair.certificate, certificate.pem())?;
        write_secret(&pair.key, &key.serialize_pem())?;
        Ok(pair)
    }

    /// Makes a key without a certificate, for service account tokens: `NAME.pub` and `NAME.key`.
    pub fn bare_key(&self, name: &str) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let pair =
            Pair { certificate: self.dir.join(format!("{name}.pub")), key: self.dir.join(format!("{name}.key")) };
        std::fs::write(&pair.certificate, key.public_key_pem())?;
        write_secret(&pair.key, &key.serialize_pem())?;
        Ok(pair)
    }
}

fn params(common_name: &str, organizations: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    for organization in organizations {
        params.distinguished_name.push(DnType::OrganizationName, *organization);
    }
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
