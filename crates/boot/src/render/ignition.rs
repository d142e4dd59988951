//! The Ignition config: read as JSON or YAML, and the agent laid into it.

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::ResourceExt;
use magnetite_api::{Machine, Profile, profile::JoinMode, tpm};
use serde_json::{Map, Value, json};

use crate::plan::Task;

/// What the machine needs to fetch, start and believe its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentLink {
    /// URL of the agent's binary.
    pub url: String,
    /// Its digest as Ignition writes one: `sha512-` and 128 hexadecimal digits.
    pub verification: String,
    /// Where the agent claims and reports: `https://<address>:<port>/a/<id>/<capability>`.
    pub server: String,
    /// The key that the boot server must show there: `sha256/` and 64 hexadecimal digits.
    pub pin: String,
    /// The intent in whose window it claims.
    pub intent: String,
}

impl AgentLink {
    /// A link that leads nowhere, to render a Profile dry.
    pub(super) fn sample() -> Self {
        Self {
            url: "http://192.0.2.1:8080/m/0000000000000000/AAAAAAAAAAAAAAAAAAAAAAAAAAA/agent/x86_64".to_owned(),
            verification: format!("sha512-{}", "0".repeat(128)),
            server: "https://192.0.2.1:8443/a/0000000000000000/AAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            pin: format!("sha256/{}", "0".repeat(64)),
            intent: "created".to_owned(),
        }
    }
}

const ENV_FILE: &str = "/etc/magnetite/agent.env";
const UNIT: &str = "magnetite-agent.service";

/// A config with nothing in it.
pub(super) fn empty() -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("ignition".to_owned(), json!({ "version": "3.3.0" }));
    config
}

/// Reads a config and checks that it is one of a version whose lists we can add to: 3.x. Version 2 has
/// another shape of files, and Ignition itself refuses a version that it does not know.
pub(super) fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let config: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| format!("is not JSON once rendered: {error}"))?
    } else {
        // `mode: 0644` is octal to everybody who writes one, as in YAML 1.1; YAML 1.2 alone would make 644 of it.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| format!("is not YAML once rendered: {error}"))?
    };
    let Value::Object(config) = config else {
        return Err("is not an object once rendered".to_owned());
    };
    match config.get("ignition").and_then(|ignition| ignition.get("version")).and_then(Value::as_str) {
        Some(version) if version.starts_with("3.") => Ok(config),
        Some(version) => Err(format!("has ignition.version {version:?}; 3.x is taken")),
        None if config.contains_key("variant") => {
            Err("is a Butane config (it has a variant); turn it into Ignition with `butane` first".to_owned())
        }
        None => Err("has no ignition.version; write ignition: {version: 3.3.0}".to_owned()),
    }
}

/// Adds the agent: its binary with its digest, its environment, its unit.
pub(super) fn add_agent(
    config: &mut Map<String, Value>,
    profile: &Profile,
    machine: &Machine,
    agent: &AgentLink,
    task: Task,
) -> Result<(), String> {
    let AgentLink { url, verification, server: _, pin: _, intent: _ } = agent;
    let path = &profile.spec.agent.path;
    let environment = environment(profile, machine, agent, task);
    let files = list(config, "storage", "files")?;
    refuse_twice(files, "path", path)?;
    refuse_twice(files, "path", ENV_FILE)?;
    files.push(json!({
        "path": path, "mode": 0o755, "overwrite": true,
        "contents": { "source": url, "verification": { "hash": verification } },
    }));
    files.push(json!({
        "path": ENV_FILE, "mode": 0o644, "overwrite": true,
        "contents": { "source": format!("data:;base64,{}", STANDARD.encode(environment)) },
    }));
    let units = list(config, "systemd", "units")?;
    refuse_twice(units, "name", UNIT)?;
    units.push(json!({ "name": UNIT, "enabled": true, "contents": unit(path) }));
    Ok(())
}

/// The agent's environment, as [`ENV_FILE`] holds it.
pub(super) fn environment(profile: &Profile, machine: &Machine, agent: &AgentLink, task: Task) -> String {
    let join = match profile.spec.join.mode {
        JoinMode::Certificate => "certificate",
        JoinMode::None => "none",
    };
    let AgentLink { url: _, verification: _, server, pin, intent } = agent;
    let mut environment = format!(
        "MAGNETITE_SERVER={server}\nMAGNETITE_PIN={pin}\nMAGNETITE_MACHINE={}\nMAGNETITE_MACHINE_UID={}\nMAGNETITE_NODE_NAME={}\nMAGNETITE_INTENT={intent}\nMAGNETITE_JOIN={join}\n",
        machine.name_any(),
        machine.uid().unwrap_or_default(),
        machine.node_name(),
    );
    match task {
        // An agent without the line joins.
        Task::Boot => {}
        Task::Install => environment.push_str("MAGNETITE_TASK=install\n"),
        Task::Inventory => environment.push_str("MAGNETITE_TASK=inventory\n"),
        Task::Wipe => environment.push_str("MAGNETITE_TASK=wipe\n"),
    }
    // Only where it is asked for: to make its keys takes a TPM seconds.
    if task == Task::Boot && tpm::asked(machine, Some(profile)) {
        environment.push_str("MAGNETITE_TPM=required\n");
    }
    environment
}

/// No start limit: a box whose boot server is away for an hour must still join when it comes back.
pub(super) fn unit(path: &str) -> String {
    format!(
        "[Unit]\nDescription=Magnetite agent: joins this machine to its cluster\nWants=network-online.target\nAfter=network-online.target\nStartLimitIntervalSec=0\n\n[Service]\nType=exec\nEnvironmentFile={ENV_FILE}\nExecStart={path}\nRestart=on-failure\nRestartSec=5\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn list<'a>(config: &'a mut Map<String, Value>, section: &str, name: &str) -> Result<&'a mut Vec<Value>, String> {
    let section_value = config.entry(section).or_insert_with(|| json!({}));
    let section_map = section_value.as_object_mut().ok_or_else(|| format!("has a {section} that is not an object"))?;
    let list = section_map.entry(name).or_insert_with(|| json!([]));
    list.as_array_mut().ok_or_else(|| format!("has {section}.{name} that is not a list"))
}

fn refuse_twice(list: &[Value], key: &str, value: &str) -> Result<(), String> {
    let taken = list.iter().any(|item| item.get(key).and_then(Value::as_str) == Some(value));
    if taken { Err(format!("already has {value}, which the agent needs for itself")) } else { Ok(()) }
}
