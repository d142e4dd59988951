//! The demo: bare boxes are declared, their BMCs switch them on, and they become Nodes, while one looks on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bmc::{self, PASSWORD, Redfish, SECRET};
use crate::guest::TEST_IMAGE;
use crate::interrupt;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::proc::tail;
use crate::progress::Progress;
use crate::rack::Rack;
use crate::site::{Site, SiteOptions};
use crate::vm::{Boots, Firmware, VmSpec};
use crate::wait;

/// What the demo is asked for.
pub struct Options {
    /// How many boxes.
    pub machines: u8,
    /// End when all are Ready.
    pub once: bool,
    /// Time for all to be Ready.
    pub timeout: Duration,
}

/// Runs the demo to its end.
pub fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress, options: &Options) -> Result<()> {
    let tools = bmc::ensure(progress, &prepared.paths)?;
    let mut site =
        Site::start(prepared, progress, &SiteOptions { machines: options.machines, ..SiteOptions::new("demo") })?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let (mut specs, mut boxes) = (Vec::new(), Vec::new());
    for port in 0..options.machines {
        let (kind, firmware) = if port % 2 == 0 { ("bios", Firmware::Bios) } else { ("uefi", Firmware::Uefi) };
        let spec = VmSpec::new(&format!("box-{}-{kind}", port + 1), firmware, port)
            .with_cpus(1)
            .with_disk(64)
            .booting(Boots::Disk);
        boxes.push(site.machine(spec.clone())?);
        specs.push(spec);
    }
    let rack = Rack::new(site.lan(), boxes)?;
    let step = progress
        .step(format!("putting {} boxes into the rack, switched off, behind a BMC that speaks Redfish", specs.len()));
    let mut redfish = Redfish::start(&tools, site.lan(), &rack)?;
    bmc::secret(&site, SECRET, PASSWORD, redfish.ca())?;
    step.done(format!("{}, by sushy-tools; empty disks, and firmware that boots them first", redfish.url()));
    let mut manifests = magnetite::profile(&prepared.guest)?;
    for spec in &specs {
        manifests.push_str(&magnetite::machine(spec));
        manifests.push_str(&redfish.bmc_of(&spec.name, SECRET));
        manifests.push_str("  power: \"On\"\n");
    }
    let file = site.run().join("machines.yaml");
    std::fs::write(&file, &manifests)?;
    progress.line(format!("kubectl apply -f {}", file.display()));
    progress.line(indent(&site.apply(&manifests)?));
    progress.line("that was all that a person does: the rest is the controller's, the BMC's and the boxes' own");
    let names: Vec<_> = specs.iter().map(|spec| spec.name.clone()).collect();
    let result = watch(&mut site, &mut magnetite, &rack, &names, progress, options.timeout);
    if let Err(error) = result {
        return Err(error.context(explain(&site, &magnetite, &rack)));
    }
    for name in &names {
        progress.line(format!("what the BMC of {name} was told: {}", rack.acts(name).join(", ")));
    }
    run_a_pod(&mut site, names.first().context("there is a box")?, progress)?;
    progress.line(indent(&site.kubectl(&["get", "machines", "-o", "wide"])?));
    progress.line(indent(&site.kubectl(&["get", "nodes", "-o", "wide"])?));
    let kept = format!("consoles, capture and logs: {}", site.run().path().display());
    if options.once {
        progress.line(format!("taking the lab down; {kept}"));
        return Ok(());
    }
    look_around(&site, progress);
    progress.line(format!("  {kept}"));
    progress.line("the lab stays up until Ctrl-C");
    while !interrupt::requested() {
        site.check()?;
        magnetite.check()?;
        redfish.check()?;
        std::thread::sleep(Duration::from_millis(300));
    }
    progress.line("taking the lab down");
    Ok(())
}

/// Prints a line for each box whenever it gets on, and the table at least every eight seconds.
fn watch(
    site: &mut Site,
    magnetite: &mut Magnetite,
    rack: &Rack,
    names: &[String],
    progress: &Progress,
    timeout: Duration,
) -> Result<()> {
    let start = Instant::now();
    let mut shown = vec![String::new(); names.len()];
    let mut was_on = vec![false; names.len()];
    let mut last_line = Instant::now();
    loop {
        interrupt::check()?;
        site.check()?;
        magnetite.check()?;
        let mut ready = 0;
        for ((name, shown), was_on) in names.iter().zip(&mut shown).zip(&mut was_on) {
            let is_on = rack.is_on(name);
            if *was_on && !is_on {
                bail!("{name} switched itself off");
            }
            *was_on = is_on;
            let status = magnetite::machine_status(site, name)?;
            let line = describe(&status);
            if line != *shown {
                progress.line(format!("  {name:<12} {line}"));
                (*shown, last_line) = (line, Instant::now());
            }
            if status["phase"] == "Ready" {
                ready += 1;
            }
            if status["phase"] == "Failed" {
                bail!("{name} failed: {} {}", status["reason"], status["message"]);
            }
        }
        if ready == names.len() {
            progress.line(format!(
                "all {ready} boxes are Ready, {:.0} s after kubectl apply",
                start.elapsed().as_secs_f64()
            ));
            return Ok(());
        }
        if start.elapsed() > timeout {
            bail!("not all boxes are Ready after {} s", timeout.as_secs());
        }
        if last_line.elapsed() > Duration::from_secs(8) {
            progress.line(indent(&site.kubectl(&["get", "machines"])?));
            last_line = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn describe(status: &Value) -> String {
    let word = |field: &str| status[field].as_str().unwrap_or("").to_owned();
    let steps = status["boot"]["steps"].as_array();
    let power = status["power"]["state"].as_str().unwrap_or("-");
    let step = steps.and_then(|steps| steps.last()).and_then(|step| step["name"].as_str()).unwrap_or("not seen yet");
    let firmware = status["boot"]["firmware"].as_str().unwrap_or("-");
    format!("{:<13} {power:<4} {firmware:<5} {step:<20} {}", word("phase"), word("reason"))
}

/// A pod whose image is in the boxes' containerd already runs on the first of them.
fn run_a_pod(site: &mut Site, node: &str, progress: &Progress) -> Result<()> {
    let step = progress.step(format!("running a pod on {node}"));
    site.admin().apply(&pod("hello", node))?;
    site.admin().wait_condition(&["pod", "hello"], "Ready", "True", Duration::from_secs(120))?;
    let logs = wait::until("the pod's log", Duration::from_secs(60), || {
        Ok(site.kubectl(&["logs", "hello"]).ok().filter(|text| !text.is_empty()))
    })?;
    step.done(format!("kubectl logs hello: {}", logs.trim()));
    Ok(())
}

/// A pod that says hello and stays.
#[must_use]
pub fn pod(name: &str, node: &str) -> String {
    pod_that(name, node, "echo hello from a pod on a box that was bare; sleep 1000000")
}

/// A pod on one node that runs a shell's command line and sees the node's folder /etc/magnetite-lab.
pub fn pod_that(name: &str, node: &str, script: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{
                "name": "hello", "image": TEST_IMAGE, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", script],
                "volumeMounts": [{ "name": "node", "mountPath": "/node" }],
            }],
            "volumes": [{ "name": "node", "hostPath": { "path": "/etc/magnetite-lab", "type": "DirectoryOrCreate" } }],
        },
    })
    .to_string()
}

fn look_around(site: &Site, progress: &Progress) {
    let netns = site.network().server();
    progress.line("to look around, from another terminal:");
    progress.line(format!("  export KUBECONFIG={}", site.admin().kubeconfig().display()));
    progress.line(format!("  alias k='ip netns exec {netns} {}'", site.prepared().kubernetes.kubectl.display()));
    progress.line("  k get machines -o wide; k describe machine; k get nodes,pods,csr,events -A");
}

fn explain(site: &Site, magnetite: &Magnetite, rack: &Rack) -> String {
    let mut text = site.kubectl(&["get", "machines", "-o", "wide"]).unwrap_or_default();
    for machine in rack.boxes().iter() {
        text.push_str(&format!("{} console:\n{}", machine.spec().name, tail(&machine.console_text(), 8)));
    }
    text.push_str(&magnetite.last_words());
    text.push_str(&format!("everything: {}", site.run().path().display()));
    text
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("\n    {line}")).collect()
}
