//! `Profile`: what machines boot, how they are configured, and how they join.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    install::InstallSpec,
    machine::IdentityLevel,
    netboot::{NetbootSpec, NetworkSpec},
    types::{Architecture, Sha256},
    update::{RolloutStatus, UpdateSpec},
};

/// What a group of machines boots and becomes.
///
/// Whoever may write a Profile is root on the machines that boot it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[kube(
    group = "magnetite.dev",
    version = "v1alpha1",
    kind = "Profile",
    plural = "profiles",
    shortname = "mgp",
    category = "magnetite",
    status = "ProfileStatus",
    derive = "PartialEq",
    doc = "A Profile says what machines boot (kernel, initrds, command line), how the system is configured (Ignition, or templates for cloud-init and installers), and how it joins the cluster. Whoever may write a Profile is root on its machines.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Machines", type_ = "integer", json_path = ".status.machines"),
    printcolumn(name = "UpToDate", type_ = "integer", json_path = ".status.upToDate"),
    printcolumn(name = "Updating", type_ = "integer", json_path = ".status.updating", priority = 1),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed", priority = 1),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters: it is used as a label")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.install) || ((!has(self.boot.x86_64) || (has(self.boot.x86_64.files) && self.install.image in self.boot.x86_64.files)) && (!has(self.boot.aarch64) || (has(self.boot.aarch64.files) && self.install.image in self.boot.aarch64.files)))").message("install.image must name one of files of each architecture in boot"))]
#[x_kube(validation = Rule::new("!has(self.install) || !has(self.boot.onReboot) || self.boot.onReboot == 'Local'").message("with install, boot.onReboot must be Local: an installed system boots from its disk"))]
pub struct ProfileSpec {
    /// Selects Machines that name no Profile by their labels. An empty selector is refused: it would select all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)").message("an empty selector would select every Machine; name a label, or leave selector out"))]
    pub selector: Option<LabelSelector>,

    /// What is booted, per architecture.
    pub boot: BootSpec,

    /// The system is installed to a disk, once in an intent, and booted from there; what `boot` names is then only the system that installs it.
    /// Without it the system lives in memory, or installs itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<InstallSpec>,

    /// The Ignition config, a template. Without it the box gets a config that carries only the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("has(self.inline) != has(self.configMap)").message("ignition needs exactly one of inline and configMap"))]
    pub ignition: Option<IgnitionSource>,

    /// Further texts that a system fetches while it boots or is installed, each a template: `user-data` of cloud-init, `ks.cfg`, `preseed.cfg`. Each is
    /// served as `{{ boot.url }}/t/NAME`, which `{{ templates["NAME"] }}` is the URL of; `{{ boot.url }}/t/` is a seed folder for cloud-init. At most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[a-z0-9][a-z0-9._-]{0,62}$'))").message("a template's name has lower-case letters, digits, '.', '_' and '-' and begins with a letter or digit: it is part of a URL"))]
    #[x_kube(validation = Rule::new("self.all(name, has(self[name].inline) != has(self[name].configMap))").message("a template needs exactly one of inline and configMap"))]
    pub templates: BTreeMap<String, TemplateSource>,

    /// Variables for the templates, by name: `{{ vars.channel }}`. A Machine's own win. Nothing secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub variables: BTreeMap<String, String>,

    /// Labels and taints of the Nodes.
    #[serde(default)]
    pub node: NodeSpec,

    /// How the machines join a cluster.
    #[serde(default)]
    pub join: JoinSpec,

    /// The least that a box has to prove before it is given an identity: `mac` (default), `approved`, `tpm-pinned` or
    /// `tpm-enrolled`. A claim that proves less waits, and the Machine says what for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_identity: IdentityLevel,

    /// Files with secrets, which a machine gets after it earned its identity: encrypted to its claim key, written by
    /// the agent before the kubelet starts, and written anew when the Secret changes. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub secret_files: Vec<SecretFile>,

    /// The agent on the box.
    #[serde(default)]
    pub agent: AgentSpec,

    /// How the machines boot over the network, where they need something else than their firmware says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netboot: Option<NetbootSpec>,

    /// What machines are told with their addresses, where the boot server gives addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,

    /// How machines that run an older revision of this Profile get the current one. Default: when a person says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateSpec>,
}

/// What is booted, per architecture, and what a later boot gets.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.x86_64) || has(self.aarch64)").message("boot needs x86_64 or aarch64, or both"))]
pub struct BootSpec {
    /// For 64-bit x86, BIOS and UEFI.
    #[serde(default, rename = "x86_64", skip_serializing_if = "Option::is_none")]
    pub x86_64: Option<ArchBoot>,
    /// For 64-bit Arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aarch64: Option<ArchBoot>,
    /// What a machine gets when its firmware asks the network and no boot window is open.
    #[serde(default)]
    pub on_reboot: OnReboot,
}

impl BootSpec {
    /// What is booted on one architecture.
    pub fn for_architecture(&self, architecture: Architecture) -> Option<&ArchBoot> {
        match architecture {
            Architecture::X86_64 => self.x86_64.as_ref(),
            Architecture::Aarch64 => self.aarch64.as_ref(),
        }
    }

    /// Every architecture that is given.
    pub fn architectures(&self) -> impl Iterator<Item = (Architecture, &ArchBoot)> {
        [Architecture::X86_64, Architecture::Aarch64]
            .into_iter()
            .filter_map(|architecture| Some((architecture, self.for_architecture(architecture)?)))
    }
}

/// What a machine gets when its firmware asks the network and no boot window is open.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnReboot {
    /// It is sent on to its next boot device, as a rule its disk (default).
    #[default]
    Local,
    /// It boots the same kernel and config again, for a system that lives in memory. It is given no
    /// identity: its kubelet goes on with the key and certificate that it kept on a disk.
    Network,
}

/// Kernel, initrds, further files and command line for one architecture.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ArchBoot {
    /// The kernel.
    pub kernel: Artifact,
    /// Initial RAM disks, loaded in this order. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub initrds: Vec<Artifact>,
    /// Further files that the booted system fetches, by name: `{{ files.rootfs }}` in a template is the URL of
    /// the file named rootfs. At most 8.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'))").message("a file's name has letters, digits, '_', '.' and '-' and begins with a letter or digit"))]
    pub files: BTreeMap<String, Artifact>,
    /// The kernel's command line, one argument an item, each a template. An argument has no white space,
    /// quotes or control characters once rendered, is none of `||`, `&&` and `;` and does not begin with `#`:
    /// iPXE would read those as commands. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024), regex(pattern = r"^[^\r\n\x00]+$")))]
    pub command_line: Vec<String>,
}

/// A file, named by where it comes from and by its SHA-256. It is never served before the sum was checked.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.url) != has(self.file)").message("an artifact needs exactly one of url and file"))]
pub struct Artifact {
    /// Where the boot server fetches it, once: an http or https URL without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s@]+$"))]
    pub url: Option<String>,
    /// Its path below the boot server's artifact folder (`--artifacts-dir`), for example `debian/vmlinuz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$"))]
    pub file: Option<String>,
    /// SHA-256 of the whole file.
    pub sha256: Sha256,
}

impl Default for Artifact {
    fn default() -> Self {
        Self { url: None, file: None, sha256: Sha256([0; 32]) }
    }
}

/// Where the Ignition config comes from.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct IgnitionSource {
    /// The config itself: Ignition spec 3.x as JSON or YAML, a minijinja template. Nothing secret: anyone on
    /// the network can read it. At most 262144 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub inline: Option<String>,
    /// A ConfigMap in Magnetite's own namespace that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapKey>,
}

/// Where the text of one of `templates` comes from.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TemplateSource {
    /// The text itself, a minijinja template. Nothing secret: anyone on the network can read it. It may be empty. At most 262144 characters, and
    /// 1 MiB once rendered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub inline: Option<String>,
    /// A ConfigMap in Magnetite's own namespace that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<TemplateKey>,
}

/// One key of a ConfigMap in Magnetite's own namespace.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TemplateKey {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key. Default: the template's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// One key of a ConfigMap in Magnetite's own namespace.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKey {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key. Default: `config.ign`.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_key() -> String {
    "config.ign".to_owned()
}

/// One file whose contents are a key of a Secret in Magnetite's own namespace.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretFile {
    /// Where the agent writes it, for example `/etc/containerd/registry.key`.
    #[schemars(length(max = 255), regex(pattern = r"^(/[A-Za-z0-9_.][A-Za-z0-9_.-]*)+$"))]
    pub path: String,
    /// Mode of the file, in octal. Default: `0600`. The owner is root.
    #[serde(default = "default_mode")]
    #[schemars(regex(pattern = r"^0[0-7]{3}$"))]
    pub mode: String,
    /// The Secret and its key. The controller may read those Secrets that the chart's `controller.secretNames` names, and
    /// no others: who may write Profiles may not thereby read every Secret of the namespace.
    pub secret: SecretKey,
}

fn default_mode() -> String {
    "0600".to_owned()
}

/// One key of a Secret in Magnetite's own namespace.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Labels and taints of a Profile's Nodes.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// Labels that the controller sets on the Node, and keeps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}))]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('magnetite.dev/') && !(key in ['node-role.kubernetes.io/control-plane', 'node-role.kubernetes.io/master']))").message("node.labels may not set magnetite.dev/ labels or the control-plane role"))]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317 && key.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))").message("node.labels has a key that is no label's key"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations that the controller sets on the Node, and keeps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('magnetite.dev/'))").message("node.annotations may not set magnetite.dev/ annotations"))]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317 && key.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))").message("node.annotations has a key that is no annotation's key"))]
    pub annotations: BTreeMap<String, String>,
    /// Facts of the box that become labels of the Node, `facts.magnetite.dev/vendor` and so on: for what places Pods by
    /// hardware. The box tells them itself: they are not proven. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub facts: Vec<NodeFact>,
    /// Taints that the Node is registered with, so that no Pod slips in before them. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub taints: Vec<Taint>,
}

/// A fact of the box that becomes a label of its Node. What the box does not tell, or what is no label's value once other
/// characters became `-`, sets no label.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum NodeFact {
    /// `facts.magnetite.dev/vendor`: maker of the system, by SMBIOS.
    Vendor,
    /// `facts.magnetite.dev/model`: product name, by SMBIOS.
    Model,
    /// `facts.magnetite.dev/serial`: serial number, by SMBIOS.
    Serial,
    /// `facts.magnetite.dev/firmware`: `BIOS` or `UEFI`, as the running system was started.
    Firmware,
    /// `facts.magnetite.dev/cpu`: model of the first processor.
    Cpu,
    /// `facts.magnetite.dev/switch` and `facts.magnetite.dev/switch-port`: where the first network card that has heard a switch (LLDP) is
    /// plugged in. Often this is what names the rack.
    Switch,
    /// `facts.magnetite.dev/gpu` and `facts.magnetite.dev/gpu-count`: PCI vendor and device of the first GPU or accelerator, such as
    /// `10de-2330`, and how many there are of this one. The display controller of a BMC is none.
    Gpu,
}

/// A taint of a Node.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// The taint's key.
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    /// The taint's value, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// What the taint does to Pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does to Pods that do not tolerate it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaintEffect {
    /// New Pods stay away.
    NoSchedule,
    /// New Pods stay away if they can.
    PreferNoSchedule,
    /// Running Pods leave too.
    NoExecute,
}

/// How machines join a cluster.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JoinSpec {
    /// How the machines join.
    #[serde(default)]
    pub mode: JoinMode,
    /// URL of the API server as the machines reach it, for example `https://10.0.0.5:6443`.
    /// Default: the controller's `--join-api-server`. Without both, the join says so and waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = r"^https://[^\s@]+$"))]
    pub api_server: Option<String>,
    /// Addresses of the cluster's DNS service, for Pods. At most 3. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), inner(length(max = 45), regex(pattern = r"^[0-9a-fA-F:.]+$")))]
    pub cluster_dns: Vec<String>,
    /// DNS domain of the cluster. Default: `cluster.local`.
    #[serde(default = "default_domain")]
    #[schemars(length(max = 253))]
    pub cluster_domain: String,
    /// Fields of the kubelet's KubeletConfiguration (kubelet.config.k8s.io/v1beta1), laid over the defaults.
    /// authentication, authorization, rotateCertificates and serverTLSBootstrap stay as Magnetite sets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form_object")]
    pub kubelet_configuration: Option<serde_json::Map<String, serde_json::Value>>,
    /// Further arguments for the kubelet, each beginning with `--`. Those that Magnetite sets itself are refused.
    /// At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 255), regex(pattern = r"^--[a-z][a-z0-9-]*(=[^\s\x22'\\$%]*)?$")))]
    #[x_kube(validation = Rule::new("self.all(item, !item.matches('^--(config|config-dir|kubeconfig|bootstrap-kubeconfig|hostname-override|cert-dir|anonymous-auth|authorization-mode|client-ca-file|rotate-certificates|authentication-.*)(=|$)'))").message("joining, identity and authorisation of the kubelet are Magnetite's to set"))]
    pub kubelet_args: Vec<String>,
}

impl Default for JoinSpec {
    fn default() -> Self {
        Self {
            mode: JoinMode::default(),
            api_server: None,
            cluster_dns: Vec::new(),
            cluster_domain: default_domain(),
            kubelet_configuration: None,
            kubelet_args: Vec::new(),
        }
    }
}

fn default_domain() -> String {
    "cluster.local".to_owned()
}

fn free_form_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// How machines join.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JoinMode {
    /// The box makes a key, the controller approves a certificate for it, the kubelet starts (default).
    #[default]
    Certificate,
    /// The machines join nothing; a box is Ready when its agent has reported. For a first cluster.
    None,
}

/// The agent on the box.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpec {
    /// Where Ignition writes the agent. Default: `/opt/magnetite/magnetite-agent`. On a system with SELinux
    /// choose a folder whose files may be run, for example `/usr/local/bin/magnetite-agent` on Fedora CoreOS.
    #[serde(default = "default_agent_path")]
    #[schemars(length(max = 255), regex(pattern = r"^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$"))]
    pub path: String,
}

impl Default for AgentSpec {
    fn default() -> Self {
        Self { path: default_agent_path() }
    }
}

fn default_agent_path() -> String {
    "/opt/magnetite/magnetite-agent".to_owned()
}

/// What is known of a Profile.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ProfileStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Revision: the first ten digits of the SHA-256 of the spec without `selector`, `update` and `node`, which are
    /// no reason to boot: labels, annotations and facts are set on Nodes that are there, taints are for Nodes that are
    /// yet to come. What a ConfigMap says is no part of it: name another ConfigMap where it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many Machines boot this Profile.
    #[serde(default)]
    pub machines: i32,
    /// How many of them run this revision.
    #[serde(default)]
    pub up_to_date: i32,
    /// How many of them are being updated.
    #[serde(default)]
    pub updating: i32,
    /// How many updates to this revision failed.
    #[serde(default)]
    pub failed: i32,
    /// Who may update itself now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Why it is not Ready, in one word. Absent when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Conditions: Rendered, ArtifactsReady, Updated, Progressing, Ready; where its machines join by certificate also JoinBypassPossible
    /// and AutoRenewBypass, which are bad where they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl ProfileSpec {
    /// The names of the ConfigMaps that its texts come from. One may be named more than once.
    pub fn config_maps(&self) -> impl Iterator<Item = &str> {
        let ignition = self.ignition.iter().filter_map(|source| Some(source.config_map.as_ref()?.name.as_str()));
        let templates = self.templates.values().filter_map(|source| Some(source.config_map.as_ref()?.name.as_str()));
        ignition.chain(templates)
    }

    /// The image that is installed on one architecture, if one is.
    pub fn image(&self, architecture: Architecture) -> Option<&Artifact> {
        self.boot.for_architecture(architecture)?.files.get(&self.install.as_ref()?.image)
    }

    /// How its machines are updated.
    pub fn update(&self) -> UpdateSpec {
        self.update.clone().unwrap_or_default()
    }

    /// This spec, but for what is no part of a revision, which stays as it is at present: whom it is for, how it rolls, and what the controller
    /// sets on Nodes that are there. For a label nobody should drain a fleet, and write its disks anew.
    #[must_use]
    pub fn beside(self, present: &Self) -> Self {
        let Self { selector, update, node, .. } = present;
        Self { selector: selector.clone(), update: update.clone(), node: node.clone(), ..self }
    }

    /// Revision of this spec: the first ten hexadecimal digits of the SHA-256 of its JSON, without what is no part of it.
    pub fn revision(&self) -> String {
        let booted = self.clone().beside(&Self::default());
        let json = serde_json::to_vec(&booted).expect("a spec has string keys only, so it is JSON");
        Sha256::of(&json).short()
    }
}
