//! A changed Profile rolls through three boxes, one at a time, while a Deployment under a PodDisruptionBudget keeps its replicas, and the
//! controller is killed at the stages of each box; a revision that does not boot stops after the first of them, and is taken back. The lab has no scheduler: it binds Pods to Nodes itself, to those
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
use crate::proc::Process;
use crate::progress::Progress;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, Vm, VmSpec};

const PROFILE: &str = "workers";
/// A box boots in a minute where it has a processor to itself, and a quarter of an hour beside somebody's compilers.
const LONG: Duration = Duration::from_secs(1200);
/// Three boxes, one after the other.
const ROLL: Duration = Duration::from_secs(2400);
/// The window of the boot that fails: for the restart, and for what fails then.
const SHORT: u32 = 75;
/// Where the boxes' agent finds that it is to look every few seconds whether it should restart its box.
const POLL: &str = "        - path: /etc/systemd/system/magnetite-agent.service.d/poll.conf
          mode: 0644
          contents:
            source: data:,%5BService%5D%0AEnvironment=MAGNETITE_RESTART_POLL=5%0A
  variables:
    rack: unknown
";

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("rollout"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let specs: Vec<_> = ["a", "b", "c"]
        .iter()
        .zip(0..)
        .map(|(name, port)| VmSpec::new(&format!("box-{name}"), Firmware::Bios, port).with_cpus(1).with_disk(64))
        .collect();
    let update = "  update:\n    strategy: RollingUpdate\n    minReadySeconds: 5\n    drainTimeoutSeconds: 300\n";
    let profile = magnetite::profile(&prepared.guest)?.replace("  variables:\n    rack: unknown\n", POLL);
    ensure!(profile.contains("RESTART_POLL"), "the Profile is not as it was: {profile}");
    site.apply(&format!("{}\n{update}", profile.trim_end()))?;
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
        let picture = Picture::of(site)?;
        schedule(site, &picture)?;
        Ok((picture.available()? == 3).then_some(()))
    })?;
    let mut replicas = Replicas::watch(&site)?;
    step.done("available");

    let step = progress.step("changing the Profile");
    site.kubectl(&["patch", "profile", PROFILE, "--type=merge", "-p", r#"{"spec":{"variables":{"release":"2"}}}"#])?;
    let begun = Instant::now();
    let mut watch = Watch::default();
    let second = site
        .wait_until("all three to run the new revision", ROLL, |site| {
            let turns = watch.turns;
            let status = watch.look(site, |text| step.note(text))?["status"].clone();
            if watch.turns != turns {
                magnetite.kill_controller()?;
                magnetite.start_controller(site)?;
            }
            let revision = text(&status["revision"]);
            let done = revision != first && status["upToDate"] == 3 && status["updating"].as_i64().unwrap_or(0) == 0;
            Ok(done.then_some(revision))
        })
        .with_context(|| format!("{}\n{}", overview(&site), magnetite.last_words()))?;
    // A Node without Pods is drained between two looks.
    ensure!(watch.turns >= 9, "the controller was killed {} times: not at the stages of each box", watch.turns);
    ensure!(watch.most_updating == 1, "{} were updated at once", watch.most_updating);
    ensure!(watch.restarted.len() == 3, "not each of them restarted: {:?}", watch.restarted);
    let nodes = site.admin().json(&["get", "nodes"])?;
    for node in nodes["items"].as_array().context("nodes")? {
        ensure!(node["spec"]["unschedulable"].is_null(), "{} is left cordoned", node["metadata"]["name"]);
        ensure!(node["metadata"]["annotations"]["magnetite.dev/restart"].is_null(), "a restart is still asked for");
    }
    step.done(format!(
        "revision {second} on all, one at a time, in {} s; never fewer than {} replicas; {} times kill -9 of the controller",
        begun.elapsed().as_secs(),
        watch.fewest,
        watch.turns
    ));
    stops(&mut site, binaries, &second, progress).with_context(|| magnetite.last_words())?;
    let seen = replicas.at_least(2)?;
    progress.line(format!(
        "{seen} changes of the Deployment were watched, and in none were fewer than two of three available"
    ));
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
            let progressing = find(&watch.look(site, |text| step.note(text))?, "Progressing");
            Ok((progressing["reason"] == "UpdateFailed").then(|| text(&progressing["message"])))
        })
        .with_context(|| overview(site))?;
    // Where the box shuts down slowly its window ends before its firmware asks.
    let said = ["Booting", "Restarting"].iter().any(|stage| message.contains(&format!("box-a: {stage} did not end")));
    ensure!(said, "it says: {message}");
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

    let step = progress.step("taking it back");
    let rollout = |verb: &str| site.admin().plugin(&binaries.dir, "magnetite").args(["rollout", verb, PROFILE]).run();
    let history = rollout("history")?;
    ensure!(history.contains(good), "its history does not have {good}:\n{history}");
    rollout("undo")?;
    site.wait_until("the Profile to be what it was", Duration::from_secs(60), |site| {
        let status = profile(site)?["status"].clone();
        Ok((status["revision"] == good && status["upToDate"].as_i64() >= Some(2)).then_some(()))
    })
    .with_context(|| overview(site))?;
    step.done(format!("it is revision {good} again, and the two that never left it are up to date"));
    Ok(())
}

/// What must hold all the time.
struct Watch {
    most_updating: usize,
    /// How often a box was seen at another stage of its update.
    turns: usize,
    fewest: usize,
    restarted: BTreeMap<String, bool>,
    stages: BTreeMap<String, String>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { most_updating: 0, turns: 0, fewest: usize::MAX, restarted: BTreeMap::new(), stages: BTreeMap::new() }
    }
}

impl Watch {
    /// Looks; the Profile as it was then.
    fn look(&mut self, site: &Site, note: impl Fn(String)) -> Result<Value> {
        let picture = Picture::of(site)?;
        schedule(site, &picture)?;
        let available = picture.available()?;
        self.fewest = self.fewest.min(available);
        ensure!(available >= 2, "only {available} of three replicas are available:\n{}", overview(site));
        let mut updating = 0;
        for machine in picture.all("Machine") {
            let (name, stage) = (text(&machine["metadata"]["name"]), text(&machine["status"]["update"]["stage"]));
            updating += usize::from(["Draining", "Restarting", "Booting", "Settling"].contains(&stage.as_str()));
            if stage == "Booting" {
                self.restarted.insert(name.clone(), true);
            }
            if self.stages.insert(name.clone(), stage.clone()).as_ref() != Some(&stage) && !stage.is_empty() {
                self.turns += 1;
                note(format!("{name}: {stage}"));
            }
        }
        self.most_updating = self.most_updating.max(updating);
        ensure!(updating <= 1, "{updating} machines are being updated at once:\n{}", overview(site));
        picture.one("Profile", PROFILE).cloned()
    }
}

/// All that matters, by one call: each costs a process.
struct Picture(Vec<Value>);

impl Picture {
    fn of(site: &Site) -> Result<Self> {
        let kinds = "machines.magnetite.dev,profiles.magnetite.dev,nodes,deployments.apps,pods";
        let mut list = site.admin().json(&["get", kinds, "-n", "default"])?;
        let items = list["items"].as_array_mut().context("a list")?;
        Ok(Self(std::mem::take(items)))
    }

    fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    fn one(&self, kind: &str, name: &str) -> Result<&Value> {
        let found = self.0.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.with_context(|| format!("there is no {kind} {name}"))
    }

    fn available(&self) -> Result<usize> {
        let count = self.one("Deployment", "web")?["status"]["availableReplicas"].as_u64().unwrap_or(0);
        usize::try_from(count).context("a number of replicas")
    }
}

/// Every change of the Deployment, as the API server tells of it: what is looked at now and then may be missed in between.
struct Replicas(Process);

impl Replicas {
    fn watch(site: &Site) -> Result<Self> {
        let fields = "jsonpath={.status.availableReplicas}{\"\\n\"}";
        let watch = site.admin().command().args(["get", "deployment", "web", "--watch", "-o", fields]);
        Ok(Self(watch.spawn("watch of the Deployment", &site.run().logs().join("replicas.log"))?))
    }

    /// How many changes were seen; an error if in one of them there were fewer available.
    fn at_least(&mut self, least: usize) -> Result<usize> {
        self.0.check()?;
        let seen: Vec<usize> = self.0.output().lines().map(|line| line.trim().parse().unwrap_or(0)).collect();
        let fewest = seen.iter().min().context("the watch showed nothing")?;
        ensure!(*fewest >= least, "{fewest} replicas were available at some time: {seen:?}");
        ensure!(seen.contains(&least), "no replica was ever away, so nothing was shown: {seen:?}");
        Ok(seen.len())
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
fn schedule(site: &Site, picture: &Picture) -> Result<()> {
    let pods: Vec<&Value> = picture.all("Pod").collect();
    let open =
        |node: &&Value| node["spec"]["unschedulable"].is_null() && condition(node, "Ready").as_deref() == Some("True");
    let mut load: BTreeMap<String, usize> =
        picture.all("Node").filter(open).map(|node| (text(&node["metadata"]["name"]), 0)).collect();
    for pod in &pods {
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
