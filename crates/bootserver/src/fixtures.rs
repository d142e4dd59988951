//! A boot server for tests: one Machine, one Profile, real files in a folder that goes with it.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use magnetite_api::{
    Machine, MachineSpec, Profile, ProfileSpec, Sha256,
    profile::{ArchBoot, Artifact, BootSpec, JoinMode},
};
use magnetite_boot::{capability::CapabilityKey, fleet::Fleet};
use magnetite_daemon::clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Agent, App, Cluster},
    artifacts::{Checked, Library},
    metrics::Metrics,
    record::Records,
    store::windows::Windows,
    view::{View, Writer},
};

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

    /// The same, with something about the server changed.
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
        let mut windows = Windows::load(folder.path());
        windows.update([&machine].into_iter(), clock::now()).unwrap();
        let view = View {
            fleet: Fleet::index([Arc::new(machine.clone())]),
            profiles: vec![Arc::new(Profile::new("p", spec))],
            windows: windows.all().clone(),
            ..View::default()
        };
        let (writer, reader) = watch::channel(Arc::new(view));
        let library = Arc::new(Library::new(files, folder.path().join("cache")));
        let path = folder.path().join("agent");
        std::fs::write(&path, b"agent").unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        let file = Checked { path, size: meta.len(), modified: meta.modified().unwrap() };
        let mut app = App {
            view: reader,
            records: Arc::new(Records::default()),
            library,
            loaders: [("undionly.kpxe".to_owned(), Arc::from(&b"loader"[..]))].into(),
            agents: [("x86_64", Agent { file, verification: "sha512-00".into() })].into(),
            key: CapabilityKey::new([7; 32]),
            pin: "sha256/00".into(),
            address: Ipv4Addr::LOCALHOST,
            http_port: 8080,
            https_port: 8443,
            server: "test".into(),
            identify_by_serial: false,
            cluster: Cluster::None(Arc::new(Mutex::new(windows))),
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
        let running = tokio::spawn(Arc::clone(&self.app.library).run(self.app.view.clone(), stop.clone()));
        let profile = Arc::clone(&self.app.view().profiles[0]);
        let settled = async {
            loop {
                let reports = crate::artifacts::reports(&self.app.library, &profile);
                let done = reports.iter().all(|report| report.state != magnetite_api::report::ArtifactState::Fetching);
                let artifacts = crate::artifacts::artifacts(&profile);
                let fresh = artifacts
                    .iter()
                    .filter_map(|(_, artifact)| self.app.library.get(artifact))
                    .all(|checked| std::fs::metadata(&checked.path).is_ok_and(|meta| checked.is_same(&meta)));
                if done && fresh {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), settled).await.expect("the library looks");
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    /// The path of the machine's things, with a fresh capability.
    pub fn base(&self) -> String {
        let now = crate::dhcp::unix(clock::now());
        let links = self.app.links(&self.machine, magnetite_api::Architecture::X86_64, None, now);
        links.base.trim_start_matches("http://127.0.0.1:8080").to_owned()
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
        };
        change(&mut new);
        self.writer.send_replace(Arc::new(new));
    }
}

/// What the kernel is.
pub const KERNEL: &[u8] = b"the kernel, as far as this test goes";
