//! The rules of the schema, one test a rule, evaluated by kube's own CEL: what the API server would refuse.

use rstest::rstest;
use serde_json::{Value, json};

use crate::{Machine, MachineClaim, Profile};

fn machine(spec: Value) -> Machine {
    named_machine("box-1", spec)
}

fn named_machine(name: &str, spec: Value) -> Machine {
    let object = json!({
        "apiVersion": "magnetite.dev/v1alpha1", "kind": "Machine", "metadata": { "name": name }, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// For aarch64: kube-cel 0.8 takes `has(self.x86_64)` for false (a digit before the underscore), where a real API
/// server takes it for true; the scenario `schema` of the lab applies Profiles for x86_64 to a real one.
fn profile(change: impl Fn(&mut Value)) -> Profile {
    let mut spec = json!({ "boot": { "aarch64": { "kernel": { "file": "vmlinuz", "sha256": "0".repeat(64) } } } });
    change(&mut spec);
    let object = json!({
        "apiVersion": "magnetite.dev/v1alpha1", "kind": "Profile", "metadata": { "name": "workers" }, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

const MAC: &str = "52:54:00:30:00:10";

#[rstest]
#[case(json!({ "macs": [MAC] }), None)]
#[case(json!({ "serial": "PF3X01" }), None)]
#[case(json!({ "uuid": "3f0d2c5e-0000-4000-8000-000000000010" }), None)]
#[case(json!({}), Some("at least one of spec.macs"))]
#[case(json!({ "macs": [] }), Some("at least one of spec.macs"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "rack": "r7" } }), None)]
#[case(json!({ "macs": [MAC], "nodeLabels": { "magnetite.dev/machine": "x" } }), Some("magnetite.dev/"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "node-role.kubernetes.io/control-plane": "" } }), Some("control-plane"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "node-role.kubernetes.io/master": "" } }), Some("control-plane"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "a b": "" } }), Some("no label's key"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "": "" } }), Some("no label's key"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "../x": "" } }), Some("no label's key"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "a/b/c": "" } }), Some("no label's key"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "Example.com/a": "" } }), Some("no label's key"))]
#[case(json!({ "macs": [MAC], "nodeLabels": { "example.com/a.b_c-d": "x" } }), None)]
#[case(json!({ "macs": [MAC], "nodeAnnotations": { "example.com/team": "storage: 1" } }), None)]
#[case(json!({ "macs": [MAC], "nodeAnnotations": { "magnetite.dev/restart": "x" } }), Some("magnetite.dev/"))]
#[case(json!({ "macs": [MAC], "nodeAnnotations": { "a b": "" } }), Some("no annotation's key"))]
#[case(json!({ "macs": [MAC], "bmc": redfish() }), None)]
#[case(json!({ "macs": [MAC], "bmc": redfish(), "power": "On", "restart": { "id": "a" } }), None)]
#[case(json!({ "macs": [MAC], "power": "On" }), Some("need spec.bmc"))]
#[case(json!({ "macs": [MAC], "restart": { "id": "a" } }), Some("need spec.bmc"))]
fn machine_rules(#[case] spec: Value, #[case] refused: Option<&str>) {
    check(machine(spec).validate_cel().err(), refused);
}

fn redfish() -> Value {
    json!({ "redfish": { "url": "https://10.0.8.21" }, "credentials": "bmc" })
}

#[rstest]
#[case(redfish(), None)]
#[case(json!({ "ipmi": { "host": "10.0.8.21" }, "credentials": "bmc" }), None)]
#[case(json!({ "credentials": "bmc" }), Some("exactly one of redfish and ipmi"))]
#[case(json!({ "redfish": { "url": "https://a" }, "ipmi": { "host": "a" }, "credentials": "bmc" }), Some("exactly one of redfish and ipmi"))]
fn a_bmc_speaks_one_language(#[case] bmc: Value, #[case] refused: Option<&str>) {
    check(machine(json!({ "macs": [MAC], "bmc": bmc })).validate_cel().err(), refused);
}

#[test]
fn what_a_bmc_s_fields_are_when_nobody_says() {
    let bmc: crate::power::BmcSpec =
        serde_json::from_value(json!({ "ipmi": { "host": "b" }, "credentials": "c" })).unwrap();
    assert_eq!((bmc.shutdown_seconds, bmc.ipmi.map(|ipmi| (ipmi.port, ipmi.efi))), (300, Some((623, false))));
    let bmc: crate::power::RedfishSpec = serde_json::from_value(json!({ "url": "https://b" })).unwrap();
    assert_eq!((bmc.network_boot, bmc.insecure_skip_tls_verify), (crate::power::NetworkBoot::Pxe, false));
    let restart: crate::power::RestartSpec = serde_json::from_value(json!({ "id": "a" })).unwrap();
    assert_eq!(restart.how, crate::power::RestartHow::Cycle);
}

#[rstest]
#[case("box-1", None)]
#[case("box.example.com", Some("DNS label"))]
#[case(&"a".repeat(64), Some("DNS label"))]
#[case("-a", Some("DNS label"))]
#[case("a-", Some("DNS label"))]
#[case("A", Some("DNS label"))]
fn a_machine_s_name_is_a_label(#[case] name: &str, #[case] refused: Option<&str>) {
    check(named_machine(name, json!({ "macs": [MAC] })).validate_cel().err(), refused);
}

#[rstest]
#[case(json!({ "macs": [MAC] }), json!({ "macs": [MAC], "nodeName": "n" }), Some("immutable"))]
#[case(json!({ "macs": [MAC], "nodeName": "n" }), json!({ "macs": [MAC] }), Some("immutable"))]
#[case(json!({ "macs": [MAC], "nodeName": "n" }), json!({ "macs": [MAC], "nodeName": "o" }), Some("immutable"))]
#[case(json!({ "macs": [MAC], "nodeName": "n" }), json!({ "macs": [MAC], "nodeName": "n", "bootIntent": "again" }), None)]
fn a_node_s_name_stays(#[case] before: Value, #[case] after: Value, #[case] refused: Option<&str>) {
    check(machine(after).validate_cel_update(&machine(before)).err(), refused);
}

#[test]
fn install_rules() {
    type Case<'a> = (&'a dyn Fn(&mut Value), Option<&'a str>);
    let cases: [Case<'_>; 8] = [
        (&|_| {}, None),
        (&|spec| spec["install"]["image"] = json!("other"), Some("install.image must name one of files")),
        (&|spec| spec["boot"]["onReboot"] = json!("Network"), Some("onReboot must be Local")),
        (&|spec| spec["install"]["disk"] = json!({ "minSizeGiB": 20, "maxSizeGiB": 10 }), Some("no disk can be both")),
        (&|spec| spec["install"]["disk"] = json!({ "minSizeGiB": 10, "maxSizeGiB": 10, "rotational": false }), None),
        (&|spec| spec["install"]["config"] = json!({ "path": "/config.ign" }), Some("exactly one of partitionLabel")),
        (&|spec| spec["install"]["config"] = json!({ "partitionLabel": "OEM", "path": "/config.ign" }), None),
        (
            &|spec| {
                let kind = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
                spec["install"]["config"] = json!({ "partitionLabel": "OEM", "partitionType": kind, "path": "/x" });
            },
            Some("exactly one of partitionLabel"),
        ),
    ];
    for (change, refused) in cases {
        let installing = |spec: &mut Value| {
            spec["boot"]["aarch64"]["files"] = files("disk");
            spec["install"] = json!({ "image": "disk" });
            change(spec);
        };
        check(profile(installing).validate_cel().err(), refused);
    }
}

#[test]
fn profile_rules() {
    type Case<'a> = (&'a dyn Fn(&mut Value), Option<&'a str>);
    let cases: [Case<'_>; 44] = [
        (&|_| {}, None),
        (&|spec| spec["boot"] = json!({}), Some("boot needs x86_64 or aarch64")),
        (&|spec| spec["boot"]["aarch64"]["kernel"]["url"] = json!("http://x/k"), Some("exactly one of url and file")),
        (
            &|spec| spec["boot"]["aarch64"]["kernel"] = json!({ "sha256": "0".repeat(64) }),
            Some("exactly one of url and file"),
        ),
        (
            &|spec| spec["boot"]["aarch64"]["initrds"] = json!([{ "sha256": "0".repeat(64) }]),
            Some("exactly one of url and file"),
        ),
        (&|spec| spec["selector"] = json!({}), Some("empty selector")),
        (&|spec| spec["selector"] = json!({ "matchLabels": {} }), Some("empty selector")),
        (&|spec| spec["selector"] = json!({ "matchLabels": { "a": "b" } }), None),
        (&|spec| spec["ignition"] = json!({}), Some("exactly one of inline and configMap")),
        (
            &|spec| spec["ignition"] = json!({ "inline": "{}", "configMap": { "name": "c", "key": "k" } }),
            Some("exactly one of inline and configMap"),
        ),
        (
            &|spec| {
                spec["templates"] =
                    json!({ "user-data": { "inline": "" }, "meta-data": { "configMap": { "name": "c" } } })
            },
            None,
        ),
        (&|spec| spec["templates"] = templates("ks.cfg"), None),
        (&|spec| spec["templates"] = templates(&"a".repeat(63)), None),
        (&|spec| spec["templates"] = templates(&"a".repeat(64)), Some("a template's name")),
        (&|spec| spec["templates"] = templates("../x"), Some("a template's name")),
        (&|spec| spec["templates"] = templates("User-Data"), Some("a template's name")),
        (&|spec| spec["templates"] = templates(""), Some("a template's name")),
        (&|spec| spec["templates"] = json!({ "x": {} }), Some("a template needs exactly one")),
        (
            &|spec| spec["templates"] = json!({ "x": { "inline": "", "configMap": { "name": "c", "key": "k" } } }),
            Some("a template needs exactly one"),
        ),
        (&|spec| spec["node"] = json!({ "labels": { "magnetite.dev/x": "" } }), Some("magnetite.dev/")),
        (&|spec| spec["node"] = json!({ "labels": { "node-role.kubernetes.io/master": "" } }), Some("control-plane")),
        (&|spec| spec["node"] = json!({ "labels": { "a b": "" } }), Some("no label's key")),
        (&|spec| spec["node"] = json!({ "annotations": { "magnetite.dev/x": "" } }), Some("magnetite.dev/")),
        (&|spec| spec["node"] = json!({ "annotations": { "a b": "" } }), Some("no annotation's key")),
        (&|spec| spec["node"] = json!({ "annotations": { "example.com/a": "b c" }, "facts": ["gpu"] }), None),
        (&|spec| spec["boot"]["aarch64"]["files"] = files("../x"), Some("a file's name")),
        (&|spec| spec["boot"]["aarch64"]["files"] = files("a/b"), Some("a file's name")),
        (&|spec| spec["boot"]["aarch64"]["files"] = files(""), Some("a file's name")),
        (&|spec| spec["boot"]["aarch64"]["files"] = files("root.squashfs"), None),
        (&|spec| spec["join"] = json!({ "kubeletArgs": ["--anonymous-auth=true"] }), Some("Magnetite's to set")),
        (&|spec| spec["join"] = json!({ "kubeletArgs": ["--v=4", "--config"] }), Some("Magnetite's to set")),
        (&|spec| spec["join"] = json!({ "kubeletArgs": ["--kubeconfig=/x"] }), Some("Magnetite's to set")),
        (&|spec| spec["join"] = json!({ "kubeletArgs": ["--hostname-override=x"] }), Some("Magnetite's to set")),
        (
            &|spec| spec["join"] = json!({ "kubeletArgs": ["--authorization-mode=AlwaysAllow"] }),
            Some("Magnetite's to set"),
        ),
        (
            &|spec| spec["join"] = json!({ "kubeletArgs": ["--authentication-token-webhook"] }),
            Some("Magnetite's to set"),
        ),
        (&|spec| spec["join"] = json!({ "kubeletArgs": ["--config-files=x"] }), None),
        (&|spec| spec["update"] = json!({}), None),
        (&|spec| spec["update"] = json!({ "maxUnavailable": 3 }), None),
        (&|spec| spec["update"] = json!({ "maxUnavailable": "10%" }), None),
        (&|spec| spec["update"] = json!({ "maxUnavailable": "100%" }), None),
        (&|spec| spec["update"] = json!({ "maxUnavailable": 0 }), Some("a number from 1")),
        (&|spec| spec["update"] = json!({ "maxUnavailable": "0%" }), Some("a number from 1")),
        (&|spec| spec["update"] = json!({ "maxUnavailable": "101%" }), Some("a number from 1")),
        (&|spec| spec["update"] = json!({ "maxUnavailable": "ten" }), Some("a number from 1")),
    ];
    for (index, (change, refused)) in cases.into_iter().enumerate() {
        eprintln!("case {index}");
        check(profile(change).validate_cel().err(), refused);
    }
}

#[test]
fn what_changes_nothing_of_a_boot_makes_no_revision() {
    let revision = |change: &dyn Fn(&mut Value)| profile(change).spec.revision();
    let plain = revision(&|_| {});
    assert_eq!(revision(&|spec| spec["update"] = json!({ "paused": true })), plain);
    assert_eq!(revision(&|spec| spec["selector"] = json!({ "matchLabels": { "a": "b" } })), plain);
    assert_eq!(revision(&|spec| spec["node"] = json!({ "labels": { "a": "b" } })), plain);
    assert_ne!(revision(&|spec| spec["variables"] = json!({ "a": "b" })), plain);
    let with =
        |text: &'static str| revision(&move |spec| spec["templates"] = json!({ "user-data": { "inline": text } }));
    assert_ne!(with("a"), plain);
    assert_ne!(with("a"), with("b"));
}

#[test]
fn an_update_is_an_intent_until_the_spec_names_another() {
    let at = "2026-11-21T12:00:00Z";
    let update = json!({
        "number": 2, "revision": "0123456789", "base": "created", "intent": "created.0123456789.2", "stage": "Booting",
        "since": at, "startedAt": at,
    });
    let with = |spec: Value| {
        let mut machine = machine(spec);
        machine.status = Some(serde_json::from_value(json!({ "update": update })).unwrap());
        machine.wanted_intent().to_owned()
    };
    assert_eq!(with(json!({ "macs": [MAC] })), "created.0123456789.2");
    assert_eq!(with(json!({ "macs": [MAC], "bootIntent": "again" })), "again");
}

/// One template of a name.
fn templates(name: &str) -> Value {
    json!({ name: { "inline": "x" } })
}

/// One further file of a name.
fn files(name: &str) -> Value {
    json!({ name: { "file": "x", "sha256": "0".repeat(64) } })
}

#[test]
fn a_claim_is_written_once() {
    let claim = |key: &str| -> MachineClaim {
        let spec = json!({
            "machine": "box-1", "machineUid": "u", "intent": "created", "claimKey": key,
            "certificateRequest": "x", "signature": "x", "address": "172.30.0.100", "server": "s",
        });
        let object = json!({
            "apiVersion": "magnetite.dev/v1alpha1", "kind": "MachineClaim", "metadata": { "name": "box-1-0" }, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    };
    check(claim("a").validate_cel_update(&claim("a")).err(), None);
    check(claim("b").validate_cel_update(&claim("a")).err(), Some("written once"));
}

fn check(error: Option<impl std::fmt::Display>, refused: Option<&str>) {
    match (error.map(|error| error.to_string()), refused) {
        (None, None) => {}
        (Some(error), Some(words)) => assert!(error.contains(words), "{error:?} does not say {words:?}"),
        (got, want) => panic!("{got:?}, wanted {want:?}"),
    }
}

/// Nothing in the schema may surprise an API server: every object has a type, and names are camelCase.
#[test]
fn short_names_do_not_collide_with_cluster_api() {
    use kube::CustomResourceExt;
    for crd in
        [Machine::crd(), Profile::crd(), MachineClaim::crd(), crate::BootReport::crd(), crate::DiscoveryRule::crd()]
    {
        let names = crd.spec.names;
        assert_eq!(names.categories, Some(vec!["magnetite".to_owned()]));
        for short in names.short_names.unwrap() {
            // Cluster API has ma, ms, md, mhc, mp, cl and more; ours all begin with mg.
            assert!(short.starts_with("mg"), "{short}");
        }
    }
}
