use k8s_openapi::api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestStatus};
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::fixtures::{Keys, machine};

fn ours(keys: &Keys) -> (CertificateSigningRequest, Request) {
    let request = Request::from_pem(&keys.honest().pem()).unwrap();
    (wanted("magnetite-box-1-0123456789", &machine(), "box-1-0123456789", &request), request)
}

fn with(
    mut csr: CertificateSigningRequest,
    conditions: &[&str],
    certificate: Option<String>,
) -> CertificateSigningRequest {
    let condition =
        |kind: &&str| CertificateSigningRequestCondition { type_: (*kind).to_owned(), ..Default::default() };
    csr.status = Some(CertificateSigningRequestStatus {
        conditions: Some(conditions.iter().map(condition).collect()),
        certificate: certificate.map(|text| ByteString(text.into_bytes())),
    });
    csr
}

fn certificate(key: &KeyPair) -> String {
    CertificateParams::default().self_signed(key).unwrap().pem()
}

#[test]
fn each_step_is_seen_in_the_object() {
    let keys = Keys::new();
    let (csr, request) = ours(&keys);
    let at = |now: CertificateSigningRequest| progress(&now, &csr, &request);
    assert_eq!(at(csr.clone()), Progress::Open);
    assert_eq!(at(with(csr.clone(), &["Approved"], None)), Progress::Approved);
    let text = certificate(&keys.kubelet);
    assert_eq!(at(with(csr.clone(), &["Approved"], Some(text.clone()))), Progress::Issued(text.clone()));
    // A certificate of an unapproved request cannot be; it is not believed either.
    assert_eq!(at(with(csr.clone(), &[], Some(text))), Progress::Open);
    for end in ["Denied", "Failed"] {
        assert!(matches!(at(with(csr.clone(), &["Approved", end], None)), Progress::Refused(_)), "{end}");
    }
    let other = certificate(&Keys::new().kubelet);
    assert!(matches!(at(with(csr.clone(), &["Approved"], Some(other))), Progress::Refused(_)));
}

#[test]
fn a_request_that_somebody_else_made_under_our_name_is_not_approved() {
    let keys = Keys::new();
    let (csr, request) = ours(&keys);
    type Change = fn(&mut CertificateSigningRequestSpec);
    let changes: [(&str, Change); 5] = [
        ("signer", |spec| spec.signer_name = "kubernetes.io/kube-apiserver-client".into()),
        ("request", |spec| spec.request = ByteString(Keys::new().honest().pem().into_bytes())),
        ("lifetime", |spec| spec.expiration_seconds = Some(86_401)),
        ("no lifetime", |spec| spec.expiration_seconds = None),
        ("usages", |spec| spec.usages.get_or_insert_default().push("server auth".into())),
    ];
    for (what, change) in changes {
        let mut other = csr.clone();
        change(&mut other.spec);
        assert_eq!(progress(&other, &csr, &request), Progress::Foreign, "{what}");
    }
}

#[test]
fn the_profile_says_where_to_join_before_the_flags_do() {
    let settings = Settings { join_api_server: Some("https://flag:6443".into()), ..Settings::default() };
    let mut profile = crate::fixtures::profile();
    assert_eq!(bundle(&machine(), &profile, String::new(), &settings).api_server, "https://flag:6443");
    profile.spec.join.api_server = Some("https://profile:6443".into());
    assert_eq!(bundle(&machine(), &profile, String::new(), &settings).api_server, "https://profile:6443");
}
