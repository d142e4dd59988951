//! `DiscoveryRule`: what boxes that nobody declared become, by what they are made of.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    machine::{DeletionPolicy, IdentityLevel},
    power::{NetworkBoot, PowerWanted},
    types::MacAddr,
};

/// What boxes that discovery finds become, without a person.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "magnetite.dev",
    version = "v1alpha1",
    kind = "DiscoveryRule",
    plural = "discoveryrules",
    shortname = "mgd",
    category = "magnetite",
    status = "DiscoveryRuleStatus",
    derive = "PartialEq",
    doc = "A DiscoveryRule says what boxes become that nobody declared, by what they are made of. Without one they wait for `kubectl magnetite approve`.",
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.machine.profile"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(name = "Valid", type_ = "string", json_path = ".status.conditions[?(@.type==\"Valid\")].status"),
    printcolumn(name = "When", type_ = "string", json_path = ".spec.when"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryRuleSpec {
    /// A CEL expression that is true of the boxes that the rule is for. It sees `inventory` as `status.inventory` of a Machine has it, and
    /// `mac`, the address that the box booted from. Such as `inventory.memoryBytes >= 64 * 1024 * 1024 * 1024 && inventory.gpus.size() > 0`.
    /// One that does not hold for want of a field (use `has()`) is not true. `true` alone is for all boxes.
    #[schemars(length(min = 1, max = 4096))]
    pub when: String,

    /// Of rules that apply the one with the highest priority is taken. Two with the same make the box wait, and say so. Default 0.
    #[serde(default)]
    pub priority: i32,

    /// What the box becomes.
    pub machine: Prototype,
}

/// What a Machine is given that a rule approves.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.bmc) || !has(self.power)").message("machine.power needs machine.bmc: who should switch the box?"))]
pub struct Prototype {
    /// A CEL expression for the Machine's name, which its Node gets too, such as `"gpu-" + inventory.serial`; what is no letter, digit or
    /// `-` in it becomes `-`. It counts for boxes that are found while the rule is there; a Machine keeps its name. Default: `box-` and
    /// the MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub name: Option<String>,

    /// `spec.profile`. Without it the Profile whose selector matches the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub profile: Option<String>,

    /// Labels for the Machine, by which Profiles select it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}))]
    pub labels: BTreeMap<String, String>,

    /// `spec.nodeLabels`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}))]
    pub node_labels: BTreeMap<String, String>,

    /// `spec.minIdentity`. Default `approved`: the box boots and installs, and joins once a person compared its key. With `mac` any box that
    /// says it is made so joins by itself; whoever can plug one in can then have a Node.
    #[serde(default = "approved")]
    pub min_identity: IdentityLevel,

    /// The BMC that the Machine gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcPrototype>,

    /// `spec.power`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerWanted>,

    /// `spec.deletionPolicy`. Default `Retain`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

fn approved() -> IdentityLevel {
    IdentityLevel::Approved
}

/// The BMC of a box that was found.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BmcPrototype {
    /// A CEL expression for its address, such as `inventory.bmcAddress` or `"bmc-" + inventory.serial + ".lab"`, with `:port` where it is not 443.
    #[schemars(length(min = 1, max = 1024))]
    pub address: String,

    /// A CEL expression for the system of the BMC that is the box, such as `inventory.uuid`. Default: the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub system: Option<String>,

    /// True: it speaks IPMI 2.0 and no Redfish.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipmi: bool,

    /// `spec.bmc.redfish.insecureSkipTlsVerify`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,

    /// `spec.bmc.redfish.networkBoot`.
    #[serde(default)]
    pub network_boot: NetworkBoot,

    /// `spec.bmc.credentials`: name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub credentials: String,
}

/// What is known of a rule.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryRuleStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: Valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The intent of a box that is held: none that a window opens for.
pub const HELD_INTENT: &str = "discovery";

/// What a box is called that no Machine declares, and the Machine that is made for it unless a rule gives another name.
pub fn box_name(mac: MacAddr) -> String {
    format!("box-{}", mac.digits())
}

/// The MAC in such a name.
pub fn box_mac(name: &str) -> Option<MacAddr> {
    MacAddr::of_digits(name.strip_prefix("box-")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_named_by_its_mac_in_one_way() {
        let mac: MacAddr = "52:54:00:30:00:1A".parse().unwrap();
        assert_eq!(box_name(mac), "box-52540030001a");
        assert_eq!(box_mac("box-52540030001a"), Some(mac));
        for other in
            ["box-52540030001A", "box-52540030001", "box-5254003000100", "gpu-7", "box-", "box-52:54:00:30:00:1a"]
        {
            assert_eq!(box_mac(other), None, "{other}");
        }
    }
}
