//! What the controller sets on a machine's Node, and keeps: labels and annotations. Pure.

use std::collections::BTreeMap;

use kube::ResourceExt;
use magnetite_api::{
    Machine, Profile,
    machine::Topology,
    names::{FACTS_PREFIX, LABEL_MACHINE, LABEL_MACHINE_UID, LABEL_PROFILE, LABEL_RACK},
    profile::NodeFact,
    report::{Inventory, PciDevice},
};

/// The longest value of a label.
const LONGEST: usize = 63;

/// What the controller sets on a Node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What a Machine's Node should carry: facts, then what the Profile says, then what the Machine says, then what is ours alone. The CRDs
/// refuse labels that would lift a Node above its station; they are left out here as well, for objects that were stored before the rule.
pub fn wanted(machine: &Machine, profile: Option<&Profile>, inventory: Option<&Inventory>) -> Marks {
    let spec = &machine.spec;
    let node = profile.map(|profile| &profile.spec.node);
    let mut labels: BTreeMap<_, _> = match (node, inventory) {
        (Some(node), Some(inventory)) => node.facts.iter().flat_map(|fact| told(*fact, inventory)).collect(),
        _ => BTreeMap::new(),
    };
    labels.extend(node.map(|node| node.labels.clone()).unwrap_or_default());
    labels.extend(topology(spec.topology.as_ref()));
    labels.extend(spec.node_labels.clone());
    labels.retain(|key, _| !is_reserved_label(key));
    labels.insert(LABEL_MACHINE.to_owned(), machine.name_any());
    labels.insert(LABEL_MACHINE_UID.to_owned(), machine.uid().unwrap_or_default());
    if let Some(profile) = profile {
        labels.insert(LABEL_PROFILE.to_owned(), profile.name_any());
    }
    let mut annotations = node.map(|node| node.annotations.clone()).unwrap_or_default();
    annotations.extend(spec.node_annotations.clone());
    annotations.retain(|key, _| !key.starts_with("magnetite.dev/"));
    Marks { labels, annotations }
}

fn is_reserved_label(key: &str) -> bool {
    ["magnetite.dev/", "node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"]
        .iter()
        .any(|reserved| key.starts_with(reserved))
}

fn topology(topology: Option<&Topology>) -> impl Iterator<Item = (String, String)> {
    let Topology { region, zone, rack } = topology.cloned().unwrap_or_default();
    let named = [("topology.kubernetes.io/region", region), ("topology.kubernetes.io/zone", zone), (LABEL_RACK, rack)];
    named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)))
}

/// The labels of one fact: none if the box does not tell it.
fn told(fact: NodeFact, inventory: &Inventory) -> Vec<(String, String)> {
    let label = |name: &str, text: Option<&str>| {
        let value = text.and_then(value);
        value.map(|value| (format!("{FACTS_PREFIX}{name}"), value)).into_iter().collect::<Vec<_>>()
    };
    match fact {
        NodeFact::Vendor => label("vendor", inventory.manufacturer.as_deref()),
        NodeFact::Model => label("model", inventory.product.as_deref()),
        NodeFact::Serial => label("serial", inventory.serial.as_deref()),
        NodeFact::Firmware => label("firmware", inventory.firmware.as_deref()),
        NodeFact::Cpu => label("cpu", inventory.cpu_model.as_deref()),
        NodeFact::Switch => {
            let Some(switch) = inventory.nics.iter().find_map(|nic| nic.switch.as_ref()) else { return Vec::new() };
            [label("switch", Some(&switch.name)), label("switch-port", Some(&switch.port))].concat()
        }
        NodeFact::Gpu => {
            let Some(first) = inventory.gpus.iter().find(|device| computes(device)) else { return Vec::new() };
            let same = |device: &&PciDevice| (&device.vendor, &device.device) == (&first.vendor, &first.device);
            let count = inventory.gpus.iter().filter(same).count();
            let model = format!("{}-{}", first.vendor, first.device);
            [label("gpu", Some(&model)), label("gpu-count", Some(&count.to_string()))].concat()
        }
    }
}

/// True of what computes: 3D controllers, processing accelerators, and display controllers of those who make GPUs. Each server also has
/// one that draws its BMC's console.
fn computes(device: &PciDevice) -> bool {
    let is_gpu_maker = ["10de", "1002", "8086"].contains(&device.vendor.as_str());
    device.class.starts_with("0302")
        || device.class.starts_with("12")
        || (device.class.starts_with("0300") && is_gpu_maker)
}

/// A text as a label's value: other characters become `-`, and it begins and ends with a letter or digit.
fn value(text: &str) -> Option<String> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let text: String = text.chars().map(allowed).take(LONGEST).collect();
    let text = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use magnetite_api::report::{Nic, SwitchPort};

    use super::*;
    use crate::fixtures::{machine, profile};

    fn gpu(vendor: &str, device: &str, class: &str) -> PciDevice {
        PciDevice { address: "0000:01:00.0".into(), vendor: vendor.into(), device: device.into(), class: class.into() }
    }

    fn leaf() -> SwitchPort {
        SwitchPort { name: "leaf-7a.example".into(), port: "Ethernet1/7".into(), description: None }
    }

    fn server() -> Inventory {
        Inventory {
            manufacturer: Some("Dell Inc.".into()),
            product: Some("PowerEdge R760 / XL".into()),
            serial: Some("\u{1b}[31m".into()),
            nics: vec![
                Nic { name: "eno1".into(), ..Nic::default() },
                Nic { name: "eno2".into(), switch: Some(leaf()), ..Nic::default() },
            ],
            gpus: vec![
                gpu("1a03", "2000", "030000"),
                gpu("10de", "2330", "030200"),
                gpu("10de", "2330", "030200"),
                gpu("8086", "56c0", "038000"),
            ],
            ..Inventory::default()
        }
    }

    #[test]
    fn facts_are_labels_on_request_and_only_what_is_told() {
        let mut profile = profile();
        profile.spec.node.facts = vec![
            NodeFact::Vendor,
            NodeFact::Model,
            NodeFact::Serial,
            NodeFact::Firmware,
            NodeFact::Cpu,
            NodeFact::Gpu,
            NodeFact::Switch,
        ];
        let facts = |inventory: Option<&Inventory>| -> Vec<(String, String)> {
            let labels = wanted(&machine(), Some(&profile), inventory).labels;
            let told = |(key, value): (String, String)| Some((key.strip_prefix(FACTS_PREFIX)?.to_owned(), value));
            labels.into_iter().filter_map(told).collect()
        };
        let want = [
            ("gpu", "10de-2330"),
            ("gpu-count", "2"),
            ("model", "PowerEdge-R760---XL"),
            ("serial", "31m"),
            ("switch", "leaf-7a.example"),
            ("switch-port", "Ethernet1-7"),
            ("vendor", "Dell-Inc"),
        ];
        assert_eq!(facts(Some(&server())), want.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(facts(None), [], "before the agent told anything");
        profile.spec.node.facts.clear();
        assert!(
            wanted(&machine(), Some(&profile), Some(&server())).labels.keys().all(|key| !key.starts_with(FACTS_PREFIX))
        );
    }

    #[test]
    fn the_machine_wins_over_the_profile_and_nobody_over_us() {
        let (mut machine, mut profile) = (machine(), profile());
        profile.spec.node.facts = vec![NodeFact::Vendor];
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        profile.spec.node.labels = map(&[("tier", "profile"), ("facts.magnetite.dev/vendor", "said")]);
        profile.spec.node.annotations = map(&[("team", "profile"), ("kept", "yes")]);
        machine.spec.node_labels = map(&[
            ("tier", "machine"),
            ("magnetite.dev/machine-uid", "forged"),
            ("node-role.kubernetes.io/control-plane", ""),
        ]);
        machine.spec.node_annotations = map(&[("team", "machine"), ("magnetite.dev/restart", "now")]);
        machine.spec.topology = Some(Topology { region: None, zone: Some("room-2".into()), rack: Some("r7".into()) });
        let Marks { labels, annotations } = wanted(&machine, Some(&profile), Some(&server()));
        let want = [
            ("facts.magnetite.dev/vendor", "said"),
            ("magnetite.dev/machine", "box-1"),
            ("magnetite.dev/machine-uid", "uid-1"),
            ("magnetite.dev/profile", "p"),
            ("tier", "machine"),
            ("topology.kubernetes.io/zone", "room-2"),
            ("topology.magnetite.dev/rack", "r7"),
        ];
        assert_eq!(labels, map(&want));
        assert_eq!(annotations, map(&[("kept", "yes"), ("team", "machine")]));
    }

    #[rstest]
    #[case("Dell Inc.", Some("Dell-Inc"))]
    #[case("ümläut", Some("ml-ut"))]
    #[case(" -- ", None)]
    #[case("", None)]
    fn a_text_as_a_label_s_value(#[case] text: &str, #[case] want: Option<&str>) {
        assert_eq!(value(text).as_deref(), want);
        assert_eq!(value(&"x".repeat(70)), Some("x".repeat(LONGEST)));
    }
}
