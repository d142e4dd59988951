//! Kea, a site's DHCP server that thousands of boxes may ask at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::proc::{Cmd, Process, tail};
use crate::run_dir::RunDir;
use crate::wait;

/// Starts Kea in a namespace: it gives the addresses from `first` to `last`, and not one boot option.
pub fn start(netns: &str, run: &RunDir, subnet: &str, pool: (Ipv4Addr, Ipv4Addr), router: Ipv4Addr) -> Result<Process> {
    let (first, last) = pool;
    let config = json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": ["eth0"] },
        // In memory: a file that each lease is written to would be what is measured.
        "lease-database": { "type": "memfile", "persist": false },
        // What comes at once is queued, not dropped; Kea has that for one thread only.
        "multi-threading": { "enable-multi-threading": false },
        "dhcp-queue-control": { "enable-queue": true, "queue-type": "kea-ring4", "capacity": 20000 },
        "valid-lifetime": 43200,
        "authoritative": true,
        "subnet4": [{ "subnet": subnet, "pools": [{ "pool": format!("{first} - {last}") }],
            "option-data": [{ "name": "routers", "data": router.to_string() }] }],
        "loggers": [{ "name": "kea-dhcp4", "severity": "INFO", "output_options": [{ "output": "stderr" }] },
            { "name": "kea-dhcp4.leases", "severity": "WARN" }, { "name": "kea-dhcp4.alloc-engine", "severity": "ERROR" }],
    }});
    let file = run.join("kea.json");
    std::fs::write(&file, config.to_string())?;
    let folder = run.path().display().to_string();
    let mut process = Cmd::new("kea-dhcp4")
        .netns(netns)
        .env("KEA_PIDFILE_DIR", &folder)
        .env("KEA_LOCKFILE_DIR", &folder)
        .args(["-c", &file.display().to_string()])
        .spawn("kea", &run.logs().join("kea.log"))?;
    wait::until("Kea", Duration::from_secs(20), || {
        process.check()?;
        Ok(process.output().contains("DHCP4_STARTED").then_some(()))
    })
    .with_context(|| tail(&process.output(), 10))?;
    Ok(process)
}
