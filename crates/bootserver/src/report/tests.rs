//! What is written where, and how often.

use std::sync::Mutex;

use jiff::SignedDuration;
use magnetite_api::report::BootStepName;
use magnetite_daemon::clock;

use super::*;
use crate::{
    fixtures::{Call, Site, api, refusal, until},
    record::Detail,
};

type Calls = Arc<Mutex<Vec<Call>>>;

fn taking(
    calls: &Calls,
    answer: impl Fn(&Call) -> Option<(u16, serde_json::Value)> + Clone + Send + 'static,
) -> Cluster {
    let calls = Arc::clone(calls);
    api(move |call| {
        calls.lock().unwrap().push(call.clone());
        answer(&call)
    })
}

fn written(call: &Call) -> Option<(u16, serde_json::Value)> {
    Some((200, call.body.clone()))
}

fn names(calls: &Calls) -> Vec<String> {
    calls.lock().unwrap().iter().map(|call| call.name.clone()).collect()
}

fn step(site: &Site, name: BootStepName) {
    site.app.records.step(&site.machine, name, Detail::default(), clock::now());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_steps_is_one_write_and_the_next_comes_later() {
    let calls = Calls::default();
    let site = Site::with(|app| app.cluster = taking(&calls, written)).await;
    let mut publisher = Publisher::new(Arc::clone(&site.app));
    let stop = CancellationToken::new();
    for name in [BootStepName::FirmwareSeen, BootStepName::LoaderSent, BootStepName::ScriptServed] {
        step(&site, name);
    }
    publisher.publish(&stop).await;
    assert_eq!(names(&calls), ["profile.p.test", "box.test"]);
    step(&site, BootStepName::KernelFetched);
    let next = publisher.publish(&stop).await;
    assert_eq!(names(&calls).len(), 2, "too fresh");
    assert!(next <= Instant::now() + SPACING);
    tokio::time::advance(SPACING).await;
    publisher.publish(&stop).await;
    publisher.publish(&stop).await;
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 3, "and nothing is written that is written already");
    let last = &calls[2];
    assert_eq!((last.method.as_str(), last.name.as_str()), ("PATCH", "box.test"));
    assert_eq!(last.body["spec"]["boot"]["steps"].as_array().unwrap().len(), 4);
    assert_eq!(last.body["spec"]["server"], "test");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_holds_up_no_other_and_is_tried_again() {
    let calls = Calls::default();
    let answer = |call: &Call| if call.name == "box.test" { Some(refusal(422, "Invalid")) } else { written(call) };
    let site = Site::with(|app| app.cluster = taking(&calls, answer)).await;
    let mut publisher = Publisher::new(Arc::clone(&site.app));
    let stop = CancellationToken::new();
    step(&site, BootStepName::FirmwareSeen);
    publisher.publish(&stop).await;
    assert_eq!(names(&calls), ["profile.p.test", "box.test"]);
    tokio::time::advance(SPACING).await;
    publisher.publish(&stop).await;
    assert_eq!(names(&calls).len(), 2);
    tokio::time::advance(REFUSED).await;
    publisher.publish(&stop).await;
    assert_eq!(names(&calls), ["profile.p.test", "box.test", "box.test"]);
    assert_eq!(site.counted(&site.app.metrics.reports, "refused"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_the_api_server_is_away_is_written_when_it_is_back() {
    let (calls, there) = (Calls::default(), Arc::new(Mutex::new(false)));
    let up = Arc::clone(&there);
    let answer = move |call: &Call| if *up.lock().unwrap() { written(call) } else { None };
    let site = Site::with(|app| app.cluster = taking(&calls, answer)).await;
    let stop = CancellationToken::new();
    let reports = Arc::new(Reports::new(&site.app).unwrap());
    let running = tokio::spawn(Arc::clone(&reports).run(stop.clone()));
    step(&site, BootStepName::FirmwareSeen);
    until("a first attempt", || site.counted(&site.app.metrics.reports, "failed") > 0).await;
    step(&site, BootStepName::ScriptServed);
    *there.lock().unwrap() = true;
    while site.counted(&site.app.metrics.reports, "written") < 2 {
        tokio::time::advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    reports.finish().await;
    let calls = calls.lock().unwrap();
    let last = calls.iter().rev().find(|call| call.name == "box.test").unwrap();
    assert_eq!(last.body["spec"]["boot"]["steps"].as_array().unwrap().len(), 2, "nothing is lost");
}

#[tokio::test]
async fn an_orderly_end_writes_what_is_left_and_the_next_process_knows_it() {
    let site = Site::new().await;
    let stop = CancellationToken::new();
    let reports = Arc::new(Reports::new(&site.app).unwrap());
    let running = tokio::spawn(Arc::clone(&reports).run(stop.clone()));
    let path = site.folder.path().join("machines/box.json");
    step(&site, BootStepName::AgentStarted);
    until("the first write", || path.exists()).await;
    step(&site, BootStepName::SystemBooted);
    stop.cancel();
    running.await.unwrap().unwrap();
    // Who is served to the end is served after the stop.
    step(&site, BootStepName::NodeReady);
    reports.finish().await;
    let known = remembered(site.folder.path());
    assert_eq!(known["box"].boot.steps.len(), 3);
    assert_eq!(known["box"].boot.server, "test");
    std::fs::write(&path, b"{").unwrap();
    assert!(remembered(site.folder.path()).is_empty(), "damage is said and forgotten");
}

/// What the lab saw: a box said that it was installed while the record of its step before was being written.
#[tokio::test]
async fn two_who_write_one_record_at_once_leave_the_newest() {
    let site = Site::new().await;
    std::fs::create_dir_all(site.folder.path().join("machines")).unwrap();
    for count in 1..=100 {
        step(&site, BootStepName::Installing);
        let write = |synced| site.app.folder.write(&site.app, "box", synced);
        let later = async {
            tokio::task::yield_now().await;
            step(&site, BootStepName::Installed);
            write(false).await
        };
        let (first, second, third) = tokio::join!(write(false), write(true), later);
        let versions = [first.unwrap(), second.unwrap(), third.unwrap()];
        let newest = site.app.records.get("box").unwrap();
        assert_eq!(versions[2], Some(newest.version));
        let known = remembered(site.folder.path());
        assert_eq!(known["box"].boot.steps, newest.boot.steps, "round {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_not_declared_any_more_is_forgotten_after_a_day() {
    let site = Site::new().await;
    let gone = crate::fixtures::machine("gone");
    let long_ago = clock::now() - SignedDuration::from_hours(1000);
    for machine in [&gone, &site.machine] {
        site.app.records.step(machine, BootStepName::FirmwareSeen, Detail::default(), long_ago);
    }
    let mut disk = Disk::new(Arc::clone(&site.app)).unwrap();
    let file = site.folder.path().join("machines/gone.json");
    let left = || site.app.records.versions().into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    for hours in [0, 1, 22] {
        tokio::time::advance(Duration::from_hours(hours)).await;
        disk.write(&CancellationToken::new()).await;
        assert_eq!(left(), ["box", "gone"], "its file of the catalog may be broken for a while");
    }
    assert!(file.exists());
    tokio::time::advance(Duration::from_hours(2)).await;
    disk.write(&CancellationToken::new()).await;
    assert_eq!(left(), ["box"], "one that is declared stays, however long it was silent");
    assert!(!file.exists());
}

#[tokio::test(start_paused = true)]
async fn what_boots_now_does_not_wait_for_what_booted_before() {
    let calls = Calls::default();
    let site = Site::with(|app| app.cluster = taking(&calls, written)).await;
    let names_of = |from: usize| (from..from + 200).map(|number| format!("m{number:03}")).collect::<Vec<_>>();
    let machines: Vec<_> = names_of(0).iter().map(|name| crate::fixtures::machine(name)).collect();
    site.change(|view| {
        view.fleet = Arc::new(magnetite_boot::fleet::Fleet::index(machines.iter().cloned().map(Arc::new)));
    });
    for machine in &machines {
        site.app.records.step(machine, BootStepName::FirmwareSeen, Detail::default(), clock::now());
    }
    // As if an earlier process had written all of them.
    let known = machines.iter().map(|machine| {
        let name = machine.name_any();
        let entry = site.app.records.get(&name).unwrap();
        (name, Entry { version: 0, ..entry })
    });
    site.app.records.restore(known.collect());
    site.app.records.step(&machines[199], BootStepName::ScriptServed, Detail::default(), clock::now());
    let mut publisher = Publisher::new(Arc::clone(&site.app));
    publisher.publish(&CancellationToken::new()).await;
    assert_eq!(names(&calls)[..2], ["profile.p.test", "m199.test"]);
    assert_eq!(names(&calls).len(), 1 + A_PASS, "then it is looked again what is new");
    while publisher.publish(&CancellationToken::new()).await <= Instant::now() {}
    assert_eq!(names(&calls).len(), 201, "and none is left out");
    let mut disk = Disk::new(Arc::clone(&site.app)).unwrap();
    disk.write(&CancellationToken::new()).await;
    let files: Vec<_> = std::fs::read_dir(site.folder.path().join("machines")).unwrap().collect();
    assert_eq!(files.len(), 1, "what was read from the disk is there already");
}

/// Of a box nothing is told before it says what it is made of, and nothing more once there is a Machine of its address.
#[tokio::test(start_paused = true)]
async fn a_box_that_nobody_declares_is_told_of_until_somebody_does() {
    use magnetite_api::{MachineSpec, report::Inventory};
    let calls = Calls::default();
    let site = Site::with(|app| {
        app.cluster = taking(&calls, written);
        app.discovery = crate::discovery::Discovery::of(Some("p"));
    })
    .await;
    let mut publisher = Publisher::new(Arc::clone(&site.app));
    let stop = CancellationToken::new();
    let stranger = site.app.discovery.stand_in("52:54:00:99:00:01".parse().unwrap()).unwrap();
    site.app.records.step(&stranger, BootStepName::AgentStarted, Detail::default(), clock::now());
    publisher.publish(&stop).await;
    assert_eq!(names(&calls), ["profile.p.test"]);
    site.app.records.inventory(&stranger, Inventory { cpus: 4, ..Inventory::default() }, clock::now());
    publisher.publish(&stop).await;
    assert_eq!(names(&calls).last().map(String::as_str), Some("box-525400990001.discovery.test"));
    let report = calls.lock().unwrap().last().unwrap().body.clone();
    assert_eq!((&report["spec"]["subject"]["kind"], &report["spec"]["inventory"]["cpus"]), (&"Box".into(), &4.into()));
    let spec = MachineSpec { hold: true, ..stranger.spec.clone() };
    let mut made = Machine::new("gpu-7", spec);
    made.metadata.uid = Some("uid-7".to_owned());
    let own = Arc::new(site.machine.clone());
    site.change(|view| {
        let all = [Arc::clone(&own), Arc::new(made.clone())];
        view.fleet = Arc::new(magnetite_boot::fleet::Fleet::index(all));
    });
    site.app.records.inventory(&stranger, Inventory { cpus: 5, ..Inventory::default() }, clock::now());
    tokio::time::advance(SPACING).await;
    publisher.publish(&stop).await;
    assert_eq!(names(&calls).len(), 2, "it is the Machine's now");
}

/// Without a cluster a person finds a file of what could be declared.
#[tokio::test]
async fn a_box_that_is_found_without_a_cluster_is_a_file_that_can_be_declared() {
    let site = Site::with(|app| app.discovery = crate::discovery::Discovery::of(Some("p"))).await;
    let mut disk = Disk::new(Arc::clone(&site.app)).unwrap();
    let stranger = site.app.discovery.stand_in("52:54:00:99:00:01".parse().unwrap()).unwrap();
    let inventory =
        magnetite_api::report::Inventory { serial: Some("EX-1".into()), ..magnetite_api::report::Inventory::default() };
    site.app.records.inventory(&stranger, inventory, clock::now());
    disk.write(&CancellationToken::new()).await;
    let text = std::fs::read_to_string(site.folder.path().join("discovered/box-525400990001.yaml")).unwrap();
    assert!(text.contains("kind: Machine\n") && text.contains("- \"52:54:00:99:00:01\"\n"), "{text}");
    assert!(text.contains("serial: \"EX-1\"\n") && !text.contains("hold"), "{text}");
}
