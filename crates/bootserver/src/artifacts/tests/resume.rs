//! What was fetched before the line broke is not fetched again, unless it is of another file.

use std::collections::HashMap;

use super::{upstream::*, *};

const FILE: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const CUT: usize = 10;

fn ways() -> Ways {
    Ways { file: FILE.to_vec(), etag: Some("\"v1\""), ranges: true, cut: Some(CUT), ..Ways::default() }
}

/// Nobody needs anything.
pub struct Nothing;

impl cache::Needs for Nothing {
    fn ranks(&self) -> HashMap<Sha256, room::Rank> {
        HashMap::new()
    }

    fn refuses(&self, _: Sha256, _: magnetite_boot::image::Image) -> Option<&'static str> {
        None
    }

    fn idle_leases(&self, _: Sha256) -> usize {
        0
    }

    fn retire(&self, _: Sha256, _: Option<&Arc<cache::Lease>>) -> bool {
        true
    }
}

async fn fetch(url: &str, cache: &Path) -> Result<(), error::FetchError> {
    let cache = Arc::new(Cache::new(cache.to_owned(), Some(1 << 30)));
    let needs: Arc<dyn cache::Needs> = Arc::new(Nothing);
    Fetcher::new(|_| true).unwrap().fetch(url, Sha256::of(FILE), &cache, &needs, |_, _| ()).await
}

struct Line {
    upstream: Arc<Upstream>,
    cache: tempfile::TempDir,
}

impl Line {
    async fn new(ways: Ways) -> Self {
        magnetite_daemon::crypto::install();
        Self { upstream: Upstream::start(ways).await, cache: tempfile::tempdir().unwrap() }
    }

    async fn fetch(&self) -> Result<(), error::FetchError> {
        fetch(&self.upstream.url(), self.cache.path()).await
    }

    fn place(&self) -> PathBuf {
        self.cache.path().join(Sha256::of(FILE).to_string())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.cache.path()).unwrap().count()
    }
}

#[rstest]
#[case::by_etag(|_: &mut Ways| {}, &["bytes=10-"])]
#[case::by_time(|ways: &mut Ways| (ways.etag, ways.modified) = (None, Some("Sat, 21 Nov 2026 10:00:00 GMT")), &["bytes=10-"])]
#[case::weak_etag_and_time(|ways: &mut Ways| (ways.etag, ways.modified) = (Some("W/\"v1\""), Some("Sat, 21 Nov 2026 10:00:00 GMT")), &["bytes=10-"])]
#[case::unknown_length(|ways: &mut Ways| ways.unknown_length = true, &["bytes=10-"])]
#[case::no_validator(|ways: &mut Ways| ways.etag = None, &[""])]
#[case::weak_validator(|ways: &mut Ways| ways.etag = Some("W/\"v1\""), &[""])]
#[case::no_ranges(|ways: &mut Ways| ways.ranges = false, &["bytes=10-"])]
#[tokio::test]
async fn after_a_cut(#[case] change: fn(&mut Ways), #[case] asked: &[&str]) {
    let mut server = ways();
    change(&mut server);
    let line = Line::new(server).await;
    let error = line.fetch().await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("/file?… stopped after 10 bytes") && !text.contains("secret"), "{text}");
    assert!(!line.place().exists());
    assert_eq!(line.files() == 0, asked == [""], "only what can be gone on with is kept");
    line.upstream.asked();
    line.upstream.change(|ways| ways.cut = None);
    line.fetch().await.unwrap();
    assert_eq!(std::fs::read(line.place()).unwrap(), FILE);
    assert_eq!(line.files(), 1, "nothing is left beside it");
    let ranges: Vec<_> = line.upstream.asked().into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(ranges, asked);
}

#[tokio::test]
async fn many_cuts_are_gone_on_with_and_a_busy_server_costs_nothing() {
    let line = Line::new(ways()).await;
    for _ in 0..3 {
        line.fetch().await.unwrap_err();
    }
    line.upstream.change(|ways| ways.status = Some(503));
    let error = line.fetch().await.unwrap_err();
    assert!(error.to_string().contains("the server answers 503"), "{error}");
    line.upstream.change(|ways| ways.status = None);
    line.fetch().await.unwrap();
    assert_eq!(std::fs::read(line.place()).unwrap(), FILE);
    let asked: Vec<_> = line.upstream.asked().into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(asked, ["", "bytes=10-", "bytes=20-", "bytes=30-", "bytes=30-"]);
}

/// The server had another file first, and now has the right one.
#[rstest]
#[case::and_says_so(|ways: &mut Ways| ways.etag = Some("\"v2\""), &["bytes=10-"])]
#[case::under_the_same_name(|_: &mut Ways| {}, &["bytes=10-", ""])]
#[case::and_takes_any_name(|ways: &mut Ways| (ways.etag, ways.lies) = (Some("\"v2\""), true), &["bytes=10-", ""])]
#[tokio::test]
async fn two_halves_that_do_not_belong_together_are_never_put_together(
    #[case] change: fn(&mut Ways),
    #[case] asked: &[&str],
) {
    let other = Ways { file: FILE.iter().rev().copied().collect(), ..ways() };
    let line = Line::new(other).await;
    line.fetch().await.unwrap_err();
    line.upstream.asked();
    line.upstream.change(|now| {
        (now.file, now.cut) = (FILE.to_vec(), None);
        change(now);
    });
    line.fetch().await.unwrap();
    assert_eq!(std::fs::read(line.place()).unwrap(), FILE);
    let ranges: Vec<_> = line.upstream.asked().into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(ranges, asked);
}

#[tokio::test]
async fn a_file_that_became_shorter_is_fetched_whole() {
    let line = Line::new(Ways { file: [FILE, FILE].concat(), cut: Some(FILE.len() + 4), ..ways() }).await;
    line.fetch().await.unwrap_err();
    line.upstream.change(|ways| (ways.file, ways.cut, ways.lies) = (FILE.to_vec(), None, true));
    line.fetch().await.unwrap();
    assert_eq!(std::fs::read(line.place()).unwrap(), FILE);
    assert_eq!(line.upstream.asked(), [None, Some("bytes=40-".to_owned()), None]);
}

#[tokio::test]
async fn what_was_whole_when_the_process_was_killed_is_not_fetched_again() {
    let line = Line::new(Ways { cut: None, ..ways() }).await;
    let mut partial = partial::Partial::open(line.cache.path(), Sha256::of(FILE)).unwrap().unwrap();
    let url = target::shown(&line.upstream.url());
    let origin = partial::Origin { url, validator: "\"v1\"".into(), total: Some(FILE.len() as u64) };
    partial.restart(Some(&origin)).unwrap();
    partial.write(FILE).unwrap();
    drop(partial);
    line.fetch().await.unwrap();
    assert_eq!(std::fs::read(line.place()).unwrap(), FILE);
    assert!(line.upstream.asked().is_empty());
}

#[tokio::test]
async fn the_bytes_of_another_link_are_not_gone_on_with() {
    let line = Line::new(ways()).await;
    line.fetch().await.unwrap_err();
    let elsewhere = Upstream::start(Ways { cut: None, ..ways() }).await;
    fetch(&elsewhere.url(), line.cache.path()).await.unwrap();
    assert_eq!(elsewhere.asked(), [None]);
    assert_eq!(std::fs::read(line.place()).unwrap(), FILE);
}
