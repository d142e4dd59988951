//! Installs the Profile's system to a disk: asks what, looks whether a disk says that it was done, chooses one, and has `magnetite_disk` write it.
//!
//! A failure is reported and tried again, as long as the boot server says that there is something to install; an agent that was killed begins
//! anew. Nothing that is on the box is lost by that: this system lives in memory.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use magnetite_api::{
    conditions::reason::INTENT_ALREADY_DONE,
    join::InstallOrder,
    report::{BootStepName, size_of},
};
use magnetite_daemon::{
    backoff::{Backoff, jittered},
    log::chain,
};
use magnetite_disk::{
    choose::{ChooseError, choose},
    config,
    device::{self, Disk},
    image::ImageError,
    install::{self as writing, InstallError, Order, Progress},
    marker::{self, Marker, Verdict},
    source::Source,
    sparse::WriteError,
    target::BlockTarget,
};
use reqwest::{Client, StatusCode, header};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    args::Args,
    console,
    files::Paths,
    inventory,
    report::Reporter,
    server::{BootServer, ServerError},
    tls,
};

/// How long the boot server may take to say what is to be installed.
const ASKED: Duration = Duration::from_secs(30);
/// How long nothing of the image may come before it is asked for anew.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two words about how far it is.
const TOLD: Duration = Duration::from_secs(5);
/// Between two tries.
const TRIES: Backoff = Backoff { first: Duration::from_secs(5), ceiling: Duration::from_secs(60) };
/// Where the partition is mounted that takes the config of the first boot.
const MOUNT: &str = "/run/magnetite/install";

/// Why nothing is installed.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The boot server cannot be asked.
    #[error("the boot server could not be asked what to install")]
    Ask(#[source] ServerError),
    /// It says that it cannot say yet.
    #[error("the boot server does not say what to install: {0}")]
    NotYet(String),
    /// It says what nobody understands.
    #[error("the boot server's order makes no sense; are boot server and agent of the same version?")]
    Nonsense(#[source] serde_json::Error),
    /// A disk says that a later intent was installed.
    #[error(
        "the disk {disk} says that the intent {intent} was installed on it later than {asked} was opened: whoever asks was restored from a backup. \
         Nothing was touched; to install all the same, set another spec.bootIntent"
    )]
    Later {
        /// The disk.
        disk: String,
        /// The intent on it.
        intent: String,
        /// The intent that is asked for.
        asked: String,
    },
    /// No disk is meant, or more than one.
    #[error("no disk was chosen")]
    Choose(#[from] ChooseError),
    /// The disk cannot be had.
    #[error("the disk {disk} could not be opened for this install alone")]
    Open {
        /// The disk.
        disk: String,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// It cannot be installed there.
    #[error("nothing bootable is on {disk}")]
    Install {
        /// The disk.
        disk: String,
        /// Why.
        #[source]
        source: InstallError,
    },
    /// The work was lost.
    #[error("the install was broken off")]
    Lost(#[source] tokio::task::JoinError),
}

impl Error {
    /// In one word, for who reads many.
    fn reason(&self) -> &'static str {
        match self {
            Self::Ask(source) => source.reason(),
            Self::NotYet(_) => "NotYet",
            Self::Nonsense(_) => "WrongAnswer",
            Self::Later { .. } => INTENT_ALREADY_DONE,
            Self::Choose(_) => "NoDiskChosen",
            Self::Open { .. } => "DiskInUse",
            Self::Lost(_) => "InstallLost",
            Self::Install { source, disk: _ } => match source {
                InstallError::Image(ImageError::WrongSum { .. }) => "ImageWrongSum",
                InstallError::Image(ImageError::Read(_)) => "ImageNotFetched",
                InstallError::Image(ImageError::Unpack { .. } | ImageError::Qcow2(_) | ImageError::Empty) => {
                    "ImageUnreadable"
                }
                InstallError::TooSmall(_) | InstallError::Image(ImageError::Write(WriteError::TooLong { .. })) => {
                    "DiskTooSmall"
                }
                InstallError::Disk { .. } | InstallError::Image(ImageError::Write(WriteError::Write { .. })) => {
                    "DiskFailed"
                }
                InstallError::Partitions(_) | InstallError::NoRoom => "ImageDoesNotFit",
                InstallError::Config(_) => "ConfigNotWritten",
            },
        }
    }
}

/// What came of a try.
enum Outcome {
    /// It is on this disk.
    Installed(String),
    /// There is nothing to install here (any more).
    Nothing(String),
}

/// The agent at this work.
pub struct Install<'a> {
    args: &'a Args,
    paths: &'a Paths,
    server: &'a BootServer,
    reporter: Reporter,
    http: Client,
}

impl<'a> Install<'a> {
    /// Prepares to install; asks nobody yet.
    pub fn new(
        args: &'a Args,
        paths: &'a Paths,
        server: &'a BootServer,
        reporter: Reporter,
    ) -> Result<Self, reqwest::Error> {
        // An image is known by its sum, which came over the pinned TLS, and comes by plain HTTP: no certificate is of any use here, and one
        // that nobody has is believed in.
        let (tls, _) = tls::pinned(args.pin);
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("magnetite-agent/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { args, paths, server, reporter, http })
    }

    /// Installs. Ends when the box is to be restarted.
    pub async fn run(self) {
        self.reporter.started(&inventory::inventory(self.paths));
        self.tell(&format!("installs the system of the Machine {}", self.args.machine));
        let mut retries = TRIES.start();
        loop {
            match self.once().await {
                Ok(Outcome::Installed(disk)) => {
                    self.tell(&format!("installed on {disk}; restarts"));
                    self.reporter.reached(BootStepName::Installed, Some(&disk));
                    return;
                }
                Ok(Outcome::Nothing(why)) => {
                    self.tell(&format!("nothing to install ({why}); restarts"));
                    // Not at once: who sends this box here again and again shall not do so every minute.
                    sleep(jittered(TRIES.ceiling)).await;
                    return;
                }
                Err(error) => {
                    let (reason, message) = (error.reason(), chain(&error));
                    tracing::warn!(reason, error = message, "not installed, will try again");
                    self.tell(&format!("not installed: {reason}: {message}"));
                    self.reporter.failed(BootStepName::Installing, reason, &message);
                    sleep(retries.next_delay()).await;
                }
            }
        }
    }

    fn tell(&self, text: &str) {
        tracing::info!(text, "install");
        console::show_work(self.paths, text);
    }

    async fn once(&self) -> Result<Outcome, Error> {
        let order = match self.order().await? {
            Ok(order) => order,
            Err(nothing) => return Ok(Outcome::Nothing(nothing)),
        };
        let marker = Marker {
            machine: order.machine.clone(),
            intent: order.intent.clone(),
            opened_at: order.opened_at.0.as_second(),
            image: order.sha256,
        };
        let (root, wanted) = (self.paths.at("/"), marker.clone());
        let (disks, found) = spawn_blocking(move || look(&root)).await.map_err(Error::Lost)?;
        match marker::judge_all(&found, &wanted) {
            (Verdict::Install, _) => {}
            (Verdict::Done, disk) => {
                let disk = disks.iter().find(|known| Some(known.name.as_str()) == disk).map(Disk::words);
                return Ok(Outcome::Installed(disk.unwrap_or_default()));
            }
            (Verdict::Later { intent }, disk) => {
                let disk = disk.unwrap_or_default().to_owned();
                return Err(Error::Later { disk, intent, asked: order.intent });
            }
        }
        let disk = choose(&disks, &order.disk)?.clone();
        self.tell(&format!("writes to {}: all that was on it is lost", disk.words()));
        self.write(order, marker, &disk).await?;
        Ok(Outcome::Installed(disk.words()))
    }

    /// What is to be installed; or why nothing is.
    async fn order(&self) -> Result<Result<InstallOrder, String>, Error> {
        let what = format!("install/{}", std::env::consts::ARCH);
        let answer = self.server.get_own(&what, ASKED).await.map_err(Error::Ask)?;
        let refusal = || answer.refusal().map(|refusal| refusal.message).unwrap_or_default();
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body).map(Ok).map_err(Error::Nonsense),
            StatusCode::CONFLICT => Ok(Err(refusal())),
            // Another intent is wanted by now, or the window is long over: another boot gets another link.
            StatusCode::NOT_FOUND => Ok(Err("the link of this boot is not good any more".to_owned())),
            _ => Err(Error::NotYet(refusal())),
        }
    }

    async fn write(&self, order: InstallOrder, marker: Marker, disk: &Disk) -> Result<(), Error> {
        let (say, mut said) = watch::channel(Progress::Writing { written: 0, fetched: 0 });
        let source = HttpSource { http: self.http.clone(), url: order.image.clone(), handle: Handle::current() };
        let device = self.paths.at("/dev").join(&disk.name);
        let place = self.paths.at(MOUNT);
        let (words, sector) = (disk.words(), disk.sector);
        let work = spawn_blocking(move || work(order, marker, (&device, sector), &place, source, &say));
        let mut told = None::<Instant>;
        // Ends when the work does, and drops its end.
        while said.changed().await.is_ok() {
            let Progress::Writing { written, fetched } = *said.borrow_and_update() else { continue };
            if told.is_none_or(|told| told.elapsed() >= TOLD) {
                told = Some(Instant::now());
                let far = format!("{words}: {} written, {} fetched", size_of(written), size_of(fetched));
                self.reporter.reached(BootStepName::Installing, Some(&far));
            }
        }
        work.await.map_err(Error::Lost)?.map_err(|error| match error {
            Wrong::Open(source) => Error::Open { disk: disk.words(), source },
            Wrong::Install(source) => Error::Install { disk: disk.words(), source },
        })
    }
}

enum Wrong {
    Open(io::Error),
    Install(InstallError),
}

/// The disks of the box, and what they say of themselves. One that cannot be read says nothing.
fn look(root: &Path) -> (Vec<Disk>, Vec<(String, Marker)>) {
    let disks = device::disks(root);
    let read = |disk: &Disk| {
        let mut target = BlockTarget::open_to_read(&root.join("dev").join(&disk.name)).ok()?;
        Some((disk.name.clone(), marker::read(&mut target).ok()??))
    };
    let found = disks.iter().filter_map(read).collect();
    (disks, found)
}

/// All that waits for the disk, in a thread of its own.
fn work(
    order: InstallOrder,
    marker: Marker,
    (device, sector): (&Path, u64),
    place: &Path,
    mut source: HttpSource,
    say: &watch::Sender<Progress>,
) -> Result<(), Wrong> {
    let mut target = BlockTarget::open(device).map_err(Wrong::Open)?;
    let config = order.config;
    let to_write =
        Order { format: order.format, sector, marker, config: config.as_ref().map(|config| config.place.clone()) };
    let mut configure = |partition: &_| match &config {
        Some(config) => config::put(device, partition, &config.place.path, config.ignition.as_bytes(), place),
        None => Ok(()),
    };
    let mut progress = |far| {
        say.send_replace(far);
    };
    let done = writing::install(&mut target, &mut source, &to_write, &mut configure, &mut progress);
    let installed = done.map_err(Wrong::Install)?;
    tracing::info!(bytes = installed.bytes, image = %installed.image, "system installed");
    Ok(())
}

/// An image that the boot server has.
struct HttpSource {
    http: Client,
    url: String,
    handle: Handle,
}

impl Source for HttpSource {
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut request = self.http.get(&self.url);
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        // The link is a capability, and belongs in no log.
        let failed = |error: reqwest::Error| io::Error::other(error.without_url());
        let slow = |_| io::Error::from(io::ErrorKind::TimedOut);
        let sent = self.handle.block_on(async { timeout(SILENCE, request.send()).await });
        let response = sent.map_err(slow)?.map_err(failed)?;
        match response.status() {
            StatusCode::OK if offset == 0 => {}
            StatusCode::PARTIAL_CONTENT if offset > 0 => {}
            // It was read to its end.
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => return Ok(Box::new(io::empty())),
            status => {
                // A boot server that is busy is given a moment: whoever reads asks again at once.
                std::thread::sleep(Duration::from_secs(2));
                return Err(io::Error::other(format!("the boot server answered with status {}", status.as_u16())));
            }
        }
        Ok(Box::new(HttpStream { response, rest: Arc::default(), at: 0, handle: self.handle.clone() }))
    }
}

struct HttpStream {
    response: reqwest::Response,
    rest: Arc<[u8]>,
    at: usize,
    handle: Handle,
}

impl Read for HttpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            let chunk = self.handle.block_on(async { timeout(SILENCE, self.response.chunk()).await });
            let chunk = chunk.map_err(|_| io::ErrorKind::TimedOut)?;
            match chunk.map_err(|error| io::Error::other(error.without_url()))? {
                Some(chunk) => (self.rest, self.at) = (Arc::from(&chunk[..]), 0),
                None => return Ok(0),
            }
        }
        let rest = self.rest.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}
