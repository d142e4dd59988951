//! The path and the query of an HTTP request: machine id, capability, architecture, and what iPXE says of a box that nobody
//! declared.

use std::{fmt::Display, str::FromStr};

use magnetite_api::{
    Architecture, MacAddr, Machine, MachineSpec, MachineUuid, Sha256,
    types::{Ipv4Cidr, serial_is_bogus},
};
use magnetite_boot::{
    capability::{CapabilityKey, Purpose},
    command_line::for_echo,
    fleet::{Fleet, Found, Identity},
};
use serde::{Deserialize, de::DeserializeOwned};

/// Unix seconds.
pub const NOW: u64 = 1_700_000_000;
/// What the one Machine is bound by.
pub const MACHINE_KEY: &str = "3b241101-e2bb-4255-8caf-4136c566a962";
/// Its intent.
pub const INTENT: &str = "created";

/// The boot server's key.
pub fn key() -> CapabilityKey {
    CapabilityKey::new([7; 32])
}

/// The one Machine that is declared.
pub fn machine() -> Machine {
    let spec = MachineSpec {
        macs: vec![MacAddr([0x52, 0x54, 0, 0x30, 0, 0x10])],
        uuid: Some(MachineUuid(*b"\x3f\x0d\x2c\x5e\0\0\x40\0\x80\0\0\0\0\0\0\x10")),
        serial: Some("PF3X01".to_owned()),
        ..MachineSpec::default()
    };
    let mut machine = Machine::new("box", spec);
    machine.metadata.uid = Some(MACHINE_KEY.to_owned());
    machine
}

/// The fields of the boot server's `/identify`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    mac: String,
    uuid: String,
    serial: String,
}

/// Only what was minted opens anything; only what is declared is found; what is echoed is words.
pub fn check(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let (key, machine) = (key(), machine());
    let fleet = Fleet::index([machine.clone().into()]);
    for word in path.split('/') {
        capability(&key, word);
        values(word);
        assert_eq!(fleet.by_id(word, &key).is_some(), word == key.machine_id(&machine));
    }
    if let Ok(asked) = serde_urlencoded::from_str::<Asked>(query) {
        identify(&fleet, &machine, asked);
    }
}

/// A capability that passes is, to the letter, the one that we would mint for the same purpose and time.
fn capability(key: &CapabilityKey, word: &str) {
    // The expiry stands in the first 32 bits, which are five letters and a third of the sixth.
    let expires =
        word.bytes().take(6).try_fold(0u64, |bits, letter| Some(bits << 6 | digit(letter)?)).map(|bits| bits >> 4);
    for purpose in [Purpose::Boot, Purpose::Agent] {
        let minted = |expires| NOW <= expires && key.mint(purpose, MACHINE_KEY, INTENT, expires) == word;
        let good = key.check(word, purpose, MACHINE_KEY, INTENT, NOW);
        assert_eq!(good, expires.is_some_and(minted), "{word:?} for {purpose:?}");
        assert!(!key.check(word, purpose, "another", INTENT, NOW), "{word:?} opens another machine");
    }
}

fn digit(letter: u8) -> Option<u64> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    LETTERS.iter().position(|other| *other == letter).map(|at| at as u64)
}

fn values(word: &str) {
    if let Some(mac) = value::<MacAddr>(word) {
        assert_eq!(mac, word.replace('-', ":").to_ascii_lowercase());
    }
    if let Some(cidr) = value::<Ipv4Cidr>(word) {
        // Rust's own parser is stricter than most: no zero before a number, so there is one way to write it.
        assert_eq!(cidr.split('/').next(), word.split('/').next());
    }
    for written in [value::<MachineUuid>(word), value::<Sha256>(word)].into_iter().flatten() {
        assert_eq!(written, word.to_ascii_lowercase());
    }
    if let Ok(architecture) = Architecture::from_str(word) {
        assert_eq!(architecture.as_str().parse(), Ok(architecture));
    }
}

/// A value as it is written, if it is one; in JSON it is the same one, or none either.
fn value<T: FromStr + Display + PartialEq + DeserializeOwned>(word: &str) -> Option<String> {
    let value = word.parse::<T>().ok();
    assert!(serde_json::from_value::<T>(word.into()).ok() == value, "{word:?} in JSON");
    let written = value.as_ref()?.to_string();
    assert!(written.parse().ok() == value && written.len() <= 64, "{word:?} is written {written:?}");
    Some(written)
}

fn identify(fleet: &Fleet, machine: &Machine, asked: Asked) {
    let Asked { mac, uuid, serial } = asked;
    for word in [&mac, &uuid, &serial] {
        values(word);
        let echoed = for_echo(word);
        let plain = |c: char| c.is_ascii_alphanumeric() || " .,:/()-_=".contains(c);
        assert!(echoed.len() <= 200 && echoed.chars().all(plain), "{echoed:?} could be a command of iPXE");
    }
    let identity = Identity { mac: mac.parse().ok(), uuid: uuid.parse().ok(), serial: Some(serial.clone()) };
    let spec = &machine.spec;
    let declared = identity.mac.is_some_and(|mac| spec.macs.contains(&mac))
        || identity.uuid.is_some_and(|uuid| spec.uuid == Some(uuid))
        || spec.serial.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(serial.trim()));
    assert_eq!(fleet.find(&identity), if declared { Found::Machine(machine.clone().into()) } else { Found::Unknown });
    assert!(!(declared && serial_is_bogus(&serial)) || identity.mac.is_some() || identity.uuid.is_some());
}
