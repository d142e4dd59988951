//! Templates: from a Profile and a Machine to the script, the command line, the Ignition config and what else a system fetches.
//!
//! minijinja in strict mode: a variable that is not there is an error, never an empty text. Templates see
//! values only; no file, environment or process can be reached from one, and their work is bounded.

use kube::ResourceExt;
use magnetite_api::{
    Architecture, Machine, Profile,
    profile::{ArchBoot, JoinMode},
};
use minijinja::context;
use serde_json::Value;

use crate::{command_line, plan::Task, script, select::Chosen};

mod ignition;
mod templates;
mod texts;

pub use ignition::AgentLink;
pub use texts::{Texts, template, template_field};

/// A template that does not render, or renders to something that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct RenderError {
    /// The field of the Profile, such as `spec.boot.x86_64.commandLine[2]`.
    pub field: String,
    /// What is wrong, with the template's line where there is one.
    pub message: String,
}

impl RenderError {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    fn template(field: &str, error: &minijinja::Error) -> Self {
        let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
        let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
        // Strict mode says only "undefined value"; the expression is what the author needs.
        let expression = error.range().zip(error.template_source()).and_then(|(range, source)| source.get(range));
        let expression = expression.map_or(String::new(), |text| format!(" at `{}`", text.trim()));
        let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
        Self::new(field, format!("{line}{}{detail}{expression}{cause}", error.kind()))
    }
}

/// Where the machine fetches its things: all below one path that carries its capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// What iPXE fetches: `http://<address>:<port>/m/<id>/<capability>/<architecture>`, without a slash at its end.
    pub base: String,
    /// What the system fetches that it starts: the same, over HTTPS only if systems trust us.
    pub system: String,
}

impl Links {
    /// The script itself.
    pub fn script(&self) -> String {
        format!("{}/boot.ipxe", self.base)
    }
    /// The kernel.
    pub fn kernel(&self) -> String {
        format!("{}/kernel", self.base)
    }
    /// One initrd.
    pub fn initrd(&self, index: usize) -> String {
        format!("{}/initrd/{index}", self.base)
    }
    /// One further file.
    pub fn file(&self, name: &str) -> String {
        format!("{}/files/{name}", self.system)
    }
    /// The Ignition config.
    pub fn ignition(&self) -> String {
        format!("{}/config.ign", self.system)
    }
    /// One of the Profile's templates.
    pub fn template(&self, name: &str) -> String {
        format!("{}/t/{name}", self.system)
    }
}

/// True if a template renders to itself: nothing in it begins an expression, and it has no line end for the engine to take away.
fn is_plain(template: &str) -> bool {
    !template.contains('{') && !template.ends_with(['\n', '\r'])
}

/// What templates see.
fn facts(profile: &Chosen, machine: &Machine, architecture: Architecture, links: &Links) -> minijinja::Value {
    let mut vars = profile.spec.variables.clone();
    vars.extend(machine.spec.variables.clone());
    let boot = profile.spec.boot.for_architecture(architecture);
    let files: std::collections::BTreeMap<_, _> =
        boot.into_iter().flat_map(|boot| boot.files.keys()).map(|name| (name.clone(), links.file(name))).collect();
    let templates: std::collections::BTreeMap<_, _> =
        profile.spec.templates.keys().map(|name| (name.clone(), links.template(name))).collect();
    let macs: Vec<String> = machine.spec.macs.iter().map(ToString::to_string).collect();
    context! {
        machine => context! {
            name => machine.name_any(),
            node_name => machine.node_name(),
            mac => macs.first().cloned(),
            macs,
            uuid => machine.spec.uuid.map(|uuid| uuid.to_string()),
            serial => machine.spec.serial.clone(),
            labels => machine.labels().clone(),
        },
        profile => context! { name => profile.name_any(), revision => profile.revision() },
        boot => context! { url => links.system.clone(), ignition_url => links.ignition(), arch => architecture.as_str() },
        files,
        templates,
        vars,
    }
}

fn render(field: &str, template: &str, facts: &minijinja::Value) -> Result<String, RenderError> {
    let text = if is_plain(template) {
        template.to_owned()
    } else {
        templates::render(template, facts).map_err(|error| RenderError::template(field, &error))?
    };
    if text.len() > templates::LIMIT {
        return Err(RenderError::new(
            field,
            format!("renders to {} bytes; at most {} are served", text.len(), templates::LIMIT),
        ));
    }
    Ok(text)
}

fn boot_of(profile: &Profile, architecture: Architecture) -> Result<&ArchBoot, RenderError> {
    profile.spec.boot.for_architecture(architecture).ok_or_else(|| {
        let message = format!("the Profile {} has nothing for this architecture", profile.name_any());
        RenderError::new(format!("spec.boot.{architecture}"), message)
    })
}

fn title(profile: &Chosen, machine: &Machine) -> String {
    format!("Magnetite: {}, profile {} {}", machine.name_any(), profile.name_any(), profile.revision())
}

/// The kernel's arguments, rendered and checked.
///
/// # Errors
/// The item of `commandLine` that does not render or is not one argument.
pub fn command_line(
    profile: &Chosen,
    machine: &Machine,
    architecture: Architecture,
    links: &Links,
) -> Result<Vec<String>, RenderError> {
    let facts = facts(profile, machine, architecture, links);
    let items = boot_of(profile, architecture)?.command_line.iter().enumerate();
    let each = items.map(|(index, template)| {
        let field = format!("spec.boot.{architecture}.commandLine[{index}]");
        let argument = render(&field, template, &facts)?;
        command_line::check(&argument).map_err(|error| RenderError::new(&field, format!("{argument:?} {error}")))?;
        Ok(argument)
    });
    each.collect()
}

/// The iPXE script that boots a machine.
///
/// # Errors
/// The field that does not render.
pub fn script(
    profile: &Chosen,
    machine: &Machine,
    architecture: Architecture,
    links: &Links,
) -> Result<String, RenderError> {
    let arguments = command_line(profile, machine, architecture, links)?;
    let initrds: Vec<_> = (0..boot_of(profile, architecture)?.initrds.len()).map(|index| links.initrd(index)).collect();
    Ok(script::boot(&title(profile, machine), &links.kernel(), &initrds, &arguments))
}

/// The iPXE script that sends a machine on to its next boot device.
pub fn local_script(machine: &Machine) -> String {
    script::local(&format!("Magnetite: {} has no open boot window and boots from its next device", machine.name_any()))
}

/// The iPXE script that sends a machine on to its disk, where its system was installed.
pub fn installed_script(machine: &Machine) -> String {
    script::local(&format!("Magnetite: {} is installed and boots from its disk", machine.name_any()))
}

/// The iPXE script that makes a machine ask again.
pub fn wait_script(machine: &Machine, why: &str, seconds: u32, links: &Links) -> String {
    script::wait(&format!("Magnetite: {}", machine.name_any()), why, seconds, &links.script())
}

/// The Ignition config of a machine: the Profile's, rendered, with the agent laid into it. `template` is the
/// text of `spec.ignition`, wherever it came from; `agent` is absent where the boot server has none.
///
/// # Errors
/// The field that does not render, is no Ignition config, or holds what the agent needs for itself.
pub fn ignition(
    profile: &Chosen,
    machine: &Machine,
    architecture: Architecture,
    template: Option<&str>,
    links: &Links,
    agent: Option<&AgentLink>,
) -> Result<String, RenderError> {
    let field = ignition_field(profile);
    let mut config = match template {
        Some(template) => {
            let text = render(field, template, &facts(profile, machine, architecture, links))?;
            ignition::parse(&text).map_err(|message| RenderError::new(field, message))?
        }
        None if profile.spec.ignition.is_some() => {
            return Err(RenderError::new(field, "the ConfigMap, or its key, does not exist"));
        }
        None => ignition::empty(),
    };
    match agent {
        Some(agent) => ignition::add_agent(&mut config, profile, machine, agent, Task::Boot)
            .map_err(|message| RenderError::new(field, message))?,
        None if profile.spec.join.mode == JoinMode::Certificate => {
            let message = format!(
                "the boot server has no agent for {architecture}, so the machine could not join; see --agent-dir"
            );
            return Err(RenderError::new("spec.join.mode", message));
        }
        None => {}
    }
    Ok(Value::Object(config).to_string())
}

/// The Ignition config of the system in memory that installs or wipes a machine: the agent, told its task, and nothing else.
///
/// # Errors
/// If the boot server has no agent for the architecture.
pub fn worker(
    profile: &Chosen,
    machine: &Machine,
    architecture: Architecture,
    agent: Option<&AgentLink>,
    task: Task,
) -> Result<String, RenderError> {
    let Some(agent) = agent else {
        let message = format!("the boot server has no agent for {architecture}, which would do it; see --agent-dir");
        return Err(RenderError::new("spec.boot", message));
    };
    let mut config = ignition::empty();
    ignition::add_agent(&mut config, profile, machine, agent, task)
        .map_err(|message| RenderError::new("spec.boot", message))?;
    Ok(Value::Object(config).to_string())
}

fn ignition_field(profile: &Profile) -> &'static str {
    match profile.spec.ignition.as_ref().map(|source| source.config_map.is_some()) {
        Some(true) => "spec.ignition.configMap",
        Some(false) => "spec.ignition.inline",
        None => "spec.ignition",
    }
}

/// Checks that a Profile's templates parse, without a Machine to render them for: its command lines, and those of `texts`.
///
/// # Errors
/// The first field that does not.
pub fn check(profile: &Profile, texts: &Texts) -> Result<(), RenderError> {
    let parses =
        |field: &str, template: &str| templates::check(template).map_err(|error| RenderError::template(field, &error));
    for (architecture, boot) in profile.spec.boot.architectures() {
        for (index, template) in boot.command_line.iter().enumerate() {
            parses(&format!("spec.boot.{architecture}.commandLine[{index}]"), template)?;
        }
    }
    let Texts { ignition, templates } = texts;
    if let Some(template) = ignition {
        parses(ignition_field(profile), template)?;
    }
    templates.iter().try_for_each(|(name, template)| parses(&template_field(profile, name), template))
}

/// Renders everything that a machine would get, for each architecture of its Profile, with made-up links.
///
/// # Errors
/// The first field that does not render.
pub fn dry_run(profile: &Chosen, machine: &Machine, texts: &Texts) -> Result<(), RenderError> {
    let base = "http://192.0.2.1:8080/m/0000000000000000/AAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned();
    let links = Links { system: base.clone(), base };
    let agent = AgentLink::sample();
    for (architecture, _) in profile.spec.boot.architectures() {
        script(profile, machine, architecture, &links)?;
        ignition(profile, machine, architecture, texts.ignition.as_deref(), &links, Some(&agent))?;
        for name in profile.spec.templates.keys() {
            let text = texts.templates.get(name).map(String::as_str);
            template(profile, machine, architecture, (name, text), &links, Some(&agent))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
