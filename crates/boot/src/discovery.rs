//! What a box that was found is known by, and what is doubtful about that. What boards say of themselves is often wrong: a doubt is told,
//! and an identifier that is in doubt is left out. Nothing is guessed.

use std::fmt;

use kube::ResourceExt;
use magnetite_api::{
    MacAddr, Machine, MachineUuid,
    conditions::reason,
    report::{BootRecord, Inventory, size},
    types::serial_is_bogus,
};

/// As many addresses as a Machine takes.
const MOST_MACS: usize = 32;

/// What a box can be known by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Its cards, the one first that it booted from.
    pub macs: Vec<MacAddr>,
    /// Its UUID.
    pub uuid: Option<MachineUuid>,
    /// Its serial number.
    pub serial: Option<String>,
    /// What is doubtful.
    pub doubts: Vec<Doubt>,
}

/// Something that a box says of itself and that does not name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// One word.
    pub reason: &'static str,
    /// A sentence, with what to do.
    pub message: String,
    /// True if the box may be one that there is a Machine for: then a person has to look.
    pub may_be_another: bool,
}

/// What identifies a Machine, as its spec says and as was seen of its box.
struct Other<'a> {
    machine: &'a Machine,
    uuids: Vec<MachineUuid>,
    serials: Vec<String>,
}

impl<'a> Other<'a> {
    fn of(machine: &'a Machine) -> Self {
        let status = machine.status.as_ref();
        let inventory = status.and_then(|status| status.inventory.as_deref());
        let booted = status.and_then(|status| status.boot.as_ref()?.uuid);
        let uuids = [machine.spec.uuid, inventory.and_then(|inventory| inventory.uuid), booted];
        let serials = [machine.spec.serial.as_ref(), inventory.and_then(|inventory| inventory.serial.as_ref())];
        Self {
            machine,
            uuids: uuids.into_iter().flatten().collect(),
            serials: serials.into_iter().flatten().map(|serial| plain(serial)).collect(),
        }
    }
}

fn plain(serial: &str) -> String {
    serial.trim().to_ascii_lowercase()
}

/// What a box is known by that booted from `mac` and is made of `inventory`. `own`: the Machine that was made for it, if there is one.
/// `others`: all Machines.
pub fn identify<'a>(
    mac: MacAddr,
    boot: Option<&BootRecord>,
    inventory: &Inventory,
    own: Option<&Machine>,
    others: impl IntoIterator<Item = &'a Machine>,
) -> Known {
    let mut known = Known { macs: macs(mac, inventory), ..Known::default() };
    known.uuid = uuid(&mut known.doubts, boot, inventory, own);
    known.serial = inventory.serial.clone().filter(|serial| !serial_is_bogus(serial));
    let said = known.clone();
    let name = own.map(|own| own.name_any());
    for other in others.into_iter().filter(|other| Some(other.name_any()) != name) {
        compare(&mut known, &said, &Other::of(other));
    }
    known
}

fn macs(mac: MacAddr, inventory: &Inventory) -> Vec<MacAddr> {
    let mut macs = vec![mac];
    for mac in inventory.nics.iter().filter_map(|nic| nic.mac).filter(|mac| !mac.is_bogus()) {
        if !macs.contains(&mac) && macs.len() < MOST_MACS {
            macs.push(mac);
        }
    }
    macs
}

/// The UUID, if the board's tables, its firmware and its former self agree on it.
fn uuid(
    doubts: &mut Vec<Doubt>,
    boot: Option<&BootRecord>,
    inventory: &Inventory,
    own: Option<&Machine>,
) -> Option<MachineUuid> {
    let uuid = inventory.uuid?;
    let mut doubt = |reason, message| doubts.push(Doubt { reason, message, may_be_another: false });
    if uuid.is_bogus() {
        doubt(
            reason::UUID_IS_NOBODYS,
            format!("its UUID {uuid} is one that many boards have, so the box is known without it"),
        );
        return None;
    }
    let sent = boot.and_then(|boot| boot.uuid).filter(|sent| *sent != uuid);
    if let Some(sent) = sent {
        if sent == uuid.byte_swapped() {
            doubt(
                reason::UUID_BYTE_SWAPPED,
                format!(
                    "its firmware sends the UUID as {sent} and its tables hold {uuid}, which is the same in another byte order; it is \
                     left out of spec.uuid, where {sent} would be compared"
                ),
            );
        } else {
            doubt(
                reason::UUID_CHANGES,
                format!("its firmware sent the UUID {sent} and its tables hold {uuid}; neither is put into spec.uuid"),
            );
        }
        return None;
    }
    let before = own.and_then(|own| own.spec.uuid).filter(|before| *before != uuid);
    if let Some(before) = before {
        doubt(
            reason::UUID_CHANGES,
            format!(
                "its UUID was {before} when it was found and is {uuid} now: was its board replaced? If it changes with each boot, take \
                 spec.uuid out of the Machine"
            ),
        );
        return None;
    }
    Some(uuid)
}

/// Leaves out what another Machine has too, and says so.
fn compare(known: &mut Known, said: &Known, other: &Other<'_>) {
    let name = other.machine.name_any();
    let mut doubt = |reason, message| known.doubts.push(Doubt { reason, message, may_be_another: true });
    let boots_from = said.macs.first().map_or(String::new(), ToString::to_string);
    for mac in said.macs.iter().filter(|mac| other.machine.spec.macs.contains(mac)) {
        doubt(
            reason::MAC_OF_ANOTHER,
            format!(
                "its card {mac} is declared by the Machine {name}: if this is that box, booted from another card, add {boots_from} to \
                 spec.macs of {name} and delete this Machine; if the card was moved, take it out of {name}"
            ),
        );
    }
    let uuid = said.uuid.filter(|uuid| other.uuids.contains(uuid));
    let serial = said.serial.as_ref().filter(|serial| other.serials.contains(&plain(serial)));
    let card = said.macs.iter().any(|mac| other.machine.spec.macs.contains(mac));
    match (uuid, serial) {
        _ if card => {}
        (Some(uuid), Some(serial)) => doubt(
            reason::NIC_SWAPPED,
            format!(
                "it has the UUID {uuid} and the serial number {serial} of the Machine {name}, and none of its cards: was its network \
                 card replaced? Then put {boots_from} into spec.macs of {name} and delete this Machine"
            ),
        ),
        (Some(uuid), None) => doubt(
            reason::UUID_SHARED,
            format!(
                "the Machine {name} has the same UUID {uuid}, and another serial number or none: either two boards have one UUID, and this \
                 box is known by its cards alone, or it is {name} with other cards; look which box it is"
            ),
        ),
        (None, Some(serial)) => doubt(
            reason::UUID_SHARED,
            format!(
                "the Machine {name} has the same serial number {serial}, and another UUID or none: look which box it is"
            ),
        ),
        (None, None) => {}
    }
    let swapped = said.uuid.map(|uuid| uuid.byte_swapped()).filter(|swapped| other.machine.spec.uuid == Some(*swapped));
    if let Some((swapped, uuid)) = swapped.zip(said.uuid) {
        doubt(
            reason::UUID_BYTE_SWAPPED,
            format!(
                "spec.uuid of the Machine {name} is {swapped}, which is this box's {uuid} in another byte order: if this is that box, write \
                 it as {uuid} there and delete this Machine"
            ),
        );
    }
    if uuid.is_some() || card {
        known.uuid = None;
    }
    if serial.is_some() || card {
        known.serial = None;
    }
    known.macs.retain(|mac| !other.machine.spec.macs.contains(mac));
}

/// What a box is made of, in a line.
pub struct InALine<'a>(pub &'a Inventory);

impl fmt::Display for InALine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inventory { manufacturer, product, serial, cpus, memory_bytes, disks, nics, gpus, .. } = self.0;
        let maker = [manufacturer.as_deref(), product.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        f.write_str(if maker.is_empty() { "a box of an unknown maker" } else { &maker })?;
        if let Some(serial) = serial {
            write!(f, ", serial {serial}")?;
        }
        write!(f, ", {cpus} CPUs, {} of memory", size(*memory_bytes))?;
        let disks: Vec<_> = disks.iter().map(|disk| format!("{} {}", disk.name, size(disk.size_bytes))).collect();
        write!(f, ", disks: {}", if disks.is_empty() { "none".to_owned() } else { disks.join(", ") })?;
        write!(f, ", {} network cards", nics.len())?;
        if !gpus.is_empty() {
            write!(f, ", {} GPUs and accelerators", gpus.len())?;
        }
        Ok(())
    }
}

/// A Machine for a box, as a file that a person puts into a catalog once it says what the box is to be.
pub fn manifest(name: &str, known: &Known, inventory: &Inventory) -> String {
    let Known { macs, uuid, serial, doubts } = known;
    // Told by a box: no line of it may end a comment, or begin another field.
    let plain = |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let mut out = format!(
        "# Found by discovery: {}.\n# To make it a machine: choose its Profile, and move this file into the catalog.\n",
        plain(InALine(inventory).to_string())
    );
    for doubt in doubts {
        out.push_str(&format!("# {}: {}\n", doubt.reason, plain(doubt.message.clone())));
    }
    out.push_str(&format!(
        "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata:\n  name: {name}\nspec:\n  # profile: NAME\n  macs:\n"
    ));
    for mac in macs {
        out.push_str(&format!("  - \"{mac}\"\n"));
    }
    if let Some(uuid) = uuid {
        out.push_str(&format!("  uuid: \"{uuid}\"\n"));
    }
    if let Some(serial) = serial {
        // JSON's strings are YAML's.
        out.push_str(&format!("  serial: {}\n", serde_json::Value::from(serial.as_str())));
    }
    out
}

#[cfg(test)]
mod tests {
    use magnetite_api::report::Nic;
    use rstest::rstest;

    use super::*;
    use crate::fixtures::machine;

    const UUID: &str = "3f0d2c5e-0102-4304-8000-000000000010";
    const SWAPPED: &str = "5e2c0d3f-0201-0443-8000-000000000010";
    const MAC: &str = "52:54:00:00:00:01";

    fn inventory(uuid: &str, serial: &str, macs: &[&str]) -> Inventory {
        let nic = |mac: &&str| Nic { mac: mac.parse().ok(), ..Nic::default() };
        let (uuid, serial) = (uuid.parse().ok(), Some(serial.to_owned()).filter(|serial| !serial.is_empty()));
        Inventory { uuid, serial, nics: macs.iter().map(nic).collect(), ..Inventory::default() }
    }

    fn reasons(known: &Known) -> Vec<&'static str> {
        known.doubts.iter().map(|doubt| doubt.reason).collect()
    }

    #[test]
    fn a_box_like_no_other_is_known_by_all_that_it_says() {
        let found = inventory(UUID, "S1", &["52:54:00:00:00:02", MAC, "ff:ff:ff:ff:ff:ff"]);
        let other = machine("other").mac("52:54:00:00:00:09").serial("S9").arc();
        let known = identify(MAC.parse().unwrap(), None, &found, None, [&*other]);
        let macs: Vec<_> = known.macs.iter().map(ToString::to_string).collect();
        assert_eq!(macs, [MAC, "52:54:00:00:00:02"], "the one that it booted from first");
        assert_eq!((known.uuid, known.serial.as_deref(), known.doubts.len()), (UUID.parse().ok(), Some("S1"), 0));
    }

    #[test]
    fn what_many_boards_share_is_left_out() {
        let found = inventory("03000200-0400-0500-0006-000700080009", "Default string", &[MAC]);
        let known = identify(MAC.parse().unwrap(), None, &found, None, []);
        assert_eq!((known.uuid, known.serial.clone()), (None, None));
        assert_eq!(reasons(&known), [reason::UUID_IS_NOBODYS]);
        assert!(!known.doubts[0].may_be_another, "its card names it");
    }

    /// Another Machine, what the box says, and what is to be thought of it.
    #[rstest]
    #[case::nic_replaced(machine("m").mac("52:54:00:00:00:09").uuid(UUID).serial("s1 ").arc(), &[reason::NIC_SWAPPED])]
    #[case::uuid_twice(machine("m").mac("52:54:00:00:00:09").uuid(UUID).serial("S2").arc(), &[reason::UUID_SHARED])]
    #[case::serial_twice(machine("m").mac("52:54:00:00:00:09").serial("S1").arc(), &[reason::UUID_SHARED])]
    #[case::other_card(machine("m").mac("52:54:00:00:00:02").uuid(UUID).serial("S1").arc(), &[reason::MAC_OF_ANOTHER])]
    #[case::swapped(machine("m").uuid(SWAPPED).arc(), &[reason::UUID_BYTE_SWAPPED])]
    fn a_box_that_may_be_another_s_is_told_and_not_guessed(
        #[case] other: std::sync::Arc<Machine>,
        #[case] want: &[&str],
    ) {
        let found = inventory(UUID, "S1", &[MAC, "52:54:00:00:00:02"]);
        let known = identify(MAC.parse().unwrap(), None, &found, None, [&*other]);
        assert_eq!(reasons(&known), want);
        assert!(known.doubts.iter().all(|doubt| doubt.may_be_another && doubt.message.contains("Machine m")));
        // What is left names no other Machine.
        let spec = magnetite_api::MachineSpec {
            macs: known.macs.clone(),
            uuid: known.uuid,
            serial: known.serial,
            ..magnetite_api::MachineSpec::default()
        };
        let made = std::sync::Arc::new(Machine::new("box", spec));
        let fleet = crate::fleet::Fleet::index([other, std::sync::Arc::clone(&made)]);
        assert_eq!(fleet.conflicts(&made), []);
        assert_eq!(known.macs[0].to_string(), MAC);
    }

    /// What was seen of a Machine's box counts as what its spec says does.
    #[test]
    fn a_machine_that_declares_only_its_card_is_recognised_by_its_box() {
        let mut other = (*machine("m").mac("52:54:00:00:00:09").arc()).clone();
        let seen = inventory(UUID, "S1", &["52:54:00:00:00:09"]);
        other.status = Some(magnetite_api::MachineStatus {
            inventory: Some(Box::new(seen)),
            ..magnetite_api::MachineStatus::default()
        });
        let known = identify(MAC.parse().unwrap(), None, &inventory(UUID, "S1", &[MAC]), None, [&other]);
        assert_eq!(reasons(&known), [reason::NIC_SWAPPED]);
    }

    #[test]
    fn a_uuid_that_the_board_itself_is_not_sure_of_is_left_out() {
        let mut own = (*machine("own").mac(MAC).uuid("3f0d2c5e-0000-4000-8000-0000000000ff").arc()).clone();
        let known = identify(MAC.parse().unwrap(), None, &inventory(UUID, "S1", &[MAC]), Some(&own), [&own]);
        assert_eq!((reasons(&known), known.uuid), (vec![reason::UUID_CHANGES], None));
        own.spec.uuid = UUID.parse().ok();
        let sure = identify(MAC.parse().unwrap(), None, &inventory(UUID, "S1", &[MAC]), Some(&own), [&own]);
        assert_eq!((reasons(&sure), sure.uuid), (vec![], UUID.parse().ok()));
        let boot = serde_json::json!({ "startedAt": "2026-11-22T03:00:00Z", "lastSeen": "2026-11-22T03:00:00Z" });
        let mut boot: BootRecord = serde_json::from_value(boot).unwrap();
        for (sent, why) in
            [(SWAPPED, reason::UUID_BYTE_SWAPPED), ("3f0d2c5e-0000-4000-8000-0000000000fe", reason::UUID_CHANGES)]
        {
            boot.uuid = sent.parse().ok();
            let known = identify(MAC.parse().unwrap(), Some(&boot), &inventory(UUID, "S1", &[MAC]), None, []);
            assert_eq!((reasons(&known), known.uuid), (vec![why], None), "{sent}");
            assert!(!known.doubts[0].may_be_another);
        }
    }

    #[test]
    fn a_box_in_a_line() {
        let found = Inventory { cpus: 8, memory_bytes: 64_000_000_000, ..inventory(UUID, "S1", &[MAC]) };
        let line = InALine(&found).to_string();
        assert_eq!(
            line,
            "a box of an unknown maker, serial S1, 8 CPUs, 64.0 GB of memory, disks: none, 1 network cards"
        );
    }

    #[test]
    fn a_box_can_be_declared_by_the_file_that_is_made_of_it() {
        let found = inventory(UUID, "S: \"1\" # x", &[MAC]);
        let found = Inventory { product: Some("R1\nspec: {}".to_owned()), ..found };
        let known = identify(MAC.parse().unwrap(), None, &found, None, []);
        let text = manifest("box-525400000001", &known, &found);
        let made: Machine = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            (made.name_any().as_str(), &made.spec.macs, made.spec.uuid),
            ("box-525400000001", &known.macs, known.uuid)
        );
        assert_eq!((made.spec.serial.as_deref(), made.spec.hold), (Some("S: \"1\" # x"), false));
    }
}
