//! The life of a box that nobody declared: it is found, a rule says what it becomes, its BMC switches it on, its system is installed to its
//! disk, once in an intent, it joins, boots from there although the firmware tries the network first, is out of service for a while, and is
//! wiped in the end: read from the host, beside all that is told. The controller is killed at each turn.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ensure;
use super::same::{Before, again};
use crate::bmc::{self, PASSWORD, Redfish, SECRET};
use crate::clock;
use crate::guest::disk::{self, DiskImage};
use crate::kubectl::condition;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::proc::{Cmd, tail};
use crate::progress::Progress;
use crate::rack::Rack;
use crate::site::{Site, SiteOptions};
use crate::vm::{Boots, Firmware, VmSpec};
use crate::wait;

/// As discovery names it, by its address.
const NAME: &str = "box-525400300010";
/// The Profile that boxes boot which nobody declared.
const LOOK: &str = "look";
/// A boot takes a minute where it has a processor to itself, and half an hour beside somebody's compilers.
const LONG: Duration = Duration::from_secs(1800);
/// What takes seconds.
const SOON: Duration = Duration::from_secs(600);
/// MiB.
const DISK: u32 = 1024;

/// The box, and where things about it are found.
struct Scene {
    site: Site,
    magnetite: Magnetite,
    rack: Rack,
    disk: PathBuf,
}

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let image = disk::ensure(progress, &prepared.paths, &prepared.guest)?;
    let tools = bmc::ensure(progress, &prepared.paths)?;
    let site = Site::start(prepared, progress, &SiteOptions::new("install"))?;
    let magnetite = Magnetite::start_finding(&site, binaries, image.dir(), Some(LOOK), progress)?;
    let spec = VmSpec::new(NAME, Firmware::Uefi, 0)
        .with_disk(DISK)
        .booting(Boots::NetworkFirst)
        .with_clock(clock::wrong::MONTH_BEHIND);
    let machine = site.machine(spec.clone())?;
    let disk = machine.disk();
    let rack = Rack::new(site.lan(), vec![machine])?;
    let mut redfish = Redfish::start(&tools, site.lan(), &rack)?;
    let mut scene = Scene { site, magnetite, rack, disk };
    bmc::secret(&scene.site, SECRET, PASSWORD, redfish.ca())?;
    scene.site.apply(&profile(prepared, &image, &spec)?)?;

    scene.site.apply(&look(prepared)?)?;
    scene.found(binaries, &spec, progress)?;
    scene.kill("it is found", progress)?;
    scene.approved(&spec, progress)?;

    let step = progress.step("its power is cut in the middle of the install");
    let begun = wait::until("something to be on the disk", LONG, || Ok(written(&scene.disk)?.then_some(())));
    begun.with_context(|| scene.words())?;
    {
        // Nobody switches it on again while it is looked at.
        let mut boxes = scene.rack.boxes();
        boxes.iter_mut().for_each(crate::vm::Vm::power_off);
        ensure!(zero(&scene.disk, 1)?, "the disk of a box whose install was cut has a partition table");
    }
    // Not before the cut: an install takes half a minute, and another controller leads after as long.
    scene.told("Installing")?;
    scene.kill("it is being installed", progress)?;
    step.done("it has no partition table, so it cannot be booted by mistake");

    let step = progress.step("it is switched on again");
    scene.plugin(binaries, &["power", NAME, "cycle"])?;
    let installed = scene.told("Installed")?;
    ensure!(installed["intent"] == "created", "it was installed in another intent: {installed}");
    ensure!(image.boots(&scene.disk)?, "its disk does not begin as the image does");
    scene.kill("it is installed", progress)?;
    step.note("installed");
    let ready = magnetite::wait_phase(&mut scene.site, NAME, "Ready", LONG);
    ready.with_context(|| scene.words())?;
    for machine in scene.rack.boxes().iter() {
        clock::was_put_right(&scene.site, machine)?;
    }
    let before = Before::of(&scene.site, NAME)?;
    step.done("installed under the same intent; iPXE let it go on to its disk, and it joined from there, with a clock of a month ago: Ready");

    let step = progress.step("its reset button is pressed");
    scene.rack.boxes().iter_mut().try_for_each(crate::vm::Vm::reset)?;
    again(&mut scene.site, NAME, LONG, &before).with_context(|| scene.words())?;
    let after = magnetite::machine_status(&scene.site, NAME)?["install"].clone();
    ensure!(after == installed, "something was installed: {installed}, then {after}");
    step.done("Ready from its disk: the same Node, intent and key, no new claim, nothing installed");

    scene.out_of_service(binaries, &installed, progress)?;
    scene.wiped(progress)?;
    redfish.check()?;
    scene.magnetite.check()
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

/// The same system, for boxes that are only to be looked at: no machine's Profile.
fn look(prepared: &Prepared) -> Result<String> {
    let profile = magnetite::profile_without_join(&prepared.guest)?;
    let look = profile
        .replace("  name: workers\n", &format!("  name: {LOOK}\n"))
        .replace("  selector:\n    matchLabels:\n      role: worker\n", "");
    ensure!(look.contains(LOOK) && !look.contains("selector"), "the Profile is not what it was taken for:\n{look}");
    Ok(look)
}

impl Scene {
    /// Somebody presses the button of a box that nobody declared. It tells what it is made of, and nothing of it is touched.
    fn found(&mut self, binaries: &Binaries, spec: &VmSpec, progress: &Progress) -> Result<()> {
        let step = progress.step("a box that nobody declared is switched on by hand");
        self.rack.boxes().iter_mut().try_for_each(crate::vm::Vm::power_on)?;
        let held = self.site.wait_until("a Machine that is held", LONG, |site| {
            let Some(machine) = site.admin().get(&["machine", NAME])? else { return Ok(None) };
            Ok((machine["status"]["reason"] == "Held").then_some(machine))
        });
        let held = held.with_context(|| self.words())?;
        let inventory = &held["status"]["inventory"];
        for (what, found, is) in [
            ("phase", &held["status"]["phase"], "Discovered"),
            ("serial", &inventory["serial"], spec.serial.as_str()),
            ("uuid", &inventory["uuid"], spec.uuid.as_str()),
            ("disk", &inventory["disks"][0]["serial"], &spec.disk_serial()),
            ("card", &inventory["nics"][0]["mac"], spec.mac.as_str()),
            ("spec.uuid", &held["spec"]["uuid"], spec.uuid.as_str()),
            ("spec.minIdentity", &held["spec"]["minIdentity"], "approved"),
        ] {
            ensure!(found == is, "{what} is {found}, and not {is}: {held}");
        }
        ensure!(held["spec"]["hold"] == true && held["status"]["intent"].is_null(), "a window is open: {held}");
        let claims = self.site.admin().json(&["get", "machineclaims"])?;
        ensure!(claims["items"].as_array().is_some_and(Vec::is_empty), "something was claimed: {claims}");
        ensure!(zero(&self.disk, DISK)?, "its disk was touched");
        let (status, shown, _) = self.site.admin().plugin(&binaries.dir, "magnetite").args(["approve", NAME]).ask()?;
        ensure!(
            status.code() == Some(1) && shown.contains(&spec.serial),
            "kubectl magnetite approve: {status} {shown}"
        );
        step.done("Discovered: it told what it is made of, and waits; nothing was claimed, its disk reads as zeros");
        Ok(())
    }

    /// A rule says what it becomes, and which BMC is its own: it switches itself off, and the BMC switches it on.
    fn approved(&mut self, spec: &VmSpec, progress: &Progress) -> Result<()> {
        let step = progress.step("a DiscoveryRule is applied that is for boxes with such a disk");
        self.site.apply(&format!(
            "apiVersion: magnetite.dev/v1alpha1\nkind: DiscoveryRule\nmetadata:\n  name: rooted\nspec:\n  when: inventory.disks.exists(disk, disk.serial == '{}')\n  machine:\n    labels: {{role: worker}}\n    minIdentity: mac\n    power: \"On\"\n    bmc: {{address: \"'{}'\", system: \"'{NAME}'\", credentials: {SECRET}}}\n",
            spec.disk_serial(),
            Redfish::ADDRESS,
        ))?;
        let approved = self.site.wait_until("the rule to be obeyed", SOON, |site| {
            let machine = site.admin().json(&["get", "machine", NAME])?;
            Ok((machine["metadata"]["annotations"]["magnetite.dev/approved-by"] == "rule/rooted").then_some(machine))
        });
        let approved = approved.with_context(|| self.words())?;
        ensure!(approved["spec"]["hold"].is_null(), "it is held still: {approved}");
        self.kill("a rule approved it", progress)?;
        let switched = wait::until("its BMC to switch it on", LONG, || {
            Ok((self.rack.acts(NAME) == ["boot pxe", "on"]).then_some(()))
        });
        switched.with_context(|| self.words())?;
        step.done("it switched itself off, and its BMC switched it on, from the network");
        Ok(())
    }

    /// `kill -9` of the controller; another begins where it was.
    fn kill(&mut self, turn: &str, progress: &Progress) -> Result<()> {
        self.magnetite.kill_controller()?;
        self.magnetite.start_controller(&self.site)?;
        progress.line(format!("kill -9 of the controller: {turn}"));
        Ok(())
    }

    /// A person takes it out of service, and gives it back: it waits in memory in between, and comes back from its disk as it was.
    fn out_of_service(&mut self, binaries: &Binaries, installed: &Value, progress: &Progress) -> Result<()> {
        let step = progress.step("it is taken out of service: its BMC restarts it into memory");
        // Its system takes no notice of a button.
        let quick = r#"{"spec":{"bmc":{"shutdownSeconds":3}}}"#;
        self.site.kubectl(&["patch", "machine", NAME, "--type=merge", "-p", quick])?;
        let before = Before::of(&self.site, NAME)?;
        self.plugin(binaries, &["maintenance", NAME])?;
        let begun = self.site.wait_until("its restart to be wanted", SOON, |site| {
            let status = magnetite::machine_status(site, NAME)?;
            Ok((status["maintenance"]["stage"] == "Restarting").then_some(()))
        });
        begun.with_context(|| self.words())?;
        self.kill("it is to restart into memory", progress)?;
        let there = self.site.wait_until("it to be in memory", LONG, |site| {
            let machine = site.admin().json(&["get", "machine", NAME])?;
            Ok((condition(&machine, "Maintenance").as_deref() == Some("True")).then_some(machine))
        });
        let there = there.with_context(|| self.words())?;
        ensure!(there["status"]["phase"] == "Maintenance", "it is not in maintenance: {there}");
        let node = self.site.admin().json(&["get", "node", NAME])?;
        ensure!(node["spec"]["unschedulable"] == true, "its Node takes Pods: {node}");
        self.kill("it is in memory", progress)?;
        step.done("Maintenance is True: its Node is closed, and its agent waits in memory");

        let step = progress.step("it is given back");
        self.plugin(binaries, &["maintenance", NAME, "--off"])?;
        again(&mut self.site, NAME, LONG, &before).with_context(|| self.words())?;
        let open = self.site.wait_until("its Node to take Pods", SOON, |site| {
            let node = site.admin().json(&["get", "node", NAME])?;
            Ok(node["spec"]["unschedulable"].is_null().then_some(()))
        });
        open.with_context(|| self.words())?;
        let ready = magnetite::wait_phase(&mut self.site, NAME, "Ready", LONG);
        let after = ready.with_context(|| self.words())?["install"].clone();
        ensure!(after == *installed, "something was installed: {installed}, then {after}");
        step.done("Ready from its disk: the same Node, intent and key, no new claim, nothing installed");
        Ok(())
    }

    /// All that is known, for who reads of a failure.
    fn words(&self) -> String {
        let status = magnetite::machine_status(&self.site, NAME).unwrap_or_default();
        let (acts, console) = (self.rack.acts(NAME), self.rack.console(NAME));
        format!("{status}\n{}\n{acts:?}\n{}", self.magnetite.last_words(), tail(&console, 15))
    }

    fn plugin(&self, binaries: &Binaries, args: &[&str]) -> Result<()> {
        self.site.admin().plugin(&binaries.dir, "magnetite").args(args.iter().copied()).run().map(drop)
    }

    /// Waits until the Machine says so of its install.
    fn told(&mut self, state: &str) -> Result<Value> {
        let told = self.site.wait_until(&format!("the install to be {state}"), LONG, |site| {
            let install = magnetite::machine_status(site, NAME)?["install"].clone();
            ensure!(install["state"] != "Failed", "the install failed: {install}");
            Ok((install["state"] == state).then_some(install))
        });
        told.with_context(|| self.words())
    }

    /// Who deletes the Machine has its disk wiped.
    fn wiped(&mut self, progress: &Progress) -> Result<()> {
        let step = progress.step("its Machine is deleted, and its disk is to be wiped: its BMC restarts it");
        let site = &self.site;
        site.kubectl(&["patch", "machine", NAME, "--type=merge", "-p", r#"{"spec":{"deletionPolicy":"Wipe"}}"#])?;
        ensure!(!zero(&self.disk, DISK)?, "there is nothing to wipe");
        site.kubectl(&["delete", "machine", NAME, "--wait=false"])?;
        let opened = self.site.wait_until("the window in which it is wiped", SOON, |site| {
            let status = magnetite::machine_status(site, NAME)?;
            let intent = &status["intent"];
            Ok((intent["id"].as_str().is_some_and(|id| id.starts_with("wipe-")) && intent["state"] == "Open")
                .then_some(()))
        });
        opened.with_context(|| self.words())?;
        self.kill("it is to be wiped", progress)?;
        let wiping = self.site.wait_until("its agent to wipe", LONG, |site| {
            let Some(machine) = site.admin().get(&["machine", NAME])? else { return Ok(Some(())) };
            Ok((machine["status"]["wipe"]["state"] == "Wiping").then_some(()))
        });
        wiping.with_context(|| self.words())?;
        self.kill("it is being wiped", progress)?;
        let gone = self.site.wait_until("the Machine to be gone", LONG, |site| {
            Ok(site.admin().get(&["machine", NAME])?.is_none().then_some(()))
        });
        gone.with_context(|| self.words())?;
        ensure!(self.site.admin().get(&["node", NAME])?.is_none(), "its Node is still there");
        wait::until("it to switch itself off", SOON, || Ok((!self.rack.is_on(NAME)).then_some(())))?;
        ensure!(zero(&self.disk, DISK)?, "its disk does not read as zeros");
        let events = self.site.admin().json(&["get", "events", "-A"])?;
        let told = events["items"].as_array().context("events")?.iter().any(|event| event["reason"] == "DiskWiped");
        ensure!(told, "no Event says what was wiped");
        step.done("the Machine and its Node are gone, the box is off, and its disk reads as zeros from the host");
        Ok(())
    }
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
