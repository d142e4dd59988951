//! Versions of kubelets and of the API server: a kubelet may be older than its API server, and never newer.

use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use kube::Client;

/// An API server is upgraded seldom.
const FRESH: SignedDuration = SignedDuration::from_mins(5);

/// A minor release of Kubernetes, such as 1.34.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minor(pub u32, pub u32);

impl Minor {
    /// Reads `v1.34.2`, `1.34+`, `v1.35.0-rc.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').split('.');
        let number = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        Some(Self(number(parts.next()?)?, number(parts.next()?)?))
    }
}

/// The API server's version, as it was asked last.
#[derive(Debug, Default)]
pub struct ApiServerVersion(Mutex<Option<(Timestamp, Minor)>>);

impl ApiServerVersion {
    /// Asks, unless that was done a moment ago. None: it did not say, and nothing is refused for that.
    pub async fn look(&self, client: &Client, now: Timestamp) -> Option<Minor> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, minor)) = known
            && now.duration_since(at) < FRESH
        {
            return Some(minor);
        }
        match client.apiserver_version().await {
            Ok(info) => {
                let minor = Minor::parse(&format!("{}.{}", info.major, info.minor))?;
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, minor));
                Some(minor)
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the API server did not say its version");
                known.map(|(_, minor)| minor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_kubernetes_writes_them() {
        assert_eq!(Minor::parse("v1.34.2"), Some(Minor(1, 34)));
        assert_eq!(Minor::parse("1.9+"), Some(Minor(1, 9)));
        assert_eq!(Minor::parse("v1.35.0-rc.1+k3s1"), Some(Minor(1, 35)));
        assert_eq!(Minor::parse(""), None);
        assert!(Minor(1, 9) < Minor(1, 34));
    }
}
