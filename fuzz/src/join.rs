//! Bodies that an agent posts: claims and progress reports, as JSON.

use magnetite_api::join::{ClaimRequest, ReportRequest, signed_text};
use serde::{Serialize, de::DeserializeOwned};

use crate::bounded;

/// An empty disk of the inventory is the worst case: three bytes of JSON, a hundred in memory, and a vector that grows holds
/// three times what it needs for a moment.
const PER_BYTE: u64 = 192;

/// What decodes is written back to what reads the same; what is signed names machine, intent and request in lines.
pub fn check(bytes: &[u8]) {
    if let Some(claim) = same_again::<ClaimRequest>(bytes) {
        let text = signed_text(&claim.machine, &claim.intent, &claim.certificate_request);
        assert!(text.starts_with(b"magnetite-claim-v1\n") && text.ends_with(b"\n"));
        assert_eq!(text.len(), 19 + claim.machine.len() + claim.intent.len() + 64 + 3);
    }
    same_again::<ReportRequest>(bytes);
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = bounded(bytes, PER_BYTE, || serde_json::from_slice(bytes)).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&written).ok().as_ref(), Some(&value), "read, written and read again");
    Some(value)
}
