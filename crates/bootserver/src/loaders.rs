//! Files that are read once, at the start: loaders, and what is to be known of the agents.

use std::{collections::BTreeMap, io::ErrorKind, path::Path, sync::Arc};

use magnetite_api::Architecture;
use magnetite_boot::client::loaders;
use sha2::Digest;

use magnetite_daemon::log::chain;

use crate::{app::Agent, artifacts::Checked};

/// The loaders that are there, whole. Only names from the list are looked for: nothing else of the folder is served.
pub fn read(folder: &Path) -> BTreeMap<String, Arc<[u8]>> {
    let mut found = BTreeMap::new();
    for name in loaders() {
        match std::fs::read(folder.join(name)) {
            Ok(bytes) => drop(found.insert(name.to_owned(), Arc::from(bytes))),
            Err(error) => {
                let (file, error) = (folder.join(name), chain(&error));
                tracing::warn!(file = %file.display(), error, "a loader is missing; firmware that needs it is not answered");
            }
        }
    }
    found
}

/// The agents that are there, summed once.
///
/// # Errors
/// If one is there and cannot be read.
pub fn read_agents(folder: &Path) -> std::io::Result<BTreeMap<&'static str, Agent>> {
    let mut found = BTreeMap::new();
    for architecture in [Architecture::X86_64, Architecture::Aarch64].map(Architecture::as_str) {
        let path = folder.join(format!("magnetite-agent-{architecture}"));
        let file = match Checked::trusted(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), "an agent is missing; machines of its architecture cannot join");
                continue;
            }
            Err(error) => return Err(error),
        };
        let digest: String =
            sha2::Sha512::digest(std::fs::read(&path)?).iter().map(|octet| format!("{octet:02x}")).collect();
        found.insert(architecture, Agent { file, verification: format!("sha512-{digest}") });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_of_the_folders_is_served() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["snponly.efi", "secret", "magnetite-agent-x86_64", "magnetite-agent-riscv64"] {
            std::fs::write(folder.path().join(name), b"MZ").unwrap();
        }
        assert_eq!(read(folder.path()).into_keys().collect::<Vec<_>>(), ["snponly.efi"]);
        let agents = read_agents(folder.path()).unwrap();
        assert_eq!(agents.keys().collect::<Vec<_>>(), [&"x86_64"]);
        assert_eq!(agents["x86_64"].verification.len(), "sha512-".len() + 128);
    }
}
