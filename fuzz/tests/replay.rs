//! Seeds and whatever was ever found, through the properties of their targets; no fuzzer is needed for it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use magnetite_fuzz::TARGETS;

fn folder(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(kind)
}

/// The inputs of a target, by name. A target without regressions has no folder for them.
fn inputs(kind: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder(kind).join(target)) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn every_seed_and_regression_holds() {
    for target in TARGETS {
        let seeds = inputs("corpus", target.name);
        assert!(!seeds.is_empty(), "fuzz/corpus/{} is empty; `cargo xtask fuzz --seed` fills it", target.name);
        for (name, bytes) in seeds.into_iter().chain(inputs("regressions", target.name)) {
            // The name is what a person needs when the property below panics.
            println!("{name}");
            (target.check)(&bytes);
        }
    }
}

/// Seeds that do not decode would leave the fuzzer to find a magic cookie by itself.
#[test]
fn most_seeds_get_past_the_first_check() {
    use magnetite_wire::{dhcp, tftp};
    let share = |target, reads: fn(&[u8]) -> bool| {
        let seeds = inputs("corpus", target);
        (seeds.iter().filter(|(_, bytes)| reads(bytes)).count(), seeds.len())
    };
    let (good, all) = share("dhcp", |bytes| dhcp::Packet::decode(bytes).is_ok());
    assert!(good * 10 >= all * 9, "dhcp: {good} of {all}");
    let (good, all) = share("tftp", |bytes| tftp::Packet::decode(bytes).is_ok());
    assert!(good * 10 >= all * 9, "tftp: {good} of {all}");
}

/// A folder or a binary that no target runs would be dead, and nobody would notice.
#[test]
fn targets_binaries_and_folders_are_the_same() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let binaries = fs::read_dir(folder("targets")).unwrap().map(|entry| entry.unwrap().path());
    let binaries: BTreeSet<String> =
        binaries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(binaries, names, "fuzz/targets");
    for entry in fs::read_dir(folder("dictionaries")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.contains(name), "fuzz/dictionaries/{name}.dict belongs to no target");
    }
    for kind in ["corpus", "regressions"] {
        for entry in fs::read_dir(folder(kind)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            assert!(!entry.path().is_dir() || names.contains(&name), "fuzz/{kind}/{name} belongs to no target");
        }
    }
}
