//! Why a BMC did not do what it was asked. The text never prints its source, and never a credential.

use std::{error::Error as StdError, io, time::Duration};

/// A BMC did not answer, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke.
    #[error("the BMC at {host} cannot be reached")]
    Unreachable {
        /// Where it was looked for.
        host: String,
        /// Why not, in words.
        why: String,
        /// True if the request may have arrived.
        sent: bool,
        /// Why not.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// No whole answer in time.
    #[error("the BMC at {host} did not answer within {} s", after.as_secs())]
    Silent {
        /// Where it was looked for.
        host: String,
        /// How long was waited.
        after: Duration,
        /// True if the request may have arrived.
        sent: bool,
    },
    /// Whoever answers is not believed to be the BMC.
    #[error("the certificate at {host} is not one that is trusted: {why}")]
    Certificate {
        /// Where it was looked for.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The BMC does not know us, or lets us do less than was asked.
    #[error("the BMC at {host} refuses the credentials{}", words(said))]
    Unauthorized {
        /// Where it is.
        host: String,
        /// What it says, if anything.
        said: String,
    },
    /// The BMC answered that it would not.
    #[error("the BMC at {host} refused to {what} ({code}){}", words(said))]
    Refused {
        /// Where it is.
        host: String,
        /// What it was asked for.
        what: String,
        /// HTTP status, or IPMI's completion code.
        code: String,
        /// What it says, if anything.
        said: String,
        /// True if it may have done it all the same: a failure on its side, not a refusal.
        perhaps: bool,
    },
    /// The answer is not what the protocol says.
    #[error("the BMC at {host} gave an answer that is none: {what}")]
    Unintelligible {
        /// Where it is.
        host: String,
        /// What of it could not be read.
        what: String,
        /// True if it may have done what it was asked.
        perhaps: bool,
    },
    /// There is no such system, or several and nobody said which.
    #[error("the BMC at {host} {what}")]
    NoSystem {
        /// Where it is.
        host: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The BMC has no way to do this.
    #[error("the BMC at {host} offers no way to {what}: it takes {offers}")]
    Unsupported {
        /// Where it is.
        host: String,
        /// What it was to do.
        what: String,
        /// What it offers instead.
        offers: String,
    },
    /// What asks IPMI is not there.
    #[error("there is no {program} here to speak IPMI with")]
    NoTool {
        /// The program.
        program: String,
        /// Why it cannot be run.
        #[source]
        source: io::Error,
    },
    /// The client cannot be made as it was asked for.
    #[error("the connection to the BMC at {host} cannot be prepared: {why}")]
    Client {
        /// Where it is.
        host: String,
        /// Why.
        why: String,
    },
}

/// Whether an act was carried out that ended in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It was not.
    No,
    /// It was, or it was not.
    Perhaps,
}

fn words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(". It says: {said}") }
}

impl Error {
    /// Whether the box may have been switched all the same.
    pub fn happened(&self) -> Happened {
        let perhaps = match self {
            Self::Unreachable { sent, .. } | Self::Silent { sent, .. } => *sent,
            Self::Refused { perhaps, .. } | Self::Unintelligible { perhaps, .. } => *perhaps,
            Self::Certificate { .. }
            | Self::Unauthorized { .. }
            | Self::NoSystem { .. }
            | Self::Unsupported { .. }
            | Self::NoTool { .. }
            | Self::Client { .. } => false,
        };
        if perhaps { Happened::Perhaps } else { Happened::No }
    }

    /// The error with what its causes say, in one line.
    pub fn in_full(&self) -> String {
        match self {
            Self::Unreachable { why, .. } => format!("{self}: {why}"),
            Self::NoTool { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// What TLS has against a certificate, if that is what an error is about.
pub fn certificate_trouble(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return match found {
                rustls::Error::InvalidCertificate(why) => Some(crate::said::said(&why.to_string())),
                _ => None,
            };
        }
        // An io::Error shows what it is made of by another door than source().
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        at = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

/// The innermost cause of an error, which says most.
pub fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    crate::said::said(&last.to_string())
}
