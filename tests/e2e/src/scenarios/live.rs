//! Boxes whose system lives in memory and that have a TPM: a power cut leaves them nothing else, and they come back by themselves. One
//! proves its TPM, the other is never asked for it. The signer's certificates last minutes, so that those of their claims have ended by then.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::{ensure, tpm};
use crate::guest::Guest;
use crate::magnetite::{self, Magnetite};
use crate::progress::Progress;
use crate::site::Site;
use crate::stamp::sha256_hex;
use crate::vm::{Firmware, Vm, VmSpec};

const LONG: Duration = Duration::from_secs(300);
/// How long certificates last: an agent takes none that ends within two minutes.
pub(super) const CERTIFICATES: &str = "4m";

/// The two boxes, and what they were before they lost power.
pub(super) struct Live {
    boxes: Vec<Vm>,
    before: Vec<Before>,
}

/// What must not change.
struct Before {
    boot: Value,
    node: Value,
    claim: String,
    claim_key: Value,
    certificate: String,
    /// SHA-256 of those that are on record.
    line: Value,
}

impl Before {
    fn of(site: &Site, name: &str) -> Result<Self> {
        let status = magnetite::machine_status(site, name)?;
        let node = site.admin().json(&["get", "node", name])?;
        let claim = status["identity"]["claim"].as_str().context("a claim that won")?.to_owned();
        let answer = site.admin().json(&["get", "machineclaim", &claim])?;
        Ok(Self {
            boot: status["boot"]["startedAt"].clone(),
            node: node["metadata"]["uid"].clone(),
            certificate: answer["status"]["join"]["certificate"].as_str().context("a certificate")?.to_owned(),
            claim,
            claim_key: status["identity"]["claimKey"].clone(),
            line: status["identity"]["certificates"].clone(),
        })
    }
}

impl Live {
    /// Declares them, and switches them on.
    pub(super) fn power_on(site: &Site, guest: &Guest) -> Result<Self> {
        let profile =
            magnetite::profile(guest)?.replace("name: workers", "name: plain").replace("role: worker", "role: plain");
        site.apply(&profile)?;
        let mut boxes = Vec::new();
        for (name, port) in [("proven", 1), ("plain", 2)] {
            let spec = VmSpec::new(name, Firmware::Bios, port).with_cpus(1).with_tpm();
            let mut machine = site.machine(spec.clone())?;
            let declared = magnetite::machine(&spec);
            if name == "proven" {
                site.apply(&format!("{declared}  tpm:\n    endorsementKey: {}\n", tpm::fingerprint(&machine)?))?;
            } else {
                site.apply(&declared.replace("role: worker", "role: plain"))?;
            }
            machine.power_on()?;
            boxes.push(machine);
        }
        Ok(Self { boxes, before: Vec::new() })
    }

    /// They join, and lose power with all that they had in memory.
    pub(super) fn lose_power(&mut self, site: &mut Site, magnetite: &Magnetite, progress: &Progress) -> Result<()> {
        let step = progress.step("two boxes join whose system lives in memory, and lose power");
        for (machine, level) in self.boxes.iter().zip(["tpm-enrolled", "mac"]) {
            let name = &machine.spec().name;
            let status = magnetite::wait_phase(site, name, "Ready", LONG).with_context(|| magnetite.last_words())?;
            ensure!(status["identity"]["level"] == level, "identity of {name}: {}", status["identity"]);
            self.before.push(Before::of(site, name)?);
        }
        self.boxes.iter_mut().for_each(Vm::power_off);
        step.done("they were Ready, one at the level tpm-enrolled, one at mac");
        Ok(())
    }

    /// They have power again, after the certificates of their claims have ended.
    pub(super) fn come_back(mut self, site: &mut Site, magnetite: &Magnetite, progress: &Progress) -> Result<()> {
        let step = progress.step("until the certificates of their claims have ended");
        for before in &self.before {
            site.wait_until("the certificate of a claim to end", LONG, |_| {
                Ok(has_ended(&before.certificate)?.then_some(()))
            })?;
        }
        step.done("they have");
        let step = progress.step("the two in memory boot again, and nobody says anything");
        for machine in &mut self.boxes {
            machine.power_on()?;
        }
        for (machine, before) in self.boxes.iter().zip(self.before) {
            let name = &machine.spec().name;
            came_back(site, name, before).with_context(|| {
                format!("{}\n{}", magnetite::machine_status(site, name).unwrap_or_default(), magnetite.last_words())
            })?;
        }
        step.done("Ready: the same keys, the same Nodes, the same claims, another certificate");
        Ok(())
    }
}

fn came_back(site: &mut Site, name: &str, before: Before) -> Result<()> {
    let steps = magnetite::wait_next_boot(site, name, &before.boot, LONG)?;
    ensure!(
        steps.iter().any(|step| step["name"] == "AgentStarted"),
        "the first report of {name} was not believed: {steps:?}"
    );
    let after = Before::of(site, name)?;
    ensure!(after.claim_key == before.claim_key && after.claim == before.claim, "{name} came with another key");
    ensure!(after.node == before.node, "the Node of {name} is another one");
    ensure!(after.certificate != before.certificate, "{name} was given the certificate that had ended");
    let digest = sha256_hex(&pem(&after.certificate)?.contents);
    let line = after.line.as_array().context("certificates on record")?;
    ensure!(line.contains(&Value::from(digest)), "the new certificate of {name} is not on record");
    let machine = site.admin().json(&["get", "machine", name])?;
    ensure!(machine["spec"]["bootIntent"].is_null(), "somebody set an intent: {}", machine["spec"]);
    Ok(())
}

fn pem(certificate: &str) -> Result<Pem> {
    Ok(x509_parser::pem::parse_x509_pem(certificate.as_bytes()).context("PEM")?.1)
}

/// By the certificate's own word, and the clock of the lab's host, which is the cluster's.
fn has_ended(certificate: &str) -> Result<bool> {
    let pem = pem(certificate)?;
    let end = pem.parse_x509().context("a certificate")?.validity().not_after.timestamp();
    Ok(end < Timestamp::now().as_second())
}
