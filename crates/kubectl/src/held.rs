//! A box that was found, or is held: what it is made of, and what is written once a person says what it becomes.

use std::fmt::Write;

use jiff::Timestamp;
use kube::ResourceExt;
use magnetite_api::{
    Machine, MachineSpec,
    conditions::{self, IDENTITY_UNDERSTOOD},
    machine::{DeletionPolicy, IdentityLevel},
    names::ANNOTATION_APPROVED_BY,
    report::{Inventory, size},
};
use serde_json::{Value, json};

use crate::{
    approve::{Word, stamp},
    args::{Becomes, Level},
    error::Error,
    style::{Style, Tone::Bad, Tone::Bold, Tone::Dim, plain},
};

/// What a box is made of, what is doubtful about it, and what to do.
pub fn text(machine: &Machine, style: Style) -> String {
    let name = plain(&machine.name_any());
    let mut out = format!("{} is held\n", style.paint(Bold, format_args!("Machine {name}")));
    let status = machine.status.as_ref();
    match status.and_then(|status| status.inventory.as_deref()) {
        Some(inventory) => made_of(&mut out, inventory, style),
        None => out.push_str(
            "  its box has not told what it is made of: it has to boot from a boot server with --discovery\n",
        ),
    }
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let nothing = [conditions::reason::NOT_INVENTORIED, conditions::reason::AS_DECLARED];
    let doubt = conditions::find(conditions, IDENTITY_UNDERSTOOD)
        .filter(|condition| !nothing.contains(&condition.reason.as_str()));
    if let Some(doubt) = doubt {
        // True: left out, and known by the rest.
        let tone = if doubt.status == "False" { Bad } else { Bold };
        let _ = writeln!(out, "  {}  {}", style.paint(tone, plain(&doubt.reason)), plain(&doubt.message));
    }
    let message = status.and_then(|status| status.message.as_deref());
    if let Some(message) = message.filter(|_| doubt.is_none_or(|doubt| doubt.status != "False")) {
        let _ = writeln!(out, "  {}", plain(message));
    }
    let _ = writeln!(
        out,
        "To make it a machine: kubectl magnetite approve {name} --profile PROFILE (kubectl get profiles.magnetite.dev)\n\
         under another name:   kubectl magnetite approve {name} --profile PROFILE --name NAME"
    );
    out
}

fn made_of(out: &mut String, inventory: &Inventory, style: Style) {
    let Inventory { manufacturer, product, serial, bmc_address, uuid, firmware_version, firmware, .. } = inventory;
    let mut line = |what: &str, text: &str| {
        let _ = writeln!(out, "  {} {}", style.paint(Dim, format_args!("{what:<9}")), plain(text));
    };
    let words = |parts: &[Option<&str>]| parts.iter().flatten().copied().collect::<Vec<_>>().join(" ");
    let maker = words(&[manufacturer.as_deref(), product.as_deref()]);
    line("box", if maker.is_empty() { "of an unknown maker" } else { &maker });
    serial.iter().for_each(|serial| line("serial", serial));
    uuid.iter().for_each(|uuid| line("uuid", &uuid.to_string()));
    let firmware = words(&[firmware.as_deref(), firmware_version.as_deref()]);
    if !firmware.is_empty() {
        line("firmware", &firmware);
    }
    let model = inventory.cpu_model.as_deref().map_or(String::new(), |model| format!(", {model}"));
    line("cpus", &format!("{}{model}", inventory.cpus));
    line("memory", &size(inventory.memory_bytes));
    for disk in &inventory.disks {
        let kind = if disk.rotational { " (turns)" } else { "" };
        let rest = words(&[disk.model.as_deref()]);
        let serial = disk.serial.as_deref().map_or(String::new(), |serial| format!(", serial {serial}"));
        line("disk", format!("{} {}{kind} {rest}{serial}", disk.name, size(disk.size_bytes)).trim_end());
    }
    for nic in &inventory.nics {
        let mac = nic.mac.map_or(String::new(), |mac| format!(" {mac}"));
        let link = match (nic.link, nic.speed_mbps) {
            (true, Some(speed)) => format!(", {speed} Mb/s"),
            (true, None) => ", link".to_owned(),
            (false, _) => ", no link".to_owned(),
        };
        let switch = nic.switch.as_ref().map_or(String::new(), |at| format!(", at {} port {}", at.name, at.port));
        line("card", &format!("{}{mac}{link}{switch}", nic.name));
    }
    for gpu in &inventory.gpus {
        line("gpu", &format!("{}:{} at {}", gpu.vendor, gpu.device, gpu.address));
    }
    bmc_address.iter().for_each(|address| line("bmc", address));
}

/// What is written of a box that becomes a machine.
///
/// # Errors
/// It is not held, or nothing says what it is to boot.
pub fn word(machine: &Machine, becomes: &Becomes, now: Timestamp) -> Result<Word, Error> {
    let name = machine.name_any();
    let refuse = |why: &str| Err(Error::Change(name.clone(), why.to_owned()));
    if !machine.spec.hold {
        return refuse("it is not held: --profile, --name, --label and --identity are for boxes that were found");
    }
    if machine.metadata.deletion_timestamp.is_some() {
        return refuse("it is being deleted");
    }
    let Becomes { profile, name: renamed, label, identity } = becomes;
    let status = machine.status.as_ref();
    let was =
        status.is_some_and(|status| status.node_name.is_some() || status.identity.is_some() || status.intent.is_some());
    let retained = machine.spec.deletion_policy == DeletionPolicy::Retain;
    if renamed.as_ref().is_some_and(|renamed| *renamed != name) && (was || !retained) {
        return refuse(
            "it was a machine before, or its deletionPolicy is not Retain: to be made anew under another name it would have to be deleted",
        );
    }
    let boots = profile.as_ref().or(machine.spec.profile.as_ref());
    if boots.is_none() && label.is_empty() && machine.labels().is_empty() {
        return refuse(
            "nothing says what it is to boot: give --profile (kubectl get profiles.magnetite.dev), or a --label by which one selects it",
        );
    }
    let mut spec = json!({ "hold": null });
    if let Some(profile) = profile {
        spec["profile"] = json!(profile);
    }
    if let Some(level) = identity {
        spec["minIdentity"] = json!(level_of(*level));
    }
    // One that had a window before opens none by being let go.
    if machine.status.as_ref().is_some_and(|status| status.intent.is_some()) {
        spec["bootIntent"] = json!(format!("approved-{}", stamp(now)));
    }
    let labels: serde_json::Map<String, Value> =
        label.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    let annotations = json!({ ANNOTATION_APPROVED_BY: "person" });
    let called = renamed.as_deref().filter(|renamed| *renamed != name);
    let called = called.map_or(String::new(), |renamed| format!(", now called {},", plain(renamed)));
    let boots = boots.map_or("the Profile that selects it".to_owned(), |boots| format!("the Profile {}", plain(boots)));
    let level = identity.map_or(machine.spec.min_identity, level_of);
    let mut told = format!(
        "Machine {}{called} boots {boots}: if its box waits, it restarts within half a minute; else switch it on\n",
        plain(&name)
    );
    if level >= IdentityLevel::Approved {
        let name = renamed.as_deref().unwrap_or(&name);
        let _ = writeln!(
            told,
            "  before it joins, its key is to be compared with its console: kubectl magnetite approve {}",
            plain(name)
        );
    }
    Ok(Word { patch: json!({ "metadata": { "labels": labels, "annotations": annotations }, "spec": spec }), told })
}

fn level_of(level: Level) -> IdentityLevel {
    match level {
        Level::Mac => IdentityLevel::Mac,
        Level::Approved => IdentityLevel::Approved,
        Level::TpmPinned => IdentityLevel::TpmPinned,
        Level::TpmEnrolled => IdentityLevel::TpmEnrolled,
    }
}

/// The same Machine under another name, changed as the word says.
///
/// # Errors
/// What was read and what is to be written make no Machine.
pub fn renamed(machine: &Machine, name: &str, word: &Word) -> Result<Machine, Error> {
    let broken = |error: serde_json::Error| Error::Change(machine.name_any(), error.to_string());
    let mut spec = serde_json::to_value(&machine.spec).map_err(broken)?;
    for (key, value) in word.patch["spec"].as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        // Of the Machine that it was.
        fields.remove("bootIntent");
    }
    let spec: MachineSpec = serde_json::from_value(spec).map_err(broken)?;
    let mut renamed = Machine::new(name, spec);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let added = |what: &str| {
        let of = word.patch["metadata"][what].as_object().into_iter().flatten();
        of.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect::<Vec<_>>()
    };
    renamed.labels_mut().extend(machine.labels().clone());
    renamed.labels_mut().extend(added("labels"));
    renamed.annotations_mut().extend(machine.annotations().clone());
    renamed.annotations_mut().extend(added("annotations"));
    Ok(renamed)
}

#[cfg(test)]
mod tests {
    use magnetite_api::{
        MachineStatus,
        machine::{IntentState, IntentStatus},
        report::{Disk, Nic},
        time::seconds,
    };

    use super::*;

    fn machine() -> Machine {
        let spec = MachineSpec {
            macs: vec!["52:54:00:30:00:10".parse().unwrap()],
            hold: true,
            min_identity: IdentityLevel::Approved,
            ..MachineSpec::default()
        };
        Machine::new("box-525400300010", spec)
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn a_box_is_shown_as_it_told() {
        let mut machine = machine();
        assert!(text(&machine, Style::PLAIN).contains("has not told"));
        let inventory = Inventory {
            manufacturer: Some("Example\u{1b}[31m".into()),
            serial: Some("EX-17".into()),
            cpus: 8,
            memory_bytes: 64_000_000_000,
            disks: vec![Disk {
                name: "sda".into(),
                size_bytes: 4_000_000_000_000,
                rotational: true,
                ..Disk::default()
            }],
            nics: vec![Nic { name: "eno1".into(), link: true, speed_mbps: Some(10_000), ..Nic::default() }],
            bmc_address: Some("10.0.8.21".into()),
            ..Inventory::default()
        };
        let message = Some("waits for a person".to_owned());
        machine.status =
            Some(MachineStatus { inventory: Some(Box::new(inventory)), message, ..MachineStatus::default() });
        insta::assert_snapshot!(text(&machine, Style::PLAIN));
    }

    #[test]
    fn it_becomes_what_a_person_says() {
        let becomes = Becomes { profile: Some("worker".into()), ..Becomes::default() };
        let word = word(&machine(), &becomes, now()).unwrap();
        let spec = &word.patch["spec"];
        assert_eq!((&spec["hold"], &spec["profile"]), (&Value::Null, &json!("worker")));
        assert!(spec.get("bootIntent").is_none() && spec.get("minIdentity").is_none(), "{spec}");
        assert!(word.told.contains("compared with its console"), "{}", word.told);
        let mut held = machine();
        let closed = IntentStatus {
            id: "created".into(),
            state: IntentState::Expired,
            opened_at: seconds(now()),
            expires_at: seconds(now()),
        };
        held.status = Some(MachineStatus { intent: Some(closed), ..MachineStatus::default() });
        let again = super::word(&held, &becomes, now()).unwrap();
        assert_eq!(again.patch["spec"]["bootIntent"], "approved-20270115-080000");
    }

    #[test]
    fn it_is_made_anew_under_another_name() {
        let becomes = Becomes {
            profile: Some("worker".into()),
            name: Some("r7-u02".into()),
            label: vec![("rack".into(), "r7".into())],
            identity: Some(Level::Mac),
        };
        let machine = machine();
        let word = word(&machine, &becomes, now()).unwrap();
        let made = renamed(&machine, "r7-u02", &word).unwrap();
        assert_eq!((made.name_any().as_str(), made.spec.hold), ("r7-u02", false));
        assert_eq!((&made.spec.macs, made.spec.min_identity), (&machine.spec.macs, IdentityLevel::Mac));
        assert_eq!((made.labels()["rack"].as_str(), made.spec.profile.as_deref()), ("r7", Some("worker")));
        assert!(word.told.contains("now called r7-u02") && !word.told.contains("console"), "{}", word.told);
    }

    #[test]
    fn what_makes_no_machine_is_refused() {
        let refused = |machine: &Machine, becomes: &Becomes| word(machine, becomes, now()).unwrap_err().to_string();
        assert!(
            refused(&machine(), &Becomes { identity: Some(Level::Mac), ..Becomes::default() }).contains("--profile")
        );
        let mut free = machine();
        free.spec.hold = false;
        let becomes = Becomes { profile: Some("worker".into()), ..Becomes::default() };
        assert!(refused(&free, &becomes).contains("not held"));
        // To be made anew it is deleted: what it was would go, or its disks would be wiped.
        let named = Becomes { name: Some("r7-u02".into()), ..becomes };
        let mut joined = machine();
        joined.status = Some(MachineStatus { node_name: Some("r7-u01".into()), ..MachineStatus::default() });
        let mut wiped = machine();
        wiped.spec.deletion_policy = DeletionPolicy::Wipe;
        for machine in [joined, wiped] {
            assert!(refused(&machine, &named).contains("another name"));
        }
    }
}
