//! Names of Nodes that are somebody else's: a Machine that takes one gets no certificate, though its box is the right one.

use std::time::Duration;

use anyhow::{Context, Result};

use super::super::ensure;
use super::super::join::rogue_has_certificate;
use crate::magnetite::Binaries;
use crate::rogue;
use crate::site::Site;
use crate::wait;

/// A Node that is there already, one of the control plane, and two names that the API server's own certificate carries.
const NAMES: [(&str, &str); 4] = [
    ("foreign", "52:54:00:aa:01:01"),
    ("master", "52:54:00:aa:01:02"),
    ("kubernetes", "52:54:00:aa:01:03"),
    ("localhost", "52:54:00:aa:01:04"),
];

pub(super) fn of_others(site: &Site, binaries: &Binaries) -> Result<()> {
    site.apply(
        "apiVersion: v1\nkind: Node\nmetadata: {name: foreign}\n---\napiVersion: v1\nkind: Node\nmetadata:\n  name: master\n  labels: \
         {node-role.kubernetes.io/control-plane: ''}\n",
    )?;
    for (name, mac) in NAMES {
        site.apply(&format!(
            "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {{name: {name}, labels: {{role: worker}}}}\nspec: {{macs: ['{mac}']}}"
        ))?;
    }
    for (name, mac) in NAMES {
        // The agent makes new keys on each box.
        drop(std::fs::remove_dir_all(site.run().join("rogue")));
        let loot =
            wait::until(&format!("the config of {name}"), Duration::from_secs(60), || Ok(rogue::loot(site, mac).ok()))?;
        let agent = rogue::claim(site, binaries, mac, &loot)?;
        wait::until(&format!("the claim of {name} to be refused"), Duration::from_secs(60), || {
            let claims = site.admin().json(&["get", "machineclaims"])?;
            let claims = claims["items"].as_array().context("a list of claims")?;
            let decided =
                claims.iter().find(|claim| claim["spec"]["machine"] == name && claim["status"]["decision"].is_string());
            Ok(decided.map(|claim| claim["status"]["reason"].clone()).filter(|reason| reason == "NodeNameTaken"))
        })
        .with_context(|| crate::proc::tail(&agent.output(), 12))?;
        ensure!(!rogue_has_certificate(site), "{name} got a certificate");
    }
    let requests = site.admin().json(&["get", "certificatesigningrequests"])?;
    ensure!(requests["items"].as_array().is_some_and(Vec::is_empty), "somebody asked for a certificate: {requests}");
    for (name, _) in &NAMES[..2] {
        site.admin().wait_for("the condition", &["machine", name], Duration::from_secs(30), |machine| {
            let conditions = machine["status"]["conditions"].as_array()?;
            conditions.iter().find(|one| one["type"] == "Joined" && one["reason"] == "NodeNameTaken").map(drop)
        })?;
    }
    for (name, _) in NAMES {
        site.kubectl(&["delete", "machine", name, "--timeout=30s"])?;
    }
    site.kubectl(&["delete", "node", "foreign", "master"])?;
    Ok(())
}
