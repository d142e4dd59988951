//! A MAC is no identity: whoever claims first within the window wins at this level. What is promised is that
//! it is found out, that the join stops, and that a person can settle it. And that nobody wins where the Profile asks for a
//! person's word.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::ensure;
use super::join::{conflict_is_told, rogue_has_certificate};
use crate::clock;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::proc::{Cmd, tail};
use crate::progress::Progress;
use crate::rogue;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, Vm, VmSpec};
use crate::wait;

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("conflict"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    let spec = VmSpec::new("victim", Firmware::Bios, 0).with_disk(64).with_clock(clock::wrong::MINUTES_BEHIND);
    site.apply(&magnetite::profile(&prepared.guest)?)?;
    site.apply(&magnetite::machine(&spec))?;

    let step = progress.step("a rogue claims the box's identity before the box does");
    let loot = wait::until("the box's config", Duration::from_secs(60), || Ok(rogue::loot(&site, &spec.mac).ok()))?;
    let rogue = rogue::claim(&site, binaries, &spec.mac, &loot)?;
    wait::until("the rogue to win, as a MAC is no identity", Duration::from_secs(60), || {
        Ok(rogue_has_certificate(&site).then_some(()))
    })
    .with_context(|| format!("{}\n{}", crate::proc::tail(&rogue.output(), 12), magnetite.last_words()))?;
    step.done("it has a certificate, and its key is on record");

    let step = progress.step("the true box boots and claims");
    let mut machine = site.machine(spec.clone())?;
    machine.power_on()?;
    site.wait_until("the true box to claim", Duration::from_secs(240), |site| {
        let claims = site.admin().json(&["get", "machineclaims"])?;
        Ok(claims["items"].as_array().is_some_and(|items| items.len() > 1).then_some(()))
    })?;
    conflict_is_told(&mut site, &spec.name)?;
    magnetite::wait_phase(&mut site, &spec.name, "Failed", Duration::from_secs(30))?;
    ensure!(site.admin().get(&["node", &spec.name])?.is_none(), "the box joined in spite of the conflict");
    step.done("refused with an Event; the Machine says ClaimConflict and waits for a person");
    drop(rogue);

    settle(&mut site, binaries, &magnetite, &machine, progress)?;
    left_over(&site, &spec, progress)?;
    approve(&mut site, binaries, &magnetite, &mut machine, progress)?;
    magnetite.check()
}

/// What the box shows on its console: the key that it claims with.
fn shown(machine: &Vm) -> Result<String> {
    let console = machine.console_text();
    let (_, after) = console
        .rsplit_once("its key is ")
        .with_context(|| format!("no key on the console:\n{}", tail(&console, 20)))?;
    Ok(after.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-').collect())
}

/// Runs the plugin; what it prints, and whether it ended with 0.
fn plugin(site: &Site, binaries: &Binaries, args: &[&str]) -> Result<(bool, String)> {
    let (status, out, err) = site.admin().plugin(&binaries.dir, "magnetite").args(args.iter().copied()).ask()?;
    Ok((status.success(), out + &err))
}

/// A person reads the console, compares, and says which key is right. The box goes on by itself.
fn settle(
    site: &mut Site,
    binaries: &Binaries,
    magnetite: &Magnetite,
    machine: &Vm,
    progress: &Progress,
) -> Result<()> {
    let step = progress.step("a person compares both sides with the box's console, and settles it");
    let name = machine.spec().name.clone();
    let key = shown(machine)?;
    let (settled, both) = plugin(site, binaries, &["conflict", &name])?;
    ensure!(!settled, "an open conflict is told with exit code 0:\n{both}");
    ensure!(both.contains(&key) && both.matches(&machine.spec().mac).count() == 2, "not both sides:\n{both}");
    let (healthy, doctor) = plugin(site, binaries, &["doctor"])?;
    ensure!(!healthy && doctor.contains("two keys claim"), "doctor says nothing of it:\n{doctor}");
    let (settled, told) = plugin(site, binaries, &["conflict", &name, "--keep", &key])?;
    ensure!(settled && told.contains("goes on by itself"), "it could not be settled:\n{told}");
    magnetite::wait_phase(site, &name, "Ready", Duration::from_secs(240)).with_context(|| magnetite.last_words())?;
    let status = magnetite::machine_status(site, &name)?;
    ensure!(status["identity"]["level"] == "approved", "identity: {}", status["identity"]);
    clock::was_put_right(site, machine)?;
    step.done(format!("{key} is kept: Ready, without a restart"));
    Ok(())
}

/// The rogue's certificate is good until it ends, and no longer: no renewal, and no serving certificate.
fn left_over(site: &Site, spec: &VmSpec, progress: &Progress) -> Result<()> {
    let step = progress.step("asking with the rogue's certificate for another one");
    let pair = site.run().join("rogue/var/lib/kubelet/pki/kubelet-client-current.pem").display().to_string();
    let request = Cmd::new("openssl")
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", &format!("/O=system:nodes/CN=system:node:{}", spec.name)])
        .args(["-keyout", &site.run().join("rogue.key").display().to_string()])
        .run()?;
    let object = serde_json::json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": "rogue-again" },
        "spec": {
            "request": STANDARD.encode(request), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    });
    let url = format!("https://{}:6443/apis/certificates.k8s.io/v1/certificatesigningrequests", crate::net::SERVER);
    let code = Cmd::new("curl")
        .netns(site.network().dhcp())
        .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--cert", &pair, "--key", &pair])
        .args(["-H", "Content-Type: application/json", "--data", &object.to_string(), &url])
        .run()?;
    ensure!(code == "201", "the API server answered {code}: the certificate is good until it ends");
    let denied =
        site.admin().wait_for("the renewal to be denied", &["csr", "rogue-again"], Duration::from_secs(60), |csr| {
            let conditions = csr["status"]["conditions"].as_array()?;
            conditions
                .iter()
                .find(|condition| condition["type"] == "Denied")
                .map(|condition| condition["reason"].clone())
        })?;
    ensure!(denied == "AnotherKey", "denied for {denied}");
    step.done("denied: it descends from the key that was refused");
    Ok(())
}

/// Where the Profile asks for a person's word, a box shows its key and waits for it.
fn approve(
    site: &mut Site,
    binaries: &Binaries,
    magnetite: &Magnetite,
    machine: &mut Vm,
    progress: &Progress,
) -> Result<()> {
    let step = progress.step("booting it anew under a Profile that asks for approval");
    let name = machine.spec().name.clone();
    site.kubectl(&["patch", "profile", "workers", "--type=merge", "-p", r#"{"spec":{"minIdentity":"approved"}}"#])?;
    let anew = r#"{"spec":{"bootIntent":"approved-anew","approvedFingerprint":null}}"#;
    site.kubectl(&["patch", "machine", &name, "--type=merge", "-p", anew])?;
    site.admin().wait_for("the new window", &["machine", &name], Duration::from_secs(30), |object| {
        let intent = &object["status"]["intent"];
        (intent["id"] == "approved-anew" && intent["state"] == "Open").then_some(())
    })?;
    machine.power_off();
    machine.power_on()?;
    site.wait_until("the box to wait for a person", Duration::from_secs(240), |site| {
        Ok((magnetite::machine_status(site, &name)?["reason"] == "AwaitingApproval").then_some(()))
    })
    .with_context(|| magnetite.last_words())?;
    machine.wait_console("waits for approval", Duration::from_secs(60))?;
    let key = shown(machine)?;
    let (done, list) = plugin(site, binaries, &["approve", &name])?;
    ensure!(!done && list.contains(&key), "the list of who waits:\n{list}");
    let (wrong, refusal) = plugin(site, binaries, &["approve", &name, "0000-0000-0000-0000"])?;
    ensure!(!wrong && refusal.contains(&key), "a key that never came was approved:\n{refusal}");
    let (done, told) = plugin(site, binaries, &["approve", &name, &key])?;
    ensure!(done, "it could not be approved:\n{told}");
    magnetite::wait_phase(site, &name, "Ready", Duration::from_secs(240)).with_context(|| magnetite.last_words())?;
    step.done(format!("it waited with {key} on its console, and is Ready"));
    Ok(())
}
