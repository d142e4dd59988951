//! A system that lives on a disk: it joins from there, and boots from there ever after, although the firmware tries the network first.

use std::time::Duration;

use anyhow::{Context, Result};

use super::same::{Before, again};
use crate::clock;
use crate::guest::disk;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::site::{Site, SiteOptions};
use crate::vm::{Boots, Firmware, VmSpec};
use crate::wait;

const LONG: Duration = Duration::from_secs(900);

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
    again(&mut site, &spec.name, LONG, &before).with_context(|| magnetite.last_words())?;
    step.done("iPXE let it go on to its disk: Ready again, the same Node, the same key, no new claim");
    magnetite.check()
}
