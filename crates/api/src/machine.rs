//! `Machine`: one box of metal, how it is known, what it should become, and how far it is.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    discovery::HELD_INTENT,
    install::{InstallStatus, WipeStatus},
    netboot::{NetbootSpec, NetworkSpec},
    power::{BmcSpec, PowerStatus, PowerWanted, RestartSpec},
    profile::Taint,
    report::{BootRecord, Inventory},
    time::Time,
    tpm::{TpmSpec, TpmStatus},
    types::{Fingerprint, Ipv4Cidr, MacAddr, MachineUuid, Sha256},
    update::UpdateStatus,
};

/// One physical machine: how it is recognised, which Profile it boots, and what its Node is called.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "magnetite.dev",
    version = "v1alpha1",
    kind = "Machine",
    plural = "machines",
    shortname = "mgm",
    category = "magnetite",
    status = "MachineStatus",
    derive = "PartialEq",
    doc = "A Machine is one box of metal that boots over the network and becomes a Node. Creating it is the first intent: it opens a boot window, so that powering the box on is all that is left to do.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".status.profile"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "UpToDate", type_ = "string", json_path = ".status.conditions[?(@.type==\"UpToDate\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Power", type_ = "string", json_path = ".status.power.state", priority = 1),
    printcolumn(name = "MAC", type_ = "string", json_path = ".status.boot.mac", priority = 1),
    printcolumn(name = "UUID", type_ = "string", json_path = ".status.boot.uuid", priority = 1),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.boot.address", priority = 1),
    printcolumn(name = "Firmware", type_ = "string", json_path = ".status.boot.firmware", priority = 1),
    printcolumn(name = "Identity", type_ = "string", json_path = ".status.identity.level", priority = 1),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.profileRevision", priority = 1),
    printcolumn(name = "Runs", type_ = "string", json_path = ".status.bootedRevision", priority = 1),
    printcolumn(name = "Update", type_ = "string", json_path = ".status.update.stage", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must be a DNS label of at most 63 characters: it is part of labels and of the default Node name")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.macs) && self.macs.size() > 0) || has(self.uuid) || has(self.serial)").message("a Machine needs at least one of spec.macs, spec.uuid and spec.serial: without it no box can be recognised"))]
#[x_kube(validation = Rule::new("has(self.nodeName) == has(oldSelf.nodeName) && (!has(self.nodeName) || self.nodeName == oldSelf.nodeName)").message("spec.nodeName is immutable: delete the Machine and create it again to give its Node another name"))]
#[x_kube(validation = Rule::new("has(self.bmc) || (!has(self.power) && !has(self.restart))").message("spec.power and spec.restart need spec.bmc: who should switch the box?"))]
pub struct MachineSpec {
    /// Ethernet addresses of the box's network cards. Any one of them identifies the box. At most 32.
    /// An address that another Machine also lists makes both say `DuplicateIdentity`, and neither boots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub macs: Vec<MacAddr>,

    /// SMBIOS system UUID, as `dmidecode -s system-uuid` prints it. Identifies the box unless it is a value
    /// that many boards share (all zeros, all ones, 03000200-0400-0500-0006-000700080009), which is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MachineUuid>,

    /// SMBIOS system serial number, as `dmidecode -s system-serial-number` prints it; compared without regard
    /// to case. Firmware does not send it, only iPXE does: a box known by nothing else boots only from a boot
    /// server that runs with `--identify-by-serial`. Makers' placeholders ("Default string") are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub serial: Option<String>,

    /// True holds the box: it boots the in-memory system of the boot servers' `--discovery`, whose agent tells what the box is made of,
    /// and waits there. Nothing is installed, no window opens, no claim is taken. Discovery makes Machines so; `kubectl magnetite approve`,
    /// or a DiscoveryRule, takes it away. A machine that had joined keeps its Node, and boots that system if it restarts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,

    /// The level at which the box's identity must be proven, where that is more than its Profile asks for: `mac` (default), `approved`,
    /// `tpm-pinned` or `tpm-enrolled`. Discovery sets `approved`: nobody declared these boxes.
    #[serde(default, skip_serializing_if = "IdentityLevel::is_lowest")]
    pub min_identity: IdentityLevel,

    /// Name of the Profile to boot. Without it the one Profile whose `selector` matches this Machine's labels
    /// is taken; none or more than one shows in the condition `ProfileReady`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub profile: Option<String>,

    /// Name of the Node that the box becomes. Default: the Machine's name. Immutable.
    /// A Node of that name that is not this Machine's makes the join fail with `NodeNameTaken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub node_name: Option<String>,

    /// Variables for the Profile's templates, by name: `{{ vars.rack }}`. They win over the Profile's own.
    /// Nothing secret: what is rendered can be read by anyone on the network. At most 64, of 4096 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub variables: BTreeMap<String, String>,

    /// Labels for this machine's Node, over those of the Profile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}))]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('magnetite.dev/') && !(key in ['node-role.kubernetes.io/control-plane', 'node-role.kubernetes.io/master']))").message("nodeLabels may not set magnetite.dev/ labels or the control-plane role"))]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317 && key.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))").message("nodeLabels has a key that is no label's key"))]
    pub node_labels: BTreeMap<String, String>,

    /// Annotations for this machine's Node, over those of the Profile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('magnetite.dev/'))").message("nodeAnnotations may not set magnetite.dev/ annotations"))]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317 && key.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))").message("nodeAnnotations has a key that is no annotation's key"))]
    pub node_annotations: BTreeMap<String, String>,

    /// Taints that this machine's Node is registered with, beside those of the Profile; of the same key and effect, these
    /// win. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub node_taints: Vec<Taint>,

    /// Where the box stands: labels of its Node by which the scheduler spreads Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,

    /// Names an intent to provision the box (again). Any change opens a new boot window: the box may then
    /// boot and claim an identity with a new key. Free text, for example a date or a change number.
    /// Default: the intent of creation. A change is also what clears a frozen claim conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub boot_intent: Option<String>,

    /// The one claim key that this Machine may be bound to: its fingerprint, as the box shows it on its console and
    /// `kubectl magnetite approve` compares it, such as `7f3a-91c2-0b5d-44e1`. With it a box reaches the identity
    /// level `approved`, and a claim with any other key is refused. Where two keys claimed the Machine it also says
    /// which of them is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_fingerprint: Option<Fingerprint>,

    /// The TPM 2.0 that the box must prove to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmSpec>,

    /// How long a boot window stays open, in seconds; counted from the moment that the intent was seen.
    /// Default 3600 (60 minutes), at least 60, at most 86400. Outside a window the box gets what
    /// `onReboot` of its Profile says, and no identity.
    #[serde(default = "default_window")]
    #[schemars(range(min = 60, max = 86400))]
    pub boot_window_seconds: i32,

    /// How the box boots over the network, where it needs something else than its Profile and firmware say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netboot: Option<NetbootSpec>,

    /// The box's own address and the size of its network, such as `10.0.0.21/24`. A boot server that runs with `--dhcp reservations`
    /// gives it to the box, and nothing to Machines without one. Other modes leave addresses to the site's DHCP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Cidr>,

    /// What the box is told with its address, over what its Profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,

    /// Takes the machine out of service: its Node gets no new Pods and those that it has are evicted, with respect for
    /// PodDisruptionBudgets and without a time limit. `Drained`: that is all. `InMemory`: then the box is restarted, boots the system
    /// in memory of its Profile, tells what it is made of, and waits there; nothing joins, is installed or is written to a disk. The
    /// condition `Maintenance` says how far it is. No update begins meanwhile. Without it the box becomes what it was, and its Node takes
    /// Pods again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceMode>,

    /// The box's BMC, by which it is switched on and off, and its power is watched.
    // In a box: of ten thousand Machines without one it costs a word each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Box<BmcSpec>>,

    /// What the box's power should be: `On` or `Off`. Absent (default): it is looked at and never touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerWanted>,

    /// A restart of the box. A changed id restarts it once. Nothing is drained before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartSpec>,

    /// What happens to the Node when the Machine is deleted. In both cases the window closes and the
    /// kubelet's certificate is not renewed again.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            macs: Vec::new(),
            uuid: None,
            serial: None,
            hold: false,
            min_identity: IdentityLevel::default(),
            profile: None,
            node_name: None,
            variables: BTreeMap::new(),
            node_labels: BTreeMap::new(),
            node_annotations: BTreeMap::new(),
            node_taints: Vec::new(),
            topology: None,
            boot_intent: None,
            approved_fingerprint: None,
            tpm: None,
            boot_window_seconds: default_window(),
            netboot: None,
            address: None,
            network: None,
            maintenance: None,
            bmc: None,
            power: None,
            restart: None,
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

/// How a machine is out of service.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaintenanceMode {
    /// Its Node is empty and takes no Pods; the box runs on.
    Drained,
    /// The same, and the box runs the system in memory of its Profile, in which nothing of its disks is in use.
    InMemory,
}

/// A box that is out of service and is to run a system in memory. Absent until its Node is empty, and again once it is to come back.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStatus {
    /// Names this time: no two times of a machine share it.
    pub id: String,
    /// How far it is.
    pub stage: MaintenanceStage,
    /// When this stage began.
    pub since: Time,
}

/// The stages of a box's way out of service, in their order.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaintenanceStage {
    /// The box is to restart, and boots the system in memory.
    Restarting,
    /// It runs there, and its agent said so.
    InMemory,
}

/// Where a box stands.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Becomes the Node's label `topology.kubernetes.io/region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub region: Option<String>,
    /// Becomes the Node's label `topology.kubernetes.io/zone`, for example the room or the power feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub zone: Option<String>,
    /// Becomes the Node's label `topology.magnetite.dev/rack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub rack: Option<String>,
}

fn default_window() -> i32 {
    3600
}

/// What happens to the Node when the Machine is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeletionPolicy {
    /// The Node is left alone (default).
    #[default]
    Retain,
    /// The Node object is removed. The box itself is not touched.
    RemoveNode,
    /// The box's disks are wiped, then the Node object is removed and the Machine goes. For that the box has to be restarted, and boots over the
    /// network; until then the Machine stays and says what it waits for. Removable disks are not touched. While it waits another policy may
    /// be set, to let it go unwiped.
    Wipe,
}

/// Where a machine is, for `kubectl get`. Derived from the conditions; nothing reads it back.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Found by discovery, or held: it waits for a person, or a rule, to say what it is to be.
    Discovered,
    /// Declared; the box has not been seen in this intent.
    #[default]
    Pending,
    /// The firmware asked, or the kernel is on its way.
    Booting,
    /// The system's config was fetched; the agent runs or is about to.
    Provisioning,
    /// The box claimed its identity; the kubelet is starting.
    Joining,
    /// The Node is Ready.
    Ready,
    /// Out of service: the box boots, or runs, a system in memory.
    Maintenance,
    /// It stopped; `status.reason` and `status.message` say where, why, and what to do.
    Failed,
}

/// What is known of a machine.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// Where the machine is: Discovered, Pending, Booting, Provisioning, Joining, Ready, Maintenance or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it is not Ready, in one word. Absent when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is not Ready and what to do, in a sentence. Absent when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the Node, once it is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The Profile that the machine boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The Profile's current revision, which the next boot gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_revision: Option<String>,
    /// The revision that the machine runs: what it was served at the boot after which it was Ready. Two with a `+` between:
    /// the Profile changed in mid-boot, and the machine got parts of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_revision: Option<String>,
    /// How far the update to another revision is, or how the last one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Box<UpdateStatus>>,
    /// How far the box is on its way out of service, where `spec.maintenance` is `InMemory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Box<MaintenanceStatus>>,
    /// The intent whose window waits for its turn, since so many machines are installed anew already. Until then the box boots by the intent
    /// before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<String>,
    /// The current intent and its boot window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentStatus>,
    /// The key that the box proved to hold, once it claimed its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityStatus>,
    /// The TPM that the box proved to have. Claims must prove the same one ever after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmStatus>,
    /// The newest boot: what the box asked for and got, step by step.
    // In a box, as the next one: a boot server without a cluster holds ten thousand Machines that have neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Box<BootRecord>>,
    /// What the agent found the box to be made of. Told by the box: not proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Box<Inventory>>,
    /// How the box changed between two boots. Absent: not since it was first seen, or the newest boot found it as the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_change: Option<HardwareChange>,
    /// What the box's BMC says, and what it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Box<PowerStatus>>,
    /// The system that was installed to the box's disk, and in which intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<Box<InstallStatus>>,
    /// The wiping of the box's disks, where the Machine is being deleted and its policy says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wipe: Option<Box<WipeStatus>>,
    /// IP addresses from which the box was seen to claim its identity.
    /// The kubelet's serving certificate may name these and no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Conditions: IdentityUnique, of a held one IdentityUnderstood, ProfileReady, WindowOpen, Booted, HardwareAsBefore, Claimed, Uncontested, Joined, UpToDate,
    /// Ready; Maintenance where the spec asks for it, and BmcReachable where it names a BMC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How a box differs from what it was in an earlier boot.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HardwareChange {
    /// When it was seen.
    pub at: Time,
    /// What differs, a sentence each. At most 16.
    #[schemars(length(max = 16))]
    pub changes: Vec<String>,
}

/// An intent to provision the machine, and its boot window.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IntentStatus {
    /// Names the intent: `spec.bootIntent`, or `created`; in an update that with the revision and a number.
    pub id: String,
    /// Whether the box may boot and claim now.
    pub state: IntentState,
    /// When the window opened.
    pub opened_at: Time,
    /// When the window closes by itself.
    pub expires_at: Time,
}

/// Whether an intent's window is open, or why not.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentState {
    /// The box may boot and claim.
    Open,
    /// Closed: the machine joined (or booted, where its Profile joins nothing).
    Fulfilled,
    /// Closed: its time ran out.
    Expired,
    /// Closed: two keys claimed the same machine. Set another `spec.bootIntent` to start anew.
    Frozen,
}

/// The identity that a box earned.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IdentityStatus {
    /// How the identity was proven.
    pub level: IdentityLevel,
    /// The intent in which the key was bound.
    pub intent: String,
    /// SHA-256 of the claim key's SubjectPublicKeyInfo, in hexadecimal.
    pub claim_key: String,
    /// SHA-256 of the kubelet key's SubjectPublicKeyInfo, in hexadecimal.
    pub kubelet_key: String,
    /// Name of the MachineClaim that won.
    pub claim: String,
    /// When the key was bound.
    pub bound_at: Time,
    /// Name of the CertificateSigningRequest that was approved for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_request: Option<String>,
    /// When the certificate was seen issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Time>,
    /// SHA-256 of the client certificates that were issued to the bound key and its successors, DER, in hexadecimal;
    /// the newest last. A kubelet's certificate is renewed, or made for serving, only if it asks with one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub certificates: Vec<Sha256>,
    /// True if another key was bound to this Machine before, so that certificates which are not of this one's line may
    /// still be about.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebound: bool,
}

/// How a machine's identity was proven, from the weakest to the strongest.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityLevel {
    /// L0: the box showed a declared MAC, UUID or serial within its boot window, and its key came first.
    #[default]
    Mac,
    /// L1: also a person compared the key's fingerprint on the box's console with the one in the cluster.
    Approved,
    /// L2: the box proved to hold the TPM that was taken at its first approved use.
    TpmPinned,
    /// L3: the box proved to hold the TPM that was declared before it was powered on.
    TpmEnrolled,
}

impl IdentityLevel {
    /// True of the level that asks for nothing more than the others.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub fn is_lowest(&self) -> bool {
        *self == Self::default()
    }

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mac => "mac",
            Self::Approved => "approved",
            Self::TpmPinned => "tpm-pinned",
            Self::TpmEnrolled => "tpm-enrolled",
        }
    }
}

impl Machine {
    /// Name of the Node that the box becomes.
    pub fn node_name(&self) -> String {
        self.spec.node_name.clone().unwrap_or_else(|| self.name_any())
    }

    /// True if the system of the intent that is asked for is on the box's disk, as far as the status knows.
    pub fn is_installed(&self) -> bool {
        let install = self.status.as_ref().and_then(|status| status.install.as_ref());
        install.is_some_and(|install| install.is_done_in(self.wanted_intent()))
    }

    /// The wipe that is wanted now: the Machine is being deleted, its policy says so, and the controller took it up.
    pub fn wanted_wipe(&self) -> Option<&WipeStatus> {
        let wanted = self.metadata.deletion_timestamp.is_some() && self.spec.deletion_policy == DeletionPolicy::Wipe;
        self.status.as_ref()?.wipe.as_deref().filter(|_| wanted)
    }

    /// How far the box is on its way out of service, where it is to run a system in memory for that. What the controller wrote counts, not
    /// the spec: it is let go once its way back is prepared.
    pub fn maintenance(&self) -> Option<&MaintenanceStatus> {
        let status = self.status.as_ref()?.maintenance.as_deref();
        status.filter(|_| !self.spec.hold && self.metadata.deletion_timestamp.is_none())
    }

    /// True while the box only tells what it is made of, and waits: it is held, or out of service. One that is being wiped does as it is
    /// told.
    pub fn is_held(&self) -> bool {
        (self.spec.hold || self.maintenance().is_some()) && self.wanted_wipe().is_none()
    }

    /// Name of the intent that the spec asks for.
    pub fn declared_intent(&self) -> &str {
        self.spec.boot_intent.as_deref().unwrap_or(CREATED)
    }

    /// Name of the intent by which the box boots: the spec's, or that of an update since, or that of the deletion of a Machine that is to
    /// be wiped. The first window is the spec's to open; an update, which `spec.update` of the Profile asks for, opens one more.
    pub fn wanted_intent(&self) -> &str {
        if let Some(wipe) = self.wanted_wipe() {
            return &wipe.intent;
        }
        if self.is_held() {
            return HELD_INTENT;
        }
        let declared = self.declared_intent();
        let queued = self.status.as_ref().filter(|status| status.queued.as_deref() == Some(declared));
        if let Some(intent) = queued.and_then(|status| status.intent.as_ref()) {
            return &intent.id;
        }
        self.unqueued_intent()
    }

    /// The same, as if it had not to wait for its turn.
    pub fn unqueued_intent(&self) -> &str {
        let declared = self.declared_intent();
        let update = self.status.as_ref().and_then(|status| status.update.as_deref());
        update.filter(|update| update.base == declared).map_or(declared, |update| update.intent.as_str())
    }
}

/// The intent of a Machine that names none: its creation.
pub const CREATED: &str = "created";
