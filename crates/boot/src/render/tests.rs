//! Golden texts, and what must never be served.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::fixtures::{machine, profile};

const ARCH: Architecture = Architecture::X86_64;

fn links() -> Links {
    let base = "http://172.30.0.1:8080/m/0123456789abcdef/CAP".to_owned();
    Links { system: base.clone(), base }
}

#[test]
fn script_golden() {
    let m = machine("box-1").mac("52:54:00:30:00:10").variable("rack", "r7").arc();
    let p = profile("workers")
        .argument("ignition.config.url={{ boot.ignition_url }}")
        .argument("magnetite.root={{ files.rootfs }}")
        .argument("rack={{ vars.rack }}")
        .chosen();
    insta::assert_snapshot!(script(&p, &m, ARCH, &links()).unwrap());
    insta::assert_snapshot!("local", local_script(&m));
    insta::assert_snapshot!("wait", wait_script(&m, "the kernel is \"missing\" || reboot", 5, &links()));
}

#[test]
fn ignition_golden() {
    let m = machine("box-1").mac("52:54:00:30:00:10").arc();
    let p = profile("workers").chosen();
    let template = "ignition: {version: 3.3.0}\nstorage:\n  files:\n  - path: /etc/hostname\n    contents: {source: 'data:,{{ machine.node_name }}'}\n";
    let p2 = profile("workers").ignition(template).chosen();
    let with = ignition(&p2, &m, ARCH, Some(template), &links(), Some(&AgentLink::sample())).unwrap();
    let config: serde_json::Value = serde_json::from_str(&with).unwrap();
    insta::assert_json_snapshot!(config);
    let without = ignition(&p, &m, ARCH, None, &links(), Some(&AgentLink::sample())).unwrap();
    assert!(without.contains("magnetite-agent.service"));
}

/// Nothing of the Profile's own config is in the system that installs, and nothing of the installer in the one that stays.
#[test]
fn an_installer_has_its_task_and_nothing_of_the_profile() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let m = machine("box-1").mac("52:54:00:30:00:10").arc();
    let template =
        "ignition: {version: 3.3.0}\nstorage:\n  files:\n  - path: /etc/hostname\n    contents: {source: 'data:,x'}\n";
    let p = profile("workers").ignition(template).installing("rootfs").chosen();
    let config: Value =
        serde_json::from_str(&worker(&p, &m, ARCH, Some(&AgentLink::sample()), Task::Install).unwrap()).unwrap();
    let files = config["storage"]["files"].as_array().unwrap();
    let paths: Vec<_> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/opt/magnetite/magnetite-agent", "/etc/magnetite/agent.env"]);
    let environment = files[1]["contents"]["source"].as_str().unwrap().strip_prefix("data:;base64,").unwrap();
    let environment = String::from_utf8(STANDARD.decode(environment).unwrap()).unwrap();
    assert!(environment.contains("MAGNETITE_TASK=install\n"), "{environment}");
    assert!(worker(&p, &m, ARCH, None, Task::Wipe).unwrap_err().to_string().contains("--agent-dir"));
    let stays = ignition(&p, &m, ARCH, Some(template), &links(), Some(&AgentLink::sample())).unwrap();
    assert!(stays.contains("/etc/hostname") && !stays.contains(&STANDARD.encode(&environment)));
}

#[test]
fn a_box_that_has_to_prove_its_tpm_is_told_so() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use magnetite_api::{
        Sha256,
        machine::IdentityLevel,
        time::seconds,
        tpm::{TpmSpec, TpmStatus},
    };
    let told = |change: &dyn Fn(&mut Machine), level| {
        let mut m = (*machine("box-1").arc()).clone();
        change(&mut m);
        let mut p = (*profile("workers").chosen()).clone();
        p.spec.min_identity = level;
        let mut config = ignition::empty();
        ignition::add_agent(&mut config, &p, &m, &AgentLink::sample(), Task::Boot).unwrap();
        let source = config["storage"]["files"][1]["contents"]["source"].as_str().unwrap();
        let text = STANDARD.decode(source.strip_prefix("data:;base64,").unwrap()).unwrap();
        String::from_utf8(text).unwrap().contains("MAGNETITE_TPM=required\n")
    };
    let key = Sha256::of(b"ek");
    assert!(!told(&|_| {}, IdentityLevel::Mac) && !told(&|_| {}, IdentityLevel::Approved));
    assert!(told(&|_| {}, IdentityLevel::TpmPinned) && told(&|_| {}, IdentityLevel::TpmEnrolled));
    let declared = |m: &mut Machine| m.spec.tpm = Some(TpmSpec { endorsement_key: Some(key) });
    let pinned = |m: &mut Machine| {
        let pinned_at = seconds(jiff::Timestamp::UNIX_EPOCH);
        m.status.get_or_insert_default().tpm = Some(TpmStatus { endorsement_key: key, pinned_at });
    };
    assert!(told(&declared, IdentityLevel::Mac) && told(&pinned, IdentityLevel::Mac));
}

#[rstest]
#[case("{{ vars.nope }}", "spec.boot.x86_64.commandLine[1]: line 1: undefined value")]
#[case("{{ machine.nme }}", "undefined value")]
#[case("{{ machine.name", "syntax error")]
#[case("a b", "has ' ' in it")]
#[case("a\tb", "has '\\t' in it")]
#[case("{{ '||' }}", "ends a command")]
#[case("{{ ';' }}", "ends a command")]
#[case("#x", "comment")]
#[case("x\\", "backslash")]
#[case("{{ '' }}", "is empty")]
#[case("\"x\"", "has '\"' in it")]
#[case("ü", "has 'ü' in it")]
#[case("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", "fuel")]
fn a_bad_argument_is_named_and_never_served(#[case] argument: &str, #[case] want: &str) {
    let m = machine("box-1").arc();
    let error = script(&profile("p").argument(argument).chosen(), &m, ARCH, &links()).unwrap_err();
    assert!(error.to_string().contains(want), "{error}");
    assert!(error.field.ends_with("commandLine[1]"));
    assert!(dry_run(&profile("p").argument(argument).chosen(), &m, &Texts::default()).is_err());
}

#[rstest]
#[case("{", "is not JSON")]
#[case("variant: fcos\nversion: 1.5.0\n", "Butane")]
#[case("ignition: {version: 2.3.0}", "3.x is taken")]
#[case("storage: {}", "no ignition.version")]
#[case("[1]", "not an object")]
#[case("ignition: {version: 3.3.0}\nstorage: {files: [{path: /etc/magnetite/agent.env}]}", "needs for itself")]
#[case("ignition: {version: 3.3.0}\nsystemd: []", "not an object")]
fn a_bad_config_is_named_and_never_served(#[case] template: &str, #[case] want: &str) {
    let p = profile("p").ignition(template).chosen();
    let error = dry_run(&p, &machine("box-1").arc(), &Texts::inline(&p)).unwrap_err();
    assert!(error.to_string().contains(want), "{error}");
    assert_eq!(error.field, "spec.ignition.inline");
}

#[test]
fn a_mode_is_octal() {
    let template = "ignition: {version: 3.3.0}\nstorage: {files: [{path: /a, mode: 0644}, {path: /b, mode: 420}]}\n";
    let p = profile("p").ignition(template).chosen();
    let agent = AgentLink::sample();
    let config = ignition(&p, &machine("m").arc(), ARCH, Some(template), &links(), Some(&agent)).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let modes: Vec<_> =
        config["storage"]["files"].as_array().unwrap()[..2].iter().map(|file| file["mode"].to_string()).collect();
    assert_eq!(modes, ["420", "420"], "Ignition takes integers only");
}

#[test]
fn a_machine_s_variables_win() {
    let p = profile("p").variable("rack", "none").argument("rack={{ vars.rack }}").chosen();
    let of = |m| command_line(&p, &m, ARCH, &links()).unwrap()[1].clone();
    assert_eq!(of((*machine("a").arc()).clone()), "rack=none");
    assert_eq!(of((*machine("a").variable("rack", "r7").arc()).clone()), "rack=r7");
}

#[test]
fn nothing_outside_can_be_reached() {
    for template in
        ["{% include '/etc/passwd' %}", "{% import '/etc/passwd' as x %}", "{{ env('PATH') }}", "{{ cycler.__init__ }}"]
    {
        let p = profile("p").argument(template).chosen();
        assert!(script(&p, &machine("m").arc(), ARCH, &links()).is_err(), "{template}");
    }
}

mod payloads;

/// iPXE's own rules for a line, written down once more, apart from the code under test: split at white space;
/// `||`, `&&`, `;` end a command; a word that begins with `#` ends the line; a backslash at the end joins.
fn commands_as_ipxe_reads_them(script: &str) -> Vec<Vec<String>> {
    let joined = script.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in joined.lines().skip(1) {
        let words = line.split_ascii_whitespace().take_while(|word| !word.starts_with('#'));
        let mut command = Vec::new();
        for word in words {
            if matches!(word, "||" | "&&" | ";") {
                commands.push(std::mem::take(&mut command));
            } else {
                command.push(word.to_owned());
            }
        }
        if !command.is_empty() {
            commands.push(command);
        }
    }
    commands
}

/// Arguments that have all that a command is made of, and that the grammar allows: the lab has real iPXE read the same file.
const NASTY: &str = include_str!("../../../../tests/e2e/manifests/nasty-arguments.txt");

#[test]
fn nasty_arguments_that_are_allowed_stay_words() {
    assert!(NASTY.lines().count() >= 50);
    for in_variables in [false, true] {
        let (mut m, mut p) = (machine("m"), profile("p"));
        for (index, argument) in NASTY.lines().enumerate() {
            let template = if in_variables { format!("{{{{ vars.n{index} }}}}") } else { argument.to_owned() };
            m = m.variable(&format!("n{index}"), argument);
            p = p.argument(&template);
        }
        let commands = commands_as_ipxe_reads_them(&script(&p.chosen(), &m.arc(), ARCH, &links()).unwrap());
        let kernel = commands.iter().find(|command| command[0] == "kernel").unwrap();
        assert_eq!(kernel[kernel.len() - NASTY.lines().count()..], *NASTY.lines().collect::<Vec<_>>());
        let plain =
            commands_as_ipxe_reads_them(&script(&profile("p").chosen(), &machine("m").arc(), ARCH, &links()).unwrap());
        assert_eq!(words(&commands), words(&plain));
    }
}

/// What would be more than one word, or another command, is refused, whoever wrote it.
#[test]
fn nasty_arguments_that_are_refused() {
    let ends = ["||", "&&", ";", "#", "#x", "#||", "x\\", "\\", "||\\"];
    let splits = [
        " ", "\t", "\n", "\r", "\r\n", "\u{b}", "\u{c}", "\0", "\u{1b}", "\u{7f}", "\u{85}", "\u{a0}", "\u{2028}",
        "\u{feff}",
    ];
    let quotes = ["\"", "'", "`"];
    let split =
        splits.iter().chain(&quotes).flat_map(|c| [format!("a{c}b"), (*c).to_owned(), format!("{c}||{c}reboot")]);
    let refused: Vec<String> =
        ends.iter().map(|end| (*end).to_owned()).chain(split).chain([String::new(), "x".repeat(1025)]).collect();
    assert!(refused.len() >= 50);
    for argument in refused {
        let m = machine("m").variable("nasty", &argument).arc();
        let p = profile("p").argument("{{ vars.nasty }}").chosen();
        let error = script(&p, &m, ARCH, &links()).unwrap_err();
        assert_eq!(error.field, "spec.boot.x86_64.commandLine[1]", "{argument:?}");
    }
}

/// The first words of commands.
fn words(commands: &[Vec<String>]) -> Vec<&str> {
    commands.iter().map(|command| command[0].as_str()).collect()
}

/// One word, as a rule, of anything, or of what commands are made of; now and then any text, which most often is refused.
fn made_up_argument() -> impl Strategy<Value = String> {
    let pieces = r"(\|\||&&|;|#|\\|\$|\{|\}|\||&|reboot|chain|goto|=|--|:|!|%0a|\\n|a){1,5}";
    prop_oneof![4 => "[!-~]{1,12}", 4 => pieces, 1 => "[ -~\t\r\n\\\\#;&|\"']{1,12}"]
}

/// How many Profiles are made up. `MAGNETITE_MADE_UP_PROFILES=1000000 cargo test -p magnetite-boot no_argument` is minutes.
fn made_up_profiles() -> ProptestConfig {
    let wanted = std::env::var("MAGNETITE_MADE_UP_PROFILES").ok();
    ProptestConfig::with_cases(wanted.map_or(20_000, |number| number.parse().expect("a number of Profiles")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What is not given to the template engine is what the engine would have made of it.
    #[test]
    fn plain_text_renders_to_itself(template in "[ -~\\t\\r\\n]{0,12}") {
        if is_plain(&template) {
            prop_assert_eq!(templates::render(&template, &context! {}).unwrap(), template);
        }
    }
}

proptest! {
    #![proptest_config(made_up_profiles())]

    /// S11: whatever a Profile's author writes, the script has the commands that were meant and no others.
    #[test]
    fn no_argument_becomes_a_command(arguments in prop::collection::vec(made_up_argument(), 0..4), name in "[a-z]{1,8}") {
        let m = machine(&name).arc();
        let mut p = profile("p");
        for argument in &arguments {
            p = p.argument(argument);
        }
        if let Ok(text) = script(&p.chosen(), &m, ARCH, &links()) {
            let commands = commands_as_ipxe_reads_them(&text);
            let plain = commands_as_ipxe_reads_them(&script(&profile("p").chosen(), &m, ARCH, &links()).unwrap());
            prop_assert_eq!(commands.len(), plain.len());
            for (index, (got, want)) in commands.iter().zip(&plain).enumerate() {
                prop_assert_eq!(&got[0], &want[0], "command {}", index);
                if got[0] == "kernel" {
                    prop_assert_eq!(got.len(), want.len() + arguments.len());
                }
            }
        }
    }
}
