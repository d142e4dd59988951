//! Never a byte that was not checked.

mod architecture;
mod quota;
mod resume;
pub mod upstream;
mod vectors;
mod wrong;

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Body, http::StatusCode, response::IntoResponse, routing::get};
use magnetite_api::profile::{ArchBoot, BootSpec};
use rstest::rstest;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{target::is_fetched_from, *};
use crate::{
    fixtures::{profile, until},
    view::View,
};

/// Not what the disk of whoever runs this allows.
const QUOTA: Option<u64> = Some(1 << 20);
const FILE: &[u8] = b"a kernel from afar";

fn by_file(file: &str, content: &[u8]) -> Artifact {
    Artifact { url: None, file: Some(file.to_owned()), sha256: Sha256::of(content) }
}

fn by_url(url: String, content: &[u8]) -> Artifact {
    Artifact { url: Some(url), file: None, sha256: Sha256::of(content) }
}

struct Shelf {
    folder: tempfile::TempDir,
    library: Arc<Library>,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl Shelf {
    fn new() -> Self {
        magnetite_daemon::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        for name in ["files", "cache"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let library = Arc::new(Library::new(folder.path().join("files"), folder.path().join("cache"), QUOTA));
        Self { folder, library, stop: CancellationToken::new(), running: None }
    }

    /// Looks after artifacts, of which the first is a kernel and the rest are initrds.
    fn keep(&mut self, artifacts: &[Artifact], allowed: fn(IpAddr) -> bool) -> watch::Sender<Arc<View>> {
        let mut p = profile("p");
        let boot = ArchBoot { kernel: artifacts[0].clone(), initrds: artifacts[1..].to_vec(), ..ArchBoot::default() };
        p.spec.boot = BootSpec { x86_64: Some(boot), ..BootSpec::default() };
        let (writer, reader) = watch::channel(Arc::new(View { profiles: vec![Arc::new(p)], ..View::default() }));
        let fetcher = Fetcher::new(allowed).unwrap();
        self.running = Some(tokio::spawn(Arc::clone(&self.library).run(reader, fetcher, self.stop.clone())));
        writer
    }

    fn follow(&mut self, view: Arc<View>) -> watch::Sender<Arc<View>> {
        let (writer, reader) = watch::channel(view);
        let fetcher = Fetcher::new(|_| true).unwrap();
        self.running = Some(tokio::spawn(Arc::clone(&self.library).run(reader, fetcher, self.stop.clone())));
        writer
    }

    async fn becomes(&self, artifact: &Artifact, state: ArtifactState) -> ArtifactReport {
        until(&format!("{state:?}"), || self.library.report("f", artifact).state == state).await;
        self.library.report("f", artifact)
    }

    fn cached(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path().join("cache")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "last-used.json").collect()
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.cancel();
        if let Some(running) = self.running {
            running.await.unwrap().unwrap();
        }
        self.folder
    }
}

/// A site that has files: `/file`, `/moved`, `/gone`, and `/cut`, which ends half-way.
async fn site(asked: Arc<AtomicUsize>) -> SocketAddr {
    let cut = async || {
        let half = futures::stream::iter([Ok(&FILE[..4]), Err(std::io::Error::other("killed"))]);
        ([("content-length", FILE.len().to_string())], Body::from_stream(half))
    };
    let file = async move || {
        asked.fetch_add(1, Ordering::Relaxed);
        FILE
    };
    let moved = async || (StatusCode::FOUND, [("location", "/file")]).into_response();
    let routes = Router::new().route("/file", get(file)).route("/moved", get(moved)).route("/cut", get(cut));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, routes).await });
    address
}

#[tokio::test]
async fn what_is_far_is_fetched_once_and_kept() {
    let asked = Arc::<AtomicUsize>::default();
    let address = site(Arc::clone(&asked)).await;
    let mut shelf = Shelf::new();
    let far = by_url(format!("http://{address}/file"), FILE);
    let left = format!("cache/{}.0123456789abcdef.part", far.sha256);
    std::fs::write(shelf.folder.path().join(left), b"of a killed process").unwrap();
    let _view = shelf.keep(&[far.clone(), far.clone()], |_| true);
    shelf.becomes(&far, ArtifactState::Ready).await;
    let checked = shelf.library.get(&far).unwrap();
    assert_eq!(std::fs::read(checked.path()).unwrap(), FILE);
    assert_eq!(shelf.cached(), [far.sha256.to_string()], "nothing half fetched is left");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let folder = shelf.stop().await;

    // Another process finds it, and sums it before it believes it.
    let again = Arc::new(Library::new(folder.path().join("files"), folder.path().join("cache"), QUOTA));
    let mut shelf = Shelf { folder, library: again, stop: CancellationToken::new(), running: None };
    let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
    shelf.becomes(&far, ArtifactState::Ready).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "it was there");
    let folder = shelf.stop().await;

    // A disk rots.
    std::fs::write(folder.path().join("cache").join(far.sha256.to_string()), b"a kernel from aFar").unwrap();
    let again = Arc::new(Library::new(folder.path().join("files"), folder.path().join("cache"), QUOTA));
    let mut shelf = Shelf { folder, library: again, stop: CancellationToken::new(), running: None };
    let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
    shelf.becomes(&far, ArtifactState::Ready).await;
    assert_eq!(std::fs::read(shelf.library.get(&far).unwrap().path()).unwrap(), FILE);
    assert_eq!(asked.load(Ordering::Relaxed), 2, "fetched anew");
    shelf.stop().await;
}

#[rstest]
#[case::another_file("file", b"declared otherwise", ArtifactState::WrongSum, "and")]
#[case::half_of_it("cut", FILE, ArtifactState::Failed, "")]
#[case::elsewhere("moved", FILE, ArtifactState::Failed, "302")]
#[case::not_there("gone", FILE, ArtifactState::Failed, "404")]
#[tokio::test]
async fn what_is_not_the_declared_file_is_never_there(
    #[case] path: &str,
    #[case] declared: &[u8],
    #[case] state: ArtifactState,
    #[case] words: &str,
) {
    let address = site(Arc::default()).await;
    let mut shelf = Shelf::new();
    let far = by_url(format!("http://{address}/{path}"), declared);
    let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
    let report = shelf.becomes(&far, state).await;
    assert!(report.message.as_ref().is_some_and(|message| message.contains(words)), "{report:?}");
    assert_eq!(shelf.library.get(&far), None);
    assert!(shelf.cached().is_empty(), "{:?}", shelf.cached());
    shelf.stop().await;
}

#[tokio::test]
async fn a_fetch_that_is_killed_leaves_nothing_that_could_be_served() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut shelf = Shelf::new();
    let far = by_url(format!("http://{}/slow", listener.local_addr().unwrap()), FILE);
    let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
    let (mut connection, _) = listener.accept().await.unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", FILE.len());
    tokio::io::AsyncWriteExt::write_all(&mut connection, head.as_bytes()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut connection, &FILE[..FILE.len() - 1]).await.unwrap();
    until("a file to be begun", || shelf.library.report("f", &far).total_bytes.is_some()).await;
    let report = shelf.library.report("f", &far);
    let whole = i64::try_from(FILE.len()).ok();
    assert_eq!((report.state, report.bytes, report.total_bytes), (ArtifactState::Fetching, 0, whole));
    assert_eq!(report.message.unwrap(), "f: being fetched: 0 bytes of 18 bytes (0 %)");
    assert_eq!(shelf.library.get(&far), None);
    assert_eq!(shelf.cached(), [format!("{}.part", far.sha256)]);
    let library = Arc::clone(&shelf.library);
    let folder = shelf.stop().await;
    assert_eq!(library.get(&far), None);
    assert!(!folder.path().join("cache").join(far.sha256.to_string()).exists());
}

#[tokio::test]
async fn one_that_is_far_holds_up_no_other() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut shelf = Shelf::new();
    std::fs::write(shelf.folder.path().join("files/kernel"), b"linux").unwrap();
    let far = by_url(format!("http://{}/never", silent.local_addr().unwrap()), FILE);
    let near = by_file("kernel", b"linux");
    let view = shelf.keep(&[far.clone(), near.clone()], |_| true);
    shelf.becomes(&near, ArtifactState::Ready).await;
    assert_eq!(shelf.library.report("f", &far).state, ArtifactState::Fetching);
    assert_eq!(shelf.library.tally(), (1, 1));
    view.send_replace(Arc::default());
    until("what nobody wants to be forgotten", || shelf.library.tally() == (0, 0)).await;
    shelf.stop().await;
}

#[tokio::test]
async fn this_host_and_its_link_are_not_fetched_from() {
    let asked = Arc::<AtomicUsize>::default();
    let address = site(Arc::clone(&asked)).await;
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let mut shelf = Shelf::new();
        let far = by_url(format!("http://{host}:{}/file", address.port()), FILE);
        let _view = shelf.keep(std::slice::from_ref(&far), is_fetched_from);
        let report = shelf.becomes(&far, ArtifactState::Failed).await;
        assert!(report.message.as_ref().unwrap().contains("of this host or of its link"), "{host}: {report:?}");
        shelf.stop().await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn urls_that_are_none() {
    for url in ["file:///etc/passwd", "ftp://example.com/x", "http://user:word@example.com/x", "nonsense"] {
        let mut shelf = Shelf::new();
        let far = by_url(url.to_owned(), FILE);
        let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
        let report = shelf.becomes(&far, ArtifactState::Failed).await;
        assert!(report.message.as_ref().unwrap().contains("is not fetched"), "{report:?}");
        shelf.stop().await;
    }
}

#[test]
fn only_what_was_checked_is_served_and_only_while_it_stays() {
    let shelf = Shelf::new();
    let path = shelf.folder.path().join("files/kernel");
    let (library, right) = (&shelf.library, by_file("kernel", b"linux"));
    let key = Key::of(&right).unwrap();
    let look = || library.check_now(&key, check::inside(&library.folder, "kernel").as_deref());

    look();
    assert_eq!(library.report("f", &right).state, ArtifactState::Missing);
    std::fs::write(&path, b"linus").unwrap();
    look();
    let report = library.report("spec.boot.x86_64.kernel", &right);
    assert_eq!(report.state, ArtifactState::WrongSum);
    assert!(report.message.unwrap().starts_with("spec.boot.x86_64.kernel: the file has SHA-256"));
    assert!(!library.obstacle("f", &right).unwrap().on_its_way);
    assert_eq!(library.get(&right), None);
    std::fs::write(&path, b"linux").unwrap();
    look();
    let checked = library.get(&right).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert!(checked.is_same(&std::fs::metadata(&path).unwrap()));
    // Another content of the same size, and the time set back as rsync does.
    std::fs::write(&path, b"linus").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(!checked.is_same(&std::fs::metadata(&path).unwrap()));
    look();
    assert_eq!(library.get(&right), None);
}

#[rstest]
#[case("kernel", true)]
#[case("sub/kernel", true)]
#[case("../secret", false)]
#[case("sub/../../secret", false)]
#[case("/etc/passwd", false)]
#[case("link", false)]
#[case("", false)]
fn files_below_the_folder(#[case] file: &str, #[case] found: bool) {
    let shelf = Shelf::new();
    let files = shelf.folder.path().join("files");
    std::fs::create_dir(files.join("sub")).unwrap();
    for path in [files.join("kernel"), files.join("sub/kernel"), shelf.folder.path().join("secret")] {
        std::fs::write(path, b"x").unwrap();
    }
    std::os::unix::fs::symlink(shelf.folder.path().join("secret"), files.join("link")).unwrap();
    let path = check::inside(&files, file);
    assert_eq!(path.and_then(|path| check::stamp(&path)).is_some(), found);
}
