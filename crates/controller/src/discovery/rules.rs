//! Which rule is a box's, and what a Machine becomes by it. Pure.

use std::sync::Arc;

use kube::ResourceExt;
use magnetite_api::{
    DiscoveryRule, DiscoveryRuleSpec, MacAddr,
    discovery::{BmcPrototype, Prototype},
    report::Inventory,
};
use serde_json::{Value, json};

use super::expressions::{ExpressionError, SeenBox, read};

/// What the rules make of a box.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// No rule applies.
    None,
    /// It cannot be told: why.
    Unclear(String),
    /// This rule's.
    Rule(Box<Approval>),
}

/// What a Machine becomes by a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// Name of the rule.
    pub rule: String,
    /// Labels to be added.
    pub labels: Value,
    /// Fields of the spec, as a merge patch.
    pub spec: Value,
}

/// Checks that a rule's expressions can be read.
///
/// # Errors
/// The first that cannot.
pub fn check(spec: &DiscoveryRuleSpec) -> Result<(), ExpressionError> {
    let bmc = spec.machine.bmc.as_ref();
    for (field, text) in [
        ("spec.when", Some(&spec.when)),
        ("spec.machine.name", spec.machine.name.as_ref()),
        ("spec.machine.bmc.address", bmc.map(|bmc| &bmc.address)),
        ("spec.machine.bmc.system", bmc.and_then(|bmc| bmc.system.as_ref())),
    ] {
        text.map_or(Ok(()), |text| read(field, text).map(drop))?;
    }
    Ok(())
}

/// The rule for a box: of those that apply the one with the highest priority, if there is one such. A rule that is being deleted, or
/// cannot be read, makes nothing clear: until it is mended it may be the one.
pub fn choose<'a>(
    rules: &'a [Arc<DiscoveryRule>],
    mac: MacAddr,
    inventory: &Inventory,
) -> Result<Option<&'a DiscoveryRule>, String> {
    let seen = SeenBox { mac, inventory };
    let mut best: Vec<&DiscoveryRule> = Vec::new();
    for rule in rules.iter().filter(|rule| rule.metadata.deletion_timestamp.is_none()) {
        let holds = seen.holds("spec.when", &rule.spec.when);
        let holds = holds.map_err(|error| format!("the DiscoveryRule {} is of no use: {error}", rule.name_any()))?;
        let first = best.first().map(|best| best.spec.priority);
        if !holds || first.is_some_and(|first| first > rule.spec.priority) {
            continue;
        }
        if first.is_some_and(|first| first < rule.spec.priority) {
            best.clear();
        }
        best.push(rule);
    }
    match best.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => {
            let mut names: Vec<_> = several.iter().map(|rule| rule.name_any()).collect();
            names.sort();
            Err(format!(
                "the DiscoveryRules {} all apply, with the priority {}: give one of them another",
                names.join(", "),
                several.first().map_or(0, |rule| rule.spec.priority)
            ))
        }
    }
}

/// What the rules make of a box.
pub fn decide(rules: &[Arc<DiscoveryRule>], mac: MacAddr, inventory: &Inventory) -> Choice {
    match choose(rules, mac, inventory) {
        Err(why) => Choice::Unclear(why),
        Ok(None) => Choice::None,
        Ok(Some(rule)) => match approval(rule, &SeenBox { mac, inventory }) {
            Ok(approval) => Choice::Rule(Box::new(approval)),
            Err(error) => Choice::Unclear(format!("the DiscoveryRule {} applies, and {error}", rule.name_any())),
        },
    }
}

fn approval(rule: &DiscoveryRule, seen: &SeenBox<'_>) -> Result<Approval, ExpressionError> {
    let Prototype { name: _, profile, labels, node_labels, min_identity, bmc, power, deletion_policy } =
        &rule.spec.machine;
    let mut spec = json!({ "hold": null, "minIdentity": min_identity, "deletionPolicy": deletion_policy });
    if let Some(profile) = profile {
        spec["profile"] = json!(profile);
    }
    if !node_labels.is_empty() {
        spec["nodeLabels"] = json!(node_labels);
    }
    if let Some(bmc) = bmc {
        spec["bmc"] = self::bmc(bmc, seen)?;
    }
    if let Some(power) = power {
        spec["power"] = json!(power);
    }
    Ok(Approval { rule: rule.name_any(), labels: json!(labels), spec })
}

fn bmc(bmc: &BmcPrototype, seen: &SeenBox<'_>) -> Result<Value, ExpressionError> {
    let BmcPrototype { address, system, ipmi, insecure_skip_tls_verify, network_boot, credentials } = bmc;
    const FIELD: &str = "spec.machine.bmc.address";
    let address = seen.text(FIELD, address)?;
    // It becomes part of a URL, and a box had a say in it.
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']');
    if !address.chars().all(good) {
        let message = format!("makes {address:?} of this box, which is no name or address");
        return Err(ExpressionError { field: FIELD, message });
    }
    if *ipmi {
        return Ok(json!({ "ipmi": { "host": address }, "credentials": credentials }));
    }
    // An IPv6 address stands in brackets in a URL.
    let host = if address.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{address}]") } else { address };
    let mut redfish = json!({
        "url": format!("https://{host}"),
        "insecureSkipTlsVerify": insecure_skip_tls_verify,
        "networkBoot": network_boot,
    });
    if let Some(system) = system {
        redfish["system"] = json!(seen.text("spec.machine.bmc.system", system)?);
    }
    Ok(json!({ "redfish": redfish, "credentials": credentials }))
}

/// The name that a rule gives a box, as a Machine's may be; none if it gives none, or none that is left of.
pub fn name(rule: &DiscoveryRule, mac: MacAddr, inventory: &Inventory) -> Option<String> {
    let text = SeenBox { mac, inventory }.text("spec.machine.name", rule.spec.machine.name.as_ref()?).ok()?;
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(plain).take(63).collect();
    let name = name.trim_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
pub mod tests {
    use magnetite_api::{machine::IdentityLevel, power::PowerWanted};

    use super::*;

    /// A rule.
    pub fn rule(name: &str, when: &str, priority: i32, machine: Value) -> Arc<DiscoveryRule> {
        let spec = json!({ "when": when, "priority": priority, "machine": machine });
        Arc::new(DiscoveryRule::new(name, serde_json::from_value(spec).unwrap()))
    }

    fn mac() -> MacAddr {
        "52:54:00:30:00:10".parse().unwrap()
    }

    fn inventory() -> Inventory {
        Inventory {
            serial: Some("EX 17/b".into()),
            cpus: 8,
            bmc_address: Some("10.0.8.21".into()),
            ..Inventory::default()
        }
    }

    #[test]
    fn the_highest_of_those_that_apply_is_taken() {
        let rules = [
            rule("all", "true", 0, json!({ "profile": "plain" })),
            rule("big", "inventory.cpus >= 8", 10, json!({ "profile": "big" })),
            rule("huge", "inventory.cpus >= 64", 20, json!({ "profile": "huge" })),
        ];
        let Choice::Rule(approval) = decide(&rules, mac(), &inventory()) else { panic!() };
        assert_eq!((approval.rule.as_str(), &approval.spec["profile"]), ("big", &json!("big")));
        assert_eq!(approval.spec["minIdentity"], json!("approved"), "the person who compares keys is not left out");
        assert_eq!(decide(&rules[2..], mac(), &inventory()), Choice::None);
        assert_eq!(decide(&[], mac(), &inventory()), Choice::None);
    }

    #[test]
    fn what_is_not_clear_is_not_guessed() {
        let twice = [rule("b", "true", 1, json!({})), rule("a", "inventory.cpus == 8", 1, json!({}))];
        let unclear = |rules: &[Arc<DiscoveryRule>]| match decide(rules, mac(), &inventory()) {
            Choice::Unclear(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(unclear(&twice).contains("a, b"), "{}", unclear(&twice));
        // It may have been meant for this box.
        let broken = [rule("ok", "true", 9, json!({})), rule("broken", "inventory.", 1, json!({}))];
        assert!(unclear(&broken).contains("broken"));
        let bmc = json!({ "bmc": { "address": "inventory.product", "credentials": "c" } });
        assert!(unclear(&[rule("bmc", "true", 1, bmc)]).contains("spec.machine.bmc.address"));
        let evil = json!({ "bmc": { "address": "inventory.serial", "credentials": "c" } });
        assert!(unclear(&[rule("bmc", "true", 1, evil)]).contains("no name or address"));
    }

    #[test]
    fn a_machine_becomes_what_the_rule_says() {
        let machine = json!({
            "name": "'GPU_' + inventory.serial", "labels": {"role": "gpu"}, "minIdentity": "mac", "power": "On",
            "bmc": { "address": "inventory.bmcAddress", "system": "'1'", "credentials": "bmc" },
        });
        let rule = rule("gpu", "true", 0, machine);
        assert_eq!(name(&rule, mac(), &inventory()).as_deref(), Some("gpu-ex-17-b"));
        let Choice::Rule(approval) = decide(&[rule], mac(), &inventory()) else { panic!() };
        let mut machine = json!({ "macs": ["52:54:00:30:00:10"], "hold": true, "minIdentity": "approved" });
        for (key, value) in approval.spec.as_object().unwrap() {
            machine[key] = value.clone();
        }
        machine.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let spec: magnetite_api::MachineSpec = serde_json::from_value(machine).unwrap();
        assert_eq!((spec.hold, spec.min_identity, spec.power), (false, IdentityLevel::Mac, Some(PowerWanted::On)));
        let redfish = spec.bmc.unwrap().redfish.unwrap();
        assert_eq!((redfish.url.as_str(), redfish.system.as_deref()), ("https://10.0.8.21", Some("1")));
        assert_eq!(approval.labels, json!({ "role": "gpu" }));
    }

    #[test]
    fn a_rule_that_cannot_be_read_says_which_field() {
        for (machine, field) in [
            (json!({}), None),
            (json!({ "name": "1 +" }), Some("spec.machine.name")),
            (json!({ "bmc": { "address": "(", "credentials": "c" } }), Some("spec.machine.bmc.address")),
        ] {
            assert_eq!(check(&rule("r", "true", 0, machine).spec).err().map(|error| error.field), field);
        }
        assert_eq!(check(&rule("r", "&&", 0, json!({})).spec).unwrap_err().field, "spec.when");
    }
}
