//! Without a cluster: somebody's first cluster has to come from somewhere.

use std::time::Duration;

use anyhow::{Context, Result};

use super::ensure;
use crate::lan::{Lan, LanOptions};
use crate::magnetite::{self, Binaries};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::vm::{Firmware, VmSpec};
use crate::wait;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let lan = Lan::start(prepared, &LanOptions::new("catalog", 1))?;
    let spec = VmSpec::new("first", Firmware::Bios, 0);
    let catalog = lan.run().join("catalog");
    std::fs::create_dir_all(&catalog)?;
    let profile =
        magnetite::profile(&prepared.guest)?.replace("    apiServer: https://172.30.0.1:6443\n", "    mode: None\n");
    ensure!(profile.contains("mode: None"), "the Profile joins something");
    std::fs::write(catalog.join("profile.yaml"), profile)?;
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

    let step = progress.step("booting a box with no cluster anywhere near");
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
    step.done("SystemBooted, as its file says");
    Ok(())
}
