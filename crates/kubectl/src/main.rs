//! `kubectl magnetite`: where a machine's boot is, and why it stopped.
#![allow(missing_docs, reason = "a binary: its public items are public to itself")]

mod args;
mod cluster;
mod error;
mod records;
mod style;
mod suggest;
mod timeline;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use magnetite_daemon::clock;
use serde::Serialize;

use crate::{
    args::{Args, Command, Output},
    error::Error,
    style::Style,
    timeline::Timeline,
};

/// The boot stopped, or the question could not be answered.
const STOPPED: u8 = 1;
/// Wrong arguments, as clap says it too.
const WRONG: u8 = 2;
/// After this long somebody wants to know what is waited for.
const LONG: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let Args { command, completion } = Args::parse();
    if let Some(shell) = completion {
        clap_complete::generate(shell, &mut Args::command(), "kubectl-magnetite", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let Some(command) = command else {
        // As clap does it when a subcommand is missing.
        drop(write!(std::io::stderr(), "{}", Args::command().render_help()));
        return ExitCode::from(WRONG);
    };
    magnetite_daemon::crypto::install();
    let answered = match command {
        Command::Timeline(args) => timeline(&args),
    };
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(STOPPED),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {}", error::chain(&error)));
            ExitCode::from(STOPPED)
        }
    }
}

/// Shows a timeline; true if nothing has to be done.
fn timeline(args: &args::Timeline) -> Result<bool, Error> {
    let args::Timeline { machine, catalog_data, output, all, cluster } = args;
    let timeline = match catalog_data {
        Some(data) => Timeline::of_record(machine, records::read(data, machine)?, clock::now()),
        None => {
            let known = wait(async {
                let client = cluster::client(cluster).await?;
                cluster::read(&client, machine).await
            })?;
            Timeline::of_cluster(known, *all, clock::now())
        }
    };
    print(&timeline, *output, || timeline.text(Style::of_stdout(), clock::now()))?;
    Ok(!timeline.is_stopped())
}

/// Waits for what the network has to say, and says so when that takes long.
fn wait<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        tokio::pin!(asking);
        tokio::select! {
            answer = &mut asking => return answer,
            () = tokio::time::sleep(LONG) => {}
        }
        if std::io::stderr().is_terminal() {
            drop(writeln!(std::io::stderr(), "waiting for the API server…"));
        }
        asking.await
    })
}

fn print<T: Serialize>(value: &T, output: Output, text: impl FnOnce() -> String) -> Result<(), Error> {
    let text = match output {
        Output::Text => text(),
        Output::Json => serde_json::to_string_pretty(value).map_err(|error| Error::Write(error.into()))? + "\n",
        Output::Yaml => {
            serde_saphyr::to_string(value).map_err(|error| Error::Write(std::io::Error::other(error.to_string())))?
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::Write),
    }
}
