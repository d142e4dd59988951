//! A changed Profile rolls through three boxes, one at a time, while a Deployment under a PodDisruptionBudget keeps its replicas; a
//! revision that does not boot stops after the first of them. The lab has no scheduler: it binds Pods to Nodes itself, to those
//! that take Pods, as the real one would.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::ensure;
use crate::guest::TEST_IMAGE;
use crate::kubectl::condition;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, Vm, VmSpec};

const PROFILE: &str = "workers";
/// A box boots in a minute where it has a processor to itself.
const LONG: Duration = Duration::from_secs(600);
/// Three boxes, one after the other.
const ROLL: Duration = Duration::from_secs(1500);
/// The window of the boot that fails: for the restart, and for what fails then.
const SHORT: u32 = 150;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("rollout"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let specs: Vec<_> = ["a", "b", "c"]
        .iter()
        .zip(0..)
        .map(|(name, port)| VmSpec::new(&format!("box-{name}"), Firmware::Bios, port).with_cpus(1).with_disk(64))
        .collect();
    let update = "  update:\n    strategy: RollingUpdate\n    minReadySeconds: 5\n    drainTimeoutSeconds: 300\n";
    site.apply(&format!("{}\n{update}", magnetite::profile(&prepared.guest)?.trim_end()))?;
    for spec in &specs {
        site.apply(&magnetite::machine(spec))?;
    }
    let step = progress.step("booting three boxes to Ready");
    let mut boxes: Vec<Vm> = specs.iter().map(|spec| site.machine(spec.clone())).collect::<Result<_>>()?;
    for machine in &mut boxes {
        machine.power_on()?;
    }
    for spec in &specs {
        magnetite::wait_phase(&mut site, &spec.name, "Ready", LONG).with_context(|| magnetite.last_words())?;
        step.note(format!("{} is Ready", spec.name));
    }
    let first = settled(&mut site, 3)?;
    step.done(format!("all run revision {first}"));

    let step = progress.step("running a Deployment of three under a PodDisruptionBudget of two");
    site.apply(&workload())?;
    site.wait_until("three replicas", Duration::from_secs(180), |site| {
        schedule(site)?;
        Ok((available(site)? == 3).then_some(()))
    })?;
    step.done("available");

    let step = progress.step("changing the Profile");
    site.kubectl(&["patch", "profile", PROFILE, "--type=merge", "-p", r#"{"spec":{"variables":{"release":"2"}}}"#])?;
    let begun = Instant::now();
    let mut watch = Watch::default();
    let second = site
        .wait_until("all three to run the new revision", ROLL, |site| {
            watch.look(site, |text| step.note(text))?;
            let profile = profile(site)?;
            let revision = text(&profile["status"]["revision"]);
            let done = revision != first
                && profile["status"]["upToDate"] == 3
                && profile["status"]["updating"].as_i64().unwrap_or(0) == 0;
            Ok(done.then_some(revision))
        })
        .with_context(|| format!("{}\n{}", overview(&site), magnetite.last_words()))?;
    ensure!(watch.most_updating == 1, "{} were updated at once", watch.most_updating);
    ensure!(watch.restarted.len() == 3, "not each of them restarted: {:?}", watch.restarted);
    let nodes = site.admin().json(&["get", "nodes"])?;
    for node in nodes["items"].as_array().context("nodes")? {
        ensure!(node["spec"]["unschedulable"].is_null(), "{} is left cordoned", node["metadata"]["name"]);
        ensure!(node["metadata"]["annotations"]["magnetite.dev/restart"].is_null(), "a restart is still asked for");
    }
    step.done(format!(
        "revision {second} on all, one at a time, in {} s; never fewer than {} replicas",
        begun.elapsed().as_secs(),
        watch.fewest
    ));
    stops(&mut site, binaries, &second, progress).with_context(|| magnetite.last_words())?;
    magnetite.check()
}

/// A revision that does not boot costs one box, and no more.
fn stops(site: &mut Site, binaries: &Binaries, good: &str, progress: &Progress) -> Result<()> {
    let step = progress.step("changing the Profile to one that does not boot");
    let short = format!(r#"{{"spec":{{"bootWindowSeconds":{SHORT}}}}}"#);
    for name in ["box-a", "box-b", "box-c"] {
        site.kubectl(&["patch", "machine", name, "--type=merge", "-p", &short])?;
    }
    let bad = r#"[{"op":"add","path":"/spec/boot/x86_64/commandLine/-","value":"rdinit=/nowhere"}]"#;
    site.kubectl(&["patch", "profile", PROFILE, "--type=json", "-p", bad])?;
    let mut watch = Watch::default();
    let message = site
        .wait_until("the rollout to stop", LONG, |site| {
            watch.look(site, |text| step.note(text))?;
            let profile = profile(site)?;
            let progressing = find(&profile, "Progressing");
            Ok((progressing["reason"] == "UpdateFailed").then(|| text(&progressing["message"])))
        })
        .with_context(|| overview(site))?;
    ensure!(message.contains("box-a: Booting did not end"), "it says: {message}");
    // It stays stopped, and the others stay as they are.
    for _ in 0..5 {
        watch.look(site, |_| {})?;
        std::thread::sleep(Duration::from_secs(1));
    }
    ensure!(watch.most_updating == 1, "{} were updated at once", watch.most_updating);
    for name in ["box-b", "box-c"] {
        let status = magnetite::machine_status(site, name)?;
        ensure!(status["bootedRevision"] == good, "{name} runs {}", status["bootedRevision"]);
        ensure!(status["phase"] == "Ready", "{name} is {}", status["phase"]);
    }
    let events = site.kubectl(&["get", "events", "-o", "json"])?;
    ensure!(events.contains("UpdateFailed"), "no Event says so");
    let shown = site.admin().plugin(&binaries.dir, "magnetite").args(["rollout", "status", PROFILE]).run();
    let error = shown.err().context("kubectl magnetite says that all is well")?;
    ensure!(format!("{error:#}").contains("UpdateFailed"), "{error:#}");
    step.done(format!("stopped after one: {message}"));
    Ok(())
}

/// What must hold all the time.
struct Watch {
    most_updating: usize,
    fewest: usize,
    restarted: BTreeMap<String, bool>,
    stages: BTreeMap<String, String>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { most_updating: 0, fewest: usize::MAX, restarted: BTreeMap::new(), stages: BTreeMap::new() }
    }
}

impl Watch {
    fn look(&mut self, site: &Site, note: impl Fn(String)) -> Result<()> {
        schedule(site)?;
        let available = available(site)?;
        self.fewest = self.fewest.min(available);
        ensure!(available >= 2, "only {available} of three replicas are available:\n{}", overview(site));
        let machines = site.admin().json(&["get", "machines"])?;
        let mut updating = 0;
        for machine in machines["items"].as_array().context("machines")? {
            let (name, stage) = (text(&machine["metadata"]["name"]), text(&machine["status"]["update"]["stage"]));
            updating += usize::from(["Draining", "Restarting", "Booting", "Settling"].contains(&stage.as_str()));
            if stage == "Booting" {
                self.restarted.insert(name.clone(), true);
            }
            if self.stages.insert(name.clone(), stage.clone()).as_ref() != Some(&stage) && !stage.is_empty() {
                note(format!("{name}: {stage}"));
            }
        }
        self.most_updating = self.most_updating.max(updating);
        ensure!(updating <= 1, "{updating} machines are being updated at once:\n{}", overview(site));
        Ok(())
    }
}

fn settled(site: &mut Site, machines: usize) -> Result<String> {
    site.wait_until("the Profile to say that all run it", Duration::from_secs(60), |site| {
        let profile = profile(site)?;
        let revision = text(&profile["status"]["revision"]);
        Ok((profile["status"]["upToDate"] == machines && !revision.is_empty()).then_some(revision))
    })
    .with_context(|| overview(site))
}

/// The Pods that have no Node get one that is Ready, takes Pods, and has the fewest.
fn schedule(site: &Site) -> Result<()> {
    let pods = site.admin().json(&["get", "pods", "-l", "app=web"])?;
    let pods = pods["items"].as_array().context("pods")?;
    let nodes = site.admin().json(&["get", "nodes"])?;
    let open =
        |node: &&Value| node["spec"]["unschedulable"].is_null() && condition(node, "Ready").as_deref() == Some("True");
    let mut load: BTreeMap<String, usize> = nodes["items"]
        .as_array()
        .context("nodes")?
        .iter()
        .filter(open)
        .map(|node| (text(&node["metadata"]["name"]), 0))
        .collect();
    for pod in pods {
        if let Some(count) = load.get_mut(&text(&pod["spec"]["nodeName"])) {
            *count += 1;
        }
    }
    for pod in
        pods.iter().filter(|pod| pod["spec"]["nodeName"].is_null() && pod["metadata"]["deletionTimestamp"].is_null())
    {
        let Some((node, count)) = load.iter_mut().min_by_key(|(_, count)| **count) else { return Ok(()) };
        let name = text(&pod["metadata"]["name"]);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let path = format!("/api/v1/namespaces/default/pods/{name}/binding");
        site.admin().command().args(["create", "--raw", &path, "-f", "-"]).input(binding.to_string()).run()?;
        *count += 1;
    }
    Ok(())
}

fn available(site: &Site) -> Result<usize> {
    let deployment = site.admin().json(&["get", "deployment", "web"])?;
    let count = deployment["status"]["availableReplicas"].as_u64().unwrap_or(0);
    usize::try_from(count).context("a number of replicas")
}

fn profile(site: &Site) -> Result<Value> {
    site.admin().get(&["profile.magnetite.dev", PROFILE])?.context("the Profile is gone")
}

fn find(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|one| one["type"] == kind)).cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn overview(site: &Site) -> String {
    let get = |args: &[&str]| site.kubectl(args).unwrap_or_default();
    let updates =
        get(&["get", "machines", "-o", "jsonpath={range .items[*]}{.metadata.name}{' '}{.status.update}{'\\n'}{end}"]);
    let status = get(&["get", "profile.magnetite.dev", PROFILE, "-o", "jsonpath={.status}"]);
    [get(&["get", "machines,nodes,pods", "-o", "wide"]), updates, status].join("\n")
}

fn workload() -> String {
    let labels = json!({ "app": "web" });
    let container = json!({
        "name": "web", "image": TEST_IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "sleep 100000"],
    });
    let spec = json!({
        "terminationGracePeriodSeconds": 1, "tolerations": [{ "operator": "Exists" }], "containers": [container],
        "automountServiceAccountToken": false,
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "replicas": 3, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec },
        },
    });
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "minAvailable": 2, "selector": { "matchLabels": labels } },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [deployment, budget] }).to_string()
}
