//! What would be got, and where it would end.

use std::sync::Arc;

use magnetite_api::{
    Machine, MachineStatus,
    conditions::{Status, condition},
    machine::{IntentState, IntentStatus},
    time::seconds,
};
use rstest::rstest;

use super::*;
use crate::style::Style;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

/// The folder `catalog`, after a change of its text.
fn declared(name: &str, change: impl FnOnce(String) -> String) -> Declared {
    let folder = tempfile::tempdir().unwrap();
    let text = change(include_str!("catalog/site.yaml").to_owned());
    std::fs::write(folder.path().join("site.yaml"), text).unwrap();
    let declared = Declared::of_catalog(folder.path(), name, now()).unwrap();
    assert!(declared.problems.is_empty(), "{:?}", declared.problems);
    declared
}

fn of(declared: &Declared, kind: Kind) -> Preview {
    let supposed = Supposed { kind: Some(kind), address: [10, 0, 0, 1].into(), loaders: None };
    Preview::of(declared, &supposed, now())
}

fn text(preview: &Preview) -> String {
    preview.text(Show::All, Style::PLAIN)
}

#[test]
fn the_whole_chain_of_a_uefi_box() {
    let preview = of(&declared("r7-u01", |text| text), Kind::Uefi);
    assert_eq!(preview.failed, None);
    insta::assert_snapshot!("uefi", text(&preview));
    assert!(!text(&preview).contains("do-not-show"));
    let scripts = preview.text(Show::Script, Style::PLAIN);
    assert!(scripts.starts_with("Script: boots") && !scripts.contains("OFFER"), "{scripts}");
}

/// Each kind of box, and the loader that its firmware is told.
#[rstest]
#[case(Kind::Bios, "/undionly.kpxe\n")]
#[case(Kind::Uefi, "/snponly.efi\n")]
#[case(Kind::UefiHttp, "http://10.0.0.1:8080/ipxe/")]
#[case(Kind::Arm64, "/snponly-arm64.efi\n")]
#[case(Kind::Arm64Http, "/snponly-arm64.efi\n")]
fn each_kind_of_box(#[case] kind: Kind, #[case] file: &str) {
    let preview = of(&declared("r7-u01", |text| text), kind);
    assert_eq!(preview.failed, None);
    assert!(preview.stages[0].text.contains(file), "{}", preview.stages[0].text);
    assert!(preview.stages[1].text.contains("/(capability)/"), "{}", preview.stages[1].text);
    let arm = matches!(kind, Kind::Arm64 | Kind::Arm64Http);
    assert_eq!(text(&preview).contains("flatcar/arm64"), arm);
}

#[test]
fn firmware_that_asks_on_4011() {
    let preview = of(&declared("arm-1", |text| text), Kind::Arm64);
    insta::assert_snapshot!("boot_server_dialect", preview.stages[0].text);
}

#[test]
fn templates_are_shown_without_what_looks_secret() {
    let templates = "  templates:\n    user-data: {inline: \"#cloud-config\\nhostname: {{ machine.node_name }}\\npassword: do-not-show\\n\"}\n    ks.cfg: {configMap: {name: flatcar, key: ks}}\n";
    let kickstart = "  ks: |\n    rootpw do-not-show\n    # {{ agent.report_url }}\n";
    let change = |text: String| {
        text.replace("  ignition:\n    configMap", &format!("{templates}  ignition:\n    configMap")) + kickstart
    };
    let preview = of(&declared("r7-u01", change), Kind::Uefi);
    assert_eq!(preview.failed, None);
    let shown = preview.text(Show::Templates, Style::PLAIN);
    insta::assert_snapshot!("templates", shown);
    assert!(!shown.contains("do-not-show"));
    let broken =
        of(&declared("r7-u01", |text| change(text).replace("machine.node_name", "machine.nothing")), Kind::Uefi);
    assert_eq!(broken.failed.unwrap().stage, "templates");
}

/// A Machine, a change of the folder, where its chain ends and what is said.
#[rstest]
#[case("lost", "", "", "script", "no Profile's selector")]
#[case("twin", "", "", "DHCP answer to the firmware", "twin")]
#[case("by-serial", "", "", "DHCP answer to the firmware", "--identify-by-serial")]
#[case("r7-u01", "vars.rack", "vars.rock", "Ignition config", "spec.ignition.configMap")]
#[case("r7-u01", "name: flatcar, key: ignition", "name: flatcar, key: other", "Ignition config", "does not exist")]
#[case("r7-u01", "boot.ignition_url", "boot.nothing", "script", "spec.boot.x86_64.commandLine[1]")]
#[case("r7-u01", "mode: None", "mode: Certificate", "join", "cannot issue a certificate")]
fn where_a_chain_ends(
    #[case] name: &str,
    #[case] from: &str,
    #[case] to: &str,
    #[case] stage: &str,
    #[case] why: &str,
) {
    let declared = declared(name, |text| if from.is_empty() { text } else { text.replace(from, to) });
    let failed = of(&declared, Kind::Uefi).failed.unwrap();
    assert_eq!(failed.stage, stage, "{}", failed.why);
    assert!(failed.why.contains(why), "{}", failed.why);
}

#[test]
fn a_loader_that_the_boot_server_lacks() {
    let declared = declared("r7-u01", |text| text);
    let with = |names: &[&str]| {
        let loaders = Some(names.iter().map(|name| (*name).to_owned()).collect());
        Preview::of(&declared, &Supposed { kind: Some(Kind::Uefi), address: [10, 0, 0, 1].into(), loaders }, now())
    };
    assert!(with(&["ipxe.efi"]).stages[0].text.contains("/ipxe.efi\n"), "the next of the ladder");
    assert!(with(&["undionly.kpxe"]).failed.unwrap().why.contains("--ipxe-dir"));
}

/// The same in a cluster, with a status.
fn in_cluster(change: impl FnOnce(&mut MachineStatus)) -> Declared {
    let mut declared = declared("r7-u01", |text| text.replace("mode: None", "mode: Certificate"));
    let mut status = MachineStatus { intent: declared.intent.clone(), ..MachineStatus::default() };
    change(&mut status);
    let machine = Arc::make_mut(&mut declared.machine);
    machine.status = Some(status.clone());
    Declared { cluster: true, intent: status.intent, ..declared }
}

#[test]
fn the_join_of_a_cluster() {
    let preview = of(&in_cluster(|_| {}), Kind::Uefi);
    assert_eq!(preview.failed, None);
    insta::assert_snapshot!("join", preview.text(Show::Join, Style::PLAIN));
}

#[test]
fn a_window_that_is_closed_or_not_there_yet() {
    let closed = |intent: Option<IntentStatus>| in_cluster(|status| status.intent = intent);
    let expired = IntentStatus {
        id: "created".into(),
        state: IntentState::Expired,
        opened_at: seconds(now()),
        expires_at: seconds(now()),
    };
    // onReboot is Network: it boots the same system again.
    assert_eq!(of(&closed(Some(expired.clone())), Kind::Uefi).failed, None);
    let none = of(&closed(None), Kind::Uefi).failed.unwrap();
    assert!(none.stage == "script" && none.why.contains("has not opened a boot window"), "{none:?}");
    assert_eq!(of(&closed(None).opened(now()), Kind::Uefi).failed, None, "--open");
    let local = declared("r7-u01", |text| text.replace("onReboot: Network", "onReboot: Local"));
    let preview = of(&Declared { intent: Some(expired), ..local }, Kind::Uefi);
    assert_eq!((preview.failed, preview.stages.len()), (None, 3));
    assert!(preview.stages[2].text.contains("boots from its next device"), "{}", preview.stages[2].text);
}

#[test]
fn files_that_no_boot_server_has() {
    let message = "spec.boot.x86_64.kernel has another sum";
    let told = condition(&[], PROFILE_READY, Status::False, reason::ARTIFACT_FAILED, message, None, &seconds(now()));
    let failed = of(&in_cluster(|status| status.conditions.push(told)), Kind::Uefi).failed.unwrap();
    assert_eq!(
        (failed.stage, failed.why.as_str()),
        ("files", "ArtifactFailed: spec.boot.x86_64.kernel has another sum")
    );
}

#[test]
fn the_kind_of_box_that_was_seen_last_is_taken() {
    let record = include_str!("../timeline/records/uefi.json").replace("UEFI", "BIOS");
    let seen: crate::records::Remembered = serde_json::from_str(&record).unwrap();
    let mut declared = declared("r7-u01", |text| text.replace("3c:ec:ef:12:34:01", "52:54:00:30:00:11"));
    let machine: &mut Machine = Arc::make_mut(&mut declared.machine);
    machine.status = Some(MachineStatus { boot: Some(Box::new(seen.boot)), ..MachineStatus::default() });
    let supposed = Supposed { kind: None, address: [10, 0, 0, 1].into(), loaders: None };
    let preview = Preview::of(&declared, &supposed, now());
    assert!(preview.stages[0].text.contains("undionly.kpxe"), "{}", preview.stages[0].text);
}

#[test]
fn a_machine_that_is_not_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("site.yaml"), include_str!("catalog/site.yaml")).unwrap();
    std::fs::write(folder.path().join("bad.yaml"), "kind: [\n").unwrap();
    let error = Declared::of_catalog(folder.path(), "r7u01", now()).unwrap_err().to_string();
    assert!(error.contains("did you mean r7-u01?") && error.contains("1 of its documents"), "{error}");
}
