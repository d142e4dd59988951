//! `BootReport`: what a boot server saw, passed to the controller, which folds it into the status of
//! Machines and Profiles. A boot server may write these and nothing else's status: one that falls can
//! lie about progress, but not about identities.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    install::{InstallStatus, WipeStatus},
    time::Time,
    types::{Architecture, MacAddr, MachineUuid},
};

/// What one boot server saw of one Machine or one Profile.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "magnetite.dev",
    version = "v1alpha1",
    kind = "BootReport",
    plural = "bootreports",
    shortname = "mgb",
    category = "magnetite",
    derive = "PartialEq",
    doc = "A BootReport is what one boot server saw of one Machine or Profile. The controller folds it into their status. People read it; they do not write it.",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.subject.kind"),
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.subject.name"),
    printcolumn(name = "Server", type_ = "string", json_path = ".spec.server"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BootReportSpec {
    /// The object that the report is about.
    pub subject: Subject,
    /// Name of the boot server.
    #[schemars(length(max = 253))]
    pub server: String,
    /// Machine: its newest boot at this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootRecord>,
    /// Machine: what its agent found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// Machine: what its agent said of its installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<InstallStatus>,
    /// Machine: what its agent said of the wiping of its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<WipeStatus>,
    /// Profile: the state of its artifacts at this server. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub artifacts: Vec<ArtifactReport>,
}

/// The object that a report is about.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Machine, Profile or Box.
    pub kind: SubjectKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its UID.
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// Kind of a report's subject.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// A Machine.
    Machine,
    /// A Profile.
    Profile,
    /// A box that no Machine declares: its name is made of its MAC, and its UID is empty.
    Box,
}

/// One boot of a machine: what it asked for and got, from its firmware's first packet on.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BootRecord {
    /// When the firmware was first seen in this boot.
    pub started_at: Time,
    /// When the box was last heard of.
    pub last_seen: Time,
    /// Name of the boot server that served it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub server: String,
    /// BIOS, UEFI or UEFI HTTP, as the firmware said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// The processor architecture, as the firmware said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Address of the network card that it boots from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// SMBIOS UUID, as the firmware said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineUuid>,
    /// IP address that it was last seen at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub address: Option<String>,
    /// The steps of this boot, in the order in which they were first reached. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub steps: Vec<BootStep>,
    /// Where and why it failed, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<BootFailure>,
    /// The loader that was offered in this boot, by its file's name; absent if iPXE in a ROM asked for its script at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub loader: Option<String>,
    /// Loaders that the box fetched in this boot or an earlier one, and that never asked for a script: they are not offered again until
    /// all others failed too. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub failed_loaders: Vec<String>,
    /// Revision of the Profile that was served. Absent if the box was sent on to its disk; two with a `+` between if the
    /// Profile changed between script and config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub revision: Option<String>,
    /// The boots before this one, newest first. At most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub previous: Vec<EarlierBoot>,
}

/// An earlier boot, in brief.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EarlierBoot {
    /// When the firmware was first seen in it.
    pub started_at: Time,
    /// When the box was last heard of in it.
    pub last_seen: Time,
    /// The furthest step that it reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub furthest: Option<BootStepName>,
    /// Revision of the Profile that was served in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub revision: Option<String>,
    /// The loader that was offered in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub loader: Option<String>,
    /// Where and why it failed, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<BootFailure>,
}

/// How many earlier boots are kept of a machine.
pub const MOST_PREVIOUS: usize = 5;

/// Kind of firmware.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// PC BIOS, PXE.
    #[serde(rename = "BIOS")]
    Bios,
    /// UEFI, PXE.
    #[serde(rename = "UEFI")]
    Uefi,
    /// UEFI HTTP boot.
    #[serde(rename = "UEFI-HTTP")]
    UefiHttp,
}

/// One step of a boot.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BootStep {
    /// Which step.
    pub name: BootStepName,
    /// When it was first reached in this boot.
    pub first_at: Time,
    /// When it was last reached.
    pub last_at: Time,
    /// How often it was reached in this boot: more than once means retries.
    pub count: i32,
    /// Bytes that were sent, where the step sends any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// More about it, for a person: the loader's name, the agent's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub detail: Option<String>,
}

/// The steps of a boot, in the order of the chain.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BootStepName {
    /// The firmware's (or a ROM iPXE's) DHCP request was answered.
    FirmwareSeen,
    /// A network boot loader was sent.
    LoaderSent,
    /// The iPXE script was served.
    ScriptServed,
    /// The kernel was sent.
    KernelFetched,
    /// An initrd was sent.
    InitrdFetched,
    /// Another file of the Profile was sent.
    FileFetched,
    /// The Ignition config was served, or one of the Profile's templates.
    ConfigFetched,
    /// The agent was sent.
    AgentFetched,
    /// The agent runs and reported.
    AgentStarted,
    /// The agent of a box that is held told what it is made of, and waits for what it is to be.
    Inventoried,
    /// The agent writes the system to a disk.
    Installing,
    /// The system is on the disk, and so is the mark that says so; the box restarts.
    Installed,
    /// The agent wipes the box's disks.
    Wiping,
    /// All of them read as zeros; the box switches itself off.
    Wiped,
    /// The box claims its identity.
    Claiming,
    /// The certificate is on the box.
    CertificateReceived,
    /// The kubelet was started.
    KubeletStarted,
    /// The Node is registered.
    NodeRegistered,
    /// The Node is Ready.
    NodeReady,
    /// The system booted; its Profile joins nothing.
    SystemBooted,
}

impl BootStepName {
    /// The step as `status.reason` and Events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirmwareSeen => "FirmwareSeen",
            Self::LoaderSent => "LoaderSent",
            Self::ScriptServed => "ScriptServed",
            Self::KernelFetched => "KernelFetched",
            Self::InitrdFetched => "InitrdFetched",
            Self::FileFetched => "FileFetched",
            Self::ConfigFetched => "ConfigFetched",
            Self::AgentFetched => "AgentFetched",
            Self::AgentStarted => "AgentStarted",
            Self::Inventoried => "Inventoried",
            Self::Installing => "Installing",
            Self::Installed => "Installed",
            Self::Wiping => "Wiping",
            Self::Wiped => "Wiped",
            Self::Claiming => "Claiming",
            Self::CertificateReceived => "CertificateReceived",
            Self::KubeletStarted => "KubeletStarted",
            Self::NodeRegistered => "NodeRegistered",
            Self::NodeReady => "NodeReady",
            Self::SystemBooted => "SystemBooted",
        }
    }
}

/// Where and why a boot failed.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BootFailure {
    /// The step that failed.
    pub step: BootStepName,
    /// Why, in one word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Why, in a sentence.
    #[schemars(length(max = 512))]
    pub message: String,
    /// When.
    pub at: Time,
}

impl BootRecord {
    /// The furthest step of the chain that was reached.
    pub fn furthest(&self) -> Option<&BootStep> {
        self.steps.iter().max_by_key(|step| step.name)
    }

    /// The failure, unless the box came further since.
    pub fn standing_failure(&self) -> Option<&BootFailure> {
        self.failure.as_ref().filter(|failure| self.steps.iter().all(|step| step.last_at.0 <= failure.at.0))
    }

    /// This boot as the next one remembers it.
    pub fn in_brief(&self) -> EarlierBoot {
        EarlierBoot {
            started_at: self.started_at.clone(),
            last_seen: self.last_seen.clone(),
            furthest: self.furthest().map(|step| step.name),
            revision: self.revision.clone(),
            loader: self.loader.clone(),
            failure: self.failure.clone(),
        }
    }

    /// What the boot that follows this one remembers: this one, and those that it remembers itself.
    pub fn history(&self) -> Vec<EarlierBoot> {
        std::iter::once(self.in_brief()).chain(self.previous.iter().cloned()).take(MOST_PREVIOUS).collect()
    }

    /// One step, if it was reached.
    pub fn step(&self, name: BootStepName) -> Option<&BootStep> {
        self.steps.iter().find(|step| step.name == name)
    }
}

/// The state of one file of a Profile at one boot server.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactReport {
    /// The field of the Profile, such as `spec.boot.x86_64.kernel`.
    #[schemars(length(max = 128))]
    pub field: String,
    /// The declared SHA-256.
    pub sha256: crate::types::Sha256,
    /// Its state.
    pub state: ArtifactState,
    /// Bytes at hand.
    #[serde(default)]
    pub bytes: i64,
    /// Bytes of the whole file, if whoever it is fetched from says how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<i64>,
    /// What is wrong, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

impl ArtifactReport {
    /// How much of a thousand is at hand; nothing if nobody knows how much there is.
    pub fn per_mille(&self) -> Option<u16> {
        let total = u128::try_from(self.total_bytes?).ok().filter(|total| *total > 0)?;
        let bytes = u128::try_from(self.bytes).unwrap_or(0).min(total);
        u16::try_from(bytes * 1000 / total).ok()
    }

    /// How much is at hand, for a person: `61 MB of 157 MB (39 %)`.
    pub fn progress(&self) -> String {
        let bytes = size(self.bytes);
        match (self.total_bytes, self.per_mille()) {
            (Some(total), Some(per_mille)) => format!("{bytes} of {} ({} %)", size(total), per_mille / 10),
            _ => bytes,
        }
    }
}

/// A number of bytes, for a person: `157 MB`, `1.6 GB`.
pub fn size(bytes: i64) -> String {
    match bytes {
        ..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10),
    }
}

/// The same of bytes that were counted, and cannot be fewer than none.
pub fn size_of(bytes: u64) -> String {
    size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// The state of a file.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtifactState {
    /// At hand, with the declared sum.
    Ready,
    /// Being fetched or summed.
    Fetching,
    /// Not there.
    Missing,
    /// There, with another sum.
    WrongSum,
    /// A kernel for another architecture than the field's.
    WrongArchitecture,
    /// Could not be fetched or read.
    Failed,
}

/// What a box is made of, as its agent found it. Told by the box: not proven.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Inventory {
    /// Maker of the system, by SMBIOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub manufacturer: Option<String>,
    /// Product name, by SMBIOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub product: Option<String>,
    /// Serial number, by SMBIOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub serial: Option<String>,
    /// Address of the BMC, as it says over the box's own bus, where the system has `ipmitool` and the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub bmc_address: Option<String>,
    /// System UUID, by SMBIOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineUuid>,
    /// Vendor and version of the firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub firmware_version: Option<String>,
    /// `BIOS` or `UEFI`: how the running system was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub firmware: Option<String>,
    /// Release of the running kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel: Option<String>,
    /// Model of the first processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub cpu_model: Option<String>,
    /// Logical processors.
    pub cpus: i32,
    /// Memory that the kernel can use, in bytes.
    pub memory_bytes: i64,
    /// Disks. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub disks: Vec<Disk>,
    /// Physical network cards. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub nics: Vec<Nic>,
    /// Display controllers and accelerators, by PCI class. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub gpus: Vec<PciDevice>,
}

/// A disk.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Disk {
    /// The kernel's name for it, such as `nvme0n1`.
    #[schemars(length(max = 64))]
    pub name: String,
    /// Size in bytes.
    pub size_bytes: i64,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub model: Option<String>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub serial: Option<String>,
    /// True of a disk that turns.
    pub rotational: bool,
}

/// A network card.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Nic {
    /// The kernel's name for it, such as `eno1`.
    #[schemars(length(max = 64))]
    pub name: String,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// True if it has a link.
    pub link: bool,
    /// Speed in megabits per second, where the driver knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<i32>,
    /// The kernel's driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub driver: Option<String>,
    /// The switch and its port at the other end of the cable, as far as it had told (LLDP) when the agent looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<SwitchPort>,
}

/// A port of a switch, as the switch names it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct SwitchPort {
    /// The switch's name; its identifier, often its address, if it has none.
    #[schemars(length(max = 128))]
    pub name: String,
    /// The port's identifier, such as `Ethernet7`.
    #[schemars(length(max = 128))]
    pub port: String,
    /// The port's description.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub description: Option<String>,
}

/// A PCI device.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct PciDevice {
    /// Bus address, such as `0000:01:00.0`.
    #[schemars(length(max = 16))]
    pub address: String,
    /// Vendor id, four hexadecimal digits.
    #[schemars(length(max = 4))]
    pub vendor: String,
    /// Device id, four hexadecimal digits.
    #[schemars(length(max = 4))]
    pub device: String,
    /// Class code, six hexadecimal digits.
    #[schemars(length(max = 6))]
    pub class: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes: i64, total_bytes: Option<i64>) -> ArtifactReport {
        let (field, sha256) = ("spec.boot.x86_64.kernel".to_owned(), crate::types::Sha256([0; 32]));
        ArtifactReport { field, sha256, state: ArtifactState::Fetching, bytes, total_bytes, message: None }
    }

    #[test]
    fn how_much_is_at_hand() {
        for (bytes, total, per_mille, words) in [
            (61_900_000, Some(157_000_000), Some(394), "61 MB of 157 MB (39 %)"),
            (0, Some(1_640_000_000), Some(0), "0 bytes of 1.6 GB (0 %)"),
            (156_999_999, Some(157_000_000), Some(999), "156 MB of 157 MB (99 %)"),
            (12_345, Some(12_345), Some(1000), "12 kB of 12 kB (100 %)"),
            (5_000, None, None, "5 kB"),
            (7, Some(0), None, "7 bytes"),
            (i64::MAX, Some(1), Some(1000), "9223372036.8 GB of 1 bytes (100 %)"),
        ] {
            assert_eq!(report(bytes, total).per_mille(), per_mille, "{words}");
            assert_eq!(report(bytes, total).progress(), words);
        }
    }
}
