//! Provisioning a machine anew, and wiping it: what is written, and what comes of it.

use jiff::Timestamp;
use kube::ResourceExt;
use magnetite_api::{Machine, machine::DeletionPolicy};
use serde_json::json;

use crate::{
    approve::{Word, stamp},
    error::Error,
    style::plain,
};

/// Another intent, made of the time where nobody named one.
///
/// # Errors
/// The Machine is being deleted, or has that intent already.
pub fn reprovision(machine: &Machine, intent: Option<&str>, now: Timestamp) -> Result<Word, Error> {
    let name = machine.name_any();
    if machine.metadata.deletion_timestamp.is_some() {
        return Err(Error::Change(name, "it is being deleted".to_owned()));
    }
    let made = || format!("reprovision-{}", stamp(now));
    let intent = intent.map_or_else(made, str::to_owned);
    if machine.wanted_intent() == intent {
        let why = format!("its intent is {intent} already: nothing opens by naming it again");
        return Err(Error::Change(name, why));
    }
    let minutes = machine.spec.boot_window_seconds / 60;
    let told = format!(
        "Machine {}: intent {intent} opens a boot window of {minutes} minutes\n  restart the box: it boots over the network, and is installed anew where its Profile installs\n",
        plain(&name)
    );
    Ok(Word { patch: json!({ "spec": { "bootIntent": intent } }), told })
}

/// The policy by which its box is wiped.
///
/// # Errors
/// The Machine is being deleted by another policy.
pub fn wipe(machine: &Machine) -> Result<Word, Error> {
    let name = machine.name_any();
    if machine.metadata.deletion_timestamp.is_some() && machine.spec.deletion_policy != DeletionPolicy::Wipe {
        return Err(Error::Change(name, "it is being deleted already, and not to be wiped".to_owned()));
    }
    let inventory = machine.status.as_ref().and_then(|status| status.inventory.as_deref());
    let disks = inventory.map(|inventory| inventory.disks.as_slice()).unwrap_or_default();
    let disk = |disk: &magnetite_api::report::Disk| {
        let serial = disk.serial.as_deref().map_or(String::new(), |serial| format!(", serial {}", plain(serial)));
        format!("  {} ({}{serial})\n", plain(&disk.name), magnetite_api::report::size(disk.size_bytes))
    };
    let disks: String = disks.iter().map(disk).collect();
    let disks = if disks.is_empty() { "  nobody knows which: its agent has not said\n".to_owned() } else { disks };
    let node = machine.status.as_ref().and_then(|status| status.node_name.as_deref());
    let node = node.map_or(String::new(), |node| format!("Its Node {} is removed after that.\n", plain(node)));
    let restart = if machine.power_is_kept() {
        "its BMC restarts it, and nobody is asked again"
    } else {
        "somebody has to restart it, from the network"
    };
    let told = format!(
        "The Machine {} is deleted: its Node is emptied, {restart}, and all its disks are wiped, except removable ones. When it was last looked at it had:\n{disks}{node}",
        plain(&name)
    );
    Ok(Word { patch: json!({ "spec": { "deletionPolicy": "Wipe" } }), told })
}

#[cfg(test)]
mod tests {
    use magnetite_api::{
        MachineSpec, MachineStatus,
        power::PowerWanted,
        report::{Disk, Inventory},
    };

    use super::*;

    fn machine() -> Machine {
        Machine::new("r7-u01", MachineSpec { boot_intent: Some("a".into()), ..MachineSpec::default() })
    }

    #[test]
    fn another_intent_opens_and_the_same_does_not() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let word = reprovision(&machine(), None, now).unwrap();
        assert_eq!(word.patch, json!({ "spec": { "bootIntent": "reprovision-20270115-080000" } }));
        assert!(word.told.contains("60 minutes") && word.told.contains("restart the box"), "{}", word.told);
        assert_eq!(reprovision(&machine(), Some("b"), now).unwrap().patch["spec"]["bootIntent"], "b");
        assert!(reprovision(&machine(), Some("a"), now).unwrap_err().to_string().contains("already"));
    }

    #[test]
    fn who_wipes_is_told_what_is_lost() {
        let mut machine = machine();
        assert!(wipe(&machine).unwrap().told.contains("nobody knows which"));
        let disk = Disk { name: "nvme0n1".into(), size_bytes: 1 << 40, serial: Some("S1".into()), ..Disk::default() };
        let inventory = Some(Box::new(Inventory { disks: vec![disk], ..Inventory::default() }));
        let node_name = Some("r7-u01".to_owned());
        machine.status = Some(MachineStatus { inventory, node_name, ..MachineStatus::default() });
        let word = wipe(&machine).unwrap();
        for says in ["nvme0n1 (1099.5 GB, serial S1)", "Node r7-u01 is removed", "somebody has to restart it"] {
            assert!(word.told.contains(says), "{says:?} is not in {}", word.told);
        }
        assert_eq!(word.patch, json!({ "spec": { "deletionPolicy": "Wipe" } }));
        machine.spec.power = Some(PowerWanted::On);
        let bmc = json!({ "credentials": "bmc-rack-7", "redfish": { "url": "https://10.0.8.21" } });
        machine.spec.bmc = serde_json::from_value(bmc).unwrap();
        assert!(wipe(&machine).unwrap().told.contains("nobody is asked again"));
    }
}
