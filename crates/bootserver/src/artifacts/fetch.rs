//! Fetches a file: beside its place, summed on the way, and renamed into it only if the sum is right.
//!
//! A Profile's author chooses the URL, and the boot server has reach that its author may not have. So only http and
//! https are spoken, no redirect is followed, nothing is sent along, and addresses that mean this host or its link are
//! refused after the name was resolved, when they are what will be connected to.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use magnetite_api::{Sha256, report::ArtifactState};
use reqwest::{
    Client, Url,
    dns::{Name, Resolve, Resolving},
};
use sha2::Digest;
use tokio::io::AsyncWriteExt;

/// No file is larger: an endless stream ends here.
const LARGEST: u64 = 16 << 30;
/// No fetch takes longer.
const LONGEST: Duration = Duration::from_secs(2 * 60 * 60);
/// So much of the disk is left to others.
const RESERVE: u64 = 64 << 20;
/// Progress is told, and the disk looked at, after so many bytes.
const STEP: u64 = 16 << 20;

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
    /// The other server did not answer, or stopped half-way.
    #[error("fetching failed")]
    Http(#[source] reqwest::Error),
    /// The other server has something else to say.
    #[error("the server answers {0}; name the file's own URL")]
    Status(reqwest::StatusCode),
    /// It does not end.
    #[error("it is larger than {LARGEST} bytes, or took longer than two hours")]
    TooMuch,
    /// The file came to an end before the length that the server told.
    #[error("the server sent {got} of {told} bytes")]
    Short {
        /// Bytes that came.
        got: u64,
        /// Bytes that were told.
        told: u64,
    },
    /// The disk is full, or nearly.
    #[error("the disk of {0} is full; make room in --data-dir")]
    Full(PathBuf),
    /// The cache could not be written.
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] std::io::Error),
    /// It is another file.
    #[error("it has SHA-256 {got}, and {want} is declared")]
    WrongSum {
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
            Self::Url(_)
            | Self::Address { .. }
            | Self::Http(_)
            | Self::Status(_)
            | Self::TooMuch
            | Self::Short { .. }
            | Self::Full(_)
            | Self::Write(..) => ArtifactState::Failed,
        }
    }
}

/// False of an address that leads to this host, or no further than its own link (cloud metadata is there).
pub fn is_fetched_from(address: IpAddr) -> bool {
    let address = address.to_canonical();
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first != 0 && first < 224 && !v4.is_loopback() && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            let link_local = v6.segments()[0] & 0xffc0 == 0xfe80;
            // The old form ::a.b.c.d of an IPv4 address, which to_canonical leaves alone, holds :: and ::1 too.
            let compatible = v6.segments()[..6] == [0; 6];
            let metadata = v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            !(link_local || compatible || metadata || v6.is_multicast())
        }
    }
}

/// Resolves names to addresses that may be fetched from.
struct Resolver(fn(IpAddr) -> bool);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let all: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // One bad address spoils the name: it would be a matter of luck which is taken.
            if let Some(bad) = all.iter().find(|address| !allowed(address.ip())) {
                return Err(FetchError::Address { host, address: bad.ip() }.into());
            }
            Ok(Box::new(all.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// Fetches files.
#[derive(Debug)]
pub struct Fetcher {
    client: Client,
    allowed: fn(IpAddr) -> bool,
}

impl Fetcher {
    /// Fetches from addresses that `allowed` takes; see [`is_fetched_from`].
    pub fn new(allowed: fn(IpAddr) -> bool) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            // A redirect could lead anywhere; a Profile names the file itself.
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve the name, where nobody looks at the address.
            .no_proxy()
            .dns_resolver(std::sync::Arc::new(Resolver(allowed)))
            .user_agent(concat!("magnetite-bootserver/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, allowed })
    }

    fn target(&self, url: &str) -> Result<Url, FetchError> {
        let refused = || FetchError::Url(url.to_owned());
        let parsed = Url::parse(url).map_err(|_| refused())?;
        let bare = parsed.username().is_empty() && parsed.password().is_none();
        let host = parsed.host_str().filter(|_| bare && matches!(parsed.scheme(), "http" | "https"));
        let host = host.ok_or_else(refused)?;
        // An address is not resolved, so that the resolver never sees it.
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !(self.allowed)(address) => Err(FetchError::Address { host: host.to_owned(), address }),
            _ => Ok(parsed),
        }
    }

    /// Fetches a file to `path`, which then holds exactly what `want` says. `progress` is told the bytes so far and
    /// the bytes in all, if the server says.
    ///
    /// # Errors
    /// Why not. Nothing is at `path` then, nor left beside it.
    pub async fn fetch(
        &self,
        url: &str,
        want: Sha256,
        path: &Path,
        progress: impl Fn(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let target = self.target(url)?;
        // A name of its own: two Profiles may name the same file at two places.
        let part = Part(path.with_extension(format!("{:016x}.part", rand::random::<u64>())));
        let download = self.download(target, want, &part.0, progress);
        tokio::time::timeout(LONGEST, download).await.map_err(|_| FetchError::TooMuch)??;
        let written = |error| FetchError::Write(path.to_owned(), error);
        tokio::fs::rename(&part.0, path).await.map_err(written)?;
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(folder)?.sync_all()).await;
        synced.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(written)
    }

    async fn download(
        &self,
        target: Url,
        want: Sha256,
        part: &Path,
        progress: impl Fn(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let response = self.client.get(target).send().await.map_err(FetchError::Http)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let total = response.content_length();
        room(part, total.unwrap_or(0))?;
        let written = |error| FetchError::Write(part.to_owned(), error);
        let mut file = tokio::fs::File::create(part).await.map_err(written)?;
        let (mut hasher, mut bytes, mut told) = (sha2::Sha256::new(), 0u64, 0u64);
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(FetchError::Http)?;
            bytes += chunk.len() as u64;
            if bytes > LARGEST {
                return Err(FetchError::TooMuch);
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(written)?;
            if bytes - told >= STEP {
                told = bytes;
                room(part, 0)?;
                progress(bytes, total);
            }
        }
        if let Some(told) = total.filter(|told| *told != bytes) {
            return Err(FetchError::Short { got: bytes, told });
        }
        file.sync_all().await.map_err(written)?;
        let got = Sha256(hasher.finalize().into());
        if got == want { Ok(()) } else { Err(FetchError::WrongSum { got, want }) }
    }
}

/// A file that is being fetched; gone with this value, unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Removes what a killed process left half fetched.
pub fn remove_parts(cache: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "part") {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether the disk has room for so many bytes more.
fn room(part: &Path, bytes: u64) -> Result<(), FetchError> {
    let folder = part.parent().unwrap_or(Path::new("."));
    let Ok(disk) = nix::sys::statvfs::statvfs(folder) else { return Ok(()) };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if free < bytes.saturating_add(RESERVE) { Err(FetchError::Full(folder.to_owned())) } else { Ok(()) }
}
