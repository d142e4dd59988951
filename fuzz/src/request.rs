//! Certificate requests (PKCS#10), claim keys and certificates, as a box or a kubelet sends them.

use base64::{Engine, engine::general_purpose::STANDARD};
use magnetite_request::{Flaw, Request, certificate_digest, certificate_key, check_claim_key, check_client, quoted};

use crate::bounded;

/// A request that is read is written, and reads the same; what may become a kubelet's client certificate names its node and asks for
/// nothing else; and who signed nothing proves nothing.
pub fn check(bytes: &[u8]) {
    // The fuzzer cannot sign, so what is behind the proof is looked at without it as well.
    match bounded(bytes, 64, || Request::without_proof(bytes)) {
        Ok(request) => read(bytes, &request),
        Err(flaw) => line(&flaw),
    }
    match bounded(bytes, 64, || Request::from_der(bytes)) {
        Ok(request) => {
            assert_eq!(Request::without_proof(bytes).as_ref(), Ok(&request));
            assert_eq!(Request::from_pem(&request.to_pem()).as_ref(), Ok(&request));
        }
        Err(flaw) => line(&flaw),
    }
    let text = String::from_utf8_lossy(bytes);
    if let Err(flaw) = bounded(bytes, 64, || Request::from_pem(&text)) {
        line(&flaw);
    }
    bounded(bytes, 256, || (certificate_key(bytes), certificate_digest(bytes)));
    let key = STANDARD.encode(bytes);
    match check_claim_key(&key, &key, "r7", "created", &text) {
        Ok(_) => unreachable!("a key is no signature of itself"),
        Err(flaw) => line(&flaw),
    }
}

fn read(bytes: &[u8], request: &Request) {
    assert_eq!(request.der, bytes, "nothing is left out, and nothing follows");
    match request.node() {
        Ok(node) => {
            assert!(!node.is_empty() && node.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!(check_client(request, "another.node.than.any").is_err() || node == "another.node.than.any");
            if check_client(request, node).is_ok() {
                assert!(request.sans.is_empty() && !request.asks_more && request.key_kind.is_ok());
            }
        }
        Err(flaw) => {
            line(&flaw);
            assert!(check_client(request, "r7").is_err());
        }
    }
}

/// Why something is refused goes into a status and an Event.
fn line(flaw: &Flaw) {
    let Flaw(text) = flaw;
    assert!(text.len() < 2000 && !text.contains('\n') && !text.chars().any(char::is_control), "{}", quoted(text));
}
