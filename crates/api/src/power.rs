//! A machine's power: the BMC that switches it, what it should be, and what was last seen and done.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Machine,
    machine::{MaintenanceStage, MaintenanceStatus},
    time::Time,
    update::{UpdateStage, UpdateStatus},
};

/// The type of a Secret with a BMC's credentials. No other Secret is ever sent to a BMC, and none of this type to a machine.
pub const SECRET_TYPE: &str = "magnetite.dev/bmc";

/// The BMC of a box: who switches it on and off when nobody stands before it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.redfish) != has(self.ipmi)").message("spec.bmc needs exactly one of redfish and ipmi"))]
pub struct BmcSpec {
    /// It speaks Redfish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redfish: Option<RedfishSpec>,

    /// It speaks IPMI 2.0. For boxes that have nothing newer: its passwords can be guessed by who hears them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipmi: Option<IpmiSpec>,

    /// Name of the Secret in Magnetite's own namespace with the BMC's credentials: type `magnetite.dev/bmc`, keys `username` and
    /// `password`; optional keys are `ca.crt` (PEM: who signed the BMC's certificate; Redfish alone) and `hosts` (names, addresses and
    /// networks such as `10.0.8.0/24`, with spaces or lines between: these credentials are sent nowhere else). The controller may read
    /// only those Secrets that the chart's `controller.secretNames` names.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub credentials: String,

    /// How long the system may take to shut down when `spec.power: Off` or a restart of the kind `Graceful` asked it to, in seconds,
    /// before its power is cut. Default 300, at most 3600; 0 cuts it at once.
    #[serde(default = "default_shutdown")]
    #[schemars(range(min = 0, max = 3600))]
    pub shutdown_seconds: i32,
}

fn default_shutdown() -> i32 {
    300
}

/// A BMC that speaks Redfish.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RedfishSpec {
    /// The BMC, such as `https://10.0.8.21`; without a path.
    #[schemars(
        length(max = 300),
        regex(pattern = r"^https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$")
    )]
    pub url: String,

    /// The system of the BMC that is this box: its Id, or its path, such as `/redfish/v1/Systems/1`. Default: the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 200),
        regex(pattern = r"^(/redfish/v1/Systems/)?[A-Za-z0-9_][-A-Za-z0-9_.:]*/?$")
    )]
    pub system: Option<String>,

    /// True: whoever answers at that address is believed to be the BMC, and is told its password. Better put the authority that
    /// signed its certificate into `ca.crt` of the Secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,

    /// How the box boots over the network when it is told to do so once: `Pxe` (default), or `UefiHttp`.
    #[serde(default)]
    pub network_boot: NetworkBoot,
}

/// How a box boots over the network when its BMC says so.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkBoot {
    /// PXE, in whatever mode the firmware is.
    #[default]
    Pxe,
    /// UEFI HTTP Boot.
    UefiHttp,
}

/// A BMC that speaks IPMI 2.0 over the network (RMCP+).
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IpmiSpec {
    /// Its name or address.
    #[schemars(length(max = 253), regex(pattern = r"^[A-Za-z0-9:]([-A-Za-z0-9.:]*[A-Za-z0-9:])?$"))]
    pub host: String,

    /// Its UDP port. Default 623.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// True: the box boots by UEFI. IPMI has to say so when it asks for one boot over the network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub efi: bool,
}

fn default_port() -> i32 {
    623
}

/// What a box's power should be.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerWanted {
    /// It is switched on whenever it is found off.
    On,
    /// It is shut down, and its power cut if that takes too long, whenever it is found on.
    Off,
}

/// A restart that is asked for.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RestartSpec {
    /// Names the restart. A new name restarts the box once, whatever becomes of the controller meanwhile. Free text, for example a date.
    /// A name that is there when the Machine's power is looked at for the first time restarts nothing.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))]
    pub id: String,
    /// How the box is restarted: `Cycle` (default), `Reset` or `Graceful`.
    #[serde(default)]
    pub how: RestartHow,
}

/// How a box is restarted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartHow {
    /// Its power is cut, it is seen to be off, and it is switched on again.
    #[default]
    Cycle,
    /// The reset button. It cannot be seen whether that was done: where the controller ended at that very moment, it is not done again.
    Reset,
    /// The system is shut down (its power is cut if that takes longer than `spec.bmc.shutdownSeconds`), and the box is switched on again.
    Graceful,
}

/// What is known of a box's power. Written by the controller's power reconciler alone.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PowerStatus {
    /// What the BMC said last: On, Off, PoweringOn or PoweringOff. Absent while it has said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PowerState>,
    /// When the BMC said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Time>,
    /// What the BMC was last told to do so that the box is as `spec.power` says. Absent once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<PowerTold>,
    /// The newest restart of each source. One that is named here is not carried out again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["source"]))]
    pub restarts: Vec<RestartStatus>,
    /// What is wrong with the BMC, in one word: the reason of the condition BmcReachable. Absent if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in a sentence, with the BMC's own words where it had any, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a box is on.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// It is on its way to be on.
    PoweringOn,
    /// It is on its way to be off.
    PoweringOff,
}

impl PowerState {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "On",
            Self::Off => "Off",
            Self::PoweringOn => "PoweringOn",
            Self::PoweringOff => "PoweringOff",
        }
    }
}

/// What a BMC was told to do. It was written down before it was done.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PowerTold {
    /// What.
    pub act: PowerAct,
    /// When it was told so for the first time.
    pub since: Time,
    /// When it was told so last.
    pub at: Time,
    /// How often.
    pub times: i32,
}

/// What a BMC can be told to do with a box's power.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAct {
    /// Switch it on.
    On,
    /// Ask its system to shut down.
    Shutdown,
    /// Cut its power.
    Off,
}

/// Who asks for a restart. Each has a record of its own, so that one's newest restart is not forgotten for another's.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartSource {
    /// `spec.restart`.
    Spec,
    /// The update that is under way: `status.update`.
    Update,
    /// The deletion of a Machine whose box is to be wiped: `status.wipe`.
    Wipe,
    /// The way of a machine out of service into a system in memory: `status.maintenance`.
    Maintenance,
}

/// A restart that was begun.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RestartStatus {
    /// Who asked for it.
    pub source: RestartSource,
    /// Its name.
    pub id: String,
    /// How the box is restarted.
    pub how: RestartHow,
    /// How far it is.
    pub stage: RestartStage,
    /// When that was so first.
    pub since: Time,
    /// What the BMC was last told to do for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<PowerTold>,
}

/// How far a restart is.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartStage {
    /// The box is being switched off.
    SwitchingOff,
    /// It was seen to be off, and is being switched on.
    SwitchingOn,
    /// The reset button is being pressed.
    Resetting,
    /// It was carried out.
    Done,
    /// Nothing was restarted: the box should be off, or the name was there before the Machine's power was first looked at.
    Skipped,
    /// The reset may have been carried out or not: the controller or the connection ended at that moment. It is not done again.
    Unknown,
}

impl RestartStage {
    /// True if nothing more is done about it.
    pub fn is_over(self) -> bool {
        match self {
            Self::Done | Self::Skipped | Self::Unknown => true,
            Self::SwitchingOff | Self::SwitchingOn | Self::Resetting => false,
        }
    }
}

/// The restart that is wanted of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRestart {
    /// Who wants it.
    pub source: RestartSource,
    /// Its name.
    pub id: String,
    /// How.
    pub how: RestartHow,
}

impl Machine {
    /// True if the spec gives the box's power into the controller's hands: it names a BMC, and the box is to be on.
    pub fn power_is_kept(&self) -> bool {
        self.spec.bmc.is_some() && self.spec.power == Some(PowerWanted::On)
    }

    /// The restart that the box should have had, or should have now: whether it had it, [`PowerStatus::restarts`] tells.
    pub fn wanted_restart(&self) -> Option<WantedRestart> {
        if let Some(wipe) = self.wanted_wipe() {
            let (source, how) = (RestartSource::Wipe, RestartHow::Graceful);
            let wanted = WantedRestart { source, id: wipe.intent.clone(), how };
            return Some(wanted).filter(|_| wipe.state.is_under_way() && self.power_is_kept());
        }
        let leaves = |maintenance: &&MaintenanceStatus| maintenance.stage == MaintenanceStage::Restarting;
        if let Some(maintenance) = self.maintenance().filter(leaves).filter(|_| self.power_is_kept()) {
            let (source, how) = (RestartSource::Maintenance, RestartHow::Graceful);
            return Some(WantedRestart { source, id: maintenance.id.clone(), how });
        }
        let update = self.status.as_ref().and_then(|status| status.update.as_deref());
        let restarts = |update: &&UpdateStatus| {
            let may = self.power_is_kept() && !self.spec.hold;
            update.stage == UpdateStage::Restarting && update.base == self.declared_intent() && may
        };
        if let Some(update) = update.filter(restarts) {
            let (source, how) = (RestartSource::Update, RestartHow::Graceful);
            return Some(WantedRestart { source, id: update.intent.clone(), how });
        }
        let RestartSpec { id, how } = self.spec.restart.as_ref()?;
        Some(WantedRestart { source: RestartSource::Spec, id: id.clone(), how: *how })
    }
}

impl PowerStatus {
    /// The record of a source's newest restart.
    pub fn restart(&self, source: RestartSource) -> Option<&RestartStatus> {
        self.restarts.iter().find(|restart| restart.source == source)
    }
}
