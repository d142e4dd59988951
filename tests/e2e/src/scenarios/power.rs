//! Boxes are switched by their BMCs, and by nobody else: on from the network, off, and round once. What a BMC has against it, people are told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::ensure;
use crate::bmc::{self, Ipmi, PASSWORD, Redfish, SECRET};
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rack::Rack;
use crate::site::{Site, SiteOptions};
use crate::vm::{Boots, Firmware, VmSpec};

/// For what a controller does at once, or a few seconds later where it has a processor to itself.
const SOON: Duration = Duration::from_secs(300);
/// For what takes a lease's time, or a boot's.
const LONG: Duration = Duration::from_secs(900);
const IPMI_PORT: u16 = 6230;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let tools = bmc::ensure(progress, &prepared.paths)?;
    let mut site = Site::start(prepared, progress, &SiteOptions::new("power"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    // Their firmware boots the disk, which is empty: without a word of their BMC they would never ask the network.
    let spec = |name, port| VmSpec::new(name, Firmware::Bios, port).with_cpus(1).with_disk(64).booting(Boots::Disk);
    let (red, old) = (spec("red", 0), spec("old", 1));
    let rack = Rack::new(site.lan(), vec![site.machine(red.clone())?, site.machine(old.clone())?])?;
    let mut redfish = Redfish::start(&tools, site.lan(), &rack)?;
    let mut ipmi = Ipmi::start(&tools, site.lan(), &rack, "old", IPMI_PORT)?;
    site.apply(&magnetite::profile(&prepared.guest)?)?;

    let step = progress.step(
        "declared with spec.power: On; one BMC speaks Redfish, one IPMI; a wrong password, then a wrong authority",
    );
    bmc::secret(&site, SECRET, "wrong", redfish.ca())?;
    let on = |spec: &VmSpec, bmc: &str| format!("{}{bmc}  power: \"On\"\n", magnetite::machine(spec));
    site.apply(&on(&red, &redfish.bmc_of("red", SECRET)))?;
    site.apply(&on(&old, &ipmi.bmc_of(SECRET)))?;
    for (name, words) in [("red", "Incorrect username or password"), ("old", "RAKP 2 HMAC is invalid")] {
        let message = bmc_condition(&mut site, name, "False", "BmcUnauthorized")?;
        ensure!(message.contains(words), "{name} does not say what its BMC said: {message}");
        site.wait_until(&format!("{name} to say so itself"), SOON, |site| {
            let status = magnetite::machine_status(site, name)?;
            Ok(status["message"].as_str().is_some_and(|text| text.contains(words)).then_some(()))
        })?;
    }
    bmc::secret(&site, SECRET, PASSWORD, site.control_plane().authority().pem())?;
    nudge(&site, "red", "a")?;
    bmc_condition(&mut site, "red", "False", "BmcCertificate")?;
    ensure!(rack.acts("red").is_empty() && rack.acts("old").is_empty(), "a box was switched: {:?}", rack.acts("red"));
    step.done("BmcUnauthorized with the BMC's own words, BmcCertificate; no box was switched");

    let step =
        progress.step("the Secret is right: both are switched on, once, from the network, and boot their Profile");
    bmc::secret(&site, SECRET, PASSWORD, redfish.ca())?;
    for name in ["red", "old"] {
        nudge(&site, name, "b")?;
    }
    for name in ["red", "old"] {
        bmc_condition(&mut site, name, "True", "AsDeclared")?;
        reached(&mut site, name, "KernelFetched").with_context(|| {
            format!("{}\nacts {:?}\nconsole:\n{}", magnetite.last_words(), rack.acts(name), rack.console(name))
        })?;
        ensure!(rack.acts(name) == ["boot pxe", "on"], "{name}: {:?}", rack.acts(name));
        state(&mut site, name, "On")?;
    }
    step.done("boot pxe, on; the kernel was fetched");

    let step = progress.step("each is restarted once, though the controller is killed in the middle of it");
    for name in ["red", "old"] {
        plugin(&site, binaries, &["power", name, "cycle"])?;
    }
    site.wait_until("the power of red to be cut", SOON, |_| {
        Ok(rack.acts("red").iter().any(|act| act == "off").then_some(()))
    })?;
    magnetite.kill_controller()?;
    magnetite.start_controller(&site)?;
    for name in ["red", "old"] {
        restarted(&mut site, name)?;
        let acts = rack.acts(name);
        ensure!(acts.iter().filter(|act| *act == "off").count() == 1, "{name}: {acts:?}");
        ensure!(acts.iter().filter(|act| *act == "on").count() == 2, "{name}: {acts:?}");
    }
    step.done(format!("{:?}", rack.acts("red")));

    let step = progress.step("spec.power: Off; the system is asked, and its power cut when it does not hear");
    for name in ["red", "old"] {
        plugin(&site, binaries, &["power", name, "off"])?;
    }
    for name in ["red", "old"] {
        state(&mut site, name, "Off")?;
        ensure!(!rack.is_on(name), "{name} is on");
        ensure!(rack.acts(name).iter().any(|act| act == "shutdown"), "{name} was not asked: {:?}", rack.acts(name));
    }
    let shown = plugin(&site, binaries, &["power", "red"])?;
    ensure!(shown.contains("red: Off") && shown.contains("done"), "kubectl magnetite power: {shown}");
    step.done(format!("{:?}", rack.acts("red")));

    let step = progress.step("a BMC that is gone is a condition, and no hot loop");
    magnetite.check()?;
    redfish.check()?;
    ipmi.check()?;
    let asked = redfish.requests("");
    redfish.stop();
    plugin(&site, binaries, &["power", "red", "on"])?;
    let message = bmc_condition(&mut site, "red", "False", "BmcUnreachable")?;
    ensure!(message.contains("172.30.0.1:9443"), "whom? {message}");
    let since = Instant::now();
    let first = unreachable(&site, &magnetite)?;
    // From here on time is what is looked at: so many tries in so many seconds.
    while since.elapsed() < Duration::from_secs(12) {
        site.check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let more = unreachable(&site, &magnetite)? - first;
    ensure!(more <= 3, "{more} tries in 12 s");
    let dead = Redfish::start(&tools, site.lan(), &rack)?;
    bmc::secret(&site, SECRET, PASSWORD, dead.ca())?;
    nudge(&site, "red", "c")?;
    bmc_condition(&mut site, "red", "True", "AsDeclared")?;
    state(&mut site, "red", "On")?;
    step.done(format!("{more} tries in 12 s; {asked} requests in the whole scenario before"));
    no_secret_in(&site)?;
    magnetite.check()
}

/// A change of the spec that means nothing: the controller looks at once.
fn nudge(site: &Site, name: &str, value: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"variables":{{"nudge":"{value}"}}}}}}"#);
    site.kubectl(&["patch", "machine", name, "--type=merge", "-p", &patch]).map(drop)
}

/// Waits for the condition BmcReachable; its message.
fn bmc_condition(site: &mut Site, name: &str, status: &str, reason: &str) -> Result<String> {
    let result = site.wait_until(&format!("{name}: BmcReachable {status}, {reason}"), SOON, |site| {
        let conditions = magnetite::machine_status(site, name)?["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|one| one["type"] == "BmcReachable");
        let found = found.filter(|one| one["status"] == status && one["reason"] == reason);
        Ok(found.map(|one| one["message"].as_str().unwrap_or_default().to_owned()))
    });
    result.with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()))
}

fn state(site: &mut Site, name: &str, state: &str) -> Result<()> {
    site.wait_until(&format!("{name} to be seen {state}"), SOON, |site| {
        Ok((magnetite::machine_status(site, name)?["power"]["state"] == state).then_some(()))
    })
    .with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()["power"]))
}

fn restarted(site: &mut Site, name: &str) -> Result<()> {
    site.wait_until(&format!("the restart of {name} to be done"), LONG, |site| {
        let status = magnetite::machine_status(site, name)?;
        let restarts: Vec<Value> = status["power"]["restarts"].as_array().cloned().unwrap_or_default();
        Ok(restarts.iter().any(|one| one["stage"] == "Done").then_some(()))
    })
    .with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()["power"]))
}

fn reached(site: &mut Site, name: &str, step: &str) -> Result<()> {
    site.wait_until(&format!("step {step} of {name}"), LONG, |site| {
        let status = magnetite::machine_status(site, name)?;
        let steps = status["boot"]["steps"].as_array().cloned().unwrap_or_default();
        Ok(steps.iter().any(|one| one["name"] == step).then_some(()))
    })
    .with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()))
}

/// `kubectl magnetite`, as administrator.
fn plugin(site: &Site, binaries: &Binaries, args: &[&str]) -> Result<String> {
    let kubeconfig = site.admin().kubeconfig().display().to_string();
    site.server_command(&binaries.path("kubectl-magnetite"))
        .args(args.iter().copied())
        .args(["--kubeconfig", &kubeconfig])
        .run()
}

/// How often the controller found nobody at a BMC's address.
fn unreachable(site: &Site, magnetite: &Magnetite) -> Result<u64> {
    let text = magnetite.controller_metrics(site)?;
    let lines = text.lines().filter(|line| line.contains("protocol=\"redfish\"") && line.contains("BmcUnreachable"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

/// The password is in no log, no status and no Event.
fn no_secret_in(site: &Site) -> Result<()> {
    let log = std::fs::read_to_string(site.run().logs().join("controller.log"))?;
    let told = site.kubectl(&["get", "machines,events", "-A", "-o", "yaml"])?;
    ensure!(!log.contains(PASSWORD), "the password is in the controller's log");
    ensure!(!told.contains(PASSWORD), "the password is in the cluster, where everybody reads it");
    Ok(())
}
