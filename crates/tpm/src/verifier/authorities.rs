//! Makers of TPMs that are believed: an EK with a certificate below one of theirs is in a TPM that they made.

use x509_parser::{
    certificate::X509Certificate,
    pem::Pem,
    prelude::{FromDer, ParsedExtension},
};

use crate::public::EndorsementKey;

/// Certificates in the file: there are some hundred in all.
const MOST: usize = 1024;

/// Why the authorities cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is something else in it.
    #[error("certificate {0} of the TPM authorities cannot be read; write certificates in PEM, and nothing else")]
    Unreadable(usize),
    /// There is none in it, or more than anybody can mean.
    #[error("the TPM authorities are {0} certificates; write 1 to {MOST}")]
    Count(usize),
}

/// Why an EK's certificate shows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is none.
    #[error("the TPM has no certificate of its maker")]
    Missing,
    /// It is none.
    #[error("the certificate of the TPM cannot be read")]
    Unreadable,
    /// It is of another key.
    #[error("the certificate of the TPM is of another endorsement key")]
    OtherKey,
    /// It says that it is of an authority.
    #[error("the certificate of the TPM is an authority's")]
    Authority,
    /// Nobody who is believed signed it.
    #[error("no authority in the file of --tpm-authorities signed the certificate of the TPM")]
    Unknown,
}

/// Authorities that are believed, each by itself: a file may hold roots, those below them, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Authorities(Vec<Vec<u8>>);

impl Authorities {
    /// Reads a file of certificates in PEM.
    ///
    /// # Errors
    /// There is no certificate in it, or something else.
    pub fn from_pem(text: &[u8]) -> Result<Self, AuthorityError> {
        let mut all = Vec::new();
        for (at, block) in Pem::iter_from_buffer(text).enumerate() {
            let number = at.saturating_add(1);
            let block = block.map_err(|_| AuthorityError::Unreadable(number))?;
            block.parse_x509().map_err(|_| AuthorityError::Unreadable(number))?;
            all.push(block.contents);
            if number > MOST {
                break;
            }
        }
        if all.is_empty() || all.len() > MOST {
            return Err(AuthorityError::Count(all.len()));
        }
        Ok(Self(all))
    }

    /// Sees to it that the maker of this EK's TPM is believed. Its certificate must be signed by one of the file: where a maker has
    /// authorities below others, it is the lowest that the file names. Dates do not count: a TPM outlives its certificate, and whoever
    /// is no longer to be believed is taken out of the file.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, key: &EndorsementKey, certificate: Option<&[u8]>) -> Result<(), CertificateError> {
        let der = certificate.ok_or(CertificateError::Missing)?;
        let Ok((rest, certificate)) = X509Certificate::from_der(der) else {
            return Err(CertificateError::Unreadable);
        };
        if !rest.is_empty() {
            return Err(CertificateError::Unreadable);
        }
        if certificate.public_key().raw != key.spki() {
            return Err(CertificateError::OtherKey);
        }
        if is_authority(&certificate) {
            return Err(CertificateError::Authority);
        }
        let all: Vec<_> =
            self.0.iter().filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed)).collect();
        let signed = all.iter().any(|issuer| {
            is_authority(issuer)
                && issuer.subject() == certificate.issuer()
                && certificate.verify_signature(Some(issuer.public_key())).is_ok()
        });
        if signed { Ok(()) } else { Err(CertificateError::Unknown) }
    }
}

fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| {
        matches!(extension.parsed_extension(), ParsedExtension::BasicConstraints(constraints) if constraints.ca)
    })
}
