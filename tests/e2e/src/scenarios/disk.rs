//! A system that lives on a disk: it joins from there, and boots from there ever after, although the firmware tries the network first.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ensure;
use crate::clock;
use crate::guest::disk;
use crate::kubectl::condition;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::site::{Site, SiteOptions};
use crate::vm::{Boots, Firmware, Vm, VmSpec};
use crate::wait;

const LONG: Duration = Duration::from_secs(300);

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let image = disk::ensure(progress, &prepared.paths, &prepared.guest)?;
    let mut site = Site::start(prepared, progress, &SiteOptions::new("disk"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let spec = VmSpec::new("rooted", Firmware::Uefi, 0).with_disk(2048).booting(Boots::DiskFirst);
    site.apply(&magnetite::profile(&prepared.guest)?.replace("onReboot: Network", "onReboot: Local"))?;
    site.apply(&magnetite::machine(&spec))?;
    let loot = wait::until("the box's config", Duration::from_secs(60), || Ok(rogue::loot(&site, &spec.mac).ok()))?;

    let step =
        progress.step("a person writes an image to a box's disk, with the box's config on it, and switches it on");
    let mut machine = site.machine(spec.clone())?;
    image.install(&machine.disk(), &loot.ignition)?;
    machine.power_on()?;
    magnetite::wait_phase(&mut site, &spec.name, "Ready", LONG).with_context(|| magnetite.last_words())?;
    clock::was_put_right(&site, &machine)?;
    let before = Before::of(&site, &spec.name)?;
    step.done("Ready: it joined from its disk");

    let step = progress.step("it starts again, and its firmware tries the network first");
    machine.power_off();
    machine.set_boots(Boots::NetworkFirst);
    machine.power_on()?;
    again(&mut site, &magnetite, &machine, &before)?;
    step.done("iPXE let it go on to its disk: Ready again, the same Node, the same key, no new claim");
    magnetite.check()
}

pub(super) struct Before {
    node: Value,
    boot: Value,
    identity: Value,
    claims: usize,
}

impl Before {
    pub(super) fn of(site: &Site, name: &str) -> Result<Self> {
        let node = site.admin().json(&["get", "node", name])?;
        let claims = site.admin().json(&["get", "machineclaims"])?;
        Ok(Self {
            node: node["metadata"]["uid"].clone(),
            boot: node["status"]["nodeInfo"]["bootID"].clone(),
            identity: magnetite::machine_status(site, name)?["identity"].clone(),
            claims: claims["items"].as_array().map_or(0, Vec::len),
        })
    }
}

/// The same Node is Ready from another start, of which the network had no more than the word to go on.
pub(super) fn again(site: &mut Site, magnetite: &Magnetite, machine: &Vm, before: &Before) -> Result<()> {
    let name = &machine.spec().name;
    site.wait_until("the second start to end Ready", LONG, |site| {
        let node = site.admin().json(&["get", "node", name])?;
        let another = node["status"]["nodeInfo"]["bootID"] != before.boot;
        Ok((another && condition(&node, "Ready").as_deref() == Some("True")).then_some(()))
    })
    .with_context(|| {
        let status = magnetite::machine_status(site, name).unwrap_or_default();
        format!("{status}\n{}\n{}", magnetite.last_words(), crate::proc::tail(&machine.console_text(), 15))
    })?;
    let after = Before::of(site, name)?;
    ensure!(after.node == before.node, "the Node is another one");
    ensure!(after.identity == before.identity, "the identity changed: {} {}", before.identity, after.identity);
    ensure!(after.claims == before.claims, "there are {} claims, there were {}", after.claims, before.claims);
    let status = magnetite::machine_status(site, name)?;
    let steps = status["boot"]["steps"].as_array().context("steps")?;
    let named = |name: &str| steps.iter().find(|step| step["name"] == name);
    let script = named("ScriptServed").with_context(|| format!("it never asked for its script: {steps:?}"))?;
    ensure!(script["detail"].as_str().is_some_and(|text| text.contains("local boot")), "its script: {script}");
    ensure!(named("KernelFetched").is_none(), "it booted from the network: {steps:?}");
    Ok(())
}
