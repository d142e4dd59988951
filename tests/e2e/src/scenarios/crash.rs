//! Nothing is lost when a process is killed: controller and boot server, at each turn that a box takes on its way to a Node.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ensure;
use crate::clock;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, VmSpec};

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Controller,
    BootServer,
    Both,
}

/// The turns, in their order: what is waited for, and who is killed then.
const TURNS: [(&str, Who); 11] = [
    ("WindowOpen", Who::Controller),
    ("LoaderSent", Who::BootServer),
    ("ScriptServed", Who::BootServer),
    ("KernelFetched", Who::BootServer),
    ("ConfigFetched", Who::Both),
    ("AgentStarted", Who::BootServer),
    ("a claim", Who::Controller),
    ("a bound key", Who::Controller),
    ("a certificate request", Who::Both),
    ("a Node", Who::Controller),
    ("Ready", Who::Both),
];

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("crash"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let spec = VmSpec::new("box", Firmware::Uefi, 0).with_disk(64).with_clock(clock::wrong::HALF_A_DAY_BEHIND);
    site.apply(&magnetite::profile(&prepared.guest)?)?;
    site.apply(&magnetite::machine(&spec))?;
    let mut machine = site.machine(spec.clone())?;
    for (number, (turn, who)) in TURNS.into_iter().enumerate() {
        let step = progress.step(format!("kill -9 at {turn} ({} of {})", number + 1, TURNS.len()));
        reached(&mut site, &spec.name, turn).with_context(|| magnetite.last_words())?;
        if who != Who::BootServer {
            magnetite.kill_controller()?;
        }
        if who != Who::Controller {
            magnetite.kill_bootserver()?;
            magnetite.start_bootserver(&site)?;
        }
        if who != Who::BootServer {
            magnetite.start_controller(&site)?;
        }
        if turn == "WindowOpen" {
            machine.power_on()?;
        }
        step.done("started again");
    }
    let step = progress.step("waiting for Ready, and for nothing more to happen");
    magnetite.wait_ready(&site)?;
    magnetite::wait_phase(&mut site, &spec.name, "Ready", Duration::from_secs(300))
        .with_context(|| magnetite.last_words())?;
    clock::was_put_right(&site, &machine)?;
    let claims = site.admin().json(&["get", "machineclaims"])?;
    ensure!(claims["items"].as_array().is_some_and(|items| items.len() == 1), "not one claim: {claims}");
    ensure!(certificate_requests(&site)? == 1, "not one client certificate request");
    let status = magnetite::machine_status(&site, &spec.name)?;
    ensure!(status["intent"]["id"] == "created", "another intent: {}", status["intent"]);
    ensure!(status["intent"]["state"] == "Fulfilled", "its window: {}", status["intent"]);
    step.done("one claim, one certificate, one intent, which is fulfilled");
    magnetite.check()
}

fn certificate_requests(site: &Site) -> Result<usize> {
    let requests = site.admin().json(&["get", "csr"])?;
    let items = requests["items"].as_array().context("CSRs")?;
    let ours = |csr: &&Value| csr["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet";
    Ok(items.iter().filter(ours).count())
}

/// Waits for a turn; one that was passed meanwhile counts.
fn reached(site: &mut Site, name: &str, turn: &str) -> Result<()> {
    let result = site.wait_until(&format!("{turn} of {name}"), Duration::from_secs(300), |site| {
        let status = magnetite::machine_status(site, name)?;
        let there = match turn {
            "WindowOpen" => status["intent"]["state"] == "Open",
            "a claim" => {
                let claims = site.admin().json(&["get", "machineclaims"])?;
                claims["items"].as_array().is_some_and(|items| !items.is_empty())
            }
            "a bound key" => !status["identity"].is_null(),
            "a certificate request" => certificate_requests(site)? > 0,
            "a Node" => site.admin().get(&["node", name])?.is_some(),
            "Ready" => status["phase"] == "Ready",
            step => status["boot"]["steps"].as_array().is_some_and(|steps| steps.iter().any(|one| one["name"] == step)),
        };
        Ok(there.then_some(()))
    });
    result.with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()))
}
