//! Why a file was not fetched, in words that go into a Profile's condition.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use magnetite_api::{Sha256, report::ArtifactState};
use reqwest::StatusCode;

use super::room::Shortage;

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is none that is fetched.
    #[error("{0} is not fetched: it needs http or https, a host, and no credentials")]
    Url(String),
    /// The address is this host's, or its link's.
    #[error("{host} is not fetched from: {address} is an address of this host or of its link only")]
    Address {
        /// As the URL says.
        host: String,
        /// The address.
        address: IpAddr,
    },
    /// The host is not among those that files come from.
    #[error("{host} is not fetched from: it is none of the hosts that --artifact-host names")]
    Host {
        /// As the URL says.
        host: String,
    },
    /// The address is in a network that is left out.
    #[error("{host} is not fetched from: {address} is in {network}, which --refuse-artifact-network names")]
    Network {
        /// As the URL says.
        host: String,
        /// The address.
        address: IpAddr,
        /// The network.
        network: IpNet,
    },
    /// The other server did not answer, or stopped half-way.
    #[error("fetching {url} stopped after {bytes} bytes")]
    Http {
        /// Where from.
        url: String,
        /// Bytes at hand.
        bytes: u64,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The other server has something else to say.
    #[error("{url}: the server answers {status}; name the file's own URL")]
    Status {
        /// Where from.
        url: String,
        /// What it says.
        status: StatusCode,
    },
    /// It does not end.
    #[error("{url} is larger than {most} bytes")]
    TooLarge {
        /// Where from.
        url: String,
        /// The most that is fetched.
        most: u64,
    },
    /// It does not end today.
    #[error("{url} took longer than {} s", most.as_secs())]
    TooLong {
        /// Where from.
        url: String,
        /// The longest that is waited.
        most: Duration,
    },
    /// The file came to an end before the length that the server told.
    #[error("{url}: the server sent {got} of {told} bytes")]
    Short {
        /// Where from.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were told.
        told: u64,
    },
    /// Another Profile names the same file, or another process has the same --data-dir.
    #[error("another fetch is at it")]
    Taken,
    /// The cache has no room for it.
    #[error(transparent)]
    NoRoom(#[from] Shortage),
    /// The disk is full.
    #[error("the disk of {0} is full: make room there")]
    Full(PathBuf),
    /// The cache could not be written.
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] std::io::Error),
    /// Every field that names it wants a kernel for another architecture.
    #[error("{}", kernel(name))]
    WrongArchitecture {
        /// The architecture that it is for.
        name: &'static str,
    },
    /// It is another file.
    #[error("{url} has SHA-256 {got}, and {want} is declared")]
    WrongSum {
        /// Where from.
        url: String,
        /// What it has.
        got: Sha256,
        /// What it should have.
        want: Sha256,
    },
}

impl FetchError {
    /// As a Profile's condition says it.
    pub fn state(&self) -> ArtifactState {
        match self {
            Self::WrongSum { .. } => ArtifactState::WrongSum,
            Self::WrongArchitecture { .. } => ArtifactState::WrongArchitecture,
            Self::Taken => ArtifactState::Fetching,
            Self::Url(_)
            | Self::Address { .. }
            | Self::Host { .. }
            | Self::Network { .. }
            | Self::Http { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::TooLong { .. }
            | Self::Short { .. }
            | Self::NoRoom(_)
            | Self::Full(_)
            | Self::Write(..) => ArtifactState::Failed,
        }
    }

    /// Whether what came is the beginning of the file, as far as is known. Of a full disk even that is given back: the
    /// boot records are on it.
    pub fn is_cut(&self) -> bool {
        let cut = matches!(self, Self::Http { .. } | Self::Status { .. } | Self::TooLong { .. } | Self::Short { .. });
        cut || matches!(self, Self::NoRoom(_))
    }

    /// Whether it is for want of room only, which may come back at any time.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoRoom(_) | Self::Full(_))
    }

    /// Bytes at hand when it stopped half-way.
    pub fn got(&self) -> u64 {
        match self {
            Self::Http { bytes: got, .. } | Self::Short { got, .. } => *got,
            _ => 0,
        }
    }
}

/// What a kernel is, in words.
pub fn kernel(name: &str) -> String {
    let article = if name.starts_with(['a', 'x']) { "an" } else { "a" };
    format!("is {article} {name} kernel")
}

/// What a failed write means.
pub fn full(cache: &Path, error: std::io::Error) -> FetchError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => FetchError::Full(cache.to_owned()),
        _ => FetchError::Write(cache.to_owned(), error),
    }
}
