//! What the API server would refuse, as far as it matters without one: fields that nobody knows, bounds of the schema, and
//! the rules of our own that are cheap. Patterns of the schema are not looked at, but for those on which safety hangs.

use std::sync::LazyLock;

use kube::{CustomResourceExt, ResourceExt};
use magnetite_api::{
    Machine, Profile,
    install::ConfigPlace,
    profile::{Artifact, OnReboot, ProfileSpec},
};
use magnetite_boot::render::{self, Texts};
use serde_json::{Map, Value};

/// What is wrong with an object, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}{message}")]
pub struct Fault {
    path: String,
    field: String,
    message: String,
}

impl Fault {
    /// A fault of a field that is named in the message.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { path: String::new(), field: field.to_owned(), message: message.into() }
    }

    fn at(path: &[String], message: impl Into<String>) -> Self {
        let field = path.iter().rev().find(|part| !part.starts_with('[')).cloned().unwrap_or_default();
        let path = path.join(".").replace(".[", "[");
        Self { path: format!("{path}: "), field, message: message.into() }
    }

    /// The field's own name, to find it in a text.
    pub fn field(&self) -> &str {
        &self.field
    }
}

/// The schema of Machines. Made once: it costs as much as reading ten documents.
pub static MACHINE: LazyLock<Value> = LazyLock::new(schema_of::<Machine>);
/// The schema of Profiles.
pub static PROFILE: LazyLock<Value> = LazyLock::new(schema_of::<Profile>);

fn schema_of<K: CustomResourceExt>() -> Value {
    let mut versions = K::crd().spec.versions.into_iter();
    let schema = versions.next().and_then(|version| version.schema?.open_api_v3_schema);
    serde_json::to_value(schema).expect("a schema is JSON")
}

/// Checks an object against the schema of its kind.
pub fn schema(schema: &Value, object: &Value) -> Result<(), Fault> {
    let none = Map::new();
    for (name, value) in object.as_object().unwrap_or(&none) {
        let known = schema.pointer("/properties").and_then(|properties| properties.get(name));
        match (name.as_str(), known) {
            // The API server knows their schema itself; here the types do.
            ("apiVersion" | "kind" | "metadata" | "status", _) => {}
            (_, Some(schema)) => walk(schema, value, &mut vec![name.clone()])?,
            (_, None) => return Err(Fault::at(std::slice::from_ref(name), "there is no such field")),
        }
    }
    Ok(())
}

fn walk(schema: &Value, value: &Value, path: &mut Vec<String>) -> Result<(), Fault> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let within = |what: &str, size: usize, least: &str, most: &str| {
        let size = size as f64;
        let (least, most) = (bound(least).filter(|least| size < *least), bound(most).filter(|most| size > *most));
        let said = least.map(|n| format!("at least {n}")).or(most.map(|n| format!("at most {n}")));
        said.map_or(Ok(()), |said| Err(Fault::at(path, format!("has {size} {what}; {said} are taken"))))
    };
    match value {
        Value::Object(fields) => {
            within("entries", fields.len(), "minProperties", "maxProperties")?;
            if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
                return Ok(());
            }
            for (name, value) in fields {
                let known = schema.get("properties").and_then(|properties| properties.get(name));
                path.push(name.clone());
                match known.or_else(|| schema.get("additionalProperties")) {
                    Some(schema) => walk(schema, value, path)?,
                    None => return Err(Fault::at(path, "there is no such field")),
                }
                path.pop();
            }
        }
        Value::Array(items) => {
            within("items", items.len(), "minItems", "maxItems")?;
            for (index, item) in items.iter().enumerate() {
                path.push(format!("[{index}]"));
                walk(schema.get("items").unwrap_or(&Value::Null), item, path)?;
                path.pop();
            }
        }
        Value::String(text) => within("characters", text.chars().count(), "minLength", "maxLength")?,
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let (least, most) = (bound("minimum").unwrap_or(f64::MIN), bound("maximum").unwrap_or(f64::MAX));
            if number < least || number > most {
                return Err(Fault::at(path, format!("{number} is not within {least} and {most}")));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    Ok(())
}

/// Names become file names and labels.
pub fn name(name: &str) -> Result<(), Fault> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let whole = name.chars().all(|c| good(c) || matches!(c, '-' | '.')) && name.len() <= 253;
    let ends = name.starts_with(good) && name.ends_with(good);
    if name.is_empty() {
        return Err(Fault::new("metadata", "metadata.name is missing"));
    }
    let message = format!("metadata.name {name:?} is not lower-case letters, digits and '-'");
    if whole && ends { Ok(()) } else { Err(Fault::new("name", message)) }
}

fn label(text: &str) -> Result<(), Fault> {
    name(text)?;
    let message = format!("metadata.name {text:?} is not a DNS label of at most 63 characters");
    if text.len() <= 63 && !text.contains('.') { Ok(()) } else { Err(Fault::new("name", message)) }
}

/// The rules for a Machine.
pub fn machine(machine: &Machine) -> Result<(), Fault> {
    label(&machine.name_any())?;
    let spec = &machine.spec;
    if spec.macs.is_empty() && spec.uuid.is_none() && spec.serial.is_none() {
        return Err(Fault::new("spec", "a Machine needs at least one of spec.macs, spec.uuid and spec.serial"));
    }
    // It stands in the agent's environment file.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !machine.wanted_intent().chars().all(plain) {
        return Err(Fault::new("bootIntent", "spec.bootIntent is not letters, digits, '-', '_' and '.'"));
    }
    spec.node_name.as_deref().map_or(Ok(()), |node| {
        label(node).map_err(|_| Fault::new("nodeName", format!("spec.nodeName {node:?} is not a DNS label")))
    })
}

/// The rules for a Profile, and whether its templates parse.
pub fn profile(profile: &Profile) -> Result<(), Fault> {
    label(&profile.name_any())?;
    let ProfileSpec { selector, boot, install, ignition, templates, .. } = &profile.spec;
    if selector.as_ref().is_some_and(|selector| {
        selector.match_labels.iter().all(|labels| labels.is_empty())
            && selector.match_expressions.iter().all(|expressions| expressions.is_empty())
    }) {
        return Err(Fault::new(
            "selector",
            "spec.selector is empty and would select every Machine; name a label, or leave it out",
        ));
    }
    if boot.architectures().next().is_none() {
        return Err(Fault::new("boot", "spec.boot needs x86_64 or aarch64, or both"));
    }
    for (architecture, boot) in boot.architectures() {
        for artifact in std::iter::once(&boot.kernel).chain(&boot.initrds).chain(boot.files.values()) {
            self::artifact(artifact)
                .map_err(|(field, why)| Fault::new(field, format!("spec.boot.{architecture}: {why}")))?;
        }
    }
    if let Some(install) = install {
        if boot.on_reboot == OnReboot::Network {
            return Err(Fault::new("onReboot", "with spec.install, spec.boot.onReboot must be Local"));
        }
        if let Some((architecture, _)) = boot.architectures().find(|(_, boot)| !boot.files.contains_key(&install.image))
        {
            let message = format!(
                "spec.install.image names {:?}, which is none of spec.boot.{architecture}.files",
                install.image
            );
            return Err(Fault::new("image", message));
        }
        let one = |config: &ConfigPlace| config.partition_label.is_some() != config.partition_type.is_some();
        if !install.config.as_ref().is_none_or(one) {
            return Err(Fault::new(
                "config",
                "spec.install.config needs exactly one of partitionLabel and partitionType",
            ));
        }
    }
    if ignition.as_ref().is_some_and(|source| source.inline.is_some() == source.config_map.is_some()) {
        return Err(Fault::new("ignition", "spec.ignition needs exactly one of inline and configMap"));
    }
    for (name, source) in templates {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let part = |c: char| plain(c) || matches!(c, '.' | '_' | '-');
        if !name.starts_with(plain) || !name.chars().all(part) || name.len() > 63 {
            let message = format!(
                "spec.templates has {name:?}, which is not lower-case letters, digits, '.', '_' and '-': it is part of a URL"
            );
            return Err(Fault::new("templates", message));
        }
        if source.inline.is_some() == source.config_map.is_some() {
            let message = format!("spec.templates[{name:?}] needs exactly one of inline and configMap");
            return Err(Fault::new(name, message));
        }
    }
    // What is in a ConfigMap is checked when it is rendered: that may come later.
    render::check(profile, &Texts::inline(profile)).map_err(|error| {
        let last = error.field.rsplit('.').next().unwrap_or_default();
        Fault::new(last.split('[').next().unwrap_or_default(), error.to_string())
    })
}

fn artifact(artifact: &Artifact) -> Result<(), (&'static str, String)> {
    match (&artifact.file, &artifact.url) {
        (Some(file), None) => {
            let part = |part: &str| {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
                part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && part.chars().all(plain)
            };
            let good = file.split('/').all(part);
            if good { Ok(()) } else { Err(("file", format!("{file:?} is not a path below the artifact folder"))) }
        }
        (None, Some(url)) => {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let good =
                rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(|c: char| c == '@' || c.is_whitespace()));
            if good { Ok(()) } else { Err(("url", format!("{url:?} is not an http or https URL without credentials"))) }
        }
        _ => Err(("sha256", "an artifact needs exactly one of url and file".to_owned())),
    }
}
