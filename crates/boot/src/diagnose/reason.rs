//! The reasons for which a boot is where it is: a closed set, one word each.

use magnetite_api::report::BootStepName;

/// The page that explains each reason, as people find it in the source and in the release.
pub const PAGE: &str = "docs/my-machine-does-not-boot.md";

/// Why a boot is where it is. Each has a section of its own in [`PAGE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No boot server heard of the box.
    NeverAsked,
    /// More than one Machine declares its identity.
    DuplicateIdentity,
    /// No Profile can be booted.
    ProfileNotReady,
    /// A file of the Profile is missing or is not the declared one.
    ArtifactFailed,
    /// A template of the Profile does not render.
    RenderFailed,
    /// No loader is at hand for its firmware.
    NoLoader,
    /// The firmware was answered and asked for no loader.
    OfferNotTaken,
    /// The loader did not arrive whole.
    LoaderNotFinished,
    /// The loader was sent, and the script was never asked for.
    LoaderSilent,
    /// The box is told to ask again later.
    ScriptWaits,
    /// The box was sent to its next boot device.
    LocalBoot,
    /// The script was served, and the kernel was never fetched.
    ScriptNotBooted,
    /// A file did not arrive whole.
    FileNotFinished,
    /// The kernel was fetched, and no initrd.
    KernelOnly,
    /// Kernel and initrds were fetched, and the config never.
    ConfigNotFetched,
    /// The config was fetched, and the agent never reported.
    AgentNeverStarted,
    /// The agent started and said nothing since.
    AgentSilent,
    /// The agent says what went wrong.
    AgentFailed,
    /// The agent says why the system is not on the disk.
    InstallFailed,
    /// The agent was writing to a disk and says no more, or the box did not come back.
    InstallSilent,
    /// The box was sent to its disk, and nobody heard of the system there.
    DiskSilent,
    /// The agent says why a disk is not wiped.
    WipeFailed,
    /// A person has to say that the box is the right one.
    AwaitingApproval,
    /// The claim was refused.
    ClaimRefused,
    /// Two keys claimed the same machine.
    ClaimConflict,
    /// A Node of that name belongs to another.
    NodeNameTaken,
    /// The claim is not decided, or the certificate not issued.
    CertificateNotIssued,
    /// The Node did not register.
    NodeNotRegistered,
    /// The Node registered and is not Ready.
    NodeNotReady,
    /// The time of the boot window ran out.
    WindowExpired,
    /// Nothing is wrong so far.
    UnderWay,
    /// It did all that was asked for.
    Running,
}

impl Reason {
    /// All of them, in the order of the chain.
    pub const ALL: [Self; 32] = [
        Self::NeverAsked,
        Self::DuplicateIdentity,
        Self::ProfileNotReady,
        Self::ArtifactFailed,
        Self::RenderFailed,
        Self::NoLoader,
        Self::OfferNotTaken,
        Self::LoaderNotFinished,
        Self::LoaderSilent,
        Self::ScriptWaits,
        Self::LocalBoot,
        Self::ScriptNotBooted,
        Self::FileNotFinished,
        Self::KernelOnly,
        Self::ConfigNotFetched,
        Self::AgentNeverStarted,
        Self::AgentSilent,
        Self::AgentFailed,
        Self::InstallFailed,
        Self::InstallSilent,
        Self::DiskSilent,
        Self::WipeFailed,
        Self::AwaitingApproval,
        Self::ClaimRefused,
        Self::ClaimConflict,
        Self::NodeNameTaken,
        Self::CertificateNotIssued,
        Self::NodeNotRegistered,
        Self::NodeNotReady,
        Self::WindowExpired,
        Self::UnderWay,
        Self::Running,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverAsked => "NeverAsked",
            Self::DuplicateIdentity => "DuplicateIdentity",
            Self::ProfileNotReady => "ProfileNotReady",
            Self::ArtifactFailed => "ArtifactFailed",
            Self::RenderFailed => "RenderFailed",
            Self::NoLoader => "NoLoader",
            Self::OfferNotTaken => "OfferNotTaken",
            Self::LoaderNotFinished => "LoaderNotFinished",
            Self::LoaderSilent => "LoaderSilent",
            Self::ScriptWaits => "ScriptWaits",
            Self::LocalBoot => "LocalBoot",
            Self::ScriptNotBooted => "ScriptNotBooted",
            Self::FileNotFinished => "FileNotFinished",
            Self::KernelOnly => "KernelOnly",
            Self::ConfigNotFetched => "ConfigNotFetched",
            Self::AgentNeverStarted => "AgentNeverStarted",
            Self::AgentSilent => "AgentSilent",
            Self::AgentFailed => "AgentFailed",
            Self::InstallFailed => "InstallFailed",
            Self::InstallSilent => "InstallSilent",
            Self::DiskSilent => "DiskSilent",
            Self::WipeFailed => "WipeFailed",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::ClaimRefused => "ClaimRefused",
            Self::ClaimConflict => "ClaimConflict",
            Self::NodeNameTaken => "NodeNameTaken",
            Self::CertificateNotIssued => "CertificateNotIssued",
            Self::NodeNotRegistered => "NodeNotRegistered",
            Self::NodeNotReady => "NodeNotReady",
            Self::WindowExpired => "WindowExpired",
            Self::UnderWay => "UnderWay",
            Self::Running => "Running",
        }
    }

    /// Its section of [`PAGE`].
    pub fn anchor(self) -> String {
        // As Markdown renderers make anchors of headings.
        self.as_str().to_ascii_lowercase()
    }

    /// What to look at first, in a line.
    pub fn hint(self) -> &'static str {
        match self {
            Self::NeverAsked => {
                "is the box on and set to boot from the network, does a boot server listen on its network, and are the \
                 Machine's MACs right?"
            }
            Self::DuplicateIdentity => "change one of the Machines, or delete it",
            Self::ProfileNotReady => {
                "name a Profile in spec.profile, or label the Machine so that exactly one selects it"
            }
            Self::ArtifactFailed => "put the file in its place, or correct its SHA-256 in the Profile",
            Self::RenderFailed => "correct the template, or set the variable that it lacks",
            Self::NoLoader => {
                "put the loader into the boot server's --ipxe-dir, or correct netboot of Machine or Profile"
            }
            Self::OfferNotTaken => {
                "are UDP ports 69 and 4011 of the boot server open, does no other DHCP server name a boot file, and \
                 does the switch port forward at once (portfast)?"
            }
            Self::LoaderNotFinished => {
                "look for lost packets, for a smaller MTU on the way, and for a firewall that stops UDP to high ports"
            }
            Self::LoaderSilent => {
                "Secure Boot may refuse the loader, its driver may not know this network card, or the boot server's \
                 HTTP port is blocked; the box's console says which"
            }
            Self::ScriptWaits => "the box goes on by itself once that is so",
            Self::LocalBoot => {
                "to boot it from the network once more, set spec.bootIntent of the Machine, then restart the box"
            }
            Self::ScriptNotBooted => {
                "look at the box's console: iPXE says there what it could not do, and a link to why"
            }
            Self::FileNotFinished => {
                "has the box memory enough for kernel and initrds, twice over? Look at its console, and at the link's errors"
            }
            Self::KernelOnly => {
                "look at the box's console; a Profile with a kernel alone needs one with its initramfs built in"
            }
            Self::ConfigNotFetched => {
                "look at the box's console: the initrd may lack the driver of the network card or Ignition, or the \
                 kernel's arguments may lack the console, ip= or ignition.config.url="
            }
            Self::AgentNeverStarted => {
                "look at the box's console: Ignition or systemd says there what failed; is the box's clock right, and \
                 is TCP port 8443 of the boot server open?"
            }
            Self::AgentSilent => "look at `journalctl -u magnetite-agent` on the box",
            Self::AgentFailed => "look at `journalctl -u magnetite-agent` on the box; the agent tries again by itself",
            Self::InstallFailed => {
                "correct what the message names: spec.install of the Profile, the image, or the disk; the agent tries again by itself"
            }
            Self::InstallSilent => {
                "look at the box's console, and at its disk; restarted, it installs anew in the same intent"
            }
            Self::WipeFailed => {
                "look at the disk that the message names; the agent tries again by itself. To let the Machine go unwiped, set its spec.deletionPolicy to RemoveNode"
            }
            Self::DiskSilent => {
                "look at the box's console: can its firmware start this image (BIOS or UEFI), does the disk come after the \
                 network in its boot order, and does the system fetch its Ignition config's files?"
            }
            Self::AwaitingApproval => {
                "compare the key with the one on the box's console, then: kubectl magnetite approve"
            }
            Self::ClaimRefused => {
                "put right what the refusal names, set spec.bootIntent of the Machine, then restart the box"
            }
            Self::ClaimConflict => {
                "find out which box is which, then: kubectl magnetite conflict MACHINE --keep FINGERPRINT"
            }
            Self::NodeNameTaken => "remove that Node, or create the Machine anew with another spec.nodeName",
            Self::CertificateNotIssued => {
                "does the controller run, and does kube-controller-manager sign kubernetes.io/kube-apiserver-client-kubelet?"
            }
            Self::NodeNotRegistered => {
                "look at `journalctl -u kubelet` on the box; can it reach the API server of the Profile's spec.join?"
            }
            Self::NodeNotReady => "look at the Node's conditions; most often a network plugin is not there yet",
            Self::WindowExpired => "set spec.bootIntent of the Machine to open another window, then restart the box",
            Self::UnderWay => "wait",
            Self::Running => "nothing is to be done",
        }
    }

    /// What it means that nothing came after a step.
    pub(super) fn after(step: BootStepName) -> Self {
        match step {
            BootStepName::FirmwareSeen => Self::OfferNotTaken,
            BootStepName::LoaderSent => Self::LoaderSilent,
            BootStepName::ScriptServed => Self::ScriptNotBooted,
            BootStepName::KernelFetched => Self::KernelOnly,
            BootStepName::InitrdFetched | BootStepName::FileFetched => Self::ConfigNotFetched,
            BootStepName::ConfigFetched | BootStepName::AgentFetched => Self::AgentNeverStarted,
            BootStepName::AgentStarted | BootStepName::Inventoried => Self::AgentSilent,
            BootStepName::Installing | BootStepName::Installed => Self::InstallSilent,
            BootStepName::Wiping | BootStepName::Wiped => Self::WipeFailed,
            BootStepName::Claiming => Self::CertificateNotIssued,
            BootStepName::CertificateReceived | BootStepName::KubeletStarted => Self::NodeNotRegistered,
            BootStepName::NodeRegistered => Self::NodeNotReady,
            BootStepName::NodeReady | BootStepName::SystemBooted => Self::Running,
        }
    }
}
