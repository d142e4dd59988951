//! Nothing is lost when a process is killed.

use std::time::Duration;

use anyhow::{Context, Result};

use super::ensure;
use crate::clock;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, VmSpec};

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("crash"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let spec = VmSpec::new("box", Firmware::Uefi, 0).with_disk(64).with_clock(clock::wrong::HALF_A_DAY_BEHIND);
    site.apply(&magnetite::profile(&prepared.guest)?)?;
    site.apply(&magnetite::machine(&spec))?;
    let mut machine = site.machine(spec.clone())?;
    machine.power_on()?;
    let step = progress.step("killing the boot server as the loader was sent");
    reached(&mut site, &spec.name, "LoaderSent")?;
    magnetite.kill_bootserver()?;
    magnetite.start_bootserver(&site)?;
    step.done("started again");
    let step = progress.step("killing both once the config was fetched");
    reached(&mut site, &spec.name, "ConfigFetched")?;
    magnetite.kill_controller()?;
    magnetite.kill_bootserver()?;
    magnetite.start_bootserver(&site)?;
    magnetite.start_controller(&site)?;
    step.done("started again");
    let step = progress.step("killing the controller as soon as there is a claim");
    site.wait_until("a claim", Duration::from_secs(240), |site| {
        let claims = site.admin().json(&["get", "machineclaims"])?;
        Ok(claims["items"].as_array().is_some_and(|items| !items.is_empty()).then_some(()))
    })?;
    magnetite.kill_controller()?;
    magnetite.start_controller(&site)?;
    step.done("started again");
    let step = progress.step("waiting for Ready");
    magnetite::wait_phase(&mut site, &spec.name, "Ready", Duration::from_secs(300))
        .with_context(|| magnetite.last_words())?;
    clock::was_put_right(&site, &machine)?;
    let claims = site.admin().json(&["get", "machineclaims"])?;
    ensure!(claims["items"].as_array().is_some_and(|items| items.len() == 1), "not one claim: {claims}");
    let requests = site.admin().json(&["get", "csr"])?;
    let ours = requests["items"]
        .as_array()
        .context("CSRs")?
        .iter()
        .filter(|csr| csr["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet");
    ensure!(ours.count() == 1, "not one client certificate request");
    step.done("one claim, one certificate");
    magnetite.check()
}

fn reached(site: &mut Site, name: &str, step: &str) -> Result<()> {
    site.wait_until(&format!("step {step}"), Duration::from_secs(240), |site| {
        let status = magnetite::machine_status(site, name)?;
        let steps = status["boot"]["steps"].as_array().cloned().unwrap_or_default();
        Ok(steps.iter().any(|one| one["name"] == step).then_some(()))
    })
    .with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()))
}
