//! Time as the API carries it: RFC 3339 in UTC, whole seconds. Nothing here reads a clock.

use jiff::Timestamp;

/// A moment, as Kubernetes writes it: RFC 3339, UTC, whole seconds.
pub type Time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A moment cut to whole seconds, so that what is written and read back is equal.
pub fn seconds(at: Timestamp) -> Time {
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at)
}
