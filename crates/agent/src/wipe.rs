//! Wipes all disks of the box: asks over the pinned TLS whether that is really wanted, wipes each, reads samples back, and says what was done.
//!
//! An agent that was killed begins anew: a disk that is zero is so sooner the second time. Nobody is told that the box is wiped before all of it is.

use std::{io, path::Path, time::Duration};

use magnetite_api::{
    install::WipedDisk,
    join::WipeOrder,
    report::{BootStepName, size_of},
};
use magnetite_daemon::{
    backoff::{Backoff, jittered},
    log::chain,
};
use magnetite_disk::{
    choose::in_scope,
    device::{self, Disk},
    target::BlockTarget,
    wipe::{self as wiping, SystemTools, WipeError},
};
use reqwest::StatusCode;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    args::Args,
    console,
    files::Paths,
    inventory,
    report::Reporter,
    server::{BootServer, ServerError},
    systemd::After,
};

/// How long the boot server may take to answer.
const ASKED: Duration = Duration::from_secs(30);
/// Between two tries.
const TRIES: Backoff = Backoff { first: Duration::from_secs(5), ceiling: Duration::from_secs(60) };

/// Why a box is not wiped.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The boot server cannot be asked.
    #[error("the boot server could not be asked whether to wipe")]
    Ask(#[source] ServerError),
    /// It does not say yes or no.
    #[error("the boot server does not say whether to wipe: {0}")]
    NotYet(String),
    /// It speaks of another box.
    #[error("the boot server speaks of {0}, which is not this box's Machine and intent; nothing was touched")]
    Another(String),
    /// There is none.
    #[error("the box has no disk that its kernel knows; does the image have the controller's driver?")]
    NoDisk,
    /// It is used.
    #[error("{disk} was not wiped: the running system uses it: {user}")]
    InUse {
        /// The disk.
        disk: String,
        /// By whom.
        user: String,
    },
    /// The disk cannot be had.
    #[error("{disk} could not be opened to be wiped")]
    Open {
        /// The disk.
        disk: String,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// It cannot be wiped.
    #[error("{disk} is not wiped")]
    Wipe {
        /// The disk.
        disk: String,
        /// Why.
        #[source]
        source: WipeError,
    },
    /// The work was lost.
    #[error("the wiping was broken off")]
    Lost(#[source] tokio::task::JoinError),
}

impl Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Ask(source) => source.reason(),
            Self::NotYet(_) => "NotYet",
            Self::Another(_) => "WrongAnswer",
            Self::NoDisk => "NoDisk",
            Self::InUse { .. } | Self::Open { .. } => "DiskInUse",
            Self::Wipe { source: WipeError::Disk { .. }, disk: _ } => "DiskFailed",
            Self::Wipe { source: WipeError::NotZero { .. }, disk: _ } => "DiskNotZero",
            Self::Lost(_) => "WipeLost",
        }
    }
}

/// The agent at this work.
pub struct Wipe<'a> {
    /// The arguments.
    pub args: &'a Args,
    /// Where things are.
    pub paths: &'a Paths,
    /// Who is asked.
    pub server: &'a BootServer,
    /// Where to say how far it is.
    pub reporter: Reporter,
}

impl Wipe<'_> {
    /// Wipes. Ends when it is known what becomes of the box.
    pub async fn run(self) -> After {
        self.reporter.started(&inventory::inventory(self.paths));
        self.tell(&format!("the Machine {} was deleted to be wiped: wipes all disks of this box", self.args.machine));
        let mut retries = TRIES.start();
        loop {
            match self.once().await {
                Ok(Some(disks)) => {
                    self.tell("all disks are wiped; switches itself off");
                    self.reporter.wiped(disks);
                    return After::Off;
                }
                Ok(None) => {
                    self.tell("nobody asks for this box to be wiped; restarts");
                    sleep(jittered(TRIES.ceiling)).await;
                    return After::Restart;
                }
                Err(error) => {
                    let (reason, message) = (error.reason(), chain(&error));
                    tracing::warn!(reason, error = message, "not wiped, will try again");
                    self.tell(&format!("not wiped: {reason}: {message}"));
                    self.reporter.failed(BootStepName::Wiping, reason, &message);
                    sleep(retries.next_delay()).await;
                }
            }
        }
    }

    fn tell(&self, text: &str) {
        tracing::info!(text, "wipe");
        console::show_work(self.paths, text);
    }

    async fn once(&self) -> Result<Option<Vec<WipedDisk>>, Error> {
        if !self.is_wanted().await? {
            return Ok(None);
        }
        let root = self.paths.at("/");
        let disks = spawn_blocking(move || device::disks(&root)).await.map_err(Error::Lost)?;
        let scope: Vec<Disk> = in_scope(&disks).cloned().collect();
        if scope.is_empty() {
            return Err(Error::NoDisk);
        }
        // Before the first is touched: half a box that is wiped is nobody's wish.
        if let Some((disk, user)) = scope.iter().find_map(|disk| Some((disk, disk.used_by.first()?))) {
            return Err(Error::InUse { disk: disk.words(), user: user.clone() });
        }
        let mut wiped = Vec::new();
        for (number, disk) in scope.iter().enumerate() {
            self.tell(&format!("wipes {}", disk.words()));
            let detail = format!("{} ({} of {})", disk.words(), number + 1, scope.len());
            self.reporter.reached(BootStepName::Wiping, Some(&detail));
            let (one, device) = (disk.clone(), self.paths.at("/dev").join(&disk.name));
            let real = self.paths.is_real();
            let began = Instant::now();
            let done = spawn_blocking(move || wipe(&one, &device, real)).await.map_err(Error::Lost)??;
            let seconds = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
            let done = WipedDisk { seconds, ..done };
            self.tell(&done.words());
            wiped.push(done);
        }
        Ok(Some(wiped))
    }

    /// Whether the box is to be wiped, by the word of the server whose key is pinned: the task in the environment came by plain HTTP.
    async fn is_wanted(&self) -> Result<bool, Error> {
        let answer = self.server.get_own("wipe", ASKED).await.map_err(Error::Ask)?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => return Ok(false),
            _ => {
                let refusal = answer.refusal().map(|refusal| refusal.message);
                return Err(Error::NotYet(refusal.unwrap_or_default()));
            }
        }
        match serde_json::from_slice::<WipeOrder>(&answer.body) {
            Ok(WipeOrder { machine, intent }) if machine == self.args.machine && intent == self.args.intent => Ok(true),
            Ok(WipeOrder { machine, intent }) => Err(Error::Another(format!("{machine}, intent {intent}"))),
            Err(error) => Err(Error::Another(error.to_string())),
        }
    }
}

/// One disk, in a thread that may wait for it. A drive is asked to erase itself only on a real box: a test's disks are files.
fn wipe(disk: &Disk, device: &Path, real: bool) -> Result<WipedDisk, Error> {
    let erased = if real { wiping::erase(disk, &SystemTools) } else { None };
    let mut target = BlockTarget::open(device).map_err(|source| Error::Open { disk: disk.words(), source })?;
    let mut told = 0;
    let mut progress = |done: u64| {
        // A line for each 64 GiB: the log is on a serial console too.
        if done >> 36 > told {
            told = done >> 36;
            let far = size_of(done);
            tracing::info!(disk = disk.name, zeroed = far, "wiping");
        }
    };
    let done = wiping::zero(&mut target, &mut progress).map_err(|source| Error::Wipe { disk: disk.words(), source })?;
    let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    Ok(WipedDisk {
        name: disk.name.clone(),
        serial: disk.serial.clone(),
        model: disk.model.clone(),
        methods: erased.into_iter().chain([done.method]).collect(),
        bytes: bytes(disk.bytes),
        seconds: 0,
        verified_bytes: bytes(done.verified),
    })
}
