//! R16, as long as the specification has it: ten minutes of "not yet" for a real iPXE, twice, and for a real Ignition.

use std::time::Duration;

use anyhow::{Context, Result};

use super::ensure;
use crate::gate::Gate;
use crate::lan::{Lan, LanOptions};
use crate::magnetite::{self, Binaries};
use crate::prepare::Prepared;
use crate::proc::tail;
use crate::progress::Progress;
use crate::vm::{Firmware, Vm, VmSpec};
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(600);
/// For how long Ignition asks for its config (its `--fetch-timeout`, whatever it is answered) before it fails and leaves to its system
/// what comes next. The lab's initrd begins it anew, as a restart would.
const IGNITION_ASKS: Duration = Duration::from_secs(120);

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let lan = Lan::start(prepared, &LanOptions::new("not-yet", 1))?;
    let spec = VmSpec::new("patient", Firmware::Bios, 0);
    let catalog = lan.run().join("catalog");
    std::fs::create_dir_all(&catalog)?;
    std::fs::write(catalog.join("profile.yaml"), magnetite::profile_without_join(&prepared.guest)?)?;
    std::fs::write(catalog.join("machines.yaml"), magnetite::machine(&spec))?;
    let mut server = magnetite::bootserver_command(&lan, binaries, &prepared.guest.dir)?
        .args(["--catalog".to_owned(), catalog.display().to_string()])
        .spawn("bootserver", &lan.run().logs().join("bootserver.log"))?;
    let gate = Gate::put(&lan, PATIENCE)?;
    let step = progress.step("a box is told \"not yet\" for ten minutes, three times");
    let mut machine = lan.machine(spec)?;
    machine.power_on()?;
    let report = lan.run().join("bootserver/machines/patient.json");
    wait::until("the box to report that it booted", 3 * PATIENCE + Duration::from_secs(300), || {
        server.check()?;
        Ok(std::fs::read_to_string(&report).ok().filter(|text| text.contains("SystemBooted")))
    })
    .with_context(|| format!("{}\n{}", tail(&server.output(), 20), tail(&machine.console_text(), 10)))?;
    let held = gate.held()?;
    let runs = patient(&machine, PATIENCE)?;
    step.done(format!("{held}; Ignition ran {runs} times"));
    Ok(())
}

/// A box that gave up would have started over, and an Ignition that gave up before its time would have run more often. Gives back how
/// often it ran.
pub(super) fn patient(machine: &Vm, waited: Duration) -> Result<u64> {
    let console = machine.console_text();
    let starts = console.matches("SeaBIOS (version").count();
    ensure!(starts == 1, "the box started {starts} times:\n{}", tail(&console, 20));
    let failed = console.lines().filter(|line| line.contains("ignition fetch failed")).count() as u64;
    let due = waited.as_secs() / IGNITION_ASKS.as_secs();
    ensure!(failed <= due, "Ignition gave up {failed} times, {due} are due:\n{}", tail(&console, 20));
    Ok(failed + 1)
}
