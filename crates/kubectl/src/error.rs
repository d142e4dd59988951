//! Why a question could not be answered, and what to do about it.

use std::path::PathBuf;

use magnetite_api::Fingerprint;

/// An error, for the person who asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No kubeconfig, or not that context.
    #[error(
        "no cluster to ask: the kubeconfig cannot be used; set --kubeconfig or --context, or --catalog-data without a cluster"
    )]
    Config(#[source] Box<kube::config::KubeconfigError>),
    /// No client can be made of it.
    #[error("no client can be made from the kubeconfig")]
    Client(#[source] Box<kube::Error>),
    /// The API server did not answer.
    #[error("the API server did not answer when asked for {0}; is this the right --context?")]
    Ask(String, #[source] Box<kube::Error>),
    /// It refused.
    #[error("you may not read {0}: {1}")]
    Forbidden(String, String),
    /// The kinds of this program are not there.
    #[error(
        "this cluster has no {0}.magnetite.dev: Magnetite is not installed there (helm install magnetite-crds \
         deploy/charts/magnetite-crds), or it is another --context"
    )]
    NotInstalled(&'static str),
    /// Nothing of that name.
    #[error("there is no Machine {name:?}{}", meant(.near))]
    NoMachine {
        /// The name.
        name: String,
        /// What may have been meant.
        near: Vec<String>,
    },
    /// No box shows that key.
    #[error("no box that claims the Machine {name:?} has the key {key}; {}", keys(.came))]
    NoSuchKey {
        /// The Machine.
        name: String,
        /// What was typed.
        key: Fingerprint,
        /// The keys that came.
        came: Vec<String>,
    },
    /// Nobody to ask about its power.
    #[error("the Machine {0:?} names no BMC: set spec.bmc (docs/power.md)")]
    NoBmc(String),
    /// A restart that would not happen.
    #[error(
        "the Machine {0:?} should be off (spec.power: Off), so nothing would be restarted; kubectl magnetite power {0} on"
    )]
    ShouldBeOff(String),
    /// It may not be changed.
    #[error("the Machine {0:?} could not be changed: {1}")]
    Change(String, String),
    /// Nothing of that name.
    #[error("there is no Profile {0:?}; see kubectl get profiles.magnetite.dev")]
    NoProfile(String),
    /// It may not be changed.
    #[error("the Profile {0:?} could not be changed: {1}")]
    ChangeProfile(String, String),
    /// The folder is no data folder.
    #[error("{0} holds no folder \"machines\": give the --data-dir of a boot server")]
    NoRecords(PathBuf),
    /// No record of that name.
    #[error("the boot server has no record of a machine {name:?}: no such box has asked yet{}", meant(.near))]
    NoRecord {
        /// The name.
        name: String,
        /// What may have been meant.
        near: Vec<String>,
    },
    /// The folder declares no such Machine.
    #[error("the catalog declares no Machine {name:?}{}{}", meant(.near), unusable(.problems))]
    NotInCatalog {
        /// The name.
        name: String,
        /// What may have been meant.
        near: Vec<String>,
        /// What of the folder cannot be used.
        problems: Vec<String>,
    },
    /// A file could not be read.
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not what a boot server writes.
    #[error("{0} is no record of a boot server of this version")]
    Parse(PathBuf, #[source] serde_json::Error),
    /// The process cannot wait for anything.
    #[error("the system gives no means to wait for the network")]
    Runtime(#[source] std::io::Error),
    /// The answer could not be written.
    #[error("the answer cannot be written")]
    Write(#[source] std::io::Error),
}

fn meant(near: &[String]) -> String {
    match near {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [most @ .., last] => format!("; did you mean {} or {last}?", most.join(", ")),
    }
}

fn keys(came: &[String]) -> String {
    match came {
        [] => "none has claimed it in its present intent: is the box on, and has it come that far? See kubectl magnetite timeline".to_owned(),
        came => format!("those that came are {}", came.join(", ")),
    }
}

/// What is declared and cannot be used may be what was looked for.
fn unusable(problems: &[String]) -> String {
    match problems.len() {
        0 => String::new(),
        n => format!("; {n} of its documents cannot be used: {}", problems.join("; ")),
    }
}

/// An error with all that caused it, on one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let words = next.to_string();
        // Some of the client's errors print their source themselves.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let near = vec!["r7-u01".to_owned(), "r7-u02".to_owned()];
        let error = Error::NoMachine { name: "r7u01".into(), near };
        assert_eq!(error.to_string(), "there is no Machine \"r7u01\"; did you mean r7-u01 or r7-u02?");
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(chain(&Error::Read("/x".into(), missing)), "/x cannot be read: entity not found");
    }
}
