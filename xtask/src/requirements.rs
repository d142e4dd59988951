//! docs/security names the test that shows each requirement. A name that no test bears any more would be a promise that nobody keeps.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use magnetite_e2e::scenarios;

use crate::fuzz;

const DOCUMENTS: [&str; 2] = ["docs/security/requirements.md", "docs/security/threat-model.md"];
/// The rows of the specification, S1 to S28 and R1 to R26.
const ROWS: [(char, u32); 2] = [('S', 28), ('R', 26)];

/// Compares the names in the documents with the tests that there are.
pub fn check(root: &Path) -> Result<()> {
    let (mut tests, targets) = (BTreeSet::new(), fuzz::targets()?);
    for folder in ["crates", "tests", "fuzz/tests", "xtask"] {
        functions(&root.join(folder), &mut tests)?;
    }
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).with_context(|| format!("read {document}"))?;
        for name in quoted(&text) {
            let known = match name.split_once(':') {
                Some(("test", name)) => tests.contains(name),
                Some(("e2e", name)) => scenarios::ALL.iter().any(|scenario| scenario.name == name),
                Some(("fuzz", name)) => targets.iter().any(|target| target == name),
                _ => name.strip_prefix("cargo xtask e2e ").is_none_or(by_hand),
            };
            ensure!(
                known,
                "{document} names {name}, which there is not; name the test that shows it now, or say that none does"
            );
        }
    }
    let text = fs::read_to_string(root.join(DOCUMENTS[0]))?;
    for (letter, last) in ROWS {
        let missing = (1..=last).find(|number| !text.contains(&format!("\n| {letter}{number} |")));
        ensure!(missing.is_none(), "{} has no row {letter}{}", DOCUMENTS[0], missing.unwrap_or_default());
    }
    Ok(())
}

/// What a reader is told to run by hand is there as well.
fn by_hand(name: &str) -> bool {
    scenarios::BY_HAND.iter().any(|scenario| scenario.name == name)
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of all functions in the Rust files of a folder.
fn functions(folder: &Path, into: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            functions(&path, into)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path)?;
            let names =
                text.lines().filter_map(|line| line.trim_start().trim_start_matches("async ").strip_prefix("fn "));
            into.extend(names.filter_map(|rest| rest.split(['(', '<']).next()).map(str::to_owned));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_between_backticks() {
        assert_eq!(quoted("| S1 | `test:a` and `e2e:b` |").collect::<Vec<_>>(), ["test:a", "e2e:b"]);
    }
}
