//! Fetches a file: beside its place, summed on the way, and renamed into it only if the sum is right. What a broken
//! connection or a killed process left is gone on with.
//!
//! No redirect is followed, nothing is sent along, and [`super::target`] says where from.

#[cfg(test)]
use std::net::IpAddr;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use magnetite_api::Sha256;
use magnetite_boot::image::{HEAD, Image};
use reqwest::{Client, Response, StatusCode, Url, header};
use tokio::time::Instant;

use super::{
    cache::{Cache, Needs},
    error::{FetchError, full},
    partial::{Origin, Partial},
    target::{Lookup, Resolver, Rules, shown, system, target},
};

/// Bytes that are written at once.
const WRITE: usize = 1 << 20;
/// Room is looked for again after so many bytes.
pub const STEP: u64 = 16 << 20;
/// Progress is told this often.
const TELL: Duration = Duration::from_secs(1);

/// Where a fetch that does not end ends.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// No file is larger.
    pub bytes: u64,
    /// No fetch takes longer. What came until then is gone on with by the next.
    pub time: Duration,
}

impl Default for Most {
    fn default() -> Self {
        Self { bytes: 16 << 30, time: Duration::from_secs(2 * 60 * 60) }
    }
}

/// Fetches files.
#[derive(Debug)]
pub struct Fetcher {
    client: Client,
    rules: Rules,
    /// Where it gives up.
    pub most: Most,
}

impl Fetcher {
    /// Fetches from addresses that `allowed` takes, by any name.
    #[cfg(test)]
    pub fn new(allowed: fn(IpAddr) -> bool) -> Result<Self, reqwest::Error> {
        Self::with(Rules::any(allowed), system())
    }

    /// Fetches as `rules` say.
    pub fn of(rules: Rules) -> Result<Self, reqwest::Error> {
        Self::with(rules, system())
    }

    /// The same, where `lookup` knows the addresses of names.
    pub fn with(rules: Rules, lookup: Lookup) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            // A redirect could lead anywhere; a Profile names the file itself.
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve the name, where nobody looks at the address.
            .no_proxy()
            .dns_resolver(Arc::new(Resolver { rules: rules.clone(), lookup }))
            .user_agent(concat!("magnetite-bootserver/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, rules, most: Most::default() })
    }

    /// Fetches a file to its place in the cache, which then holds exactly what `want` says. `progress` is told the
    /// bytes so far and the bytes in all, if the server says.
    ///
    /// # Errors
    /// Why not. Nothing is in its place then; beside it is what the next fetch can go on with, if anything.
    pub async fn fetch(
        &self,
        url: &str,
        want: Sha256,
        cache: &Arc<Cache>,
        needs: &Arc<dyn Needs>,
        progress: impl Fn(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let target = target(url, &self.rules)?;
        let opened = {
            let cache = Arc::clone(cache);
            tokio::task::spawn_blocking(move || Partial::open(cache.folder(), want)).await.unwrap_or_else(cut_short)
        };
        let partial = opened.map_err(|error| full(cache.folder(), error))?.ok_or(FetchError::Taken)?;
        let _coming = cache.expect(want);
        let (partial, needs) = (Arc::new(Mutex::new(partial)), Arc::clone(needs));
        let Most { bytes: largest, time: longest } = self.most;
        let job = Job { url: shown(url), want, largest, cache: Arc::clone(cache), needs, partial };
        let fetched = tokio::time::timeout(longest, job.run(&self.client, &target, progress)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(FetchError::TooLong { url: job.url.clone(), most: longest }));
        if let Err(error) = &fetched {
            let cut = error.is_cut();
            job.with(move |partial| {
                if !cut || partial.origin().is_none() {
                    partial.discard()
                }
            })
            .await?;
        }
        fetched
    }
}

/// One fetch.
struct Job {
    url: String,
    want: Sha256,
    largest: u64,
    cache: Arc<Cache>,
    needs: Arc<dyn Needs>,
    partial: Arc<Mutex<Partial>>,
}

impl Job {
    async fn run(&self, client: &Client, target: &Url, progress: impl Fn(u64, Option<u64>)) -> Result<(), FetchError> {
        loop {
            let resumed = self.download(client, target, &progress).await?;
            let got = self.with(|partial| partial.sum()).await?;
            if got == self.want {
                let place = self.cache.place(self.want);
                return self.write(move |partial| partial.finish(&place)).await;
            }
            if !resumed {
                return Err(FetchError::WrongSum { url: self.url.clone(), got, want: self.want });
            }
            // Two beginnings and ends that do not belong together, or a disk that rots: once more, from the beginning.
            self.write(|partial| partial.restart(None)).await?;
        }
    }

    /// Fetches what is not there yet. True if some of it was.
    async fn download(
        &self,
        client: &Client,
        target: &Url,
        progress: &impl Fn(u64, Option<u64>),
    ) -> Result<bool, FetchError> {
        let url = self.url.clone();
        let known = self.with(move |partial| partial.origin().filter(|origin| origin.url == url)).await?;
        let start = self.with(|partial| partial.bytes()).await?;
        let Some(origin) = known else { return self.whole(client, target, progress).await.map(|()| false) };
        if origin.total == Some(start) {
            return Ok(true);
        }
        let range = (header::RANGE, format!("bytes={start}-"));
        let asked = client.get(target.clone()).header(range.0, range.1).header(header::IF_RANGE, &origin.validator);
        let response = asked.send().await.map_err(|error| self.http(error, start))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if fits(&response, start, origin.total) => {
                tracing::info!(url = self.url, bytes = start, "fetching goes on where it stopped");
                progress(start, origin.total);
                self.admit(origin.total.unwrap_or(start + STEP)).await?;
                self.receive(response, start, origin.total, progress).await.map(|()| true)
            }
            // The server has another version of the file now, or knows no ranges.
            StatusCode::OK => self.receive_whole(response, progress).await.map(|()| false),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.whole(client, target, progress).await.map(|()| false)
            }
            status => Err(FetchError::Status { url: self.url.clone(), status }),
        }
    }

    async fn whole(
        &self,
        client: &Client,
        target: &Url,
        progress: &impl Fn(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let response = client.get(target.clone()).send().await.map_err(|error| self.http(error, 0))?;
        match response.status() {
            StatusCode::OK => self.receive_whole(response, progress).await,
            status => Err(FetchError::Status { url: self.url.clone(), status }),
        }
    }

    async fn receive_whole(&self, response: Response, progress: &impl Fn(u64, Option<u64>)) -> Result<(), FetchError> {
        let total = response.content_length();
        if total.is_some_and(|total| total > self.largest) {
            return Err(self.too_large());
        }
        progress(0, total);
        self.admit(total.unwrap_or(STEP)).await?;
        let origin = validator(&response).map(|validator| Origin { url: self.url.clone(), validator, total });
        self.write(move |partial| partial.restart(origin.as_ref())).await?;
        self.receive(response, 0, total, progress).await
    }

    /// Takes the body, which begins at `bytes`.
    async fn receive(
        &self,
        response: Response,
        mut bytes: u64,
        total: Option<u64>,
        progress: &impl Fn(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let (mut stream, mut buffer) = (response.bytes_stream(), Vec::with_capacity(WRITE));
        // What an earlier fetch left was judged by it.
        let (mut told, mut looked, mut judged) = (Instant::now(), bytes, bytes > 0);
        loop {
            let chunk = stream.next().await;
            let ended = !matches!(chunk, Some(Ok(_)));
            if let Some(Ok(chunk)) = &chunk {
                bytes += chunk.len() as u64;
                buffer.extend_from_slice(chunk);
            }
            if !judged && (buffer.len() >= HEAD || ended) {
                judged = true;
                self.judge(&buffer)?;
            }
            if buffer.len() >= WRITE || ended {
                let full = std::mem::replace(&mut buffer, Vec::with_capacity(WRITE));
                self.write(move |partial| partial.write(&full)).await?;
            }
            match chunk {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(self.http(error, bytes)),
                None => break,
            }
            if bytes > self.largest {
                return Err(self.too_large());
            }
            if bytes - looked >= STEP {
                looked = bytes;
                self.admit(total.unwrap_or(bytes + STEP)).await?;
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                progress(bytes, total);
            }
        }
        match total.filter(|told| *told != bytes) {
            Some(told) => Err(FetchError::Short { url: self.url.clone(), got: bytes, told }),
            None => Ok(()),
        }
    }

    /// Fetches no more of a kernel that starts nowhere.
    fn judge(&self, head: &[u8]) -> Result<(), FetchError> {
        match self.needs.refuses(self.want, Image::of(head)) {
            Some(name) => Err(FetchError::WrongArchitecture { name }),
            None => Ok(()),
        }
    }

    /// Sees to it that there is room for the whole file.
    async fn admit(&self, whole: u64) -> Result<(), FetchError> {
        let (cache, needs, sum) = (Arc::clone(&self.cache), Arc::clone(&self.needs), self.want);
        let admitted = tokio::task::spawn_blocking(move || cache.admit(sum, whole, &*needs)).await;
        Ok(admitted.map_err(|error| self.broken(error))??)
    }

    fn too_large(&self) -> FetchError {
        FetchError::TooLarge { url: self.url.clone(), most: self.largest }
    }

    fn broken(&self, error: tokio::task::JoinError) -> FetchError {
        FetchError::Write(self.cache.folder().to_owned(), std::io::Error::other(error))
    }

    fn http(&self, error: reqwest::Error, bytes: u64) -> FetchError {
        // Its own words would show the whole URL.
        FetchError::Http { url: self.url.clone(), bytes, source: error.without_url() }
    }

    /// Does something with the partial file where it may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Partial) -> T + Send + 'static,
    ) -> Result<T, FetchError> {
        let partial = Arc::clone(&self.partial);
        let done =
            tokio::task::spawn_blocking(move || work(&mut partial.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|error| self.broken(error))
    }

    async fn write(
        &self,
        work: impl FnOnce(&mut Partial) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), FetchError> {
        self.with(work).await?.map_err(|error| full(self.cache.folder(), error))
    }
}

fn cut_short<T>(error: tokio::task::JoinError) -> std::io::Result<T> {
    Err(std::io::Error::other(error))
}

/// What `If-Range` may name the file's version by: a strong ETag, or the time of its last change (RFC 9110, 13.1.5).
fn validator(response: &Response) -> Option<String> {
    let value = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    value(header::ETAG).filter(|tag| tag.starts_with('"')).or_else(|| value(header::LAST_MODIFIED))
}

/// Whether a part is the one that was asked for (RFC 9110, 14.4): `bytes 100-199/200`.
fn fits(response: &Response, start: u64, total: Option<u64>) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let Some((range, of)) =
        range.and_then(|range| range.strip_prefix("bytes ")).and_then(|range| range.split_once('/'))
    else {
        return false;
    };
    let (first, last) = range.split_once('-').unwrap_or_default();
    let (of, to_the_end) = (of.parse::<u64>().ok(), last.parse::<u64>().ok().and_then(|last| last.checked_add(1)));
    let same_total = of.is_none() || total.is_none() || of == total;
    first.parse() == Ok(start) && same_total && (total.is_none() || total == to_the_end)
}
