//! Scenarios of the lab, by name.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use anyhow::{Context, Result, bail};
use magnetite_e2e::{
    interrupt,
    prepare::{self, Prepared},
    progress::Progress,
    scenarios::{self, Scenario},
};

use crate::build;

/// Arguments of `cargo xtask e2e`.
#[derive(clap::Args)]
pub struct Args {
    /// List the scenarios.
    #[arg(long)]
    list: bool,
    /// The scenarios to run, by name.
    #[arg(required_unless_present = "list")]
    names: Vec<String>,
}

/// Runs the scenarios that were named.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        for scenario in scenarios::ALL {
            println!("{:<14} {}", scenario.name, scenario.about);
        }
        println!("\nby hand alone:");
        for scenario in scenarios::BY_HAND {
            println!("{:<14} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    let chosen: Result<Vec<_>> = args.names.iter().map(|name| find(name)).collect();
    let chosen = chosen?;
    let progress = Progress::new();
    let (prepared, binaries) = ready(&progress)?;
    for scenario in chosen {
        one(scenario, &prepared, &binaries, &progress)?;
    }
    Ok(())
}

/// Runs all scenarios but those for which somebody has to ask.
pub fn all(progress: &Progress) -> Result<()> {
    let (prepared, binaries) = ready(progress)?;
    for scenario in scenarios::ALL {
        one(scenario, &prepared, &binaries, progress)?;
    }
    Ok(())
}

fn find(name: &str) -> Result<&'static Scenario> {
    let found = scenarios::ALL.iter().chain(scenarios::BY_HAND).find(|scenario| scenario.name == name);
    match found {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario {name:?}; `cargo xtask e2e --list` names them"),
    }
}

fn ready(progress: &Progress) -> Result<(Prepared, magnetite_e2e::magnetite::Binaries)> {
    interrupt::install();
    let binaries = build::binaries(progress)?;
    Ok((prepare::prepare(progress)?, binaries))
}

fn one(
    scenario: &Scenario,
    prepared: &Prepared,
    binaries: &magnetite_e2e::magnetite::Binaries,
    progress: &Progress,
) -> Result<()> {
    progress.line(format!("— scenario {}: {}", scenario.name, scenario.about));
    let before = progress.elapsed();
    (scenario.run)(prepared, binaries, progress).with_context(|| format!("scenario {} failed", scenario.name))?;
    let took = progress.elapsed().saturating_sub(before).as_secs();
    progress.line(format!("— scenario {} passed in {took} s", scenario.name));
    Ok(())
}
