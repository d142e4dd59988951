//! The main job, and what must hold around it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ensure;
use crate::clock;
use crate::demo::pod_that;
use crate::kube_build::KUBERNETES;
use crate::kubectl::condition;
use crate::magnetite::{self, Binaries, Magnetite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::rogue;
use crate::site::{Site, SiteOptions};
use crate::vm::{Firmware, Vm, VmSpec};
use crate::wait;

const CANARY: &str = "CANARY-5f2c1d9e";
/// What the Secret of the Profile holds at first, and later.
const SECRETS: [&str; 2] = ["CANARY-first-a81c", "CANARY-second-77e0"];
const LONG: Duration = Duration::from_secs(300);

pub(super) fn run(prepared: &Prepared, binaries: &Binaries, progress: &Progress) -> Result<()> {
    let mut site = Site::start(prepared, progress, &SiteOptions::new("join"))?;
    let mut magnetite = Magnetite::start(&site, binaries, progress)?;
    for namespace in ["default", "kube-system", magnetite::NAMESPACE] {
        site.kubectl(&[
            "create",
            "secret",
            "generic",
            "canary",
            "-n",
            namespace,
            &format!("--from-literal=password={CANARY}"),
        ])?;
    }
    let specs = [
        VmSpec::new("bios", Firmware::Bios, 0).with_cpus(1).with_disk(64).with_clock(clock::wrong::EPOCH),
        VmSpec::new("uefi", Firmware::Uefi, 1).with_cpus(1).with_disk(64).with_clock(clock::wrong::TEN_YEARS_AHEAD),
    ];
    secret(&site, SECRETS[0])?;
    let files = format!(
        "  secretFiles:\n  - path: /etc/magnetite-lab/secret\n    secret: {{name: {}, key: {}}}\n",
        magnetite::SECRET.0,
        magnetite::SECRET.1
    );
    site.apply(&format!("{}\n{files}", magnetite::profile(&prepared.guest)?.trim_end()))?;
    for spec in &specs {
        site.apply(&magnetite::machine(spec))?;
    }
    let loot = wait_for_loot(&site, &specs[0].mac)?;
    nothing_secret(&loot)?;
    stranger(&site, &magnetite, progress)?;

    let step = progress.step("booting a BIOS and a UEFI box to Ready");
    let mut boxes: Vec<Vm> = specs.iter().map(|spec| site.machine(spec.clone())).collect::<Result<_>>()?;
    for machine in &mut boxes {
        machine.power_on()?;
    }
    for (spec, machine) in specs.iter().zip(&boxes) {
        let status =
            magnetite::wait_phase(&mut site, &spec.name, "Ready", LONG).with_context(|| magnetite.last_words())?;
        ensure!(status["message"].is_null(), "{} is Ready and says {}", spec.name, status["message"]);
        // The controller sees a Node become Ready a moment before the box tells of it.
        let told = site.wait_until("the box to tell that it is Ready", Duration::from_secs(60), |site| {
            let status = magnetite::machine_status(site, &spec.name)?;
            let steps = status["boot"]["steps"].as_array().cloned().unwrap_or_default();
            Ok(steps.iter().any(|step| step["name"] == "NodeReady").then_some(status))
        })?;
        check_status(spec, &told)?;
        check_node(&site, spec)?;
        clock::was_put_right(&site, machine)?;
        step.note(format!("{} is Ready", spec.name));
    }
    step.done("both, with their kubelets at the wanted version");
    plugin(&site, binaries, &specs, progress)?;
    pods(&site, &magnetite, &specs, &loot, progress)?;
    // It takes up to two minutes, in which the rest goes on.
    secret(&site, SECRETS[1])?;
    dhcp_as_before(&site, &specs)?;
    other_names(&site)?;
    reboot(&mut site, &mut magnetite, &mut boxes[0], progress)?;
    second_key(&mut site, binaries, &specs[1], progress)?;
    rotated(&site, &specs[1], progress)?;
    on_the_wire(&site)?;
    replayed(&site, &loot, progress)?;
    leaving(&site, &specs[0], progress)?;
    magnetite.check()
}

/// The controller opens the window a moment after the Machine was made; only then is there something to fetch.
fn wait_for_loot(site: &Site, mac: &str) -> Result<rogue::Loot> {
    wait::until(
        "the boot server to serve the box's config",
        Duration::from_secs(60),
        || Ok(rogue::loot(site, mac).ok()),
    )
}

/// Script and config are public by construction.
fn nothing_secret(loot: &rogue::Loot) -> Result<()> {
    for (what, text) in [("script", &loot.script), ("Ignition config", &loot.ignition)] {
        for secret in [CANARY, "PRIVATE KEY", "eyJhbGciOi", "bootstrap-token", "client-key"] {
            ensure!(!text.contains(secret), "the {what} holds {secret:?}:\n{text}");
        }
    }
    Ok(())
}

/// A box that nobody declared is not answered, whatever its firmware asks.
fn stranger(site: &Site, magnetite: &Magnetite, progress: &Progress) -> Result<()> {
    let step = progress.step("powering on a box that nobody declared");
    let mut machine = site.machine(VmSpec::new("stranger", Firmware::Bios, 3).with_cpus(1).with_memory(256))?;
    machine.power_on()?;
    machine.wait_console("Nothing to boot", Duration::from_secs(90))?;
    let spec = machine.spec().clone();
    ensure!(site.dhcp_log().contains(&spec.mac), "the site's DHCP server did not see it");
    let metrics = magnetite.bootserver_metrics(site)?;
    let counted =
        metrics.lines().any(|line| line.contains("unknown") && !line.starts_with('#') && !line.ends_with(" 0"));
    ensure!(counted, "an unknown box was not counted:\n{metrics}");
    machine.power_off();
    step.done("\"Nothing to boot\", and it was counted");
    Ok(())
}

/// `kubectl magnetite`, as a person at a terminal has it: on the PATH.
fn plugin(site: &Site, binaries: &Binaries, specs: &[VmSpec], progress: &Progress) -> Result<()> {
    let step = progress.step("asking kubectl magnetite");
    let ask = |args: &[&str]| site.admin().plugin(&binaries.dir, "magnetite").args(args.iter().copied()).run();
    for spec in specs {
        let timeline = ask(&["timeline", &spec.name])?;
        for wanted in ["FirmwareSeen", "ScriptServed", "AgentStarted", "NodeReady"] {
            ensure!(timeline.contains(wanted), "the timeline of {} has no {wanted}:\n{timeline}", spec.name);
        }
        let preview = ask(&["preview", &spec.name, "--open"])?;
        for wanted in ["vmlinuz", "magnetite-agent.service", spec.name.as_str()] {
            ensure!(preview.contains(wanted), "the preview of {} has no {wanted}:\n{preview}", spec.name);
        }
        ensure!(!preview.contains(CANARY), "the preview shows a secret");
    }
    step.done("timeline and preview of both");
    Ok(())
}

fn check_status(spec: &VmSpec, status: &Value) -> Result<()> {
    let firmware = if spec.firmware == Firmware::Bios { "BIOS" } else { "UEFI" };
    let boot = &status["boot"];
    ensure!(boot["firmware"] == firmware, "{}: firmware {}", spec.name, boot["firmware"]);
    ensure!(boot["mac"] == spec.mac.as_str(), "{}: MAC {}", spec.name, boot["mac"]);
    let steps: Vec<&str> =
        boot["steps"].as_array().context("steps")?.iter().filter_map(|step| step["name"].as_str()).collect();
    let mut wanted = vec![
        "FirmwareSeen",
        "ScriptServed",
        "KernelFetched",
        "InitrdFetched",
        "ConfigFetched",
        "AgentFetched",
        "AgentStarted",
        "NodeReady",
    ];
    if spec.firmware == Firmware::Uefi {
        // A UEFI box has no iPXE of its own: the chain begins with the loader.
        wanted.push("LoaderSent");
    }
    for step in wanted {
        ensure!(steps.contains(&step), "{}: no step {step} among {steps:?}", spec.name);
    }
    ensure!(status["intent"]["state"] == "Fulfilled", "{}: intent {}", spec.name, status["intent"]);
    ensure!(status["identity"]["level"] == "mac", "{}: identity {}", spec.name, status["identity"]);
    let inventory = &status["inventory"];
    ensure!(
        inventory["memoryBytes"].as_i64().is_some_and(|bytes| bytes > 1 << 30),
        "{}: inventory {inventory}",
        spec.name
    );
    ensure!(inventory["serial"] == spec.serial.as_str(), "{}: serial {}", spec.name, inventory["serial"]);
    Ok(())
}

fn check_node(site: &Site, spec: &VmSpec) -> Result<()> {
    let node = site.admin().get(&["node", &spec.name])?.with_context(|| format!("there is no node {}", spec.name))?;
    ensure!(condition(&node, "Ready").as_deref() == Some("True"), "{} is not Ready", spec.name);
    let version = &node["status"]["nodeInfo"]["kubeletVersion"];
    ensure!(version == KUBERNETES, "{}: kubelet {version}", spec.name);
    let labels = &node["metadata"]["labels"];
    ensure!(labels["magnetite.dev/machine"] == spec.name.as_str(), "{}: labels {labels}", spec.name);
    ensure!(labels["example.com/pool"] == "workers", "{}: labels {labels}", spec.name);
    // What the lab has QEMU say in its SMBIOS tables.
    ensure!(labels["facts.magnetite.dev/vendor"] == "Magnetite", "{}: labels {labels}", spec.name);
    let annotations = &node["metadata"]["annotations"];
    ensure!(annotations["example.com/owner"] == "the lab", "{}: annotations {annotations}", spec.name);
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    ensure!(taints.iter().any(|taint| taint["key"] == "example.com/new"), "{}: taints {taints:?}", spec.name);
    Ok(())
}

/// Pods run on both, and the API server reaches the kubelets: their serving certificates were approved. What a Pod asks of the boot
/// server is refused, and told.
fn pods(site: &Site, magnetite: &Magnetite, specs: &[VmSpec], loot: &rogue::Loot, progress: &Progress) -> Result<()> {
    let step = progress.step("running a pod on each");
    let link = loot.config_link().context("the link of the config")?;
    // From elsewhere on the network the same link is good.
    rogue::fetch(site, link)?;
    for spec in specs {
        let name = format!("hello-{}", spec.name);
        route_to_pods(site, &spec.name)?;
        let script = format!(
            "echo hello from a pod; wget -O /dev/null '{link}' 2>&1; echo asked; while :; do cat /node/secret; echo; sleep 2; done"
        );
        site.apply(&pod_that(&name, &spec.name, &script))?;
        site.kubectl(&["wait", "--for=condition=Ready", "--timeout=110s", &format!("pod/{name}")])?;
        let log = wait::until("kubectl logs", Duration::from_secs(60), || {
            let told = |log: &String| log.contains("asked") && log.contains(SECRETS[0]);
            Ok(site.kubectl(&["logs", &name]).ok().filter(told))
        })
        .with_context(|| format!("CSRs:\n{}", site.kubectl(&["get", "csr"]).unwrap_or_default()))?;
        ensure!(log.contains("404 Not Found"), "what the boot server told a Pod:\n{log}");
    }
    let metrics = magnetite.bootserver_metrics(site)?;
    let counted = metrics.lines().find(|line| line.contains("fenced") && line.contains("\"http\""));
    ensure!(counted.is_some_and(|line| !line.ends_with(" 0")), "nothing was counted: {counted:?}");
    let said = magnetite.bootserver_log();
    let told = said.lines().any(|line| line.contains("10.85.0.") && line.contains("--refuse-network"));
    ensure!(told, "the boot server did not say that it refused a Pod");
    step.done("Ready, `kubectl logs` reaches them, the Profile's secret file was there; the boot server refused both, and says so");
    Ok(())
}

/// Pods' addresses are not hidden behind their node's, as in a cluster whose network routes them: so answers need a way back.
fn route_to_pods(site: &Site, node: &str) -> Result<()> {
    // Not the boot's address: that is of whoever fetched last, and somebody else just did.
    let status = site.admin().json(&["get", "node", node])?["status"].clone();
    let addresses = status["addresses"].as_array().context("the Node's addresses")?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    let address = internal.and_then(|address| address["address"].as_str()).context("the Node's address")?;
    let ip = crate::proc::Cmd::new("ip").netns(site.network().server());
    ip.args(["route", "replace", magnetite::PODS, "via", address]).run().map(drop)
}

/// Makes the Secret that the Profile hands to its machines, or changes it.
fn secret(site: &Site, text: &str) -> Result<()> {
    let (name, key) = magnetite::SECRET;
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": name, "namespace": magnetite::NAMESPACE },
        "stringData": { key: text },
    });
    site.apply(&secret.to_string()).map(drop)
}

/// A changed Secret reaches a node that runs, without a reboot.
fn rotated(site: &Site, spec: &VmSpec, progress: &Progress) -> Result<()> {
    let step = progress.step("waiting for the changed Secret on the node");
    let name = format!("hello-{}", spec.name);
    wait::until("the new text", Duration::from_secs(200), || {
        Ok(site.kubectl(&["logs", &name, "--tail=3"]).ok().filter(|log| log.contains(SECRETS[1])))
    })
    .with_context(|| {
        format!("claims: {}", site.kubectl(&["get", "machineclaims", "-o", "yaml"]).unwrap_or_default())
    })?;
    // Whoever may read claims reads nothing of it.
    let claims = site.kubectl(&["get", "machineclaims", "-o", "yaml"])?;
    ensure!(SECRETS.iter().all(|text| !claims.contains(text)), "a claim holds the secret");
    step.done("it is there; in the claims it stands sealed");
    Ok(())
}

/// Whatever went over the wire before the claim opens the API server to nobody: each word of it is shown as a token.
fn replayed(site: &Site, loot: &rogue::Loot, progress: &Progress) -> Result<()> {
    let step = progress.step("showing to the API server what went over the wire");
    let all = [loot.script.as_str(), loot.ignition.as_str()].join("\n");
    let environment = loot.environment.iter().map(|(_, value)| value.as_str());
    let parts = |text: &'static [char]| move |word: &str| word.split(text).map(str::to_owned).collect::<Vec<_>>();
    let split = parts(&['"', '/', '=', ',', ':', '{', '}', '[', ']']);
    let mut words: Vec<String> = all.split_whitespace().flat_map(split).collect();
    words.extend(environment.flat_map(|value| value.split('/').map(str::to_owned).collect::<Vec<_>>()));
    words.retain(|word| word.len() >= 16 && word.chars().all(|c| c.is_ascii_graphic()));
    words.sort();
    words.dedup();
    let url = format!("https://{}:6443/api/v1/nodes", crate::net::SERVER);
    let refused = |token: Option<&str>| -> Result<String> {
        let mut curl = crate::proc::Cmd::new("curl").netns(site.network().dhcp());
        curl = curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10"]);
        if let Some(token) = token {
            curl = curl.args(["-H".to_owned(), format!("Authorization: Bearer {token}")]);
        }
        curl.arg(&url).run()
    };
    let nobody = refused(None)?;
    ensure!(nobody == "401" || nobody == "403", "without any credential the API server answers {nobody}");
    for word in &words {
        let code = refused(Some(word))?;
        ensure!(code == "401", "{word:?}, shown as a token, is answered with {code}");
    }
    step.done(format!("{} words, none of which is a credential", words.len()));
    Ok(())
}

/// The site's DHCP server did its work as before, and handed out no boot option of its own.
fn dhcp_as_before(site: &Site, specs: &[VmSpec]) -> Result<()> {
    let log = site.dhcp_log();
    for spec in specs {
        let acknowledged = log.lines().any(|line| line.contains("DHCPACK") && line.contains(&spec.mac));
        ensure!(acknowledged, "no lease for {} in the site's DHCP log", spec.mac);
    }
    // What clients ask for is in the log as well; what counts is what the server sent.
    let sent = log.lines().filter(|line| line.contains("sent size")).find(|line| line.contains("boot"));
    ensure!(sent.is_none(), "the site's DHCP server sent a boot option: {sent:?}");
    Ok(())
}

/// A certificate for another node's name is not to be had, by any of three ways.
fn other_names(site: &Site) -> Result<()> {
    let request = |name: &str, common_name: &str, san: &str| -> Result<String> {
        let dir = site.run().path();
        let key = dir.join(format!("{name}.key"));
        let mut command = crate::proc::Cmd::new("openssl").args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]);
        command = command.args([
            "-subj".to_owned(),
            format!("/O=system:nodes/CN={common_name}"),
            "-keyout".to_owned(),
            key.display().to_string(),
        ]);
        if !san.is_empty() {
            command = command.args(["-addext".to_owned(), format!("subjectAltName={san}")]);
        }
        use base64::Engine;
        Ok(base64::engine::general_purpose::STANDARD.encode(command.run()?))
    };
    let submit = |name: &str, request: String, signer: &str, usages: &[&str], user: &str| {
        let object = serde_json::json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": { "name": name },
            "spec": { "request": request, "signerName": format!("kubernetes.io/{signer}"), "usages": usages },
        });
        let groups = ["--as-group=system:nodes", "--as-group=system:authenticated"];
        site.admin()
            .command()
            .args(["create", "-f", "-", &format!("--as={user}")])
            .args(groups)
            .input(object.to_string())
            .run()
    };
    let client = ["digital signature", "client auth"];
    let serving = ["digital signature", "server auth"];
    // As the node bios itself: NodeRestriction already refuses the first; the second is ours to refuse.
    let foreign = submit(
        "foreign-name",
        request("foreign-name", "system:node:uefi", "")?,
        "kube-apiserver-client-kubelet",
        &client,
        "system:node:bios",
    );
    let san = submit(
        "foreign-san",
        request("foreign-san", "system:node:bios", "DNS:bios,IP:172.30.0.1")?,
        "kubelet-serving",
        &serving,
        "system:node:bios",
    )?;
    ensure!(san.contains("created"), "{san}");
    // As somebody who is no node at all: what the stock approver's nodeclient rule would have let through.
    let stranger = submit(
        "stranger",
        request("stranger", "system:node:uefi", "")?,
        "kube-apiserver-client-kubelet",
        &client,
        "system:bootstrap:abcdef",
    );
    site.admin().wait_for(
        "the request for another's address to be denied",
        &["csr", "foreign-san"],
        Duration::from_secs(60),
        |csr| (condition(csr, "Denied").as_deref() == Some("True")).then_some(()),
    )?;
    for (name, submitted) in [("foreign-name", foreign.is_ok()), ("stranger", stranger.is_ok())] {
        if submitted {
            let csr = site.admin().json(&["get", "csr", name])?;
            ensure!(condition(&csr, "Approved").is_none(), "{name} was approved");
            ensure!(csr["status"]["certificate"].is_null(), "{name} got a certificate");
        }
    }
    Ok(())
}

/// A memory-only system with its keys on a disk boots again, joins nothing anew, and claims nothing.
fn reboot(site: &mut Site, magnetite: &mut Magnetite, machine: &mut Vm, progress: &Progress) -> Result<()> {
    let name = machine.spec().name.clone();
    let before = Before::of(site, &name)?;
    let step = progress.step(format!("pressing the reset button of {name}"));
    machine.reset()?;
    magnetite::wait_next_boot(site, &name, &before.boot, LONG).with_context(|| {
        format!("{}\n{}", magnetite::machine_status(site, &name).unwrap_or_default(), magnetite.last_words())
    })?;
    let after = Before::of(site, &name)?;
    ensure!(after.node == before.node, "the Node is another one");
    ensure!(after.identity == before.identity, "the identity changed: {} {}", before.identity, after.identity);
    ensure!(after.claims == before.claims, "there are {} claims, there were {}", after.claims, before.claims);
    step.done("Ready again: the same Node, the same key, no new claim");
    Ok(())
}

struct Before {
    boot: Value,
    node: Value,
    identity: Value,
    claims: usize,
}

impl Before {
    fn of(site: &Site, name: &str) -> Result<Self> {
        let status = magnetite::machine_status(site, name)?;
        let node = site.admin().json(&["get", "node", name])?;
        let claims = site.admin().json(&["get", "machineclaims"])?;
        Ok(Self {
            boot: status["boot"]["startedAt"].clone(),
            node: node["metadata"]["uid"].clone(),
            identity: status["identity"].clone(),
            claims: claims["items"].as_array().map_or(0, Vec::len),
        })
    }
}

/// A second key for a machine that is joined: refused, told, and the machine goes on.
fn second_key(site: &mut Site, binaries: &Binaries, spec: &VmSpec, progress: &Progress) -> Result<()> {
    let step = progress.step(format!("claiming {} with a second key", spec.name));
    let loot = rogue::loot(site, &spec.mac)?;
    let rogue = rogue::claim(site, binaries, &spec.mac, &loot)?;
    second_key_is_told(site, &spec.name)
        .with_context(|| format!("the rogue said:\n{}", crate::proc::tail(&rogue.output(), 12)))?;
    ensure!(!rogue_has_certificate(site), "the rogue got a certificate");
    drop(rogue);
    check_node(site, spec)?;
    step.done("refused with an Event, the Machine says Uncontested=False, the Node runs on");
    Ok(())
}

pub(super) fn rogue_has_certificate(site: &Site) -> bool {
    site.run().join("rogue/var/lib/kubelet/pki/kubelet-client-current.pem").exists()
}

/// What is joined is not frozen, and says that somebody else wants to be it.
fn second_key_is_told(site: &mut Site, name: &str) -> Result<()> {
    site.wait_until("the second key to be told", Duration::from_secs(60), |site| {
        let machine = site.admin().json(&["get", "machine", name])?;
        Ok((condition(&machine, "Uncontested").as_deref() == Some("False")).then_some(()))
    })
    .with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()))
}

pub(super) fn conflict_is_told(site: &mut Site, name: &str) -> Result<()> {
    site.wait_until("the conflict to be told", Duration::from_secs(60), |site| {
        let status = magnetite::machine_status(site, name)?;
        let events = site.admin().json(&["get", "events", "-A"])?;
        let told = events["items"].as_array().is_some_and(|events| {
            events.iter().any(|event| {
                event["reason"] == "ClaimConflict"
                    && event["type"] == "Warning"
                    && event["involvedObject"]["name"] == name
            })
        });
        Ok((told && status["intent"]["state"] == "Frozen").then_some(()))
    })
    .with_context(|| format!("status: {}", magnetite::machine_status(site, name).unwrap_or_default()))
}

/// Nothing in the capture of all this is a secret.
fn on_the_wire(site: &Site) -> Result<()> {
    let bytes = std::fs::read(site.capture().file())?;
    ensure!(bytes.len() > 10_000, "the capture is empty");
    for secret in [CANARY, "PRIVATE KEY", "client-key-data"] {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        ensure!(!found, "{secret:?} went over the wire");
    }
    Ok(())
}

/// Deleting a Machine closes its window and lets go of it; the Node stays, as the policy says.
fn leaving(site: &Site, spec: &VmSpec, progress: &Progress) -> Result<()> {
    site.kubectl(&["delete", "machine", &spec.name, "--timeout=60s"])?;
    ensure!(site.admin().get(&["node", &spec.name])?.is_some(), "the Node was removed, and the policy is Retain");
    wait::until("the box to be a stranger", Duration::from_secs(20), || {
        Ok(rogue::discover(site.network(), &spec.mac)?.is_none().then_some(()))
    })?;
    progress.line("deleted one Machine: its Node stays, its box is a stranger now");
    Ok(())
}
