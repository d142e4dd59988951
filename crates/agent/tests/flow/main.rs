//! The whole join, with the agent's real binary, real TLS, and a folder as the box.

mod install;
mod node_box;
mod site;

use std::{fs, os::unix::process::ExitStatusExt, path::Path};

use magnetite_swtpm::Swtpm;

use crate::{
    node_box::{NodeBox, TOKEN, told},
    site::{BOOT_ID, CAPABILITY, Node, Reply, Site},
};

const CURRENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

#[tokio::test]
async fn a_first_boot_becomes_a_node() {
    // The boot server's certificate is dated 1970 and names another host: its key is the pinned one, and that is all.
    let site = Site::start(&[Reply::NotYet, Reply::Grant], &[Node::Missing, Node::NotReady, Node::Ready]);
    let node = NodeBox::fresh();
    let output = node.run(&site, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));

    let steps = ["AgentStarted", "Claiming", "CertificateReceived", "KubeletStarted", "NodeRegistered", "NodeReady"];
    assert_eq!(site.reported(), steps);
    let fixed = site.fixed();
    assert!(fixed.reports[0].inventory.as_ref().is_some_and(|inventory| inventory.disks.len() == 3));
    assert_eq!(fixed.claims.len(), 2, "one that was not decided yet, one that was");
    assert_eq!(fixed.claims[0], fixed.claims[1]);
    assert_eq!((fixed.claims[0].machine.as_str(), fixed.claims[0].facts.macs.len()), ("m-1", 2));
    // The first too: of a box that comes back no other is believed.
    let signatures: Vec<_> = fixed.reports.iter().map(|report| report.signature.clone().expect("signed")).collect();
    assert!(signatures.iter().all(|signature| signature.claim_key == fixed.claims[0].claim_key));
    assert!(signatures.is_sorted_by(|one, next| one.number < next.number));

    assert_eq!(node.mode("/var/lib/magnetite"), 0o700);
    for secret in ["/var/lib/magnetite/claim.key", "/var/lib/magnetite/kubelet.key", CURRENT] {
        assert_eq!(node.mode(secret), 0o600, "{secret}");
    }
    let target = fs::read_link(node.at(CURRENT)).expect("the kubelet insists on a symlink");
    assert!(target.to_string_lossy().starts_with("kubelet-client-2"), "{target:?}");
    let pair = node.read(CURRENT);
    let (certificate, key) = (pair.find("-----BEGIN CERTIFICATE-----"), pair.find("-----BEGIN PRIVATE KEY-----"));
    assert!(certificate < key && certificate == Some(0), "the certificate, then its key");
    assert!(node.read("/etc/kubernetes/kubelet.conf").contains(CURRENT));
    assert!(node.read("/etc/kubernetes/pki/ca.crt").contains("BEGIN CERTIFICATE"));
    assert!(node.read("/var/lib/kubelet/config.yaml").contains("rotateCertificates"));
    let unit = node.read("/etc/systemd/system/kubelet.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/kubelet --config=") && unit.contains("--node-labels=a=b"));
    let changes = ["daemon-reload", "enable --runtime kubelet.service", "reset-failed kubelet.service"];
    let calls = node.calls();
    let at = calls.iter().position(|call| call == changes[0]).expect("units are read again");
    assert_eq!(calls[at..at + 3], changes);
    assert_eq!(calls[at + 3], "restart kubelet.service");

    let log = told(&output);
    let secret = node.read("/var/lib/magnetite/kubelet.key").lines().nth(1).expect("a key").to_owned();
    assert!(!log.contains(&secret) && !log.contains(CAPABILITY), "no key and no capability in the log");
}

#[tokio::test]
async fn a_server_with_another_key_is_told_nothing() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let node = NodeBox::fresh();
    let other = format!("--pin=sha256/{}", "ab".repeat(32));
    let output = node.run(&site, &[&other]).await;
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains(&site.pin), "the key that was met is named");
    assert!(site.fixed().claims.is_empty() && site.fixed().reports.is_empty());
}

#[tokio::test]
async fn killed_at_any_call_of_systemctl_it_goes_on_as_the_same_claimant() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let whole = NodeBox::fresh();
    assert!(whole.run(&site, &[]).await.status.success());
    let calls = whole.calls().len();
    assert!(calls >= 7, "{:?}", whole.calls());
    for call in 1..=calls {
        site.fixed().claims.clear();
        let node = NodeBox::fresh();
        fs::write(node.systemd("kill-at"), call.to_string()).expect("written");
        let killed = node.run(&site, &[]).await;
        assert_eq!(killed.status.signal(), Some(9), "call {call}: {}", told(&killed));
        let output = node.run(&site, &[]).await;
        assert!(output.status.success(), "call {call}: {}", told(&output));
        let fixed = site.fixed();
        assert!(fixed.claims.len() == 1, "call {call}: the answer was on the disk, so one claim is enough");
        for file in ["/etc/kubernetes/kubelet.conf", "/etc/systemd/system/kubelet.service"] {
            assert_eq!(node.read(file), whole.read(file), "call {call}: {file}");
        }
        assert!(node.calls().contains(&"restart kubelet.service".to_owned()), "call {call}");
        assert!(node.read("/var/lib/magnetite/state.json").contains("\"started\": true"), "call {call}");
    }
}

#[tokio::test]
async fn killed_before_the_answer_it_claims_again_with_the_same_keys() {
    let site = Site::start(&[Reply::NotYet], &[Node::Ready]);
    let node = NodeBox::fresh();
    tokio::select! {
        output = node.run(&site, &[]) => panic!("it waits for a decision: {}", told(&output)),
        () = until(|| !site.fixed().claims.is_empty()) => {} // dropping the run kills the agent
    }
    site.fixed().replies = [Reply::Grant].into();
    let output = node.run(&site, &[]).await;
    assert!(output.status.success(), "{}", told(&output));
    let fixed = site.fixed();
    let (first, last) = (fixed.claims.first().expect("a claim"), fixed.claims.last().expect("a claim"));
    assert_eq!(first.claim_key, last.claim_key);
}

#[tokio::test]
async fn secret_files_are_there_before_the_kubelet_and_follow_the_cluster() {
    const FILE: &str = "/etc/containerd/registry.key";
    let site = Site::start(&[Reply::GrantSecret("canary-one")], &[Node::Ready]);
    let node = NodeBox::fresh();
    // Killed as it starts the kubelet: by then they are written, and nobody else may read them.
    fs::write(node.systemd("kill-at"), "4").expect("written");
    let killed = node.run(&site, &[]).await;
    assert_eq!((node.read(FILE).as_str(), node.mode(FILE)), ("canary-one", 0o640), "{}", told(&killed));
    assert!(!node.read("/var/lib/magnetite/state.json").contains("canary"), "sealed, as they came");

    // It stays, and writes what the Secret is by then; while the server knows of none, the file stays as well.
    tokio::select! {
        output = node.run(&site, &["--refresh=0"]) => panic!("it ends: {}", told(&output)),
        () = until(|| site.reported().last().is_some_and(|step| step == "NodeReady")) => {}
    }
    assert_eq!(node.read(FILE), "canary-one");
    let kept = || node.read("/var/lib/magnetite/state.json");
    let before = kept();
    site.fixed().file = Some("canary-two");
    tokio::select! {
        output = node.run(&site, &["--refresh=0"]) => panic!("it ends: {}", told(&output)),
        // The file first, then what keeps it over a reboot: killed in between, the box would begin with the older one.
        () = until(|| node.read(FILE) == "canary-two" && kept() != before) => {}
    }
    // What was there is in its place again after a reboot from memory, before anybody is asked.
    node.reboot();
    site.fixed().file = None;
    tokio::select! {
        output = node.run(&site, &["--refresh=60"]) => panic!("it ends: {}", told(&output)),
        () = until(|| node.at(FILE).exists()) => {}
    }
    assert_eq!(node.read(FILE), "canary-two");
    assert_eq!(site.fixed().claims.len(), 1);
}

#[tokio::test]
async fn the_cluster_restarts_a_box_once() {
    let reboots = |node: &NodeBox| node.calls().iter().filter(|call| *call == "reboot").count();
    let site = Site::start(&[Reply::Grant], &[Node::Ready, Node::Restart("another-boot"), Node::Restart(BOOT_ID)]);
    let node = NodeBox::fresh();
    // The fake systemctl ends no boot, so it is asked again; a box would be gone.
    tokio::select! {
        output = node.run(&site, &["--restart-poll=1"]) => panic!("it ends: {}", told(&output)),
        () = until(|| reboots(&node) > 0) => {}
    }
    assert_eq!(site.fixed().claims.len(), 1);
    // Of a boot that is over nothing is said any more.
    let other =
        Site::start(&[Reply::Grant], &[Node::Ready, Node::Restart("another-boot"), Node::Missing, Node::Restart("x")]);
    let node = NodeBox::fresh();
    tokio::select! {
        output = node.run(&other, &["--restart-poll=1"]) => panic!("it ends: {}", told(&output)),
        () = until(|| other.fixed().nodes.len() == 1) => {}
    }
    assert_eq!(reboots(&node), 0);
}

/// Waits for a condition, looking again and again.
async fn until(so: impl Fn() -> bool) {
    while !so() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_box_that_joined_before_does_not_claim_again() {
    let site = Site::start(&[Reply::Grant, Reply::Refuse("WindowClosed")], &[Node::Ready]);
    let node = NodeBox::fresh();
    assert!(node.run(&site, &[]).await.status.success());
    let pair = node.read(CURRENT);
    node.reboot();
    site.fixed().reports.clear();
    let output = node.run(&site, &[]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(site.fixed().claims.len(), 1, "the one of the first boot");
    assert_eq!(site.reported(), ["AgentStarted", "KubeletStarted", "NodeRegistered", "NodeReady"]);
    let detail = site.fixed().reports.last().and_then(|report| report.detail.clone());
    assert_eq!(detail.as_deref(), Some("already joined"));
    assert!(node.read("/etc/kubernetes/kubelet.conf").contains(CURRENT) && node.read(CURRENT) == pair);
}

#[tokio::test]
async fn a_box_that_joined_before_starts_without_a_boot_server() {
    let mut site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let node = NodeBox::fresh();
    assert!(node.run(&site, &[]).await.status.success());
    node.reboot();
    site.server = "127.0.0.1:1".parse().expect("an address where nobody listens");
    let output = node.run(&site, &[]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert!(node.systemd("active").exists());
}

#[tokio::test]
async fn a_new_intent_is_claimed_by_the_same_claimant() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let node = NodeBox::fresh();
    assert!(node.run(&site, &[]).await.status.success());
    assert!(node.run(&site, &["--intent=again"]).await.status.success());
    let fixed = site.fixed();
    assert_eq!((fixed.claims.len(), fixed.claims[1].intent.as_str()), (2, "again"));
    assert_eq!(fixed.claims[0].claim_key, fixed.claims[1].claim_key);
}

#[tokio::test]
async fn a_refusal_is_told_and_ends_in_an_exit_code_of_its_own() {
    let site = Site::start(&[Reply::Refuse("ClaimConflict"), Reply::Gone], &[Node::Ready]);
    let output = NodeBox::fresh().run(&site, &[]).await;
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    let failures = ["Claiming failed: ClaimConflict", "Claiming failed: ClaimRefused"];
    assert_eq!(site.reported(), ["AgentStarted", "Claiming", failures[0], "Claiming", failures[1]]);
    let fixed = site.fixed();
    let message = |at: usize| fixed.reports[at].failure.as_ref().expect("a failure").message.clone();
    assert!(message(2).contains("open a new intent"), "the controller's words: {}", message(2));
    assert!(message(4).contains("spec.bootIntent"), "what to do: {}", message(4));
}

#[tokio::test]
async fn a_box_proves_its_tpm_where_it_is_told_to() {
    let site = Site::start(&[Reply::NotYet, Reply::Prove], &[Node::Ready]);
    let (tpm, node) = (Swtpm::new(), NodeBox::fresh());
    node.plug(&tpm);
    let output = node.run(&site, &["--tpm=required"]).await;
    assert!(output.status.success(), "{}", told(&output));
    let fixed = site.fixed();
    let [early, first, second] = fixed.claims.as_slice() else { panic!("{:?}", fixed.claims) };
    assert_eq!(early, first);
    assert!(first.tpm.is_some() && first.proof.is_none() && second.proof.is_some());
    assert_eq!((&first.tpm, &first.claim_key), (&second.tpm, &second.claim_key));
    assert!(told(&output).contains("asking the TPM for its keys"), "it is slow, so it is said: {}", told(&output));
    let secret = second.proof.as_ref().map(|proof| proof.secret.as_str()).unwrap_or_default();
    assert!(!told(&output).contains(secret));
}

#[tokio::test]
async fn a_tpm_that_nobody_asked_for_is_not_touched() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let node = NodeBox::fresh();
    fs::create_dir_all(node.at("/dev/tpmrm0")).expect("a device that cannot be opened");
    let output = node.run(&site, &[]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(site.fixed().claims[0].tpm, None);
}

#[tokio::test]
async fn without_its_tpm_no_identity_is_asked_for() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let output = NodeBox::fresh().run(&site, &["--tpm=required"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let failed = "Claiming failed: TpmMissing";
    assert_eq!(site.reported(), ["AgentStarted", "Claiming", failed, "Claiming", failed]);
    assert!(site.fixed().claims.is_empty());
    let message = site.fixed().reports[2].failure.as_ref().expect("a failure").message.clone();
    assert!(message.contains("firmware"), "what to do: {message}");
}

#[tokio::test]
async fn killed_before_it_proved_its_tpm_it_comes_again_with_the_same_keys() {
    let site = Site::start(&[Reply::Prove, Reply::NotYet], &[Node::Ready]);
    let (tpm, node) = (Swtpm::new(), NodeBox::fresh());
    node.plug(&tpm);
    tokio::select! {
        output = node.run(&site, &["--tpm=required"]) => panic!("it waits for a decision: {}", told(&output)),
        () = until(|| site.fixed().claims.len() > 1) => {} // dropping the run kills the agent
    }
    site.fixed().replies = [Reply::Prove].into();
    let output = node.run(&site, &["--tpm=required"]).await;
    assert!(output.status.success(), "{}", told(&output));
    let fixed = site.fixed();
    let (first, last) = (fixed.claims.first().expect("a claim"), fixed.claims.last().expect("a claim"));
    assert_eq!((&first.tpm, &first.claim_key), (&last.tpm, &last.claim_key));
}

#[tokio::test]
async fn a_profile_that_joins_nothing_only_reports() {
    let site = Site::start(&[], &[]);
    let node = NodeBox::fresh();
    let output = node.run(&site, &["--join=none"]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(site.reported(), ["AgentStarted", "SystemBooted"]);
    assert!(!node.at("/var/lib/magnetite").exists() && node.calls().is_empty());
}

#[tokio::test]
async fn without_a_kubelet_no_identity_is_asked_for() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let output = NodeBox::fresh().run(&site, &["--kubelet=/opt/none/kubelet"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let failed = "KubeletStarted failed: KubeletNotFound";
    assert_eq!(site.reported(), ["AgentStarted", failed, failed]);
    assert!(site.fixed().claims.is_empty());
}

#[tokio::test]
async fn an_answer_for_another_node_is_not_used() {
    let site = Site::start(&[Reply::GrantTo("box-2")], &[Node::Ready]);
    let node = NodeBox::fresh();
    let output = node.run(&site, &[]).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(site.reported().contains(&"CertificateReceived failed: WrongAnswer".to_owned()));
    assert!(!node.at("/etc/kubernetes").exists() && !node.at("/var/lib/magnetite/state.json").exists());
}

#[tokio::test]
async fn a_kubelet_that_does_not_start_is_reported_and_started_again() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let node = NodeBox::fresh();
    fs::write(node.systemd("broken"), "").expect("written");
    let output = node.run(&site, &[]).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let last = site.fixed().reports.last().and_then(|report| report.failure.clone()).expect("a failure");
    assert_eq!(last.reason, "KubeletNotStarted");
    assert!(last.message.contains("Job for kubelet.service failed."), "{}", last.message);
    fs::remove_file(node.systemd("broken")).expect("removed");
    let output = node.run(&site, &[]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(site.fixed().claims.len(), 1);
}

#[tokio::test]
async fn a_node_that_is_not_ready_in_time_is_reported_and_still_watched() {
    let site = Site::start(&[Reply::Grant], &[Node::NotReady, Node::Ready]);
    let output = NodeBox::fresh().run(&site, &["--ready-within=0"]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(site.reported().last().map(String::as_str), Some("NodeReady"));
    let fixed = site.fixed();
    let failure = fixed.reports.iter().find_map(|report| report.failure.as_ref()).expect("a failure");
    assert_eq!(failure.reason, "NodeNotReady");
    assert!(failure.message.contains("no network plugin") && failure.message.contains("no runtime"));
    assert!(!failure.message.contains(TOKEN) && !told(&output).contains(TOKEN), "{}", failure.message);
}

#[tokio::test]
async fn a_unit_that_the_system_has_is_changed_and_not_replaced() {
    let site = Site::start(&[Reply::Grant], &[Node::Ready]);
    let node = NodeBox::fresh();
    fs::write(node.systemd("known"), "").expect("written");
    assert!(node.run(&site, &[]).await.status.success());
    assert!(node.read("/etc/systemd/system/kubelet.service.d/10-magnetite.conf").contains("\nExecStart=\nExecStart=/"));
    assert!(!node.at("/etc/systemd/system/kubelet.service").exists());
    assert!(Path::new(&node.at(CURRENT)).exists());
}

#[tokio::test]
async fn a_kubelet_that_ends_again_and_again_is_left_to_systemd() {
    let site = Site::start(&[Reply::Grant], &[Node::Missing]);
    let node = NodeBox::fresh();
    fs::write(node.systemd("short-lived"), "").expect("written");
    tokio::select! {
        output = node.run(&site, &["--ready-within=0"]) => panic!("it goes on watching: {}", told(&output)),
        () = until(|| site.reported().contains(&"NodeRegistered failed: NodeNotRegistered".to_owned())) => {}
    }
    assert_eq!(node.calls().iter().filter(|call| call.starts_with("restart")).count(), 1);
}
