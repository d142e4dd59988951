//! Installing a system to a disk, and wiping disks: what is asked for, what was done, and how it is told.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{time::Time, types::Sha256};

/// The system is written to a disk of the box, once in an intent, and booted from there.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct InstallSpec {
    /// Name of the image among `files` of each architecture in `boot`: fetched, checked, cached and served as all artifacts are.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"))]
    pub image: String,
    /// What the image is.
    #[serde(default)]
    pub format: ImageFormat,
    /// Which disk it is written to. Without hints: the only disk of the box. All that is on it is lost.
    #[serde(default)]
    pub disk: DiskHints,
    /// Where in the installed system its first boot looks for its Ignition config: the Profile's `ignition`, with the agent. Without it
    /// the image has to bring whatever it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigPlace>,
}

/// What an image of a disk is.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageFormat {
    /// The disk, byte by byte (default).
    #[default]
    Raw,
    /// The same, packed by gzip.
    Gzip,
    /// The same, packed by zstd.
    Zstd,
    /// QEMU's format, version 2 or 3: without a backing file, encryption, or data in another file. It is fetched twice, since its parts may be in any order.
    Qcow2,
}

/// Which disk is meant. All that are given must hold, and exactly one disk must be left: none or two are an error that lists the disks. Removable and
/// read-only disks, and the one that the running system stands on, are never taken; a removable one is where `name`, `serial`, `wwn` or `byPath` names it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minSizeGiB) || !has(self.maxSizeGiB) || self.minSizeGiB <= self.maxSizeGiB").message("disk.minSizeGiB is more than disk.maxSizeGiB: no disk can be both"))]
pub struct DiskHints {
    /// At least this many GiB (2^30 bytes).
    #[serde(rename = "minSizeGiB", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub min_size_gib: Option<i64>,
    /// At most this many GiB (2^30 bytes).
    #[serde(rename = "maxSizeGiB", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_size_gib: Option<i64>,
    /// Its serial number, as `lsblk -o NAME,SERIAL` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub serial: Option<String>,
    /// Its World Wide Name, as `lsblk -o NAME,WWN` prints it; compared without regard to case and to a `naa.` or `eui.` before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub wwn: Option<String>,
    /// True: only a disk that turns. False: only one that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Its name below `/dev/disk/by-path`, such as `pci-0000:00:1f.2-ata-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[A-Za-z0-9:._+-]+$"))]
    pub by_path: Option<String>,
    /// The kernel's name for it, such as `nvme0n1`. It may be another disk's after the next boot: for boxes with one disk of a kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]+$"))]
    pub name: Option<String>,
    /// A part of its model, compared without regard to case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub model: Option<String>,
}

/// Where an installed system looks for the config of its first boot.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.partitionLabel) != has(self.partitionType)").message("config needs exactly one of partitionLabel and partitionType"))]
pub struct ConfigPlace {
    /// Name of the partition in the image's GPT: `OEM` for Flatcar, `boot` for Fedora CoreOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 36))]
    pub partition_label: Option<String>,
    /// Type of the partition in the image's GPT, a GUID. Exactly one partition must have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 36), regex(pattern = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"))]
    pub partition_type: Option<String>,
    /// Path below the root of that partition: `/config.ign` for Flatcar, `/ignition/config.ign` for Fedora CoreOS.
    #[schemars(length(max = 255), regex(pattern = r"^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$"))]
    pub path: String,
}

/// What is known of a machine's installation.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstallStatus {
    /// The intent in which it was, or is being, installed.
    pub intent: String,
    /// How far it is.
    pub state: InstallState,
    /// The disk: its name, model and serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// SHA-256 of the image as it was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Sha256>,
    /// When it came to this state.
    pub at: Time,
    /// For a person: how far it is, or what is wrong and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl InstallStatus {
    /// True if the system of an intent is on the disk.
    pub fn is_done_in(&self, intent: &str) -> bool {
        self.state == InstallState::Installed && self.intent == intent
    }
}

/// How far an installation is.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallState {
    /// The image is being written.
    Installing,
    /// It is on the disk, and so is the mark that says so. It is not installed again in this intent.
    Installed,
    /// The last try failed. The box tries again while its window is open.
    Failed,
}

/// How far a machine that is being deleted is with wiping its disks.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WipeStatus {
    /// The intent in which the box boots to be wiped. Nothing but the deletion of a Machine with `deletionPolicy: Wipe` opens it.
    pub intent: String,
    /// How far it is.
    pub state: WipeState,
    /// The disks that were wiped, once all are. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub disks: Vec<WipedDisk>,
    /// When it came to this state.
    pub at: Time,
    /// For a person: why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// How far the wiping of a machine is.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum WipeState {
    /// Others come first: only so many machines are wiped at once.
    Pending,
    /// Its Node takes no new Pods, and those that it has are asked to leave. Nothing is forced: it waits until the Node is empty.
    Draining,
    /// The box has to be restarted, and boots from the network then.
    Waiting,
    /// The agent is at it.
    Wiping,
    /// The last try failed. The box tries again.
    Failed,
    /// Every disk that is the box's own reads as zeros.
    Wiped,
}

impl WipeState {
    /// True from the moment that the box may boot to be wiped until it is.
    pub fn is_under_way(self) -> bool {
        match self {
            Self::Waiting | Self::Wiping | Self::Failed => true,
            Self::Pending | Self::Draining | Self::Wiped => false,
        }
    }
}

/// What was done to one disk.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WipedDisk {
    /// The kernel's name for it.
    #[schemars(length(max = 64))]
    pub name: String,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub serial: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub model: Option<String>,
    /// What was done, in this order. The last is what made it read as zeros.
    #[schemars(length(min = 1, max = 4))]
    pub methods: Vec<WipeMethod>,
    /// Size in bytes: so many read as zeros now.
    pub bytes: i64,
    /// How long it took, in seconds.
    pub seconds: i64,
    /// How many bytes were read back afterwards, here and there, and were zero.
    pub verified_bytes: i64,
}

/// How a disk was wiped.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum WipeMethod {
    /// NVMe Format with user data erase: the drive erased itself, spare blocks included.
    NvmeFormat,
    /// ATA Secure Erase: the drive erased itself.
    AtaSecureErase,
    /// The blocks were given back to the drive, which reads them as zeros (discard or write zeroes with unmap).
    Unmapped,
    /// Zeros were written, by the kernel or the drive.
    Zeroed,
    /// Zeros were written by the agent, block by block: the last resort.
    Overwritten,
}

impl WipeMethod {
    /// The name, as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NvmeFormat => "NvmeFormat",
            Self::AtaSecureErase => "AtaSecureErase",
            Self::Unmapped => "Unmapped",
            Self::Zeroed => "Zeroed",
            Self::Overwritten => "Overwritten",
        }
    }
}

impl WipedDisk {
    /// In one line, for a person.
    pub fn words(&self) -> String {
        let methods: Vec<_> = self.methods.iter().map(|method| method.as_str()).collect();
        let serial = self.serial.as_deref().map_or(String::new(), |serial| format!(" (serial {serial})"));
        format!(
            "{}{serial}: {} wiped by {} in {} s, {} read back as zeros",
            self.name,
            crate::report::size(self.bytes),
            methods.join(", "),
            self.seconds,
            crate::report::size(self.verified_bytes)
        )
    }
}
