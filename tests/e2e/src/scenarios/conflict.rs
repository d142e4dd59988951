//! A MAC is no identity: whoever claims first within the window wins at this level. What is promised is that
//! it is found out, that the join stops, and that a person can settle it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::ensure;
use super::join::{conflict_is_told, rogue_has_certificate};
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, VmSpec};
use crate::wait;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("conflict"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let spec = VmSpec::new("victim", Firmware::Bios, 0).with_disk(64);
    site.apply(&magnetite::profile(&prepared.guest)?)?;
    site.apply(&magnetite::machine(&spec))?;

    let step = progress.step("a rogue claims the box's identity before the box does");
    let loot = wait::until("the box's config", Duration::from_secs(60), || Ok(rogue::loot(&site, &spec.mac).ok()))?;
    let rogue = rogue::claim(&site, binaries, &spec.mac, &loot)?;
    wait::until("the rogue to win, as a MAC is no identity", Duration::from_secs(60), || {
        Ok(rogue_has_certificate(&site).then_some(()))
    })
    .with_context(|| format!("{}\n{}", crate::proc::tail(&rogue.output(), 12), magnetite.last_words()))?;
    step.done("it has a certificate, and its key is on record");

    let step = progress.step("the true box boots and claims");
    let mut machine = site.machine(spec.clone())?;
    machine.power_on()?;
    site.wait_until("the true box to claim", Duration::from_secs(240), |site| {
        let claims = site.admin().json(&["get", "machineclaims"])?;
        Ok(claims["items"].as_array().is_some_and(|items| items.len() > 1).then_some(()))
    })?;
    conflict_is_told(&mut site, &spec.name)?;
    magnetite::wait_phase(&mut site, &spec.name, "Failed", Duration::from_secs(30))?;
    ensure!(site.admin().get(&["node", &spec.name])?.is_none(), "the box joined in spite of the conflict");
    step.done("refused with an Event; the Machine says ClaimConflict and waits for a person");
    drop(rogue);

    let step = progress.step("a person sets another intent and restarts the box");
    site.kubectl(&["patch", "machine", &spec.name, "--type=merge", "-p", r#"{"spec":{"bootIntent":"settled"}}"#])?;
    site.admin().wait_for("the new window", &["machine", &spec.name], Duration::from_secs(30), |object| {
        (object["status"]["intent"]["id"] == "settled" && object["status"]["intent"]["state"] == "Open").then_some(())
    })?;
    machine.reset()?;
    magnetite::wait_phase(&mut site, &spec.name, "Ready", Duration::from_secs(300))
        .with_context(|| magnetite.last_words())?;
    step.done("Ready, with its own key");
    magnetite.check()
}
