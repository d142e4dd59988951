//! Which Machine is this? An index over all Machines by every identifier that they declare.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use kube::ResourceExt;
use magnetite_api::{MacAddr, Machine, MachineUuid, types::serial_is_bogus};

use crate::capability::CapabilityKey;

/// What a client says of itself. A value that many boards share is ignored by [`Fleet::find`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Address of the card that it boots from.
    pub mac: Option<MacAddr>,
    /// SMBIOS UUID.
    pub uuid: Option<MachineUuid>,
    /// SMBIOS serial number.
    pub serial: Option<String>,
}

/// Which Machine a client is.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// No Machine declares any of its identifiers.
    Unknown,
    /// More than one Machine does, or its one Machine shares an identifier with another: names, sorted.
    /// Neither may boot: which of them the box is cannot be told.
    Conflict(Vec<String>),
    /// This one.
    Machine(Arc<Machine>),
}

/// Another Machine declares the same identifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The field and its value, such as `spec.macs[0] 52:54:00:30:00:10`.
    pub field: String,
    /// Name of the other Machine.
    pub other: String,
}

/// An identifier as a key of the index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Mac(MacAddr),
    Uuid(MachineUuid),
    Serial(String),
}

/// All Machines, by every identifier. Built anew when they change; read without a lock.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    machines: Vec<Arc<Machine>>,
    /// Those that share an identifier with another: told once, since every packet asks.
    contested: HashSet<usize>,
    by_key: HashMap<Key, Vec<usize>>,
    /// Made when an id is first asked for: who serves no links has no key.
    by_id: OnceLock<Vec<(u64, usize)>>,
}

/// An id as it stands in a URL, which is the one way to write it.
fn id_number(id: &str) -> Option<u64> {
    let good = id.len() == 16 && id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if good { u64::from_str_radix(id, 16).ok() } else { None }
}

fn serial_key(serial: &str) -> Option<Key> {
    (!serial_is_bogus(serial)).then(|| Key::Serial(serial.trim().to_ascii_lowercase()))
}

/// The identifiers of a Machine.
fn keys(machine: &Machine) -> impl Iterator<Item = Key> {
    let macs = machine.spec.macs.iter().filter(|mac| !mac.is_bogus()).copied().map(Key::Mac);
    let uuid = machine.spec.uuid.filter(|uuid| !uuid.is_bogus()).map(Key::Uuid);
    macs.chain(uuid).chain(machine.spec.serial.as_deref().and_then(serial_key))
}

/// The field of a Machine that an identifier stands in, and its value there.
fn field(machine: &Machine, key: &Key) -> String {
    match key {
        Key::Mac(mac) => {
            let index = machine.spec.macs.iter().position(|own| own == mac).unwrap_or_default();
            format!("spec.macs[{index}] {mac}")
        }
        Key::Uuid(uuid) => format!("spec.uuid {uuid}"),
        Key::Serial(_) => format!("spec.serial {}", machine.spec.serial.as_deref().unwrap_or_default()),
    }
}

impl Fleet {
    /// Indexes Machines. One that is being deleted still counts: its box must not fall to another.
    pub fn index(machines: impl IntoIterator<Item = Arc<Machine>>) -> Self {
        let mut fleet = Self { machines: machines.into_iter().collect(), ..Self::default() };
        for (position, machine) in fleet.machines.iter().enumerate() {
            for key in keys(machine) {
                let holders = fleet.by_key.entry(key).or_default();
                // The same MAC twice in one Machine is no conflict with itself.
                if !holders.contains(&position) {
                    holders.push(position);
                }
            }
        }
        for holders in fleet.by_key.values_mut() {
            // What a box says of itself that nobody approved stands in the way of nothing that a person declared.
            let held = |position: &usize| fleet.machines.get(*position).is_some_and(|machine| machine.spec.hold);
            if !holders.iter().all(held) {
                holders.retain(|position| !held(position));
            }
        }
        fleet.contested = fleet.by_key.values().filter(|holders| holders.len() > 1).flatten().copied().collect();
        fleet
    }

    /// Which Machine a client is. A MAC decides before a UUID, and that before a serial, because that is the
    /// order in which they are unique in the field; but if they point to different Machines, it is a conflict.
    pub fn find(&self, identity: &Identity) -> Found {
        let mac = identity.mac.filter(|mac| !mac.is_bogus()).map(Key::Mac);
        let uuid = identity.uuid.filter(|uuid| !uuid.is_bogus()).map(Key::Uuid);
        let serial = identity.serial.as_deref().and_then(serial_key);
        let mut hits = Vec::new();
        for key in [mac, uuid, serial].into_iter().flatten() {
            hits.extend(self.by_key.get(&key).into_iter().flatten().copied());
        }
        hits.sort_unstable();
        hits.dedup();
        match hits.as_slice() {
            [] => Found::Unknown,
            [one] => {
                let machine = &self.machines[*one];
                if !self.contested.contains(one) {
                    return Found::Machine(Arc::clone(machine));
                }
                let conflicts = self.conflicts(machine).into_iter();
                let mut names: Vec<_> = conflicts.map(|conflict| conflict.other).collect();
                names.push(machine.name_any());
                names.sort();
                names.dedup();
                Found::Conflict(names)
            }
            several => {
                let mut names: Vec<_> = several.iter().map(|one| self.machines[*one].name_any()).collect();
                names.sort();
                Found::Conflict(names)
            }
        }
    }

    /// Which Machine declares a MAC.
    pub fn of_mac(&self, mac: MacAddr) -> Found {
        self.find(&Identity { mac: Some(mac), ..Identity::default() })
    }

    /// The Machine with an id from a URL that was made with this key, which is the same for as long as the index lives.
    pub fn by_id(&self, id: &str, key: &CapabilityKey) -> Option<Arc<Machine>> {
        self.near_id(id, key).and_then(|(machine, is_it)| is_it.then_some(machine))
    }

    /// The Machine with an id, or, with false, the one whose id comes next: found in as many steps and fetched from as far away in memory.
    /// Who asks with ids that he made up must not learn from the time that it takes which there are. None, if there are no Machines.
    pub fn near_id(&self, id: &str, key: &CapabilityKey) -> Option<(Arc<Machine>, bool)> {
        let (ids, wanted) = (self.ids(key), id_number(id));
        let number = wanted.unwrap_or_default();
        let place = ids.partition_point(|(id, _)| *id < number).min(ids.len().saturating_sub(1));
        let (found, position) = ids.get(place)?;
        Some((Arc::clone(&self.machines[*position]), wanted == Some(*found)))
    }

    /// Makes the ids of all Machines now: for thousands that takes milliseconds, for which no packet should wait.
    pub fn with_ids(self, key: &CapabilityKey) -> Self {
        self.ids(key);
        self
    }

    /// All ids in order, each with its Machine's place.
    fn ids(&self, key: &CapabilityKey) -> &[(u64, usize)] {
        self.by_id.get_or_init(|| {
            let all = self.machines.iter().enumerate();
            let mut ids: Vec<_> = all.map(|(position, machine)| (key.id_number(machine), position)).collect();
            ids.sort_unstable();
            ids
        })
    }

    /// Every identifier of `machine` that another Machine declares too, sorted.
    pub fn conflicts(&self, machine: &Machine) -> Vec<Conflict> {
        let name = machine.name_any();
        let mut found = Vec::new();
        for key in keys(machine) {
            for position in self.by_key.get(&key).into_iter().flatten() {
                let other = self.machines[*position].name_any();
                if other != name {
                    found.push(Conflict { field: field(machine, &key), other });
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// All Machines, in the order given.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.machines.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::machine;

    fn identity(mac: &str, uuid: Option<&str>) -> Identity {
        Identity { mac: mac.parse().ok(), uuid: uuid.map(|text| text.parse().unwrap()), serial: None }
    }

    #[test]
    fn any_identifier_finds_the_machine() {
        let fleet = Fleet::index([
            machine("a").mac("52:54:00:00:00:01").mac("52:54:00:00:00:02").arc(),
            machine("b").uuid("3f0d2c5e-0000-4000-8000-000000000010").serial("PF3X01").arc(),
        ]);
        for (who, identity) in [
            ("a", identity("52:54:00:00:00:02", None)),
            ("b", identity("52:54:00:00:00:99", Some("3f0d2c5e-0000-4000-8000-000000000010"))),
            ("b", Identity { serial: Some(" pf3x01 ".into()), ..Identity::default() }),
        ] {
            let Found::Machine(found) = fleet.find(&identity) else { panic!("{identity:?} is {who}") };
            assert_eq!(found.name_any(), who);
        }
        assert_eq!(fleet.find(&identity("52:54:00:00:00:99", None)), Found::Unknown);
    }

    #[test]
    fn two_that_claim_one_identity_are_both_told_and_neither_boots() {
        let a = machine("a").mac("52:54:00:00:00:01").mac("52:54:00:00:00:0a").arc();
        let b = machine("b").mac("52:54:00:00:00:01").arc();
        let fleet = Fleet::index([a.clone(), b.clone()]);
        let both = Found::Conflict(vec!["a".into(), "b".into()]);
        assert_eq!(fleet.find(&identity("52:54:00:00:00:01", None)), both);
        // Also by the address that only one of them has: it is the Machine that is in doubt.
        assert_eq!(fleet.find(&identity("52:54:00:00:00:0a", None)), both);
        assert_eq!(
            fleet.conflicts(&a),
            [Conflict { field: "spec.macs[0] 52:54:00:00:00:01".into(), other: "b".into() }]
        );
        assert_eq!(fleet.conflicts(&b).len(), 1);
    }

    #[test]
    fn a_machine_that_is_held_stands_in_no_other_s_way() {
        let declared = machine("a").mac("52:54:00:00:00:01").arc();
        let mut held = (*machine("b").mac("52:54:00:00:00:0b").mac("52:54:00:00:00:01").arc()).clone();
        held.spec.hold = true;
        let held = Arc::new(held);
        let fleet = Fleet::index([held.clone(), declared.clone()]);
        assert_eq!(fleet.find(&identity("52:54:00:00:00:01", None)), Found::Machine(declared.clone()));
        assert_eq!(fleet.find(&identity("52:54:00:00:00:0b", None)), Found::Machine(held.clone()));
        assert_eq!((fleet.conflicts(&declared).len(), fleet.conflicts(&held).len()), (0, 1));
    }

    #[test]
    fn identifiers_that_point_to_different_machines_are_a_conflict() {
        let fleet = Fleet::index([
            machine("a").mac("52:54:00:00:00:01").arc(),
            machine("b").uuid("3f0d2c5e-0000-4000-8000-000000000010").arc(),
        ]);
        let seen = identity("52:54:00:00:00:01", Some("3f0d2c5e-0000-4000-8000-000000000010"));
        assert_eq!(fleet.find(&seen), Found::Conflict(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn values_that_many_boards_share_name_nobody() {
        let zero = "00000000-0000-0000-0000-000000000000";
        let fleet = Fleet::index([
            machine("a").mac("52:54:00:00:00:01").uuid(zero).arc(),
            machine("b").mac("52:54:00:00:00:02").uuid(zero).serial("Default string").arc(),
        ]);
        let Found::Machine(found) = fleet.find(&identity("52:54:00:00:00:02", Some(zero))) else { panic!("b") };
        assert_eq!(found.name_any(), "b");
    }

    #[test]
    fn an_id_is_one_machine_s_and_any_other_is_near_one() {
        let key = CapabilityKey::new([7; 32]);
        let machines: Vec<_> = (0..100).map(|number| machine(&format!("m-{number}")).arc()).collect();
        let fleet = Fleet::index(machines.clone()).with_ids(&key);
        for machine in &machines {
            let id = key.machine_id(machine);
            assert!(Arc::ptr_eq(&fleet.by_id(&id, &key).unwrap(), machine));
            assert!(fleet.by_id(&id.to_uppercase(), &key).is_none_or(|_| id == id.to_uppercase()));
        }
        for id in ["", "0000000000000000", "ffffffffffffffff", "+000000000000001", "1", "00000000000000000"] {
            assert!(fleet.by_id(id, &key).is_none(), "{id}");
            assert!(matches!(fleet.near_id(id, &key), Some((_, false))), "{id}");
        }
        assert!(Fleet::default().near_id("0000000000000000", &key).is_none());
    }

    #[test]
    fn an_address_twice_in_one_machine_is_no_conflict() {
        let fleet = Fleet::index([machine("a").mac("52:54:00:00:00:01").mac("52-54-00-00-00-01").arc()]);
        assert!(matches!(fleet.find(&identity("52:54:00:00:00:01", None)), Found::Machine(_)));
    }
}
