//! The API server is away while a box boots.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::ensure;
use crate::clock;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, VmSpec};
use crate::wait;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("away"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let spec = VmSpec::new("box", Firmware::Bios, 0).with_disk(64).with_clock(clock::wrong::YEAR_AHEAD);
    site.apply(&magnetite::profile(&prepared.guest)?)?;
    site.apply(&magnetite::machine(&spec))?;
    wait::until("the box's config", Duration::from_secs(60), || Ok(rogue::loot(&site, &spec.mac).ok()))?;
    let snapshot = site.run().join("bootserver/snapshot.json");
    wait::until("the open window to be in the snapshot", Duration::from_secs(20), || {
        Ok(std::fs::read_to_string(&snapshot).ok().filter(|text| text.contains("\"Open\"")))
    })?;

    let step = progress.step("stopping the API server, killing the boot server, powering on");
    site.control_plane().signal_apiserver(Signal::SIGSTOP)?;
    magnetite.kill_bootserver()?;
    magnetite.restart_bootserver(&site)?;
    let mut machine = site.machine(spec.clone())?;
    machine.power_on()?;
    // The agent starts although nobody can answer its claim: Magnetite's boot path needs no API server.
    machine.wait_console("magnetite-agent", Duration::from_secs(240)).with_context(|| magnetite.last_words())?;
    wait::until("a claim to be put off", Duration::from_secs(60), || {
        let metrics = magnetite.bootserver_metrics(&site)?;
        Ok(metrics
            .lines()
            .any(|line| {
                line.contains("claim") && line.contains("503") || line.contains("unavailable") && !line.ends_with(" 0")
            })
            .then_some(()))
    })?;
    step.done("the box booted from the snapshot; its claim is put off");

    let step = progress.step("the API server comes back");
    site.control_plane().signal_apiserver(Signal::SIGCONT)?;
    let status = magnetite::wait_phase(&mut site, &spec.name, "Ready", Duration::from_secs(240))
        .with_context(|| magnetite.last_words())?;
    let steps = status["boot"]["steps"].as_array().cloned().unwrap_or_default();
    ensure!(
        steps.iter().any(|step| step["name"] == "ScriptServed"),
        "the steps of the time without are lost: {steps:?}"
    );
    clock::was_put_right(&site, &machine)?;
    step.done("Ready, and the steps of the time without are in its status");
    magnetite.check()
}
