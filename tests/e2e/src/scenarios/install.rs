//! A system is installed to a disk, once in an intent, boots from there although the firmware tries the network first, and is wiped in the
//! end: read from the host, beside all that is told.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::disk::{Before, again};
use super::ensure;
use crate::guest::disk::{self, DiskImage};
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::proc::{Cmd, tail};
use crate::progress::Progress;
use crate::site::{Site, SiteOptions};
use crate::vm::{Boots, Firmware, Vm, VmSpec};
use crate::wait;

const LONG: Duration = Duration::from_secs(400);
/// MiB.
const DISK: u32 = 2048;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let image = disk::ensure(progress, &prepared.paths, &prepared.guest)?;
    let mut site = Site::start(prepared, progress, &SiteOptions::new("install"))?;
    let mut magnetite = Magnetite::start_serving(&site, binaries, image.dir(), progress)?;
    let spec = VmSpec::new("rooted", Firmware::Uefi, 0).with_disk(DISK).booting(Boots::NetworkFirst);
    site.apply(&profile(prepared, &image, &spec)?)?;
    site.apply(&magnetite::machine(&spec))?;
    let mut machine = site.machine(spec.clone())?;

    let step = progress.step("a box installs its system; its power is cut in the middle");
    machine.power_on()?;
    told(&mut site, &magnetite, &machine, "Installing")?;
    wait::until(
        "something to be on the disk",
        Duration::from_secs(60),
        || Ok(written(&machine.disk())?.then_some(())),
    )?;
    machine.power_off();
    ensure!(zero(&machine.disk(), 1)?, "the disk of a box whose install was cut has a partition table");
    step.done("it has no partition table, so it cannot be booted by mistake");

    let step = progress.step("its power is back");
    machine.power_on()?;
    let installed = told(&mut site, &magnetite, &machine, "Installed")?;
    ensure!(installed["intent"] == "created", "it was installed in another intent: {installed}");
    ensure!(image.boots(&machine.disk())?, "its disk does not begin as the image does");
    step.note("installed");
    magnetite::wait_phase(&mut site, &spec.name, "Ready", LONG)
        .with_context(|| format!("{}\n{}", magnetite.last_words(), tail(&machine.console_text(), 15)))?;
    let before = Before::of(&site, &spec.name)?;
    step.done("installed under the same intent; iPXE let it go on to its disk, and it joined from there: Ready");

    let step = progress.step("its reset button is pressed");
    machine.reset()?;
    again(&mut site, &magnetite, &machine, &before)?;
    let after = magnetite::machine_status(&site, &spec.name)?["install"].clone();
    ensure!(after == installed, "something was installed: {installed}, then {after}");
    step.done("Ready from its disk: the same Node, the same key, no new claim, nothing installed");

    wiped(&mut site, &magnetite, &mut machine, progress)?;
    magnetite.check()
}

fn profile(prepared: &Prepared, image: &DiskImage, spec: &VmSpec) -> Result<String> {
    let file = image.file.file_name().and_then(|name| name.to_str()).context("the image's name")?;
    let disk = format!(
        "        disk:\n          file: {file}\n          sha256: \"{}\"\n      commandLine:\n",
        magnetite::sha256(&image.file)?
    );
    let profile = magnetite::profile(&prepared.guest)?
        .replace("onReboot: Network", "onReboot: Local")
        .replace("      commandLine:\n", &disk);
    Ok(format!(
        "{}\n  install:\n    image: disk\n    format: Zstd\n    disk: {{serial: {}}}\n    config: {{partitionLabel: OEM, path: /config.ign}}\n",
        profile.trim_end(),
        spec.disk_serial()
    ))
}

/// Waits until the Machine says so of its install.
fn told(site: &mut Site, magnetite: &Magnetite, machine: &Vm, state: &str) -> Result<Value> {
    let name = &machine.spec().name;
    site.wait_until(&format!("the install to be {state}"), LONG, |site| {
        let install = magnetite::machine_status(site, name)?["install"].clone();
        ensure!(install["state"] != "Failed", "the install failed: {install}");
        Ok((install["state"] == state).then_some(install))
    })
    .with_context(|| {
        let status = magnetite::machine_status(site, name).unwrap_or_default();
        format!("{status}\n{}\n{}", magnetite.last_words(), tail(&machine.console_text(), 15))
    })
}

/// Who deletes the Machine has its disk wiped, once the box is started again.
fn wiped(site: &mut Site, magnetite: &Magnetite, machine: &mut Vm, progress: &Progress) -> Result<()> {
    let name = machine.spec().name.clone();
    let step = progress.step("its Machine is deleted, and its disk is to be wiped");
    site.kubectl(&["patch", "machine", &name, "--type=merge", "-p", r#"{"spec":{"deletionPolicy":"Wipe"}}"#])?;
    site.kubectl(&["delete", "machine", &name, "--wait=false"])?;
    site.wait_until("the window in which it is wiped", Duration::from_secs(60), |site| {
        let status = magnetite::machine_status(site, &name)?;
        let intent = &status["intent"];
        Ok((intent["id"].as_str().is_some_and(|id| id.starts_with("wipe-")) && intent["state"] == "Open").then_some(()))
    })
    .with_context(|| format!("{}", magnetite::machine_status(site, &name).unwrap_or_default()))?;
    ensure!(!zero(&machine.disk(), DISK)?, "it was wiped before it was started again");
    machine.reset()?;
    site.wait_until("the Machine to be gone", LONG, |site| {
        Ok(site.admin().get(&["machine", &name])?.is_none().then_some(()))
    })
    .with_context(|| {
        let status = magnetite::machine_status(site, &name).unwrap_or_default();
        format!("{status}\n{}\n{}", magnetite.last_words(), tail(&machine.console_text(), 15))
    })?;
    ensure!(site.admin().get(&["node", &name])?.is_none(), "its Node is still there");
    wait::until("it to switch itself off", Duration::from_secs(60), || Ok((!machine.is_on()).then_some(())))?;
    ensure!(zero(&machine.disk(), DISK)?, "its disk does not read as zeros");
    step.done("the Machine and its Node are gone, the box is off, and its disk reads as zeros from the host");
    Ok(())
}

/// True if a disk's first so many MiB are zeros.
fn zero(disk: &Path, mib: u32) -> Result<bool> {
    let bytes = (u64::from(mib) << 20).to_string();
    let same = Cmd::new("cmp").args(["-s", "-n", &bytes, &disk.display().to_string(), "/dev/zero"]);
    Ok(same.timeout(Duration::from_secs(120)).ask()?.0.success())
}

/// True if some MiB of it are in use on the host, where an empty disk takes no room.
fn written(disk: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(disk)?.blocks() * 512 > 32 << 20)
}
