//! What can go wrong in a reconcile, and what that means for the next try.

use magnetite_tpm::verifier::MakeError;

/// A failed reconcile. Its text never prints its source: whoever logs it prints the chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not give an object.
    #[error("reading {kind} {name} failed")]
    Read {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The API server did not take a change.
    #[error("{operation} {kind} {name} failed")]
    Write {
        /// What was tried.
        operation: &'static str,
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The API server did not answer in time: kube itself waits for an answer without end.
    #[error("the API server did not answer within {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: u64,
    },
    /// The API server took an object and dropped a field of it, as it does with fields that its CRDs do not have.
    #[error(
        "the API server dropped {field} of the {kind} {name}: its CRDs are older than this controller; upgrade the chart \
         magnetite-crds"
    )]
    Pruned {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is missing.
        field: &'static str,
    },
    /// No challenge could be made for a TPM.
    #[error("no challenge for a TPM could be made")]
    Challenge(#[source] MakeError),
}

/// What a failure means for the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Somebody else was faster: read again and decide anew, at once.
    Conflict,
    /// The object, or the answer to it, will be the same next time: wait long.
    Invalid,
    /// May go by itself: back off.
    Transient,
}

impl Error {
    /// A failed read.
    pub fn read(kind: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Self + use<> {
        let name = name.to_owned();
        move |source| Self::Read { kind, name, source }
    }

    /// A failed write.
    pub fn write(operation: &'static str, kind: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Self + use<> {
        let name = name.to_owned();
        move |source| Self::Write { operation, kind, name, source }
    }

    /// What it means for the next try.
    pub fn class(&self) -> Class {
        let source = match self {
            Self::Read { kind: _, name: _, source } | Self::Write { operation: _, kind: _, name: _, source } => source,
            Self::Timeout { seconds: _ } | Self::Challenge(_) => return Class::Transient,
            Self::Pruned { kind: _, name: _, field: _ } => return Class::Invalid,
        };
        match code(source) {
            Some(409) => Class::Conflict,
            Some(400 | 422) => Class::Invalid,
            _ => Class::Transient,
        }
    }

    /// The value of the metric's label.
    pub fn label(&self) -> &'static str {
        match self.class() {
            Class::Conflict => "conflict",
            Class::Invalid => "invalid",
            Class::Transient => "transient",
        }
    }
}

/// HTTP status of an answer of the API server.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// A deletion or change of something that is already gone is done.
///
/// # Errors
/// Every other failure.
pub fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}
