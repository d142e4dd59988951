//! A Profile's templates, and a Machine's variables: arguments of the kernel, and an Ignition config.

use magnetite_api::{
    Architecture, Machine, MachineSpec, Profile, ProfileSpec,
    profile::{ArchBoot, BootSpec, IgnitionSource, JoinMode, JoinSpec},
};
use magnetite_boot::{
    render::{self, Links},
    select::Chosen,
};
use serde_json::Value;

/// Between the parts of an input: the argument, the config, the value of a variable.
pub const SEPARATOR: u8 = 0x1e;
/// The engine bounds steps and the length of what comes out, and not what is held on the way: each of these can double a text. So many are
/// tried that a hundred megabytes are not reached.
const GROWTH: &[u8] = b"~*+";
const MOST_GROWTH: usize = 6;
/// Longer numbers ask for a text of that length by themselves.
const MOST_DIGITS: usize = 4;

/// Whatever renders is what is served: words of one command each, and a config of a version that Ignition knows.
pub fn check(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut parts = text.splitn(3, char::from(SEPARATOR));
    let (argument, config, variable) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if grows(argument) || grows(config) {
        return;
    }
    let (profile, machine) = (profile(argument, config), machine(variable));
    let base = "http://192.0.2.1:8080/m/0000000000000000/AAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned();
    let links = Links { system: base.clone(), base };
    let architecture = Architecture::X86_64;
    if let Ok(script) = render::script(&profile, &machine, architecture, &links) {
        let kernel: Vec<_> = script.lines().filter(|line| line.starts_with("kernel ")).collect();
        let [kernel] = kernel.as_slice() else { panic!("{} lines begin with kernel", kernel.len()) };
        // The URL before it, and `|| goto again` behind it, are ours.
        assert_eq!(kernel.split_ascii_whitespace().count(), 6, "{kernel:?}");
        assert!(kernel.split_ascii_whitespace().take(3).all(|word| !matches!(word, "||" | "&&" | ";")), "{kernel:?}");
        assert_eq!(script.lines().count(), 17, "{script}");
        assert!(script.lines().all(|line| !line.ends_with('\\')) && !script.contains(['\r', '\0']), "{script:?}");
    }
    if let Ok(served) = render::ignition(&profile, &machine, architecture, Some(config), &links, None) {
        let served: Value = serde_json::from_str(&served).expect("a config is JSON");
        assert!(served["ignition"]["version"].as_str().is_some_and(|version| version.starts_with("3.")));
    }
}

fn grows(template: &str) -> bool {
    let digits = template.split(|c: char| !c.is_ascii_digit() && c != '_').any(|run| run.len() > MOST_DIGITS);
    digits || template.bytes().filter(|byte| GROWTH.contains(byte)).count() > MOST_GROWTH
}

fn profile(argument: &str, config: &str) -> Chosen {
    let boot = ArchBoot { command_line: vec![argument.to_owned()], ..ArchBoot::default() };
    let spec = ProfileSpec {
        boot: BootSpec { x86_64: Some(boot), ..BootSpec::default() },
        ignition: Some(IgnitionSource { inline: Some(config.to_owned()), config_map: None }),
        join: JoinSpec { mode: JoinMode::None, ..JoinSpec::default() },
        ..ProfileSpec::default()
    };
    Chosen::new(Profile::new("p", spec).into())
}

fn machine(variable: &str) -> Machine {
    let variables = [("v".to_owned(), variable.to_owned())].into();
    Machine::new("box", MachineSpec { variables, serial: Some("PF3X01".to_owned()), ..MachineSpec::default() })
}
