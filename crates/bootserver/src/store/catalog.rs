//! A folder of YAML files: Machines, Profiles and ConfigMaps, as `kubectl apply` would take them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use magnetite_api::{Machine, Profile};
use magnetite_boot::{fleet::Fleet, render};
use magnetite_daemon::clock;
use notify::Watcher;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::windows::Windows;
use crate::view::{ConfigMaps, View, Writer};

/// Something in a file that cannot be used, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Problem {
    /// The file, relative to the folder.
    pub file: String,
    /// Line, from 1; 1 where none is known.
    pub line: u64,
    /// Column, from 1; 1 where none is known.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Machines.
    pub machines: Vec<Arc<Machine>>,
    /// Profiles.
    pub profiles: Vec<Arc<Profile>>,
    /// ConfigMaps.
    pub config_maps: ConfigMaps,
    /// What could not be used. The rest is.
    pub problems: Vec<Problem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// Reads every `.yaml` and `.yml` file of a folder, and of folders in it.
pub fn read(folder: &Path) -> std::io::Result<Catalog> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    files.sort();
    let mut catalog = Catalog::default();
    let mut places: BTreeMap<(String, String), String> = BTreeMap::new();
    for path in files {
        let file = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        match std::fs::read_to_string(&path) {
            Ok(text) => read_file(&file, &text, &mut catalog, &mut places),
            Err(error) => {
                catalog.problems.push(Problem { file, line: 1, column: 1, message: error.to_string() });
            }
        }
    }
    Ok(catalog)
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Editors leave swap files beside what they edit.
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            list(&path, into)?;
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
            into.push(path);
        }
    }
    Ok(())
}

fn read_file(file: &str, text: &str, catalog: &mut Catalog, places: &mut BTreeMap<(String, String), String>) {
    for (start, document) in documents(text) {
        let problem = |error: &serde_saphyr::Error| {
            let place = error.location();
            let line = place.map_or(1, |place| place.line().max(1)) + start;
            Problem {
                file: file.to_owned(),
                line,
                column: place.map_or(1, |place| place.column()),
                message: first_line(error),
            }
        };
        let refuse = |message: String| Problem { file: file.to_owned(), line: start + 1, column: 1, message };
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let head: Head = match serde_saphyr::from_str(document) {
            Ok(head) => head,
            Err(error) => {
                catalog.problems.push(problem(&error));
                continue;
            }
        };
        let result = match (head.api_version.as_str(), head.kind.as_str()) {
            ("magnetite.dev/v1alpha1", "Machine") => serde_saphyr::from_str::<Machine>(document).map(|machine| {
                let bad = check_machine(&machine);
                take(bad, &machine.name_any(), "Machine", file, places)
                    .map(|()| catalog.machines.push(Arc::new(machine)))
            }),
            ("magnetite.dev/v1alpha1", "Profile") => serde_saphyr::from_str::<Profile>(document).map(|profile| {
                let bad = check_profile(&profile);
                take(bad, &profile.name_any(), "Profile", file, places)
                    .map(|()| catalog.profiles.push(Arc::new(profile)))
            }),
            ("v1", "ConfigMap") => serde_saphyr::from_str::<ConfigMap>(document).map(|map| {
                take(None, &map.name_any(), "ConfigMap", file, places)
                    .map(|()| drop(catalog.config_maps.insert(map.name_any(), map.data.unwrap_or_default())))
            }),
            (version, kind) => Ok(Err(format!(
                "apiVersion {version:?} kind {kind:?} is not known here; Machine and Profile of magnetite.dev/v1alpha1 and ConfigMap of v1 are"
            ))),
        };
        match result {
            Ok(Ok(())) => {}
            Ok(Err(message)) => catalog.problems.push(refuse(message)),
            Err(error) => catalog.problems.push(problem(&error)),
        }
    }
}

fn first_line(error: &serde_saphyr::Error) -> String {
    // Its further lines draw the place, which the file, line and column say already.
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let said = line.strip_prefix("error: line ").and_then(|rest| Some(rest.split_once(": ")?.1));
    said.unwrap_or(line).to_owned()
}

/// Documents of a file, each with the number of lines before it. Split here, so that one that does not parse
/// does not take the others with it.
fn documents(text: &str) -> Vec<(u64, &str)> {
    let (mut out, mut begin, mut first, mut at, mut line) = (Vec::new(), 0, 0, 0, 0);
    for piece in text.split_inclusive('\n') {
        if piece.trim_end() == "---" {
            out.push((first, &text[begin..at]));
            (begin, first) = (at + piece.len(), line + 1);
        }
        at += piece.len();
        line += 1;
    }
    out.push((first, &text[begin..]));
    out
}

fn take(
    bad: Option<String>,
    name: &str,
    kind: &str,
    file: &str,
    places: &mut BTreeMap<(String, String), String>,
) -> Result<(), String> {
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    if let Some(bad) = bad {
        return Err(format!("{kind} {name}: {bad}"));
    }
    if let Some(other) = places.insert((kind.to_owned(), name.to_owned()), file.to_owned()) {
        return Err(format!("{kind} {name} is declared in {other} already"));
    }
    Ok(())
}

/// What the schema's rules would refuse in a cluster, as far as it matters here.
fn check_machine(machine: &Machine) -> Option<String> {
    let spec = &machine.spec;
    if spec.macs.is_empty() && spec.uuid.is_none() && spec.serial.is_none() {
        return Some("needs at least one of spec.macs, spec.uuid and spec.serial".to_owned());
    }
    (!(60..=86400).contains(&spec.boot_window_seconds)).then(|| "spec.bootWindowSeconds is not in 60..86400".to_owned())
}

fn check_profile(profile: &Profile) -> Option<String> {
    if profile.spec.boot.architectures().next().is_none() {
        return Some("spec.boot needs x86_64 or aarch64".to_owned());
    }
    for (architecture, boot) in profile.spec.boot.architectures() {
        let all = std::iter::once(&boot.kernel).chain(&boot.initrds).chain(boot.files.values());
        if all.into_iter().any(|artifact| artifact.url.is_some() == artifact.file.is_some()) {
            return Some(format!("spec.boot.{architecture}: an artifact needs exactly one of url and file"));
        }
    }
    // A template from a ConfigMap is checked when it is rendered: the ConfigMap may come later.
    let inline = profile.spec.ignition.as_ref().and_then(|source| source.inline.as_deref());
    if profile.spec.ignition.is_some() && inline.is_none() {
        return None;
    }
    render::check(profile, inline).err().map(|error| error.to_string())
}

/// Keeps the view up to date with the folder until `stop`.
pub async fn run(
    folder: PathBuf,
    windows: Arc<Mutex<Windows>>,
    view: Writer,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (poke, mut poked) = mpsc::channel::<()>(1);
    let mut watcher = notify::recommended_watcher(move |_| {
        // One poke that waits is enough.
        let _ = poke.try_send(());
    })?;
    if let Err(error) = watcher.watch(&folder, notify::RecursiveMode::Recursive) {
        tracing::warn!(error = &error as &dyn std::error::Error, "changes of the catalog are seen by polling only");
    }
    let mut told: Vec<Problem> = Vec::new();
    loop {
        publish(&folder, &windows, &view, &mut told);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // Network file systems tell nobody; and windows run out without a change of any file.
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            _ = poked.recv() => {
                // An editor writes in several steps; wait until it is quiet.
                while tokio::time::timeout(Duration::from_millis(100), poked.recv()).await.is_ok_and(|poke| poke.is_some()) {}
            }
        }
    }
}

/// Reads the folder and swaps the view.
pub fn publish(folder: &Path, windows: &Mutex<Windows>, view: &Writer, told: &mut Vec<Problem>) {
    let catalog = match read(folder) {
        Ok(catalog) => catalog,
        Err(error) => {
            tracing::error!(catalog = %folder.display(), error = &error as &dyn std::error::Error, "the catalog cannot be read; serving what was read before");
            return;
        }
    };
    for problem in catalog.problems.iter().filter(|problem| !told.contains(problem)) {
        tracing::error!(%problem, "not served; the rest of the catalog is");
    }
    told.clone_from(&catalog.problems);
    let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = windows.update(catalog.machines.iter().map(AsRef::as_ref), clock::now()) {
        tracing::error!(error = &error as &dyn std::error::Error, "boot windows are not remembered");
    }
    let Catalog { machines, profiles, config_maps, problems: _ } = catalog;
    let new = View {
        fleet: Fleet::index(machines),
        profiles,
        config_maps,
        claims: BTreeMap::new(),
        windows: windows.all().clone(),
    };
    view.send_replace(Arc::new(new));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {name: box}\nspec: {macs: ['52:54:00:30:00:10']}\n";

    fn catalog(files: &[(&str, &str)]) -> Catalog {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        read(folder.path()).unwrap()
    }

    #[test]
    fn a_bad_document_is_named_with_its_place_and_the_others_are_served() {
        let text = format!(
            "{MACHINE}---\napiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {{name: bad}}\nspec:\n  macs: ['xx']\n"
        );
        let catalog = catalog(&[("a.yaml", &text), ("b.yml", "kind: [\n"), (".c.yaml", "{"), ("d.txt", "{")]);
        assert_eq!(catalog.machines.len(), 1);
        let places: Vec<_> = catalog.problems.iter().map(|problem| (problem.file.as_str(), problem.line)).collect();
        assert_eq!(places.len(), 2, "{:?}", catalog.problems);
        assert_eq!(places[0], ("a.yaml", 10), "{:?}", catalog.problems);
        assert!(catalog.problems[0].message.contains("not a MAC address"), "{:?}", catalog.problems[0]);
        assert_eq!(places[1].0, "b.yml");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, words) in [
            (
                "apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nmetadata: {name: x}\nspec: {}\n",
                "at least one of spec.macs",
            ),
            (
                "apiVersion: magnetite.dev/v1alpha1\nkind: Profile\nmetadata: {name: x}\nspec: {boot: {}}\n",
                "needs x86_64 or aarch64",
            ),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", "is not known here"),
            ("apiVersion: magnetite.dev/v1alpha1\nkind: Machine\nspec: {serial: X1}\n", "metadata"),
        ] {
            let catalog = catalog(&[("a.yaml", text)]);
            assert!(catalog.problems[0].message.contains(words), "{:?}", catalog.problems);
        }
        let twice = catalog(&[("a.yaml", MACHINE), ("b.yaml", MACHINE)]);
        assert_eq!(twice.machines.len(), 1);
        assert!(twice.problems[0].message.contains("declared in a.yaml already"));
    }
}
