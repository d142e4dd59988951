//! The join: look, do the next step, look again, until the Node is Ready.

use std::time::Duration;

use magnetite_api::{
    Fingerprint,
    conditions::reason::AWAITING_APPROVAL,
    join::{ClaimRequest, ClaimResponse, JoinBundle},
    report::{BootStepName, Inventory},
};
use magnetite_daemon::{
    backoff::{Backoff, jittered},
    log::chain,
};
use tokio::time::sleep;

use crate::{
    apply::{self, ApplyError},
    args::{Args, JoinMode, TpmUse},
    claim::{self, Answered, ClaimError},
    clock::BoxClock,
    console,
    files::Paths,
    inventory::{self, boot_id},
    keys::{self, KeyError, Keys},
    node::{ApiServer, NodeWatch, WatchError},
    observe::{self, Look, ObserveError},
    plan::{self, Step},
    report::{Reporter, plain},
    restart,
    secrets::{self, SecretError},
    server::BootServer,
    state::State,
    systemd::Systemctl,
    tpm::{self, BoxTpmError, Whose},
};

/// How long the first report may take before the join goes on without the boot server's time.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The box could not be looked at.
    #[error("the box could not be looked at")]
    Observe(#[from] ObserveError),
    /// There is no kubelet.
    #[error("there is no kubelet on this box; looked at {}", searched.join(", "))]
    KubeletNotFound {
        /// Where it was looked for.
        searched: Vec<String>,
    },
    /// There are no keys.
    #[error("there are no keys to claim with")]
    Keys(#[from] KeyError),
    /// The TPM could not be used.
    #[error("the box cannot prove its TPM")]
    Tpm(#[from] BoxTpmError),
    /// The claim failed.
    #[error("the claim failed")]
    Claim(#[from] ClaimError),
    /// The box could not be changed.
    #[error("the box could not be made a node")]
    Apply(#[from] ApplyError),
    /// The Profile's files with secrets could not be written.
    #[error("the secret files are not in place")]
    Secrets(#[from] SecretError),
    /// The Node could not be watched.
    #[error("the Node could not be watched")]
    Watch(#[from] WatchError),
}

/// What a failure is to others: the step, one word, and what to do.
struct Failure {
    step: BootStepName,
    reason: String,
    advice: &'static str,
}

impl RunError {
    /// True of one that only a person can change: more tries soon are of no use.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Claim(ClaimError::Refused { .. } | ClaimError::Unknown | ClaimError::WrongKey(_)))
    }

    fn failure(&self) -> Failure {
        use BootStepName::{CertificateReceived, Claiming, KubeletStarted, NodeRegistered};
        let (step, reason, advice) = match self {
            Self::Observe(_) => (Claiming, "BoxUnreadable", "look at the box's disk and systemd"),
            Self::KubeletNotFound { .. } => {
                (KubeletStarted, "KubeletNotFound", "put a kubelet into the image, or say where with MAGNETITE_KUBELET")
            }
            Self::Keys(_) => (Claiming, "KeysNotMade", "look at the folder /var/lib/magnetite of the box"),
            Self::Tpm(BoxTpmError::Missing { .. }) => (
                Claiming,
                "TpmMissing",
                "switch on the TPM 2.0 in the firmware's setup; the system's kernel needs its driver (tpm_tis or tpm_crb)",
            ),
            Self::Tpm(BoxTpmError::Open { .. } | BoxTpmError::Tpm(_) | BoxTpmError::Ended(_) | BoxTpmError::Silent) => {
                (
                    Claiming,
                    "TpmFailed",
                    "look at the TPM in the firmware's setup; does its endorsement hierarchy have a password?",
                )
            }
            Self::Tpm(BoxTpmError::Challenge) => {
                (Claiming, "WrongAnswer", "are boot server and agent of the same version?")
            }
            Self::Claim(ClaimError::Refused { reason, .. }) => {
                // The controller's own words say what to do.
                return Failure { step: Claiming, reason: reason.clone(), advice: "" };
            }
            Self::Claim(ClaimError::Unknown) => {
                (Claiming, "ClaimRefused", "give the Machine a new spec.bootIntent and boot the box again")
            }
            Self::Claim(ClaimError::WrongKey(_)) => {
                (Claiming, "WrongServerKey", "find out who answers there; if the key is new, boot the box again")
            }
            Self::Claim(ClaimError::Nonsense(_) | ClaimError::Challenged) => {
                (Claiming, "WrongAnswer", "are boot server and agent of the same version?")
            }
            Self::Apply(ApplyError::WrongAnswer(_)) => {
                (CertificateReceived, "WrongAnswer", "look at the Machine's claim and the CertificateSigningRequest")
            }
            Self::Apply(ApplyError::File(_) | ApplyError::Keys(_)) => {
                (CertificateReceived, "FilesNotWritten", "is the disk full, or read-only?")
            }
            Self::Apply(ApplyError::Start(_) | ApplyError::NotUp(_)) => {
                (KubeletStarted, "KubeletNotStarted", "look at `journalctl -u kubelet`; does a container runtime run?")
            }
            Self::Secrets(_) => (
                CertificateReceived,
                "SecretFilesNotWritten",
                "is the disk full, or read-only? If the claim key was lost, set another spec.bootIntent",
            ),
            Self::Watch(_) => (NodeRegistered, "CertificateGone", "the agent claims again"),
        };
        Failure { step, reason: reason.to_owned(), advice }
    }
}

/// The agent at work.
pub struct Agent<'a> {
    /// The arguments.
    pub args: &'a Args,
    /// Where things are.
    pub paths: &'a Paths,
    /// Who is asked.
    pub server: &'a BootServer,
    /// Where to say how far it is.
    pub reporter: Reporter,
    /// The box's clock.
    pub clock: BoxClock,
    /// What it remembers of this run.
    pub memory: Memory,
}

/// What the agent remembers of a run, and no longer.
#[derive(Debug, Default)]
pub struct Memory {
    /// The kubelet had been started already when the agent came.
    joined_before: Option<bool>,
    /// The agent started the kubelet.
    started_here: bool,
    /// The Node is Ready with this answer.
    joined: Option<State>,
    /// The console shows the claim key.
    key_shown: bool,
    /// The console shows that a person has to approve it.
    wait_shown: bool,
}

impl Agent<'_> {
    /// Joins, and then stays: for secret files that change, and for a restart that the cluster asks for. Ends when it failed too often
    /// in a row, or where there is nothing to stay for.
    pub async fn run(mut self) -> Result<(), RunError> {
        let inventory = inventory::inventory(self.paths);
        // Before the first report: of a box that a key has claimed only signed ones are believed, and one in memory has none yet.
        if self.args.join == JoinMode::Certificate
            && let Err(error) = self.make_keys().await
        {
            tracing::warn!(error = chain(&error), "no keys yet, will try again");
        }
        self.greet(&inventory).await;
        let ceiling = self.args.timing.retry_ceiling;
        let mut retries = Backoff { first: Duration::from_secs(1).min(ceiling), ceiling }.start();
        let mut last = None;
        loop {
            let error = match self.step(&inventory).await {
                Ok(Step::SayBooted | Step::Watch) => break,
                Ok(step) if last == Some(step) => {
                    // Done, and not done: something undoes it. That must not make us a busy loop.
                    tracing::warn!(step = ?step, "step had no effect, will try again");
                    sleep(retries.next_delay()).await;
                    continue;
                }
                Ok(step) => {
                    last = Some(step);
                    retries.reset();
                    continue;
                }
                Err(error) => error,
            };
            let delay = retries.next_delay();
            let Failure { step, reason, advice } = error.failure();
            let message = [chain(&error).as_str(), advice].join("; ");
            self.reporter.failed(step, &reason, message.trim_end_matches("; "));
            if retries.failures() >= self.args.timing.attempts {
                return Err(error);
            }
            tracing::warn!(reason, advice, error = chain(&error), "step failed, will try again");
            sleep(if error.is_refusal() { jittered(self.args.timing.refused_pause) } else { delay }).await;
        }
        let Self { args, paths, server, reporter, clock, memory } = self;
        // The last report goes its way; whoever waits for it need not wait for what follows.
        drop(reporter);
        if let Some(state) = memory.joined {
            let systemctl = Systemctl(args.systemctl.clone());
            let join = state.join.clone();
            let api_server = ApiServer::new(paths, &join);
            let pause = args.timing.restart_poll;
            tokio::join!(
                secrets::keep(paths, server, state, args.timing.refresh),
                restart::watch(api_server, boot_id(paths), &systemctl, pause, || clock.now()),
            );
        }
        Ok(())
    }

    fn lay_secrets(&self, join: &JoinBundle) -> Result<(), RunError> {
        join.secret_files.as_ref().map_or(Ok(()), |sealed| secrets::lay(self.paths, &join.machine_uid, sealed))?;
        Ok(())
    }

    /// Says that the agent runs, and takes over the boot server's time from its answer: a box that joined before
    /// asks for nothing else, and still has to know what time it is.
    async fn greet(&mut self, inventory: &Inventory) {
        tracing::info!(
            machine = self.args.machine,
            intent = self.args.intent,
            product = inventory.product,
            cpus = inventory.cpus,
            memory_bytes = inventory.memory_bytes,
            disks = inventory.disks.len(),
            nics = inventory.nics.len(),
            gpus = inventory.gpus.len(),
            "agent started"
        );
        self.reporter.started(inventory);
        if let Some(time) = self.reporter.server_time(FIRST_ANSWER).await {
            self.clock.agree(time);
        }
    }

    /// Looks, and does the next step. Says which it was.
    async fn step(&mut self, inventory: &Inventory) -> Result<Step, RunError> {
        let systemctl = Systemctl(self.args.systemctl.clone());
        let started_here = self.memory.started_here;
        let Look { seen, state, wanted, searched } =
            observe::observe(self.args, self.paths, &systemctl, started_here).await?;
        self.memory.joined_before.get_or_insert(state.as_ref().is_some_and(|state| state.started));
        let now = self.clock.now();
        let step = plan::next(&seen, now);
        tracing::debug!(step = ?step, "next");
        match (step, state) {
            (Step::SayBooted, _) => {
                self.reporter.reached(BootStepName::SystemBooted, None);
                tracing::info!("system booted; its profile joins nothing");
            }
            (Step::MissKubelet, _) => return Err(RunError::KubeletNotFound { searched }),
            (Step::MakeKeys, _) => self.make_keys().await?,
            (Step::WriteFiles, Some(mut state)) => apply::write_files(self.paths, &mut state, &seen, &wanted, now)?,
            (Step::StartKubelet, Some(mut state)) => {
                // Before the kubelet, which may need them to pull its first image.
                self.lay_secrets(&state.join)?;
                apply::start_kubelet(self.paths, &mut state, &systemctl).await?;
                self.memory.started_here = true;
                tracing::info!(node = self.args.node_name, "kubelet started");
                self.reporter.reached(BootStepName::KubeletStarted, None);
            }
            (Step::Watch, Some(state)) => {
                self.lay_secrets(&state.join)?;
                self.watch(&state.join, &systemctl).await?;
                self.memory.joined = Some(state);
            }
            // The plan says those three only where there is an answer; without one there is only this to do.
            (Step::Claim | Step::WriteFiles | Step::StartKubelet | Step::Watch, _) => {
                self.claim(inventory).await?;
                return Ok(Step::Claim);
            }
        }
        Ok(step)
    }

    /// As the TPM has them, so that they are the same after a restart; by chance where it cannot be asked, which is good enough for a box that
    /// keeps them on a disk. Does nothing where they are there.
    async fn make_keys(&self) -> Result<(), RunError> {
        if keys::exist(self.paths)? {
            return Ok(());
        }
        let Args { machine, machine_uid, intent, .. } = self.args;
        let derived = tpm::derive(self.paths, &Whose { machine, machine_uid, intent }).await;
        keys::make(self.paths, derived.as_ref())?;
        tracing::info!(tpm = derived.is_some(), "keys made");
        Ok(())
    }

    async fn claim(&mut self, inventory: &Inventory) -> Result<(), RunError> {
        let Args { machine, intent, node_name, .. } = self.args;
        let keys = Keys::load(self.paths)?;
        let (request, key) = (keys.request(machine, intent, node_name, inventory)?, keys.fingerprint());
        tracing::info!(machine, intent, node = node_name, key = %key, "claiming");
        if !std::mem::replace(&mut self.memory.key_shown, true) {
            console::show_key(self.paths, machine, key);
        }
        self.reporter.reached(BootStepName::Claiming, None);
        let response = match self.args.tpm {
            TpmUse::No => match self.ask(&request, key).await? {
                Answered::Granted(response) => response,
                Answered::Challenged(_) => return Err(ClaimError::Challenged.into()),
            },
            TpmUse::Required => self.claim_with_tpm(&keys, request, key).await?,
        };
        self.clock.agree(response.server_time.0);
        if response.join.node_name != *node_name {
            return Err(ApplyError::WrongAnswer("it is for another node").into());
        }
        apply::keep_answer(self.paths, &State::new(machine, intent, *response), self.clock.now())?;
        tracing::info!(node = node_name, "certificate received");
        self.reporter.reached(BootStepName::CertificateReceived, None);
        Ok(())
    }

    /// Asks until there is an answer; a wait for a person is shown on the console, once.
    async fn ask(&mut self, request: &ClaimRequest, key: Fingerprint) -> Result<Answered, ClaimError> {
        let Args { machine, timing, .. } = self.args;
        claim::claim(self.server, request, timing.retry_ceiling, |reason| {
            let told = reason == AWAITING_APPROVAL && !std::mem::replace(&mut self.memory.wait_shown, true);
            if told {
                console::show_wait(self.paths, machine, key);
            }
        })
        .await
    }

    /// Twice: first with the TPM's keys, then with what they made of the challenge.
    async fn claim_with_tpm(
        &mut self,
        keys: &Keys,
        mut request: ClaimRequest,
        key: Fingerprint,
    ) -> Result<Box<ClaimResponse>, RunError> {
        let tpm = tpm::prepare(self.paths, keys.claim_key()).await?;
        request.tpm = Some(tpm.evidence().clone());
        let challenge = match self.ask(&request, key).await? {
            Answered::Granted(response) => return Ok(response),
            Answered::Challenged(challenge) => challenge,
        };
        request.proof = Some(tpm.answer(*challenge, &request).await?);
        tracing::info!("the TPM answered, claiming with its proof");
        match self.ask(&request, key).await? {
            Answered::Granted(response) => Ok(response),
            Answered::Challenged(_) => Err(ClaimError::Challenged.into()),
        }
    }

    async fn watch(&self, join: &JoinBundle, systemctl: &Systemctl) -> Result<(), RunError> {
        let watch = NodeWatch {
            paths: self.paths,
            join,
            boot_id: boot_id(self.paths),
            reporter: &self.reporter,
            systemctl,
            ready_within: self.args.timing.ready_within,
        };
        watch.until_ready(|| self.clock.now()).await?;
        let joined_before = self.memory.joined_before == Some(true);
        let detail = if joined_before { "already joined" } else { "joined" };
        tracing::info!(node = plain(&join.node_name, 253), detail, "node is ready");
        self.reporter.reached(BootStepName::NodeReady, joined_before.then_some(detail));
        Ok(())
    }
}
