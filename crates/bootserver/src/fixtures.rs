//! A boot server for tests: one Machine, one Profile, real files in a folder that goes with it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::http::{Request, Response};
use jiff::Timestamp;
use magnetite_api::{
    Machine, MachineSpec, Profile, ProfileSpec, Sha256,
    profile::{ArchBoot, Artifact, BootSpec, JoinMode},
};
use magnetite_boot::{capability::CapabilityKey, fleet::Fleet, site::Tls};
use magnetite_daemon::clock;
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Agent, App, Cluster, Limits},
    artifacts::{Checked, Fetcher, Library},
    discovery::Discovery,
    fence::Fence,
    http::{Passed, Signatures},
    limits::Limiter,
    metrics::{Metrics, Outcome},
    net::Interface,
    record::Records,
    report::RecordFolder,
    store::windows::Windows,
    view::{View, Writer},
};

/// A moment, in seconds after some other.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A Machine that has a name only.
pub fn machine(name: &str) -> Machine {
    Machine::new(name, MachineSpec::default())
}

/// A Profile that has a name only.
pub fn profile(name: &str) -> Profile {
    Profile::new(name, ProfileSpec::default())
}

/// A call of the API server, as a test sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub method: String,
    /// The last part of the path.
    pub name: String,
    pub body: serde_json::Value,
}

/// A client of an API server that answers as `answer` says: a status and an object. No answer: it is away.
pub fn api(answer: impl Fn(Call) -> Option<(u16, serde_json::Value)> + Clone + Send + 'static) -> Cluster {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
            let name = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
            match answer(Call { method: parts.method.to_string(), name, body }) {
                Some((status, object)) => {
                    let body = kube::client::Body::from(object.to_string().into_bytes());
                    Ok(Response::builder().status(status).body(body).unwrap())
                }
                None => Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
            }
        }
    });
    Cluster::Client(kube::Client::new(service, "default"))
}

/// What the API server says when it refuses.
pub fn refusal(code: u16, reason: &str) -> (u16, serde_json::Value) {
    let status = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code });
    (code, status)
}

/// Waits for something that another task brings about.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let settled = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// The interface of tests.
pub static LOOPBACK: LazyLock<Interface> =
    LazyLock::new(|| Interface { name: "lo".to_owned(), address: Ipv4Addr::LOCALHOST, address6: None });

/// The MAC of the one Machine.
pub const MAC: &str = "52:54:00:30:00:10";

/// Its serial number.
pub const SERIAL: &str = "LAB0001";

/// A boot server and what it stands on.
pub struct Site {
    pub app: Arc<App>,
    pub machine: Machine,
    pub writer: Writer,
    pub folder: tempfile::TempDir,
}

impl Site {
    /// A site whose kernel is there and whose window is open.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, but for what `change` does to it.
    pub async fn with(change: impl FnOnce(&mut App)) -> Self {
        magnetite_daemon::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("vmlinuz"), KERNEL).unwrap();
        let (macs, serial) = (vec![MAC.parse().unwrap()], Some(SERIAL.to_owned()));
        let spec = MachineSpec { macs, serial, ..MachineSpec::default() };
        let machine = Machine::new("box", MachineSpec { profile: Some("p".into()), ..spec });
        let kernel = Artifact { url: None, file: Some("vmlinuz".into()), sha256: Sha256::of(KERNEL) };
        let boot = ArchBoot { kernel, command_line: vec!["u={{ boot.ignition_url }}".into()], ..ArchBoot::default() };
        let mut spec =
            ProfileSpec { boot: BootSpec { x86_64: Some(boot), ..BootSpec::default() }, ..ProfileSpec::default() };
        spec.join.mode = JoinMode::Certificate;
        let windows = Windows::load(folder.path());
        windows.update([&machine].into_iter(), clock::now()).unwrap();
        let view = View {
            fleet: Arc::new(Fleet::index([Arc::new(machine.clone())])),
            profiles: vec![Arc::new(Profile::new("p", spec))],
            windows: windows.all(),
            ..View::default()
        };
        let (writer, reader) = watch::channel(Arc::new(view));
        let library = Arc::new(Library::new(files, folder.path().join("cache"), Some(1 << 20)));
        let path = folder.path().join("agent");
        std::fs::write(&path, b"agent").unwrap();
        let file = Checked::trusted(&path).unwrap();
        let mut app = App {
            view: reader,
            records: Arc::new(Records::default()),
            folder: RecordFolder::of(folder.path()),
            library,
            loaders: [("undionly.kpxe".to_owned(), Arc::from(&b"loader"[..]))].into(),
            agents: [("x86_64", Agent { file, verification: "sha512-00".into() })].into(),
            key: CapabilityKey::new([7; 32]),
            pin: "sha256/00".into(),
            interfaces: vec![LOOPBACK.clone()],
            http_port: 8080,
            https_port: 8443,
            tls: Tls { port: 8444, ..Tls::default() },
            server: "test".into(),
            discovery: Discovery::default(),
            identify_by_serial: false,
            tftp_single_port: false,
            cluster: Cluster::None(Arc::new(windows)),
            passed: Passed::default(),
            limits: Limits {
                dhcp: Limiter::new(20),
                http: Limiter::new(200),
                reports: Limiter::new(1000),
                transfers: 4,
            },
            fence: Fence::default(),
            signatures: Signatures::default(),
            streams: Arc::new(Semaphore::new(4)),
            metrics: Metrics::default(),
        };
        change(&mut app);
        let site = Self { app: Arc::new(app), machine, writer, folder };
        site.check_files().await;
        site
    }

    /// Lets the library look at the files until the kernel is checked, or refused.
    pub async fn check_files(&self) {
        let stop = CancellationToken::new();
        let fetcher = Fetcher::new(|_| true).unwrap();
        let running = tokio::spawn(Arc::clone(&self.app.library).run(self.app.view.clone(), fetcher, stop.clone()));
        let profile = Arc::clone(&self.app.view().profiles[0]);
        until("the library to look", || {
            let reports = crate::artifacts::reports(&self.app.library, &profile);
            let done = reports.iter().all(|report| report.state != magnetite_api::report::ArtifactState::Fetching);
            let artifacts = crate::artifacts::artifacts(&profile);
            let mut checked = artifacts.iter().filter_map(|(_, named)| self.app.library.get(*named));
            let fresh = checked.all(|file| std::fs::metadata(file.path()).is_ok_and(|meta| file.is_same(&meta)));
            done && fresh
        })
        .await;
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    /// The path of the machine's things, with a fresh capability.
    pub fn base(&self) -> String {
        let now = crate::dhcp::unix(clock::now());
        let links = self.app.site(IpAddr::V4(Ipv4Addr::LOCALHOST)).links(
            &self.machine,
            magnetite_api::Architecture::X86_64,
            None,
            now,
        );
        links.base.trim_start_matches("http://127.0.0.1:8080").to_owned()
    }

    /// The machine's id in links.
    pub fn id(&self) -> String {
        self.app.key.machine_id(&self.machine)
    }

    /// How often something ended so.
    pub fn counted(&self, family: &Family<Outcome, Counter>, outcome: &'static str) -> u64 {
        family.get_or_create(&Outcome { outcome }).get()
    }

    /// Changes the view.
    pub fn change(&self, change: impl Fn(&mut View)) {
        let old = self.app.view();
        let mut new = View {
            fleet: old.fleet.clone(),
            profiles: old.profiles.clone(),
            config_maps: old.config_maps.clone(),
            claims: old.claims.clone(),
            windows: old.windows.clone(),
            ..View::default()
        };
        change(&mut new);
        self.writer.send_replace(Arc::new(new));
    }
}

/// What the kernel is.
pub const KERNEL: &[u8] = b"the kernel, as far as this test goes";
