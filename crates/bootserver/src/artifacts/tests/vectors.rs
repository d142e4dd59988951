//! S13 of threats.md: what Profiles may name to have this host reach for what only it can reach, or busy itself for ever.

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use axum::{extract::State as Shared, http::Uri};
use rand::Rng;

use super::{
    super::{
        error::FetchError,
        fetch::Most,
        target::{Lookup, target},
    },
    upstream::*,
    *,
};

/// This host, its link and cloud metadata, in every way in which URLs write an address; and what is no http.
const REFUSED: [&str; 44] = [
    "http://127.0.0.1/x",
    "http://127.255.255.254/x",
    "http://127.1/x",
    "http://127.0.1:8080/x",
    "http://2130706433/x",
    "http://0x7f000001/x",
    "http://0x7f.0.0.1/x",
    "http://0177.0.0.1/x",
    "http://017700000001/x",
    "http://127.0.0.1./x",
    "http://%31%32%37.0.0.1/x",
    "http://①②⑦.⓪.⓪.①/x",
    "http://127。0。0。1/x",
    "http://0/x",
    "http://0.0.0.0/x",
    "http://0.1.2.3/x",
    "http://[::]/x",
    "http://[::1]/x",
    "http://[0:0:0:0:0:0:0:1]/x",
    "http://[::127.0.0.1]/x",
    "http://[::ffff:127.0.0.1]/x",
    "http://[::ffff:7f00:1]/x",
    "http://[64:ff9b::127.0.0.1]/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://0251.0376.0251.0376/x",
    "http://[::ffff:169.254.169.254]/x",
    "http://[fd00:ec2::254]/x",
    "http://[fe80::1]/x",
    "http://[fe80::1%25eth0]/x",
    "http://[ff02::1]/x",
    "http://224.0.0.1/x",
    "http://255.255.255.255/x",
    "http://user@files.example/x",
    "http://user:word@files.example/x",
    "http://files.example:word@127.0.0.1/x",
    "file:///etc/passwd",
    "file:///dev/zero",
    "ftp://files.example/x",
    "gopher://127.0.0.1:6379/_x",
    "unix:/run/containerd/containerd.sock",
    "data:,x",
    "http://",
];

#[test]
fn what_leads_to_this_host_is_refused_in_every_spelling() {
    let rules = Rules::any(is_fetched_from);
    for url in REFUSED {
        let refused = target(url, &rules);
        assert!(matches!(refused, Err(FetchError::Address { .. } | FetchError::Url(_))), "{url}: {refused:?}");
    }
    for url in ["http://files.example/x", "https://192.0.2.7:8443/x", "http://[2001:db8::1]/x", "http://127.example/x"]
    {
        assert!(target(url, &rules).is_ok(), "{url}");
    }
}

#[test]
fn the_flags_narrow_it() {
    let args = ArtifactArgs {
        artifact_host: vec!["Files.example".to_owned(), "10.0.0.5".to_owned(), "fd12::5".to_owned()],
        refuse_artifact_network: vec!["10.96.0.0/12".parse().unwrap(), "fd12:10::/64".parse().unwrap()],
    };
    let rules = Rules::from(&args);
    for url in ["http://files.EXAMPLE/x", "https://10.0.0.5:8080/x", "http://[fd12::5]/x"] {
        assert!(target(url, &rules).is_ok(), "{url}");
    }
    for url in [
        "http://other.example/x",
        "http://sub.files.example/x",
        "http://files.example.evil.example/x",
        "http://10.0.0.6/x",
    ] {
        let refused = target(url, &rules).unwrap_err();
        assert!(refused.to_string().contains("--artifact-host"), "{url}: {refused}");
    }
    let rules = Rules::from(&ArtifactArgs { artifact_host: Vec::new(), ..args });
    for url in ["http://10.96.0.1/x", "http://[::ffff:10.100.0.1]/x", "http://[fd12:10::7]/x"] {
        let refused = target(url, &rules).unwrap_err();
        assert!(refused.to_string().contains("--refuse-artifact-network"), "{url}: {refused}");
    }
    assert!(target("http://127.0.0.1/x", &rules).is_err(), "and never this host");
}

/// A lookup that has an answer for each time it is asked; the last one stays.
fn answers(mut each: Vec<Vec<SocketAddr>>) -> (Lookup, Arc<AtomicUsize>) {
    each.reverse();
    let (each, asked) = (Mutex::new(each), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&asked);
    let lookup: Lookup = Arc::new(move |_host| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut each = each.lock().unwrap();
        let answer = if each.len() > 1 { each.pop().unwrap() } else { each[0].clone() };
        Box::pin(std::future::ready(Ok(answer)))
    });
    (lookup, asked)
}

/// Only 127.0.0.1 may be fetched from here: it stands for the world.
fn only_one(address: IpAddr) -> bool {
    address == IpAddr::from([127, 0, 0, 1])
}

impl Shelf {
    fn fetch_by(&mut self, fetcher: Fetcher, far: &Artifact) -> watch::Sender<Arc<View>> {
        let mut p = profile("p");
        let boot = ArchBoot { kernel: far.clone(), ..ArchBoot::default() };
        p.spec.boot = BootSpec { x86_64: Some(boot), ..BootSpec::default() };
        let (writer, reader) = watch::channel(Arc::new(View { profiles: vec![Arc::new(p)], ..View::default() }));
        self.running = Some(tokio::spawn(Arc::clone(&self.library).run(reader, fetcher, self.stop.clone())));
        writer
    }
}

#[rstest]
#[case::the_bad_one_first(["127.0.0.2:0", "127.0.0.1:0"])]
#[case::the_bad_one_last(["127.0.0.1:0", "127.0.0.2:0"])]
#[case::mapped(["127.0.0.1:0", "[::ffff:127.0.0.2]:0"])]
#[tokio::test]
async fn one_bad_address_spoils_a_name(#[case] addresses: [&str; 2]) {
    let asked = Arc::<AtomicUsize>::default();
    let port = site(Arc::clone(&asked)).await.port();
    let (lookup, _) = answers(vec![addresses.map(|address| address.parse().unwrap()).to_vec()]);
    let mut shelf = Shelf::new();
    let far = by_url(format!("http://both.example:{port}/file"), FILE);
    let _view = shelf.fetch_by(Fetcher::with(Rules::any(only_one), lookup).unwrap(), &far);
    let report = shelf.becomes(&far, ArtifactState::Failed).await;
    assert!(report.message.unwrap().contains("both.example is not fetched from"));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    shelf.stop().await;
}

/// A name that is good when it is looked at and bad a moment later: what was looked at is what is connected to, and whoever asks again is
/// looked at again.
#[tokio::test]
async fn a_name_that_changes_its_mind_leads_nowhere_else() {
    let upstream = Upstream::start(Ways { file: FILE.to_vec(), cut: Some(4), ..Ways::default() }).await;
    // The same port on the address that must not be reached.
    let inside = tokio::net::TcpListener::bind(("127.0.0.2", upstream.address.port())).await.unwrap();
    let address = |text: &str| vec![SocketAddr::new(text.parse().unwrap(), 0)];
    let (lookup, looked_up) = answers(vec![address("127.0.0.1"), address("127.0.0.2")]);
    let mut shelf = Shelf::new();
    let far = by_url(format!("http://rebinds.example:{}/file", upstream.address.port()), FILE);
    let _view = shelf.fetch_by(Fetcher::with(Rules::any(only_one), lookup).unwrap(), &far);
    until("the second attempt", || looked_up.load(Ordering::Relaxed) >= 2).await;
    until("its refusal", || {
        let message = shelf.library.report("f", &far).message;
        message.is_some_and(|message| message.contains("127.0.0.2 is an address of this host"))
    })
    .await;
    assert_eq!(upstream.asked().len(), 1, "the first attempt went where it was allowed to");
    assert!(tokio::time::timeout(Duration::from_millis(50), inside.accept()).await.is_err(), "nobody came");
    assert!(shelf.library.get(&far).is_none() && shelf.cached().is_empty());
    shelf.stop().await;
}

#[rstest]
#[case(301)]
#[case(302)]
#[case(303)]
#[case(307)]
#[case(308)]
#[tokio::test]
async fn no_redirect_is_followed(#[case] status: u16) {
    let asked = Arc::<AtomicUsize>::default();
    let inside = site(Arc::clone(&asked)).await;
    for location in
        [format!("http://{inside}/file"), "http://localhost/file".to_owned(), "file:///etc/passwd".to_owned()]
    {
        let moved = async move || (StatusCode::from_u16(status).unwrap(), [("location", location)]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, Router::new().fallback(moved)).await });
        let mut shelf = Shelf::new();
        let far = by_url(format!("http://{address}/file"), FILE);
        let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
        let report = shelf.becomes(&far, ArtifactState::Failed).await;
        assert!(report.message.unwrap().contains(&status.to_string()));
        shelf.stop().await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// A body that never ends, with and without a length that lies: it ends with what is allowed, and nothing of it stays.
#[rstest]
#[case::endless(Ways { file: vec![7; 4 << 20], unknown_length: true, ..Ways::default() }, "is larger than 2097152 bytes")]
#[case::too_large(Ways { file: vec![7; 4 << 20], ..Ways::default() }, "is larger than 2097152 bytes")]
#[case::stalled(Ways { file: vec![7; 1 << 20], unknown_length: true, stall: Some(1000), ..Ways::default() }, "took longer than 1 s")]
#[tokio::test]
async fn what_does_not_end_is_ended(#[case] ways: Ways, #[case] words: &str) {
    let upstream = Upstream::start(ways).await;
    let mut shelf = Shelf::new();
    shelf.library =
        Arc::new(Library::new(shelf.folder.path().join("files"), shelf.folder.path().join("cache"), Some(64 << 20)));
    let far = by_url(upstream.url(), FILE);
    let mut fetcher = Fetcher::new(|_| true).unwrap();
    fetcher.most = Most { bytes: 2 << 20, time: Duration::from_secs(1) };
    let began = Instant::now();
    let _view = shelf.fetch_by(fetcher, &far);
    let report = shelf.becomes(&far, ArtifactState::Failed).await;
    assert!(report.message.as_ref().is_some_and(|message| message.contains(words)), "{report:?}");
    assert!(began.elapsed() < Duration::from_secs(10) && shelf.library.get(&far).is_none());
    assert!(shelf.cached().is_empty(), "{:?}", shelf.cached());
    shelf.stop().await;
}

/// A megabyte of zeros in a kilobyte. Nothing is asked to be packed and nothing is unpacked: what came over the line is the file.
#[tokio::test]
async fn nothing_is_unpacked() {
    // Ten members of gzip with 100,000 zeros each, as `head -c 100000 /dev/zero | gzip -9n` packs them.
    const MEMBER: &[u8] = include_bytes!("zeros.gz");
    let packed = MEMBER.repeat(10);
    let headers = Arc::<Mutex<Vec<String>>>::default();
    let (body, seen) = (packed.clone(), Arc::clone(&headers));
    let bomb = async move |asked: axum::http::HeaderMap| {
        seen.lock().unwrap().extend(asked.keys().map(ToString::to_string));
        ([("content-encoding", "gzip")], body)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/bomb", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(bomb)).await });
    for (declared, state) in [(vec![0; 1_000_000], ArtifactState::WrongSum), (packed.clone(), ArtifactState::Ready)] {
        let far = by_url(url.clone(), &declared);
        let mut shelf = Shelf::new();
        let _view = shelf.keep(std::slice::from_ref(&far), |_| true);
        shelf.becomes(&far, state).await;
        if let Some(file) = shelf.library.get(&far) {
            assert_eq!(std::fs::read(file.path()).unwrap(), packed);
        }
        shelf.stop().await;
    }
    let headers: BTreeSet<String> = headers.lock().unwrap().drain(..).collect();
    assert_eq!(headers.iter().collect::<Vec<_>>(), ["accept", "host", "user-agent"], "and nothing is sent along");
}

/// The content of one of a hundred files, each with its own sum.
fn content(number: usize) -> Vec<u8> {
    (0..10_000_usize).map(|at| (at * 31 + number * 7) as u8).chain(number.to_be_bytes()).collect()
}

#[tokio::test]
async fn one_wrong_byte_of_a_hundred_files_at_any_place_and_none_is_served() {
    let bent = |number| {
        let (mut file, mut random) = (content(number), rand::rng());
        let at = random.random_range(0..file.len());
        file[at] ^= 1 << random.random_range(0..8);
        file
    };
    let bent: Arc<Vec<Vec<u8>>> = Arc::new((0..100).map(bent).collect());
    let serve = async |Shared(bent): Shared<Arc<Vec<Vec<u8>>>>, uri: Uri| {
        bent[uri.path().trim_start_matches('/').parse::<usize>().unwrap()].clone()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().fallback(serve).with_state(Arc::clone(&bent));
    tokio::spawn(async { axum::serve(listener, routes).await });
    let mut shelf = Shelf::new();
    let far: Vec<_> = (0..100).map(|number| by_url(format!("http://{address}/{number}"), &content(number))).collect();
    let near: Vec<_> = (0..100).map(|number| by_file(&format!("file-{number}"), &content(number))).collect();
    for (number, bent) in bent.iter().enumerate() {
        std::fs::write(shelf.folder.path().join(format!("files/file-{number}")), bent).unwrap();
    }
    let all: Vec<_> = far.into_iter().chain(near).collect();
    let _view = shelf.keep(&all, |_| true);
    for artifact in &all {
        shelf.becomes(artifact, ArtifactState::WrongSum).await;
        assert_eq!(shelf.library.get(artifact), None);
    }
    assert!(shelf.cached().is_empty());
    // The same hundred, right: it was the byte.
    for number in 0..100 {
        let path = shelf.folder.path().join(format!("files/file-{number}"));
        std::fs::write(&path, content(number)).unwrap();
        let artifact = &all[100 + number];
        shelf.library.check_now(&Key::of(artifact).unwrap(), Some(&path));
        assert!(shelf.library.get(artifact).is_some(), "{number}");
    }
    shelf.stop().await;
}
