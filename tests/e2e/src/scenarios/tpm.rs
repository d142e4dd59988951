//! A TPM is an identity: a box with the right MAC, or with the right disk, is refused without it, and holds up nobody. And it is a memory:
//! boxes that have no other are who they were after a power cut.

use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result};
use magnetite_swtpm::Swtpm;
use magnetite_tpm::client::Keys;
use serde_json::Value;

use super::ensure;
use super::live::{self, Live};
use crate::clock;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::site::{Site, SiteOptions};
use crate::stamp::hex;
use crate::vm::{Firmware, Vm, VmSpec};
use crate::wait;

const LONG: Duration = Duration::from_secs(300);

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let options = SiteOptions { certificates: live::CERTIFICATES, ..SiteOptions::new("tpm") };
    let mut site = Site::start(prepared, progress, &options)?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let spec =
        VmSpec::new("sealed", Firmware::Bios, 0).with_disk(64).with_tpm().with_clock(clock::wrong::HALF_A_DAY_AHEAD);
    let mut machine = site.machine(spec.clone())?;
    let key = fingerprint(&machine)?;
    site.apply(&format!("{}  minIdentity: tpm-enrolled\n", magnetite::profile(&prepared.guest)?))?;
    site.apply(&format!("{}  tpm:\n    endorsementKey: {key}\n", magnetite::machine(&spec)))?;

    let mut live = Live::power_on(&site, &prepared.guest)?;

    let step = progress.step("rogues with the box's MAC claim first: one with a TPM of its own, one with none");
    let loot = wait::until("the box's config", Duration::from_secs(60), || Ok(rogue::loot(&site, &spec.mac).ok()))?;
    ensure!(loot.environment.contains(&("MAGNETITE_TPM".to_owned(), "required".to_owned())), "the box is not told");
    another_tpm(&mut site, binaries, &spec, &loot)?;
    without_tpm(&mut site, binaries, &spec, loot)?;
    let status = magnetite::machine_status(&site, &spec.name)?;
    ensure!(status["intent"]["state"] == "Open", "the rogues closed the window: {}", status["intent"]);
    step.done("both refused: TpmMismatch; the window is open as before");

    live.lose_power(&mut site, &magnetite, progress)?;

    let step = progress.step("the box itself boots");
    machine.power_on()?;
    let status = magnetite::wait_phase(&mut site, &spec.name, "Ready", LONG).with_context(|| magnetite.last_words())?;
    ensure!(status["identity"]["level"] == "tpm-enrolled", "identity {}", status["identity"]);
    ensure!(status["tpm"]["endorsementKey"] == key.as_str(), "TPM {}", status["tpm"]);
    clock::was_put_right(&site, &machine)?;
    step.done("Ready, at the level tpm-enrolled");

    let step = progress.step("its disk goes into another box, and a person asks for the machine anew");
    machine.power_off();
    machine.replace_tpm()?;
    let before = status["identity"].clone();
    site.kubectl(&["patch", "machine", &spec.name, "--type=merge", "-p", r#"{"spec":{"bootIntent":"moved"}}"#])?;
    site.admin().wait_for("the new window", &["machine", &spec.name], Duration::from_secs(30), |object| {
        (object["status"]["intent"]["id"] == "moved" && object["status"]["intent"]["state"] == "Open").then_some(())
    })?;
    machine.power_on()?;
    refused(&mut site, "moved", 1).with_context(|| magnetite.last_words())?;
    let status = magnetite::machine_status(&site, &spec.name)?;
    ensure!(status["identity"] == before, "the identity changed: {}", status["identity"]);
    step.done("refused: TpmMismatch");
    machine.power_off();
    live.come_back(&mut site, &magnetite, progress)?;
    magnetite.check()
}

/// What a person writes down before the box goes into the rack.
pub(super) fn fingerprint(machine: &Vm) -> Result<String> {
    let tpm = Swtpm::at(&machine.tpm_state());
    let keys = Keys::create(tpm.connect(), &[0; 32]).context("ask the box's TPM")?;
    let digest = keys.fingerprint().context("an endorsement key")?;
    Ok(hex(&digest))
}

/// The whole agent, with a TPM that works.
fn another_tpm(site: &mut Site, binaries: &Binaries, spec: &VmSpec, loot: &rogue::Loot) -> Result<()> {
    let tpm = Swtpm::new();
    let dev = site.run().join("rogue/dev");
    std::fs::create_dir_all(&dev)?;
    symlink(tpm.socket(), dev.join("tpmrm0")).context("link the TPM")?;
    let rogue = rogue::claim(site, binaries, &spec.mac, loot)?;
    refused(site, "created", 1).with_context(|| format!("the rogue said:\n{}", rogue.output()))
}

/// An agent that does not do as it was told.
fn without_tpm(site: &mut Site, binaries: &Binaries, spec: &VmSpec, mut loot: rogue::Loot) -> Result<()> {
    std::fs::remove_dir_all(site.run().join("rogue"))?;
    loot.environment.retain(|(name, _)| name != "MAGNETITE_TPM");
    let rogue = rogue::claim(site, binaries, &spec.mac, &loot)?;
    refused(site, "created", 2).with_context(|| format!("the rogue said:\n{}", rogue.output()))
}

/// Waits until so many claims of an intent are refused for their TPM.
fn refused(site: &mut Site, intent: &str, count: usize) -> Result<()> {
    let of_intent = |claims: &Value| -> Vec<Value> {
        let all = claims["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|claim| claim["spec"]["intent"] == intent).collect()
    };
    site.wait_until("the claim to be refused", LONG, |site| {
        let claims = of_intent(&site.admin().json(&["get", "machineclaims"])?);
        let granted =
            claims.iter().find(|claim| matches!(claim["status"]["decision"].as_str(), Some("Bound" | "Approved")));
        if let Some(claim) = granted {
            anyhow::bail!("a claim was granted: {}", claim["status"]);
        }
        let refused = claims.iter().filter(|claim| claim["status"]["reason"] == "TpmMismatch").count();
        Ok((refused >= count).then_some(()))
    })
}
