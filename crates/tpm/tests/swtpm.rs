//! Both halves against real TPMs in software: what proves a box, and what must not.

use std::os::unix::net::UnixStream;

use magnetite_swtpm::{Maker, Swtpm};
use magnetite_tpm::{
    binding::{Claimed, extra_data},
    client::{Keys, Signed, Stream, TpmError},
    public::{AttestationKey, EndorsementKey},
    root::Root,
    sha256,
    verifier::{Authorities, CertificateError, Challenge, QuoteError, check_quote},
};

const SEED: [u8; 32] = [5; 32];
const CLAIMED: Claimed<'static> =
    Claimed { claim_key: b"claim key", certificate_request: b"request", machine: "box-1", intent: "created" };

fn keys(tpm: &Swtpm) -> Keys<Stream<UnixStream>> {
    Keys::create(tpm.connect(), &SEED).expect("two keys")
}

fn both(keys: &Keys<Stream<UnixStream>>) -> (EndorsementKey, AttestationKey) {
    let endorsement = EndorsementKey::decode(keys.endorsement_key()).expect("an EK");
    (endorsement, AttestationKey::decode(keys.attestation_key()).expect("an AK"))
}

fn check(
    keys: &Keys<Stream<UnixStream>>,
    signed: &Signed,
    secret: &[u8],
    claimed: &Claimed<'_>,
) -> Result<(), QuoteError> {
    check_quote(&both(keys).1, &signed.quote, &signed.signature, &extra_data(secret, claimed), &signed.pcrs)
}

#[test]
fn a_box_proves_itself() {
    let tpm = Swtpm::new();
    let mut keys = keys(&tpm);
    let (endorsement, attestation) = both(&keys);
    let challenge = Challenge::new(&endorsement, &attestation).expect("a challenge");
    let secret = keys.activate(&challenge.credential, &challenge.encrypted_secret).expect("both keys are there");
    assert_eq!(sha256(&secret), challenge.digest);
    let signed = keys.quote(&extra_data(&secret, &CLAIMED)).expect("a quote");
    assert_eq!(check(&keys, &signed, &secret, &CLAIMED), Ok(()));
    assert_eq!(keys.endorsement_certificate().expect("asked"), None, "nobody made this one");
}

#[test]
fn a_tpm_is_the_same_each_time_and_no_two_are() {
    let (a, b) = (Swtpm::new(), Swtpm::new());
    let first = both(&keys(&a));
    // What was made was flushed: a TPM has room for three keys.
    for _ in 0..3 {
        assert_eq!(both(&keys(&a)), first);
    }
    let other_seed = both(&Keys::create(a.connect(), &[6; 32]).expect("two keys"));
    assert!(other_seed.0 == first.0 && other_seed.1 != first.1, "the AK is another for another claim key");
    let other = both(&keys(&b));
    assert!(other.0.fingerprint() != first.0.fingerprint() && other.1 != first.1);
}

#[test]
fn what_is_derived_is_the_same_after_a_restart_and_another_in_each_tpm() {
    let (mut a, b) = (Swtpm::new(), Swtpm::new());
    let derived =
        |tpm: &Swtpm, label: &[u8]| Root::create(tpm.connect()).expect("a root").derive(label).expect("32 bytes");
    let first = derived(&a, b"box-1");
    // What was made was flushed: a TPM has room for three keys.
    for _ in 0..3 {
        assert_eq!(derived(&a, b"box-1"), first);
    }
    assert_ne!(derived(&a, b"box-2"), first);
    assert_ne!(derived(&b, b"box-1"), first);
    assert_ne!(derived(&a, &[0; 1024]), first, "the longest label");
    let resets = |tpm: &Swtpm| Root::create(tpm.connect()).expect("a root").resets().expect("a count");
    let before = resets(&a);
    // A TPM's keys in memory are gone then.
    a.restart();
    assert_eq!(derived(&a, b"box-1"), first);
    assert_eq!(resets(&a), before + 1);
}

#[test]
fn an_ek_of_one_tpm_does_not_go_with_an_ak_of_another() {
    let (a, b) = (Swtpm::new(), Swtpm::new());
    let (mut a, mut b) = (keys(&a), keys(&b));
    let challenge = Challenge::new(&both(&a).0, &both(&b).1).expect("a challenge");
    for (name, keys) in [("A", &mut a), ("B", &mut b)] {
        let result = keys.activate(&challenge.credential, &challenge.encrypted_secret);
        assert!(matches!(result, Err(TpmError::Refused { command: "ActivateCredential", .. })), "{name}: {result:?}");
    }
    let right = Challenge::new(&both(&a).0, &both(&a).1).expect("a challenge");
    assert!(a.activate(&right.credential, &right.encrypted_secret).is_ok(), "the session of the refused one is gone");
}

#[test]
fn a_secret_and_a_quote_are_of_no_use_to_another_claim() {
    let tpm = Swtpm::new();
    let mut keys = keys(&tpm);
    let (endorsement, attestation) = both(&keys);
    let challenge = Challenge::new(&endorsement, &attestation).expect("a challenge");
    let secret = keys.activate(&challenge.credential, &challenge.encrypted_secret).expect("activated");
    let signed = keys.quote(&extra_data(&secret, &CLAIMED)).expect("a quote");
    for other in [
        Claimed { claim_key: b"another key", ..CLAIMED },
        Claimed { certificate_request: b"another request", ..CLAIMED },
        Claimed { machine: "box-2", ..CLAIMED },
        Claimed { intent: "again", ..CLAIMED },
    ] {
        assert_eq!(check(&keys, &signed, &secret, &other), Err(QuoteError::OtherClaim), "{other:?}");
    }
    let second = Challenge::new(&endorsement, &attestation).expect("a challenge");
    let other = keys.activate(&second.credential, &second.encrypted_secret).expect("activated");
    assert_ne!(sha256(&secret), second.digest, "an old answer does not answer a new challenge");
    assert_eq!(check(&keys, &signed, &other, &CLAIMED), Err(QuoteError::OtherClaim));
}

#[test]
fn pcr_values_that_were_not_quoted_are_refused() {
    let tpm = Swtpm::new();
    let mut keys = keys(&tpm);
    let before = keys.quote(&extra_data(b"secret", &CLAIMED)).expect("a quote");
    drop(keys);
    tpm.extend(7);
    let mut keys = self::keys(&tpm);
    let after = keys.quote(&extra_data(b"secret", &CLAIMED)).expect("a quote");
    assert_ne!(before.pcrs, after.pcrs);
    assert_eq!(check(&keys, &after, b"secret", &CLAIMED), Ok(()));
    let told = Signed { pcrs: before.pcrs, ..after };
    assert_eq!(check(&keys, &told, b"secret", &CLAIMED), Err(QuoteError::OtherValues));
}

#[test]
fn no_bit_of_a_quote_may_differ() {
    let tpm = Swtpm::new();
    let mut keys = keys(&tpm);
    let signed = keys.quote(&extra_data(b"secret", &CLAIMED)).expect("a quote");
    assert_eq!(check(&keys, &signed, b"secret", &CLAIMED), Ok(()));
    for bit in 0..signed.quote.len() * 8 {
        let mut other = signed.clone();
        other.quote[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&keys, &other, b"secret", &CLAIMED).is_err(), "bit {bit} of the quote");
    }
    for bit in 0..signed.signature.len() * 8 {
        let mut other = signed.clone();
        other.signature[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&keys, &other, b"secret", &CLAIMED).is_err(), "bit {bit} of the signature");
    }
    let (quote, signature) = (&signed.quote, &signed.signature);
    for cut in 0..quote.len() {
        let cut = Signed { quote: quote[..cut].to_vec(), ..signed.clone() };
        assert!(check(&keys, &cut, b"secret", &CLAIMED).is_err());
    }
    for cut in 0..signature.len() {
        let cut = Signed { signature: signature[..cut].to_vec(), ..signed.clone() };
        assert!(check(&keys, &cut, b"secret", &CLAIMED).is_err());
    }
}

#[test]
fn a_changed_challenge_is_refused_by_the_tpm() {
    let tpm = Swtpm::new();
    let mut keys = keys(&tpm);
    let (endorsement, attestation) = both(&keys);
    let challenge = Challenge::new(&endorsement, &attestation).expect("a challenge");
    for at in [0, 5, 34, challenge.credential.len() - 1] {
        let mut credential = challenge.credential.clone();
        credential[at] ^= 1;
        assert!(keys.activate(&credential, &challenge.encrypted_secret).is_err(), "byte {at}");
    }
}

#[test]
fn where_a_maker_is_asked_for_an_emulated_tpm_is_refused() {
    let (maker, other_maker) = (Maker::new(), Maker::new());
    let (good, sibling, foreign, emulated) = (maker.tpm(), maker.tpm(), other_maker.tpm(), Swtpm::new());
    let authorities = Authorities::from_pem(maker.authorities().as_bytes()).expect("a certificate");
    let certificate = |tpm: &Swtpm| {
        let mut keys = keys(tpm);
        (both(&keys).0, keys.endorsement_certificate().expect("asked"))
    };
    let (key, own) = certificate(&good);
    assert_eq!(authorities.check(&key, own.as_deref()), Ok(()));
    let (_, of_sibling) = certificate(&sibling);
    assert_eq!(authorities.check(&key, of_sibling.as_deref()), Err(CertificateError::OtherKey));
    let (key, of_foreign) = certificate(&foreign);
    assert_eq!(authorities.check(&key, of_foreign.as_deref()), Err(CertificateError::Unknown));
    let (key, none) = certificate(&emulated);
    assert_eq!(authorities.check(&key, none.as_deref()), Err(CertificateError::Missing));
    assert_eq!(authorities.check(&key, own.as_deref()), Err(CertificateError::OtherKey), "another's certificate");
    assert_eq!(authorities.check(&key, Some(b"junk")), Err(CertificateError::Unreadable));
    // The authority's own certificate must never pass for a TPM's.
    let root = x509(&maker.authorities());
    assert_eq!(authorities.check(&key, Some(&root)), Err(CertificateError::OtherKey));
}

fn x509(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM").1.contents
}

#[test]
fn authorities_are_certificates_and_nothing_else() {
    assert!(Authorities::from_pem(b"").is_err());
    assert!(Authorities::from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
}
