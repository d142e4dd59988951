//! Boxes that nobody declared: what they get, what they tell, and what becomes of them.

use std::net::{IpAddr, Ipv4Addr};

use magnetite_api::{
    Architecture, Machine, MachineSpec, MachineStatus,
    install::{WipeState, WipeStatus},
    join::{Held, InventoryAnswer, InventoryRequest},
    machine::{DeletionPolicy, IntentState, IntentStatus, MaintenanceStage, MaintenanceStatus},
    power::PowerWanted,
    report::{Inventory, Nic},
    time::seconds,
};
use magnetite_boot::{
    fleet::{Fleet, Found, Identity},
    site::Site as Links,
};

use super::*;
use crate::{
    app::{App, Cluster},
    discovery::Discovery,
    fixtures::api,
    store::mirror::Trim,
};

const MAC: &str = "52:54:00:99:00:01";
const NAME: &str = "box-525400990001";

async fn site() -> Site {
    Site::with(|app| app.discovery = Discovery::of(Some("p"))).await
}

/// The box as it asks by DHCP.
fn found(app: &App) -> Found {
    let identity = Identity { mac: MAC.parse().ok(), ..Identity::default() };
    app.find(&app.view(), &identity, clock::now())
}

/// Its links: of the script and what that leads to, and of its agent.
fn links(site: &Site) -> (String, String) {
    let Found::Machine(machine) = found(&site.app) else { panic!("nobody") };
    let links: Links<'_> = site.app.site(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let now = crate::dhcp::unix(clock::now());
    let boot = links.links(&machine, Architecture::X86_64, None, now);
    let agent = links.agent_link(&machine, &boot, "sha512-00", None, now);
    let path = |url: &str| url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap();
    (path(&boot.base), path(&agent.server))
}

fn inventory() -> String {
    let nic = Nic { name: "eno1".into(), mac: MAC.parse().ok(), ..Nic::default() };
    let inventory = Inventory { serial: Some("S\u{1b}1".into()), nics: vec![nic], ..Inventory::default() };
    serde_json::to_string(&InventoryRequest { inventory }).unwrap()
}

async fn ask(site: &Site, agent: &str) -> InventoryAnswer {
    let answer = post(site, &format!("{agent}/inventory"), &inventory()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// What the agent is told by the Ignition config.
fn environment(config: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let config: serde_json::Value = serde_json::from_str(config).unwrap();
    let environment = config["storage"]["files"][1]["contents"]["source"].as_str().unwrap();
    String::from_utf8(STANDARD.decode(environment.strip_prefix("data:;base64,").unwrap()).unwrap()).unwrap()
}

/// A Machine of the box.
fn declare(site: &Site, change: impl Fn(&mut Machine)) {
    let spec = MachineSpec { macs: vec![MAC.parse().unwrap()], profile: Some("p".into()), ..MachineSpec::default() };
    let mut machine = Machine::new("gpu-7", spec);
    machine.metadata.uid = Some("uid-7".to_owned());
    change(&mut machine);
    // As a watch brings it.
    machine.trim();
    let old = Arc::new(site.machine.clone());
    site.change(|view| view.fleet = Arc::new(Fleet::index([Arc::clone(&old), Arc::new(machine.clone())])));
}

#[tokio::test]
async fn without_discovery_nobody_is_found() {
    let site = Site::new().await;
    assert_eq!(found(&site.app), Found::Unknown);
    let cap = site.app.key.mint(Purpose::Boot, &format!("held/{MAC}"), "discovery", u64::from(u32::MAX));
    let answer = get(&site, &format!("/m/held-525400990001/{cap}/x86_64/boot.ipxe")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "although the capability is good");
}

#[tokio::test]
async fn a_box_that_nobody_declares_boots_to_tell_what_it_is_made_of() {
    let site = site().await;
    let (boot, agent) = links(&site);
    let script = get(&site, &format!("{boot}/boot.ipxe")).await.text();
    assert!(script.contains(&format!("{boot}/kernel")) && script.contains(NAME), "{script}");
    assert_eq!(get(&site, &format!("{boot}/kernel")).await.body, KERNEL);
    let environment = environment(&get(&site, &format!("{boot}/config.ign")).await.text());
    assert!(environment.contains("MAGNETITE_TASK=inventory\n") && environment.contains(&agent), "{environment}");
    let told = ask(&site, &agent).await;
    assert_eq!((told.next, told.machine.as_str()), (Held::Wait, NAME));
    let entry = site.app.records.get(NAME).unwrap();
    assert_eq!(entry.inventory.unwrap().serial.as_deref(), Some("S 1"), "what a box says moves no cursor");
    assert!(entry.boot.step(BootStepName::Inventoried).is_some());
}

/// S8: it gets the system in memory, and nothing of a Machine's.
#[tokio::test]
async fn a_box_that_is_held_claims_installs_and_wipes_nothing() {
    let site = site().await;
    let (_, agent) = links(&site);
    for end in ["install/x86_64", "wipe"] {
        let answer =
            send(private(&site.app).into_router(), Request::get(format!("{agent}/{end}")).body(Body::empty()).unwrap());
        assert_eq!(answer.await.status, StatusCode::CONFLICT, "{end}");
    }
    let claim = post(&site, &format!("{agent}/claim"), "{}").await;
    assert!(claim.status.is_client_error() || claim.status.is_server_error(), "{}", claim.status);
    let files = Request::get(format!("{agent}/files")).body(Body::empty()).unwrap();
    assert_eq!(send(private(&site.app).into_router(), files).await.status, StatusCode::NOT_FOUND);
    assert!(site.app.records.get("box").is_none());
}

/// The link that the box has is the one that it had before anybody made a Machine of it.
#[tokio::test]
async fn a_box_goes_on_with_its_link_when_its_machine_is_made_and_until_it_is_to_be_something() {
    let site = Site::with(|app| {
        app.discovery = Discovery::of(Some("p"));
        app.cluster = api(|_| None);
    })
    .await;
    let (boot, agent) = links(&site);
    declare(&site, |machine| machine.spec.hold = true);
    assert_eq!(links(&site).0.split('/').nth(2), boot.split('/').nth(2), "the same id");
    assert_eq!(get(&site, &format!("{boot}/kernel")).await.body, KERNEL);
    let told = ask(&site, &agent).await;
    assert_eq!((told.next, told.machine.as_str()), (Held::Wait, "gpu-7"));
    assert_eq!(site.app.records.get("gpu-7").unwrap().uid, "uid-7");
    declare(&site, |_| {});
    assert_eq!(ask(&site, &agent).await.next, Held::Restart);
    for (method, path) in [("GET", format!("{boot}/kernel")), ("POST", format!("{agent}/report"))] {
        let request = Request::builder().method(method).uri(&path).body(Body::from("{}")).unwrap();
        let router = if method == "GET" { public(&site.app) } else { private(&site.app) }.into_router();
        assert_eq!(send(router, request).await.status, StatusCode::NOT_FOUND, "{path} is of no use any more");
    }
    // Its BMC is asked for nothing before it showed that it is this box's.
    declare(&site, |machine| {
        let bmc = serde_json::json!({ "redfish": { "url": "https://10.0.8.21" }, "credentials": "c" });
        machine.spec.bmc = Some(Box::new(serde_json::from_value(bmc).unwrap()));
        machine.spec.power = Some(PowerWanted::On);
    });
    assert_eq!(ask(&site, &agent).await.next, Held::PowerOff);
}

/// One that is deleted to be wiped is told to restart, and to nothing more by the link that it had as a held one.
#[tokio::test]
async fn a_box_that_was_held_is_let_go_to_be_wiped() {
    let site = Site::with(|app| {
        app.discovery = Discovery::of(Some("p"));
        app.cluster = api(|_| None);
    })
    .await;
    declare(&site, |machine| machine.spec.hold = true);
    let (boot, agent) = links(&site);
    declare(&site, |machine| {
        machine.spec.hold = true;
        machine.spec.deletion_policy = DeletionPolicy::Wipe;
        machine.metadata.deletion_timestamp = Some(seconds(clock::now()));
        let (intent, state, at) = ("wipe-1".to_owned(), WipeState::Waiting, seconds(clock::now()));
        let wipe = WipeStatus { intent, state, disks: Vec::new(), at, message: None };
        machine.status = Some(MachineStatus { wipe: Some(Box::new(wipe)), ..MachineStatus::default() });
    });
    assert_eq!(ask(&site, &agent).await.next, Held::Restart);
    assert_eq!(get(&site, &format!("{boot}/kernel")).await.status, StatusCode::NOT_FOUND);
    let wipe = Request::get(format!("{agent}/wipe")).body(Body::empty()).unwrap();
    assert_eq!(send(private(&site.app).into_router(), wipe).await.status, StatusCode::NOT_FOUND);
}

/// It boots its own Profile's system to wait in it, with no `--discovery`, and what it runs there is no revision of anything.
#[tokio::test]
async fn a_machine_out_of_service_waits_in_memory_until_it_is_let_go() {
    let site = Site::with(|app| app.cluster = api(|_| None)).await;
    let out = |machine: &mut Machine| {
        let at = seconds(clock::now());
        let (id, stage) = ("maintenance-1".to_owned(), MaintenanceStage::Restarting);
        let maintenance = MaintenanceStatus { id, stage, since: at.clone() };
        let (id, state) = ("created".to_owned(), IntentState::Fulfilled);
        let intent = IntentStatus { id, state, opened_at: at.clone(), expires_at: at };
        let (maintenance, intent) = (Some(Box::new(maintenance)), Some(intent));
        machine.status = Some(MachineStatus { maintenance, intent, ..MachineStatus::default() });
    };
    declare(&site, out);
    let (boot, agent) = links(&site);
    let script = get(&site, &format!("{boot}/boot.ipxe")).await.text();
    assert!(script.contains("kernel"), "{script}");
    let config = get(&site, &format!("{boot}/config.ign")).await.text();
    assert!(environment(&config).contains("MAGNETITE_TASK=inventory\n"), "{config}");
    let told = ask(&site, &agent).await;
    assert!(told.next == Held::Wait && told.message.contains("maintenance gpu-7 --off"), "{told:?}");
    let boot = site.app.records.get("gpu-7").unwrap();
    assert_eq!(boot.boot.revision, None, "it does not run its Profile");
    declare(&site, |machine| {
        out(machine);
        machine.status.as_mut().unwrap().maintenance = None;
        let bmc = serde_json::json!({ "redfish": { "url": "https://10.0.8.21" }, "credentials": "c" });
        machine.spec.bmc = Some(Box::new(serde_json::from_value(bmc).unwrap()));
        machine.spec.power = Some(PowerWanted::On);
    });
    assert_eq!(ask(&site, &agent).await.next, Held::Restart, "to the system on its disk, for which no BMC is needed");
}

#[tokio::test]
async fn a_box_that_is_held_by_hand_is_known_as_its_machine() {
    let site = site().await;
    declare(&site, |machine| machine.spec.hold = true);
    let Found::Machine(machine) = found(&site.app) else { panic!() };
    assert_eq!(machine.metadata.name.as_deref(), Some("gpu-7"));
    let (boot, _) = links(&site);
    assert!(get(&site, &format!("{boot}/boot.ipxe")).await.text().contains("gpu-7"));
    // Without discovery there is nothing that it could boot, and it is told so.
    let blind = Site::new().await;
    declare(&blind, |machine| machine.spec.hold = true);
    let (boot, _) = links(&blind);
    let script = get(&blind, &format!("{boot}/boot.ipxe")).await.text();
    assert!(script.contains("--discovery") && script.contains("kubectl magnetite approve"), "{script}");
}

#[tokio::test]
async fn without_a_cluster_it_restarts_although_a_bmc_is_named() {
    let site = site().await;
    assert!(matches!(site.app.cluster, Cluster::None(_)));
    let (_, agent) = links(&site);
    declare(&site, |machine| {
        let bmc = serde_json::json!({ "redfish": { "url": "https://10.0.8.21" }, "credentials": "c" });
        machine.spec.bmc = Some(Box::new(serde_json::from_value(bmc).unwrap()));
        machine.spec.power = Some(PowerWanted::On);
    });
    assert_eq!(ask(&site, &agent).await.next, Held::Restart);
}
