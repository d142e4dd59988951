//! What the agent keeps of a claim's answer. Nothing in it is secret; the keys have files of their own.

use magnetite_api::join::{ClaimResponse, JoinBundle};
use magnetite_daemon::log::chain;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, Paths};

const NAME: &str = "state.json";
const VERSION: u32 = 1;

/// The answer to a claim, and what became of it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Form of this file.
    version: u32,
    /// The Machine that was claimed.
    pub machine: String,
    /// The intent in which it was.
    pub intent: String,
    /// The kubelet was started with this answer.
    pub started: bool,
    /// The answer.
    pub join: JoinBundle,
    /// Path at the boot server where the sealed files are to be had as they are later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
}

impl State {
    /// A new answer.
    pub fn new(machine: &str, intent: &str, answer: ClaimResponse) -> Self {
        let ClaimResponse { join, server_time: _, refresh } = answer;
        Self { version: VERSION, machine: machine.to_owned(), intent: intent.to_owned(), started: false, join, refresh }
    }

    /// Reads it. One that is broken or of another version counts as none: the same keys get the same answer again.
    pub fn load(paths: &Paths) -> Result<Option<Self>, FileError> {
        let Some(bytes) = files::read(&paths.state(NAME))? else { return Ok(None) };
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(state) if state.version == VERSION => Ok(Some(state)),
            Ok(state) => {
                tracing::warn!(version = state.version, "state file of another version ignored");
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "broken state file ignored");
                Ok(None)
            }
        }
    }

    /// Writes it.
    pub fn save(&self, paths: &Paths) -> Result<(), FileError> {
        let bytes = serde_json::to_vec_pretty(self).expect("a struct of texts is always JSON");
        files::folder(&paths.state(""), 0o700)?;
        files::write(&paths.state(NAME), 0o600, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_what_is_broken_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = Paths::new(folder.path(), Path::new("/state"));
        assert_eq!(State::load(&paths).expect("readable"), None);
        let server_time = magnetite_api::time::seconds(jiff::Timestamp::UNIX_EPOCH);
        let answer = ClaimResponse { join: JoinBundle::default(), server_time, refresh: Some("/a/1/c/files".into()) };
        let state = State::new("box-1", "created", answer);
        state.save(&paths).expect("saved");
        assert_eq!(State::load(&paths).expect("readable"), Some(state));
        files::write(&paths.state(NAME), 0o600, b"{\"version\":").expect("written");
        assert_eq!(State::load(&paths).expect("readable"), None);
    }
}
