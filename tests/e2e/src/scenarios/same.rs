//! What stays the same of a machine whose system lives on a disk, whenever it starts again.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ensure;
use crate::kubectl::condition;
use crate::magnetite;
use crate::site::Site;

pub(super) struct Before {
    node: Value,
    boot: Value,
    identity: Value,
    intent: Value,
    claims: usize,
}

impl Before {
    pub(super) fn of(site: &Site, name: &str) -> Result<Self> {
        let node = site.admin().json(&["get", "node", name])?;
        let claims = site.admin().json(&["get", "machineclaims"])?;
        let status = magnetite::machine_status(site, name)?;
        Ok(Self {
            node: node["metadata"]["uid"].clone(),
            boot: node["status"]["nodeInfo"]["bootID"].clone(),
            identity: status["identity"].clone(),
            intent: status["intent"].clone(),
            claims: claims["items"].as_array().map_or(0, Vec::len),
        })
    }
}

/// The same Node is Ready from another start, of which the network had no more than the word to go on.
pub(super) fn again(site: &mut Site, name: &str, timeout: Duration, before: &Before) -> Result<()> {
    site.wait_until("the second start to end Ready", timeout, |site| {
        let node = site.admin().json(&["get", "node", name])?;
        let another = node["status"]["nodeInfo"]["bootID"] != before.boot;
        Ok((another && condition(&node, "Ready").as_deref() == Some("True")).then_some(()))
    })?;
    let after = Before::of(site, name)?;
    ensure!(after.node == before.node, "the Node is another one");
    ensure!(after.identity == before.identity, "the identity changed: {} {}", before.identity, after.identity);
    ensure!(after.intent == before.intent, "the intent changed: {} {}", before.intent, after.intent);
    ensure!(after.claims == before.claims, "there are {} claims, there were {}", after.claims, before.claims);
    let status = magnetite::machine_status(site, name)?;
    let steps = status["boot"]["steps"].as_array().context("steps")?;
    let named = |name: &str| steps.iter().find(|step| step["name"] == name);
    let script = named("ScriptServed").with_context(|| format!("it never asked for its script: {steps:?}"))?;
    ensure!(script["detail"].as_str().is_some_and(|text| text.contains("local boot")), "its script: {script}");
    ensure!(named("KernelFetched").is_none(), "it booted from the network: {steps:?}");
    Ok(())
}
