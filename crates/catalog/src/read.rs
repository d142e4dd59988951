//! From files to objects. What cannot be used is named with its place, and the rest is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use magnetite_api::{Machine, Profile};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{ConfigMaps, check};

/// Something in a file that cannot be used, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Problem {
    /// The file, relative to the folder.
    pub file: String,
    /// Line, from 1; that at which the document begins where none is known.
    pub line: u64,
    /// Column, from 1; 1 where none is known.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

/// What a folder holds.
#[derive(Debug, Default, PartialEq)]
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

/// Every `.yaml` and `.yml` file of a folder and of the folders in it, sorted, with its size and time of change.
///
/// # Errors
/// If the folder cannot be read.
pub fn stamps(folder: &Path) -> std::io::Result<Vec<(PathBuf, u64, SystemTime)>> {
    let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
    list(folder, &mut files, &mut seen)?;
    files.sort();
    Ok(files)
}

fn list(
    folder: &Path,
    into: &mut Vec<(PathBuf, u64, SystemTime)>,
    seen: &mut BTreeSet<PathBuf>,
) -> std::io::Result<()> {
    // A link may lead back to where it is.
    if !seen.insert(folder.canonicalize()?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Editors leave swap files beside what they edit.
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        // One that vanishes meanwhile is not there.
        let Some(meta) = std::fs::metadata(&path).ok().filter(|_| !hidden) else { continue };
        if meta.is_dir() {
            list(&path, into, seen)?;
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
            into.push((path, meta.len(), meta.modified()?));
        }
    }
    Ok(())
}

/// Reads files of a folder.
pub fn read(folder: &Path, files: &[(PathBuf, u64, SystemTime)]) -> Catalog {
    let mut reader = Reader::default();
    for (path, ..) in files {
        let file = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => reader.file(&file, &text),
            Err(error) => {
                reader.catalog.problems.push(Problem { file, line: 1, column: 1, message: error.to_string() })
            }
        }
    }
    reader.catalog
}

#[derive(Default)]
struct Reader {
    catalog: Catalog,
    /// Where each object is declared, by kind and name.
    places: BTreeMap<(&'static str, String), String>,
}

/// A place in a document, and what is wrong there.
type Flaw = (u64, u64, String);

impl Reader {
    fn file(&mut self, file: &str, text: &str) {
        for (before, document) in documents(text) {
            let empty = |line: &str| matches!(line.trim(), "" | "---" | "...") || line.trim_start().starts_with('#');
            if document.lines().all(empty) {
                continue;
            }
            if let Err((line, column, message)) = self.document(file, document) {
                self.catalog.problems.push(Problem { file: file.to_owned(), line: line + before, column, message });
            }
        }
    }

    fn document(&mut self, file: &str, text: &str) -> Result<(), Flaw> {
        let value: Value = parse(text)?;
        let word = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        match (word("apiVersion"), word("kind")) {
            ("magnetite.dev/v1alpha1", "Machine") => {
                let machine: Machine = typed(&value, text)?;
                check::schema(&check::MACHINE, &value).and_then(|()| check::machine(&machine)).map_err(at(text))?;
                self.take("Machine", &machine.name_any(), file).map_err(at(text))?;
                self.catalog.machines.push(Arc::new(machine));
            }
            ("magnetite.dev/v1alpha1", "Profile") => {
                let profile: Profile = typed(&value, text)?;
                check::schema(&check::PROFILE, &value).and_then(|()| check::profile(&profile)).map_err(at(text))?;
                self.take("Profile", &profile.name_any(), file).map_err(at(text))?;
                self.catalog.profiles.push(Arc::new(profile));
            }
            ("v1", "ConfigMap") => {
                let map: ConfigMap = typed(&value, text)?;
                check::name(&map.name_any()).map_err(at(text))?;
                self.take("ConfigMap", &map.name_any(), file).map_err(at(text))?;
                self.catalog.config_maps.insert(map.name_any(), map.data.unwrap_or_default());
            }
            (version, kind) => {
                let message = format!(
                    "apiVersion {version:?} kind {kind:?} is not known here; Machine and Profile of magnetite.dev/v1alpha1 and ConfigMap of v1 are"
                );
                return Err(at(text)(check::Fault::new("kind", message)));
            }
        }
        Ok(())
    }

    fn take(&mut self, kind: &'static str, name: &str, file: &str) -> Result<(), check::Fault> {
        match self.places.insert((kind, name.to_owned()), file.to_owned()) {
            None => Ok(()),
            Some(other) => {
                self.places.insert((kind, name.to_owned()), other.clone());
                Err(check::Fault::new("name", format!("{kind} {name} is declared in {other} already")))
            }
        }
    }
}

/// An object from what was read of it already. Where that fails the text is read once more, which knows places, and that a name of
/// digits alone is a name: of ten thousand documents as a rule none.
fn typed<T: DeserializeOwned>(value: &Value, text: &str) -> Result<T, Flaw> {
    T::deserialize(value).or_else(|_| parse(text))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Flaw> {
    serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location();
        let (line, column) = place.map_or((1, 1), |place| (place.line().max(1), place.column().max(1)));
        (line, column, words(&error))
    })
}

/// An error's words. Its further lines draw the place, and it begins with it; both are said already.
fn words(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let rest = line.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    rest.map_or(line, |(_, words)| words).to_owned()
}

/// Finds the field of a fault in the text: the first line that begins with its name.
fn at(text: &str) -> impl Fn(check::Fault) -> Flaw {
    |fault| {
        let key = |line: &str| {
            let start = line.trim_start_matches([' ', '-', '{', '"', '\'']);
            let named = start
                .strip_prefix(fault.field())
                .is_some_and(|rest| rest.trim_start_matches(['"', '\'']).starts_with(':'));
            named.then(|| line.len() - start.len() + 1)
        };
        let found = text.lines().zip(1u64..).find_map(|(line, number)| Some((number, key(line)? as u64)));
        let (line, column) = found.unwrap_or((1, 1));
        (line, column, fault.to_string())
    }
}

/// Documents of a file, each with the number of lines before it. Split here, so that one that does not parse
/// does not take the others with it.
fn documents(text: &str) -> Vec<(u64, &str)> {
    let (mut out, mut begin, mut first, mut at, mut line) = (Vec::new(), 0, 0, 0, 0);
    for piece in text.split_inclusive('\n') {
        // The marker belongs to the document that it begins, so that places in it are right.
        let marks = piece.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(' '));
        if marks {
            out.push((first, &text[begin..at]));
            (begin, first) = (at, line);
        }
        at += piece.len();
        line += 1;
    }
    out.push((first, &text[begin..]));
    out
}
