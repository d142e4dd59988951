//! The line of certificates that descends from a bound key. A kubelet makes a new key for each renewal, so the only thing
//! that ties one to the last is the certificate with which it was asked for.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use magnetite_api::{Sha256, machine::IdentityStatus, names::SIGNER_CLIENT};

use magnetite_request::certificate_digest;

/// Where API servers since 1.32 say with which certificate a user came.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
/// What stands before the digest of a certificate there.
const CERTIFICATE: &str = "X509SHA256=";
/// Certificates that are kept, as many as the schema takes: the newest, and those that may still be in use. A box in memory that is
/// restarted begins with the one of its claim each time, and each time asks for its renewal soon after.
const KEPT: usize = 8;

/// The certificate with which a request was made, by the API server's word.
pub fn credential(csr: &CertificateSigningRequest) -> Option<Sha256> {
    let values = csr.spec.extra.as_ref()?.get(CREDENTIAL)?;
    values.iter().find_map(|value| value.strip_prefix(CERTIFICATE)?.parse().ok())
}

/// The client certificate that a kubelet was given on our word.
pub fn renewed(csr: &CertificateSigningRequest) -> Option<Sha256> {
    let status = csr.status.as_ref().filter(|_| csr.spec.signer_name == SIGNER_CLIENT)?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ours = |reason: &Option<String>| reason.as_deref() == Some(super::APPROVED);
    conditions.iter().find(|condition| condition.type_ == "Approved" && ours(&condition.reason))?;
    certificate_digest(&status.certificate.as_ref()?.0)
}

/// The line with one more certificate, if it belongs there and is not in it.
pub fn longer(identity: &IdentityStatus, credential: Option<Sha256>, issued: Sha256) -> Option<Vec<Sha256>> {
    let line = &identity.certificates;
    // Asked with a certificate of another key: approved before this one was bound, or by somebody else.
    let belongs = !identity.rebound || credential.is_none_or(|credential| line.contains(&credential));
    if !belongs || line.contains(&issued) {
        return None;
    }
    Some(newest(line.iter().copied().chain([issued]).collect()))
}

/// The line with a certificate in the place of one that has ended, which nobody can use any more.
pub fn replaced(identity: &IdentityStatus, ended: Option<Sha256>, issued: Sha256) -> Vec<Sha256> {
    let rest = identity.certificates.iter().copied().filter(|known| Some(*known) != ended && *known != issued);
    newest(rest.chain([issued]).collect())
}

fn newest(line: Vec<Sha256>) -> Vec<Sha256> {
    let skip = line.len().saturating_sub(KEPT);
    line.into_iter().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Keys, identity};

    fn digest(n: u8) -> Sha256 {
        Sha256([n; 32])
    }

    fn line(certificates: &[u8], rebound: bool) -> IdentityStatus {
        let certificates = certificates.iter().map(|n| digest(*n)).collect();
        IdentityStatus { certificates, rebound, ..identity(&Keys::new(), 10, Some(20)) }
    }

    #[test]
    fn a_line_grows_by_what_was_asked_for_with_its_own() {
        let grown = |identity: &IdentityStatus, asked: Option<u8>| longer(identity, asked.map(digest), digest(9));
        assert_eq!(grown(&line(&[1], true), Some(1)), Some(vec![digest(1), digest(9)]));
        assert_eq!(grown(&line(&[1], true), Some(2)), None, "a certificate of the key before");
        assert_eq!(
            grown(&line(&[1], true), None),
            Some(vec![digest(1), digest(9)]),
            "an API server that does not tell"
        );
        assert_eq!(grown(&line(&[1], false), Some(2)), Some(vec![digest(1), digest(9)]), "a renewal that was missed");
        assert_eq!(grown(&line(&[1, 9], true), Some(1)), None, "seen before");
        assert_eq!(grown(&line(&[1, 2, 3, 4, 5, 6, 7, 8], true), Some(8)).map(|line| line.len()), Some(KEPT));
    }

    #[test]
    fn one_that_has_ended_makes_room_for_the_next() {
        let after = |certificates: &[u8], ended| replaced(&line(certificates, true), Some(digest(ended)), digest(9));
        assert_eq!(after(&[1, 2], 1), [digest(2), digest(9)]);
        assert_eq!(after(&[1, 2], 7), [digest(1), digest(2), digest(9)], "it is not there");
        assert_eq!(after(&[1, 2, 3, 4, 5, 6, 7, 8], 1).len(), KEPT);
        assert_eq!(after(&[2, 9], 1), [digest(2), digest(9)], "the same once more");
    }

    #[test]
    fn who_asked_is_the_api_server_s_word() {
        let mut csr = CertificateSigningRequest::default();
        assert_eq!(credential(&csr), None);
        let told = |text: &str| Some([(CREDENTIAL.to_owned(), vec![text.to_owned()])].into());
        csr.spec.extra = told(&format!("X509SHA256={}", digest(7)));
        assert_eq!(credential(&csr), Some(digest(7)));
        csr.spec.extra = told("JTI=0123");
        assert_eq!(credential(&csr), None, "a token");
        csr.spec.extra = told("X509SHA256=12");
        assert_eq!(credential(&csr), None, "half a digest");
    }
}
