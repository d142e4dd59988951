//! Where a boot stopped and why, in words: one judgement, for the status of a Machine and for the person who asks.
//! Pure: the moment is an argument.

mod machine;
mod reason;

#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{
    conditions::reason as api,
    report::{BootFailure, BootRecord, BootStep, BootStepName},
};

pub use self::{
    machine::diagnose_machine,
    reason::{PAGE, Reason},
};

/// Begins the words of a served script that makes the box ask again.
pub const WAITS: &str = "waits: ";
/// Begins the words of a served script that sends the box to its next boot device.
pub const LOCAL: &str = "local boot";
/// Begins the words of a served script that sends the box to the disk on which its system was installed.
pub const INSTALLED: &str = "installed";
/// The reason of a transfer that did not end.
pub const TRANSFER_CUT: &str = "TransferCut";

/// Whether there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It goes on, or may.
    UnderWay,
    /// It stopped, or goes round in circles.
    Stopped,
    /// It ended as it should.
    Done,
}

impl Progress {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnderWay => "UnderWay",
            Self::Stopped => "Stopped",
            Self::Done => "Done",
        }
    }
}

/// What is to be said of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// Whether there is something to do.
    pub progress: Progress,
    /// The furthest step that was reached, or the one that failed; nothing if the box was never seen.
    pub stopped_at: Option<BootStepName>,
    /// Why, in a word.
    pub reason: Reason,
    /// What is so, in a sentence without its end.
    pub message: String,
    /// When time alone would change the judgement.
    pub until: Option<Timestamp>,
}

impl Diagnosis {
    fn new(progress: Progress, at: Option<BootStepName>, reason: Reason, message: impl Into<String>) -> Self {
        Self { progress, stopped_at: at, reason, message: message.into(), until: None }
    }

    fn stopped(at: BootStepName, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Progress::Stopped, Some(at), reason, message)
    }

    /// What to look at first, in a line.
    pub fn hint(&self) -> &'static str {
        self.reason.hint()
    }

    /// Where the documentation says more.
    pub fn doc(&self) -> String {
        format!("{PAGE}#{}", self.reason.anchor())
    }
}

/// What is to be said of a machine that no boot server heard of.
pub fn unseen() -> Diagnosis {
    Diagnosis::new(Progress::Stopped, None, Reason::NeverAsked, "no boot server has heard of this box")
}

/// Where a boot is, and why it is there.
pub fn diagnose(boot: &BootRecord, now: Timestamp) -> Diagnosis {
    if let Some(step) = boot.furthest().filter(|step| Reason::after(step.name) == Reason::Running) {
        return Diagnosis::new(Progress::Done, Some(step.name), Reason::Running, running(step));
    }
    if let Some(failure) = boot.standing_failure() {
        return failed(failure);
    }
    let Some(step) = boot.furthest() else { return unseen() };
    if step.name <= BootStepName::LoaderSent && all_loaders_failed(boot) {
        let all = boot.failed_loaders.join(", ");
        let message = format!("every loader was sent in turn ({all}), and none asked for its script");
        return Diagnosis::stopped(step.name, Reason::LoaderSilent, message);
    }
    // The first boot of an installed system takes its time, and nobody hears of it until its agent starts.
    let installed = step.detail.as_deref().is_some_and(|words| words.starts_with(INSTALLED));
    let like = if installed { BootStepName::Installed } else { step.name };
    let ends = boot.last_seen.0.saturating_add(patience(like)).unwrap_or(Timestamp::MAX);
    let silent = now >= ends;
    let words = step.detail.as_deref().unwrap_or_default();
    if step.name == BootStepName::ScriptServed
        && let Some(told) = told(words, silent)
    {
        return Diagnosis { until: (!silent).then_some(ends), ..told };
    }
    if silent || goes_round(step) {
        let mut stopped = Diagnosis::stopped(step.name, Reason::after(step.name), message(boot, step));
        stopped.message.push_str(&so_did_others(boot, step.name));
        return stopped;
    }
    let message = format!("the last step was {}{}{}", step.name.as_str(), ago(step, now), next_loader(boot, step));
    let under_way = Diagnosis::new(Progress::UnderWay, Some(step.name), Reason::UnderWay, message);
    Diagnosis { until: Some(ends), ..under_way }
}

/// After how long without a word something is wrong. Long beside what was measured of slow hardware, since being wrong here
/// sends people looking for nothing.
fn patience(step: BootStepName) -> SignedDuration {
    SignedDuration::from_secs(match step {
        // EDK2 asks after 4, 8, 16 and 32 seconds and then gives up (PXE-E16); iPXE waits 15 s for an IPv6 router first.
        BootStepName::FirmwareSeen | BootStepName::LoaderSent => 90,
        BootStepName::ScriptServed => 180,
        // An initrd of a gigabyte on a slow link, and a server's kernel that looks at all its disks.
        BootStepName::KernelFetched | BootStepName::InitrdFetched | BootStepName::FileFetched => 300,
        BootStepName::ConfigFetched | BootStepName::AgentFetched => 300,
        BootStepName::AgentStarted | BootStepName::Inventoried | BootStepName::Claiming => 180,
        // The agent says every few seconds how far it is; a server's firmware takes minutes to come back.
        BootStepName::Installing => 120,
        BootStepName::Installed => 600,
        // A drive that erases itself says nothing until it is done: hours, if it turns.
        BootStepName::Wiping => 12 * 3600,
        BootStepName::Wiped => 600,
        BootStepName::CertificateReceived | BootStepName::KubeletStarted => 300,
        BootStepName::NodeRegistered => 600,
        BootStepName::NodeReady | BootStepName::SystemBooted => 0,
    })
}

/// True of a step that was repeated as only those do that get no further.
fn goes_round(step: &BootStep) -> bool {
    let span = step.last_at.0.duration_since(step.first_at.0).as_secs();
    match step.name {
        // A boot that goes well asks up to four times in a few seconds: twice on 67, on 4011, and again as iPXE.
        BootStepName::FirmwareSeen => step.count >= 3 && span >= 10,
        BootStepName::LoaderSent | BootStepName::ScriptServed | BootStepName::KernelFetched => step.count >= 3,
        BootStepName::ConfigFetched => step.count >= 5,
        // Several initrds and files are several times the same step, and an agent asks until it is answered.
        BootStepName::InitrdFetched
        | BootStepName::FileFetched
        | BootStepName::AgentFetched
        | BootStepName::AgentStarted
        | BootStepName::Inventoried
        | BootStepName::Installing
        | BootStepName::Installed
        | BootStepName::Wiping
        | BootStepName::Wiped
        | BootStepName::Claiming
        | BootStepName::CertificateReceived
        | BootStepName::KubeletStarted
        | BootStepName::NodeRegistered
        | BootStepName::NodeReady
        | BootStepName::SystemBooted => false,
    }
}

/// What the script itself told the box to do, if that was not to boot.
fn told(words: &str, silent: bool) -> Option<Diagnosis> {
    let at = Some(BootStepName::ScriptServed);
    if words.starts_with(LOCAL) {
        let message = "the box was sent on to its next boot device, since no boot window is open";
        return Some(Diagnosis::new(Progress::Done, at, Reason::LocalBoot, message));
    }
    if words.starts_with(INSTALLED) {
        let (progress, message) = match silent {
            false => (Progress::UnderWay, "the box was sent on to its disk, where its system is installed"),
            true => (Progress::Stopped, "the box was sent on to its disk, and the system there never reported"),
        };
        return Some(Diagnosis::new(progress, at, Reason::DiskSilent, message));
    }
    let why = words.strip_prefix(WAITS)?;
    let (progress, message) = match silent {
        false => (Progress::UnderWay, format!("the box asks again every few seconds until it may boot: {why}")),
        true => (Progress::Stopped, format!("the box was told to ask again, and does no more: {why}")),
    };
    Some(Diagnosis::new(progress, at, Reason::ScriptWaits, message))
}

fn failed(failure: &BootFailure) -> Diagnosis {
    let BootFailure { step, reason, message, at: _ } = failure;
    /// What goes wrong on the box before anybody refused anything.
    const ON_THE_BOX: [&str; 6] =
        ["BoxUnreadable", "KeysNotMade", "WrongServerKey", "WrongAnswer", "TpmMissing", "TpmFailed"];
    let why = match step {
        _ if reason == api::ARTIFACT_FAILED => Reason::ArtifactFailed,
        _ if reason == api::RENDER_FAILED => Reason::RenderFailed,
        _ if reason == api::NO_LOADER => Reason::NoLoader,
        BootStepName::FirmwareSeen | BootStepName::LoaderSent => Reason::LoaderNotFinished,
        BootStepName::Claiming if reason == api::CLAIM_CONFLICT => Reason::ClaimConflict,
        BootStepName::Claiming if reason == api::NODE_NAME_TAKEN => Reason::NodeNameTaken,
        BootStepName::Claiming if !ON_THE_BOX.contains(&reason.as_str()) => Reason::ClaimRefused,
        BootStepName::Installing | BootStepName::Installed => Reason::InstallFailed,
        BootStepName::Wiping | BootStepName::Wiped => Reason::WipeFailed,
        BootStepName::NodeRegistered => Reason::NodeNotRegistered,
        BootStepName::NodeReady => Reason::NodeNotReady,
        BootStepName::Claiming
        | BootStepName::AgentStarted
        | BootStepName::Inventoried
        | BootStepName::CertificateReceived
        | BootStepName::KubeletStarted
        | BootStepName::SystemBooted => Reason::AgentFailed,
        BootStepName::ScriptServed
        | BootStepName::KernelFetched
        | BootStepName::InitrdFetched
        | BootStepName::FileFetched
        | BootStepName::ConfigFetched
        | BootStepName::AgentFetched => Reason::FileNotFinished,
    };
    let message = match why {
        // The word says nothing that the sentence does not.
        Reason::ArtifactFailed
        | Reason::RenderFailed
        | Reason::NoLoader
        | Reason::LoaderNotFinished
        | Reason::FileNotFinished => message.clone(),
        _ => format!("{reason}: {message}"),
    };
    Diagnosis::stopped(*step, why, message)
}

fn running(step: &BootStep) -> String {
    let what = if step.name == BootStepName::SystemBooted { "the system booted" } else { "the Node is Ready" };
    format!("{what} since {}", step.first_at.0)
}

/// True if the loader that the box is given now failed on it before, and the boot before got no further than that: the ladder
/// begins anew.
fn all_loaders_failed(boot: &BootRecord) -> bool {
    let again = boot.loader.as_ref().is_some_and(|loader| boot.failed_loaders.contains(loader));
    again && boot.previous.first().is_some_and(|before| before.furthest <= Some(BootStepName::LoaderSent))
}

/// What is tried instead of the loaders that failed.
fn next_loader(boot: &BootRecord, step: &BootStep) -> String {
    match (&boot.loader, boot.failed_loaders.last()) {
        (Some(loader), Some(failed)) if step.name <= BootStepName::LoaderSent => {
            format!("; {failed} never asked for its script, so {loader} is tried")
        }
        _ => String::new(),
    }
}

fn ago(step: &BootStep, now: Timestamp) -> String {
    format!(", {} s ago", now.duration_since(step.last_at.0).as_secs().max(0))
}

fn times(count: i32) -> String {
    if count > 1 { format!(" {count} times") } else { String::new() }
}

/// What was reached, and what did not come after it.
fn message(boot: &BootRecord, step: &BootStep) -> String {
    let n = times(step.count);
    let what = step.detail.as_deref().map(|words| words.split(',').next().unwrap_or(words));
    match step.name {
        BootStepName::FirmwareSeen => {
            format!("the firmware asked{n}, was answered, and never asked for the loader")
        }
        BootStepName::LoaderSent => {
            let what = what.or(boot.loader.as_deref()).unwrap_or("the loader");
            format!("{what} was sent{n}, and the script was never asked for")
        }
        BootStepName::ScriptServed => format!("the script was served{n}, and the kernel was never fetched"),
        BootStepName::KernelFetched => format!("the kernel was sent{n}, and no initrd was asked for"),
        BootStepName::InitrdFetched => {
            "kernel and initrd were sent, and the Ignition config was never asked for".into()
        }
        BootStepName::FileFetched => {
            "the system's files were sent, so that its network works, and the Ignition config was \
                                      never asked for"
                .into()
        }
        BootStepName::ConfigFetched => {
            let what = what.unwrap_or("the Ignition config");
            format!("{what} was served{n}; the agent was not fetched and never reported")
        }
        BootStepName::AgentFetched => "the Ignition config and the agent were fetched; the agent never reported".into(),
        BootStepName::AgentStarted => "the agent started, and neither claimed an identity nor said why not".into(),
        BootStepName::Inventoried => "the box is held, its agent told what it is made of, and says no more".into(),
        BootStepName::Installing => {
            let far = step.detail.as_deref().map_or(String::new(), |words| format!(" ({words})"));
            format!("the agent was writing the system to a disk{far}, and says no more")
        }
        BootStepName::Wiping => "the agent was wiping the box's disks, and says no more".into(),
        BootStepName::Wiped => "the box's disks are wiped, and it switched itself off".into(),
        BootStepName::Installed => "the system is on the disk, and the box did not come back from its restart".into(),
        BootStepName::Claiming => format!("the box claimed its identity{n} and has no certificate"),
        BootStepName::CertificateReceived => "the certificate is on the box, and its kubelet was not started".into(),
        BootStepName::KubeletStarted => "the kubelet was started, and the Node did not register".into(),
        BootStepName::NodeRegistered => "the Node is registered and not Ready".into(),
        BootStepName::NodeReady | BootStepName::SystemBooted => running(boot.furthest().unwrap_or(step)),
    }
}

/// Says so where the boots before ended the same way: it is then no accident.
fn so_did_others(boot: &BootRecord, step: BootStepName) -> String {
    match boot.previous.iter().take_while(|earlier| earlier.furthest == Some(step)).count() {
        0 => String::new(),
        1 => "; the boot before ended there too".to_owned(),
        n => format!("; the {n} boots before ended there too"),
    }
}
