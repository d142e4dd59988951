//! Folders, good and bad.

use std::path::Path;

use magnetite_api::Architecture;
use magnetite_boot::{
    render::{self, AgentLink, Links, command_line, dry_run},
    select::Chosen,
};
use rstest::rstest;

use super::*;

const MACHINE: &str =
    "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {name: box}\nspec: {macs: ['52:54:00:30:00:10']}\n";

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn catalog(files: &[(&str, &str)]) -> Catalog {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), files);
    read(folder.path(), &stamps(folder.path()).unwrap())
}

#[test]
fn a_bad_document_is_named_with_its_place_and_the_others_are_served() {
    let text = format!(
        "{MACHINE}---\napiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {{name: bad}}\nspec:\n  macs: ['xx']\n--- # another\n{}",
        MACHINE.replace("box", "third").replace("10'", "11'")
    );
    let catalog = catalog(&[("a.yaml", &text), ("b.yml", "kind: [\n"), (".c.yaml", "{"), ("d.txt", "{")]);
    let names: Vec<_> = catalog.machines.iter().map(|machine| machine.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["box", "third"]);
    let [first, second] = &catalog.problems[..] else { panic!("{:?}", catalog.problems) };
    assert_eq!((first.file.as_str(), first.line, first.column), ("a.yaml", 10, 10), "{first}");
    assert!(first.message.starts_with("\"xx\" is not a MAC address"), "{first}");
    assert_eq!(second.file, "b.yml");
    assert_eq!(first.to_string(), format!("a.yaml:10:10: {}", first.message));
}

/// A document, the line of the fault in it, and words of it.
#[rstest]
#[case::no_metadata("kind: Machine\nspec: {serial: X1}\n", 3, "missing field `metadata`")]
#[case::no_name("kind: Machine\nmetadata: {}\nspec: {serial: X1}\n", 3, "metadata.name is missing")]
#[case::bad_name("kind: Machine\nmetadata:\n  name: ../../etc/x\nspec: {serial: X1}\n", 4, "not lower-case")]
#[case::long_name("kind: Machine\nmetadata:\n  name: a.b\nspec: {serial: X1}\n", 4, "DNS label")]
#[case::nobody("kind: Machine\nmetadata: {name: x}\nspec: {}\n", 4, "at least one of spec.macs")]
#[case::typo(
    "kind: Machine\nmetadata: {name: x}\nspec:\n  serial: X1\n  bootIntnet: a\n",
    6,
    "spec.bootIntnet: there is no such field"
)]
#[case::bounds(
    "kind: Machine\nmetadata: {name: x}\nspec:\n  serial: X1\n  bootWindowSeconds: 5\n",
    6,
    "not within 60 and 86400"
)]
#[case::intent("kind: Machine\nmetadata: {name: x}\nspec:\n  serial: X1\n  bootIntent: 'a b'\n", 6, "spec.bootIntent")]
#[case::no_boot("kind: Profile\nmetadata: {name: x}\nspec: {boot: {}}\n", 1, "needs x86_64 or aarch64")]
#[case::all("kind: Profile\nmetadata: {name: x}\nspec:\n  selector: {}\n  boot: {}\n", 5, "would select every Machine")]
#[case::outside(
    "kind: Profile\nmetadata: {name: x}\nspec:\n  boot:\n    x86_64:\n      kernel:\n        file: ../x\n        sha256: SUM\n",
    8,
    "not a path below"
)]
#[case::credentials(
    "kind: Profile\nmetadata: {name: x}\nspec:\n  boot:\n    x86_64:\n      kernel:\n        url: http://a:b@c/\n        sha256: SUM\n",
    8,
    "without credentials"
)]
#[case::template(
    "kind: Profile\nmetadata: {name: x}\nspec:\n  boot:\n    x86_64:\n      kernel: {file: k, sha256: SUM}\n      commandLine:\n      - a={{\n",
    8,
    "spec.boot.x86_64.commandLine[0]"
)]
#[case::no_image(
    "kind: Profile\nmetadata: {name: x}\nspec:\n  boot: {x86_64: {kernel: {file: k, sha256: SUM}}}\n  install:\n    image: disk\n",
    7,
    "none of spec.boot.x86_64.files"
)]
#[case::installed_and_live(
    "kind: Profile\nmetadata: {name: x}\nspec:\n  install: {image: disk}\n  boot:\n    x86_64: {kernel: {file: k, sha256: SUM}}\n    onReboot: Network\n",
    8,
    "must be Local"
)]
fn what_cannot_be_meant_is_refused(#[case] document: &str, #[case] line: u64, #[case] words: &str) {
    let text = format!("apiVersion: magnetite.dev/v1alpha1\n{}", document.replace("SUM", &"0".repeat(64)));
    let catalog = catalog(&[("a.yaml", &text)]);
    let problem = &catalog.problems[0];
    assert!(problem.message.contains(words), "{problem}");
    assert_eq!(problem.line, line, "{problem}");
    assert!(catalog.machines.is_empty() && catalog.profiles.is_empty());
}

#[test]
fn what_nobody_knows_and_what_is_there_twice() {
    let other = catalog(&[("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n")]);
    assert!(other.problems[0].message.contains("is not known here"), "{:?}", other.problems);
    let twice = catalog(&[("a.yaml", MACHINE), ("b.yaml", MACHINE), ("c.yaml", MACHINE)]);
    assert_eq!(twice.machines.len(), 1);
    assert!(twice.problems.iter().all(|problem| problem.message.contains("declared in a.yaml already")));
    assert_eq!(twice.problems.len(), 2);
}

#[test]
fn folders_in_folders_and_links_in_circles() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("racks/one/box.yaml", MACHINE)]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("racks/up")).unwrap();
    let stamps = stamps(folder.path()).unwrap();
    assert_eq!(stamps.len(), 1, "{stamps:?}");
}

const PAGE: &str = include_str!("../../../docs/templates.md");

/// The whole Profiles of the page on templates are taken as they stand, each renders for a machine, and what is YAML in them still is.
#[test]
fn the_examples_of_the_page_on_templates_render() {
    let blocks = PAGE.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let documents = std::iter::once(MACHINE).chain(blocks).collect::<Vec<_>>().join("---\n");
    let catalog = catalog(&[("page.yaml", &documents)]);
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    assert_eq!(catalog.profiles.len(), 4);
    let base = "http://192.0.2.1:8080/m/0/C/x86_64".to_owned();
    let links = Links { system: base.clone(), base };
    let (architecture, mut seeds) = (Architecture::X86_64, 0);
    for profile in &catalog.profiles {
        let (chosen, machine) = (Chosen::new(profile.clone()), &catalog.machines[0]);
        let found = texts(profile, &catalog.config_maps);
        dry_run(&chosen, machine, &found).unwrap();
        let arguments = command_line(&chosen, machine, architecture, &links).unwrap();
        for name in profile.spec.templates.keys() {
            let (folder, url) = (links.template(""), links.template(name));
            let named = |argument: &String| argument.ends_with(&folder) || argument.ends_with(&url);
            assert!(arguments.iter().any(named), "no argument leads to {name}: {arguments:?}");
        }
        let agent = AgentLink {
            url: "http://192.0.2.1:8080/agent".into(),
            verification: "sha512-00".into(),
            server: "https://192.0.2.1:8443/a/0/C".into(),
            pin: format!("sha256/{}", "0".repeat(64)),
            intent: "created".into(),
        };
        for name in ["user-data", "meta-data"].iter().filter(|name| found.templates.contains_key(**name)) {
            let source = template(profile, name, &catalog.config_maps);
            let text = render::template(&chosen, machine, architecture, (name, source), &links, Some(&agent)).unwrap();
            let seed: serde_json::Value =
                serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(seed.is_object(), "{text}");
            for file in seed["write_files"].as_array().into_iter().flatten() {
                assert!(
                    file["content"].as_str().unwrap().contains("\n[Service]\n")
                        || file["content"].as_str().unwrap().contains("\nMAGNETITE_PIN="),
                    "{file}"
                );
            }
            seeds += 1;
        }
    }
    assert_eq!(seeds, 4);
    // A boot server takes no other kind of body.
    let mut reports = PAGE.lines().filter(|line| line.contains("curl -") && line.contains("{{ agent.report_url }}"));
    assert!(reports.all(|line| line.contains("-H 'Content-Type: application/json'")));
}

#[test]
fn a_template_s_name_and_source_are_checked() {
    let profile = |templates: &str| {
        let boot = format!("boot: {{x86_64: {{kernel: {{file: k, sha256: '{}'}}}}}}", "0".repeat(64));
        format!(
            "apiVersion: magnetite.dev/v1alpha1\nkind: Profile\nmetadata: {{name: x}}\nspec:\n  {boot}\n  templates: {templates}\n"
        )
    };
    for (templates, words) in [
        ("{../x: {inline: a}}", "part of a URL"),
        ("{X: {inline: a}}", "part of a URL"),
        ("{x: {}}", "exactly one of inline and configMap"),
        ("{x: {inline: '{{ a'}}", "spec.templates[\"x\"].inline"),
    ] {
        let catalog = catalog(&[("a.yaml", &profile(templates))]);
        assert!(catalog.problems[0].message.contains(words), "{templates}: {:?}", catalog.problems);
    }
    let good = profile("{user-data: {inline: ''}, ks.cfg: {configMap: {name: a}}, x: {configMap: {name: a, key: b}}}");
    let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {ks.cfg: one, b: two}\n";
    let catalog = catalog(&[("a.yaml", &(good + map))]);
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    let found = texts(&catalog.profiles[0], &catalog.config_maps).templates;
    let found: Vec<_> = found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(found, [("ks.cfg", "one"), ("user-data", ""), ("x", "two")]);
}
