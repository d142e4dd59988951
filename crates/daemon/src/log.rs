//! Logs: to stderr, as text for a person or as JSON for a program. One line an event in both.

use std::{error::Error, io::IsTerminal};

use tracing_subscriber::EnvFilter;

/// How a process logs; flatten it into the arguments of a binary.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Text for a person, JSON for a program.
    #[arg(long, env = "MAGNETITE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// What to log: a level (error, warn, info, debug, trace), or a filter such as `info,magnetite_boot=debug`.
    #[arg(long = "log-level", env = "MAGNETITE_LOG", default_value = "info", value_name = "FILTER", global = true)]
    pub log_level: String,
}

impl Default for LogArgs {
    fn default() -> Self {
        Self { log_format: LogFormat::Text, log_level: "info".to_owned() }
    }
}

/// The form of a log line.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// For a program: one JSON object a line.
    Json,
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("the log filter {filter:?} does not parse; write a level such as info, or target=level,...")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else set up logs in this process.
    #[error("logs were set up already")]
    Twice(#[source] Box<dyn Error + Send + Sync>),
}

/// Before the filter that is given, which may say otherwise. rustls warns at each connection of a client that asks for an IP address
/// by name (SNI), as EDK2 and iPXE do, and goes on without.
const USUAL: &str = "rustls=error";

/// Sets up the logs of the process. Call it once, first.
pub fn init(args: &LogArgs) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(format!("{USUAL},{}", args.log_level))
        .map_err(|source| LogError::Filter { filter: args.log_level.clone(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    }
    .map_err(LogError::Twice)
}

/// An error and all that caused it, in one line: `error = log::chain(&error)`. Errors here never print their source,
/// and a JSON log of `&error as &dyn Error` has only the first of them.
pub fn chain(error: &dyn Error) -> String {
    let sources = std::iter::successors(error.source(), |error| (*error).source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_cause() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(chain(&LogError::Twice(missing.into())), "logs were set up already: entity not found");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let args = LogArgs { log_level: "info,=".to_owned(), ..LogArgs::default() };
        let error = init(&args).expect_err("the filter is wrong");
        assert!(error.to_string().contains("info,="), "{error}");
    }
}
