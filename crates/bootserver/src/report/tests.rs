//! What is written where, and how often.

use std::sync::Mutex;

use jiff::SignedDuration;
use magnetite_api::report::BootStepName;
use magnetite_daemon::clock;

use super::*;
use crate::{
    fixtures::{Call, Site, api, at, refusal, until},
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
    assert_eq!(names(&calls), ["box.test", "profile.p.test"]);
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
    assert_eq!(names(&calls), ["box.test", "profile.p.test"]);
    tokio::time::advance(SPACING).await;
    publisher.publish(&stop).await;
    assert_eq!(names(&calls).len(), 2);
    tokio::time::advance(REFUSED).await;
    publisher.publish(&stop).await;
    assert_eq!(names(&calls), ["box.test", "profile.p.test", "box.test"]);
    assert_eq!(site.counted(&site.app.metrics.reports, "refused"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_the_api_server_is_away_is_written_when_it_is_back() {
    let (calls, there) = (Calls::default(), Arc::new(Mutex::new(false)));
    let up = Arc::clone(&there);
    let answer = move |call: &Call| if *up.lock().unwrap() { written(call) } else { None };
    let site = Site::with(|app| app.cluster = taking(&calls, answer)).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(Arc::clone(&site.app), site.folder.path().to_owned(), stop.clone()));
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
    let calls = calls.lock().unwrap();
    let last = calls.iter().rev().find(|call| call.name == "box.test").unwrap();
    assert_eq!(last.body["spec"]["boot"]["steps"].as_array().unwrap().len(), 2, "nothing is lost");
}

#[tokio::test]
async fn an_orderly_end_writes_what_is_left_and_the_next_process_knows_it() {
    let site = Site::new().await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(Arc::clone(&site.app), site.folder.path().to_owned(), stop.clone()));
    let path = site.folder.path().join("machines/box.json");
    step(&site, BootStepName::AgentStarted);
    until("the first write", || path.exists()).await;
    step(&site, BootStepName::SystemBooted);
    stop.cancel();
    running.await.unwrap().unwrap();
    let known = remembered(site.folder.path());
    assert_eq!(known["box"].boot.steps.len(), 2);
    assert_eq!(known["box"].boot.server, "test");
    std::fs::write(&path, b"{").unwrap();
    assert!(remembered(site.folder.path()).is_empty(), "damage is said and forgotten");
}

#[tokio::test]
async fn who_is_not_declared_any_more_is_forgotten_after_a_day() {
    let site = Site::new().await;
    let gone = crate::fixtures::machine("gone");
    let day = SignedDuration::from_hours(25);
    site.app.records.step(&gone, BootStepName::FirmwareSeen, Detail::default(), clock::now() - day);
    site.app.records.step(
        &crate::fixtures::machine("new"),
        BootStepName::FirmwareSeen,
        Detail::default(),
        clock::now(),
    );
    site.app.records.step(&site.machine, BootStepName::FirmwareSeen, Detail::default(), at(0) - day);
    let mut disk = disk::Disk::new(Arc::clone(&site.app), site.folder.path()).unwrap();
    disk.write(&CancellationToken::new()).await;
    let left: Vec<_> = site.app.records.versions().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(left, ["box", "new"], "one that is declared stays, and so does one that is gone since today");
    assert!(!site.folder.path().join("machines/gone.json").exists());
}
