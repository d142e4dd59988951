//! Without a cluster: somebody's first cluster has to come from somewhere.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ensure;
use super::firmware::{find, record};
use super::not_yet::patient;
use crate::gate::Gate;
use crate::lan::{Lan, LanOptions};
use crate::magnetite::{self, Binaries};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::vm::{Firmware, VmSpec};
use crate::wait;

/// For how long iPXE and Ignition are told to come again; `cargo xtask e2e not-yet` takes ten minutes.
const NOT_YET: Duration = Duration::from_secs(20);

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let lan = Lan::start(prepared, &LanOptions::new("catalog", 2))?;
    let spec = VmSpec::new("first", Firmware::Bios, 0);
    let catalog = lan.run().join("catalog");
    std::fs::create_dir_all(&catalog)?;
    std::fs::write(catalog.join("profile.yaml"), magnetite::profile_without_join(&prepared.guest)?)?;
    std::fs::write(
        catalog.join("broken.yaml"),
        "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {name: x\nspec: {}\n",
    )?;
    let mut server = magnetite::bootserver_command(&lan, binaries, &prepared.guest.dir)?
        .args(["--catalog".to_owned(), catalog.display().to_string()])
        .spawn("bootserver", &lan.run().logs().join("bootserver.log"))?;
    wait::until("the broken file to be named with its line", Duration::from_secs(30), || {
        server.check()?;
        Ok(server
            .output()
            .lines()
            .any(|line| {
                line.contains("broken.yaml") && line.contains(":4")
                    || line.contains("broken.yaml") && line.contains("line")
            })
            .then_some(()))
    })
    .with_context(|| server.output())?;
    // A file that is added while it runs is seen.
    std::fs::write(catalog.join("machines.yaml"), magnetite::machine(&spec))?;
    wait::until("the new Machine to be answered", Duration::from_secs(30), || {
        rogue::discover(lan.network(), &spec.mac)
    })?;
    ensure!(rogue::discover(lan.network(), "52:54:00:99:99:99")?.is_none(), "a box that nobody declared was answered");

    let step = progress.step("booting a box with no cluster anywhere near, told \"not yet\" three times for a while");
    let gate = Gate::put(&lan, NOT_YET)?;
    let mut machine = lan.machine(spec)?;
    machine.power_on()?;
    let report = lan.run().join("bootserver/machines/first.json");
    wait::until("the box to report that it booted", Duration::from_secs(240), || {
        server.check()?;
        Ok(std::fs::read_to_string(&report).ok().filter(|text| text.contains("SystemBooted")))
    })
    .with_context(|| {
        format!("{}\n{}", crate::proc::tail(&server.output(), 20), crate::proc::tail(&machine.console_text(), 10))
    })?;
    let held = gate.held()?;
    patient(&machine, NOT_YET)?;
    step.done(format!("SystemBooted, as its file says; refused before: {held}"));
    drop((machine, gate));
    nasty(prepared, &lan, &catalog, progress)
}

/// Arguments that have in them what commands are made of: those that the grammar allows.
const NASTY: &str = include_str!("../../manifests/nasty-arguments.txt");

/// Real iPXE reads a script with all of them, and they come to the kernel as they are: no command but those that were meant was run.
fn nasty(prepared: &Prepared, lan: &Lan, catalog: &Path, progress: &Progress) -> Result<()> {
    let words: Vec<&str> = NASTY.lines().collect();
    let step = progress.step(format!("real iPXE reads {} nasty arguments", words.len()));
    let spec = VmSpec::new("nasty", Firmware::Bios, 1).with_cpus(1).with_memory(512);
    let arguments: String = (0..words.len()).map(|index| format!("      - '{{{{ vars.n{index} }}}}'\n")).collect();
    let profile = magnetite::profile_without_join(&prepared.guest)?
        .replace("  name: workers\n", "  name: nasty\n")
        .replace("  selector:\n    matchLabels:\n      role: worker\n", "")
        .replace("      - magnetite.root={{ files.rootfs }}\n", "      - nasty=begin\n")
        .replace("      - ignition.config.url={{ boot.ignition_url }}\n", &arguments)
        .replace("      - ignition.platform.id=metal\n", "      - nasty=end\n");
    ensure!(profile.contains("nasty=begin") && !profile.contains("selector"), "the Profile is another:\n{profile}");
    std::fs::write(catalog.join("nasty-profile.yaml"), profile)?;
    let mut text = magnetite::machine(&spec).replace("spec:\n", "spec:\n  profile: nasty\n");
    for (index, word) in words.iter().enumerate() {
        text.push_str(&format!("    n{index}: '{word}'\n"));
    }
    std::fs::write(catalog.join("nasty.yaml"), text)?;
    wait::until("the new Machine to be answered", Duration::from_secs(30), || {
        rogue::discover(lan.network(), &spec.mac)
    })?;
    let mut machine = lan.machine(spec)?;
    machine.power_on()?;
    machine.wait_console("nasty=end", Duration::from_secs(120))?;
    let console = machine.console_text();
    machine.power_off();
    let line = console.lines().find(|line| line.contains("ommand line: ") && line.contains("nasty=begin"));
    let line = line.with_context(|| format!("the kernel did not say its command line:\n{console}"))?;
    let got = line.split_once("nasty=begin").and_then(|(_, rest)| rest.split_once("nasty=end")).context("its end")?.0;
    let got: Vec<&str> = got.split_whitespace().collect();
    ensure!(got.len() == words.len(), "{} arguments became {}:\n{line}", words.len(), got.len());
    for (got, meant) in got.iter().zip(&words) {
        // iPXE puts a setting's value in the place of ${…}: that is a value, and no command.
        let setting = meant.find("${").filter(|_| meant.contains('}'));
        let same = setting.map_or(got == meant, |at| got.starts_with(&meant[..at]));
        ensure!(same, "iPXE made {got:?} of {meant:?}");
    }
    let boot = record(lan, "nasty").context("a record of the boot")?;
    for name in ["ScriptServed", "KernelFetched"] {
        let count = find(&boot, name).map(|step| step["count"].clone());
        ensure!(count == Some(1.into()), "{name} {count:?} times: {boot}");
    }
    let capture = std::fs::read(lan.capture().file())?;
    let asked = |text: &str| capture.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    ensure!(asked("/boot.ipxe HTTP/1.1"), "the capture has no request of iPXE");
    ensure!(!asked("GET /evil"), "an argument was fetched");
    step.done("each came to the kernel as a word");
    Ok(())
}
