//! The Machine for a box that was found. Pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use magnetite_api::{
    BootReport, DiscoveryRule, MacAddr, Machine, MachineSpec,
    discovery::{box_mac, box_name},
    machine::IdentityLevel,
    names::ANNOTATION_DISCOVERED_BY,
    report::SubjectKind,
};
use magnetite_boot::discovery::{Known, identify};

use super::rules;
use crate::machine::fold;

/// A box that waits asks every quarter of a minute. One that was silent for so long may be one whose Machine was deleted since.
const SILENT: SignedDuration = SignedDuration::from_mins(10);

/// What becomes of a report on a box.
#[derive(Debug, Clone, PartialEq)]
pub enum Made {
    /// Nothing: it says nothing that can be used.
    Nothing,
    /// The report goes: the box did not ask for so long that it may be gone.
    Stale,
    /// Nothing now: so many Machines are held.
    TooMany,
    /// The report goes: there is a Machine that declares the box.
    Declared,
    /// A Machine, held.
    Machine(Box<Machine>),
}

/// Decides. A boot server wrote the report, from what a box says: neither is believed in more than what a Machine that is held may do.
pub fn made(
    report: &BootReport,
    machines: &[Arc<Machine>],
    rules: &[Arc<DiscoveryRule>],
    (held, most): (usize, usize),
    now: Timestamp,
) -> Made {
    let subject = &report.spec.subject;
    let Some(mac) = box_mac(&subject.name).filter(|mac| subject.kind == SubjectKind::Box && !mac.is_bogus()) else {
        return Made::Nothing;
    };
    // What a box that is held says of further cards is no more than what it says.
    let declares = |machine: &Arc<Machine>| {
        let macs = &machine.spec.macs;
        if machine.spec.hold { macs.first() == Some(&mac) } else { macs.contains(&mac) }
    };
    if machines.iter().any(declares) {
        return Made::Declared;
    }
    let silent = report.spec.boot.as_ref().is_none_or(|boot| now.duration_since(boot.last_seen.0) > SILENT);
    if silent {
        return Made::Stale;
    }
    let Some(inventory) = report.spec.inventory.clone().map(fold::inventory) else { return Made::Nothing };
    if held >= most {
        return Made::TooMany;
    }
    let boot = report.spec.boot.clone();
    let others = machines.iter().map(|machine| &**machine);
    let Known { macs, uuid, serial, doubts: _ } = identify(mac, boot.as_ref(), &inventory, None, others);
    let named = rules::choose(rules, mac, &inventory).ok().flatten();
    let named = named.and_then(|rule| rules::name(rule, mac, &inventory));
    let Some(name) = free(machines, named, mac) else { return Made::Nothing };
    let spec =
        MachineSpec { macs, uuid, serial, hold: true, min_identity: IdentityLevel::Approved, ..MachineSpec::default() };
    let mut machine = Machine::new(&name, spec);
    let server = fold::clean(&report.spec.server, 63);
    machine.metadata.annotations = Some([(ANNOTATION_DISCOVERED_BY.to_owned(), server)].into());
    Made::Machine(Box::new(machine))
}

/// A name that no Machine has, nor any Machine's Node: the rule's, or the box's own.
fn free(machines: &[Arc<Machine>], named: Option<String>, mac: MacAddr) -> Option<String> {
    let taken = |name: &str| machines.iter().any(|other| other.name_any() == name || other.node_name() == name);
    named.into_iter().chain([box_name(mac)]).find(|name| !taken(name))
}

#[cfg(test)]
mod tests {
    use magnetite_api::{
        BootReportSpec,
        report::{Inventory, Subject},
    };
    use serde_json::json;

    use super::*;
    use crate::{discovery::rules::tests::rule, fixtures::t};

    fn report(name: &str, inventory: Option<Inventory>) -> BootReport {
        let subject = Subject { kind: SubjectKind::Box, name: name.to_owned(), uid: String::new() };
        let spec = BootReportSpec {
            subject,
            server: "boot-1".into(),
            boot: serde_json::from_value(json!({ "startedAt": t(0), "lastSeen": t(30) })).unwrap(),
            inventory,
            install: None,
            wipe: None,
            artifacts: Vec::new(),
        };
        BootReport::new("r", spec)
    }

    fn inventory() -> Option<Inventory> {
        Some(Inventory { serial: Some("S1".into()), cpus: 4, ..Inventory::default() })
    }

    fn declared(name: &str, mac: &str) -> Arc<Machine> {
        let spec = MachineSpec { macs: vec![mac.parse().unwrap()], ..MachineSpec::default() };
        Arc::new(Machine::new(name, spec))
    }

    const BOX: &str = "box-525400300010";

    #[test]
    fn a_box_becomes_a_machine_that_is_held() {
        let Made::Machine(made) = made(&report(BOX, inventory()), &[], &[], (0, 1), t(60)) else { panic!() };
        assert_eq!((made.name_any().as_str(), made.spec.hold), (BOX, true));
        assert_eq!(
            (made.spec.macs[0].to_string().as_str(), made.spec.serial.as_deref()),
            ("52:54:00:30:00:10", Some("S1"))
        );
        assert_eq!((made.spec.min_identity, made.spec.profile.clone()), (IdentityLevel::Approved, None));
        assert_eq!(made.metadata.annotations.unwrap()[ANNOTATION_DISCOVERED_BY], "boot-1");
    }

    #[test]
    fn a_rule_names_it_where_the_name_is_free() {
        let rules = [rule("r", "true", 0, json!({ "name": "'w-' + inventory.serial" }))];
        let name = |machines: &[Arc<Machine>]| match made(&report(BOX, inventory()), machines, &rules, (0, 9), t(60)) {
            Made::Machine(made) => made.name_any(),
            other => format!("{other:?}"),
        };
        assert_eq!(name(&[]), "w-s1");
        assert_eq!(name(&[declared("w-s1", "52:54:00:30:00:99")]), BOX);
        assert_eq!(name(&[declared("w-s1", "52:54:00:30:00:99"), declared(BOX, "52:54:00:30:00:98")]), "Nothing");
    }

    #[test]
    fn nothing_is_made_of_what_is_declared_or_too_much_or_said_of_others() {
        let decide =
            |report: &BootReport, machines: &[Arc<Machine>], held| made(report, machines, &[], (held, 2), t(60));
        assert_eq!(decide(&report(BOX, inventory()), &[declared("m", "52:54:00:30:00:10")], 0), Made::Declared);
        assert_eq!(decide(&report(BOX, inventory()), &[], 2), Made::TooMany);
        assert_eq!(made(&report(BOX, inventory()), &[], &[], (0, 2), t(700)), Made::Stale, "it may be gone");
        assert_eq!(decide(&report(BOX, None), &[], 0), Made::Nothing, "it has not said what it is made of");
        assert_eq!(decide(&report("gpu-7", inventory()), &[], 0), Made::Nothing);
        assert_eq!(decide(&report("box-ffffffffffff", inventory()), &[], 0), Made::Nothing);
        let mut other = report(BOX, inventory());
        other.spec.subject.kind = SubjectKind::Machine;
        assert_eq!(decide(&other, &[], 0), Made::Nothing);
    }
}
