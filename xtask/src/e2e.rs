//! Scenarios of the lab, by name.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use anyhow::{Context, Result, bail};
use magnetite_e2e::{
    interrupt,
    prepare::{self, Prepared},
    progress::Progress,
    scenarios::{self, Scenario},
};

use crate::{build, several};

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

/// How many scenarios run at once, at most: a box that boots takes one processor, and two gigabytes.
const AT_ONCE: usize = 4;

/// Runs all scenarios but those for which somebody has to ask: first those that want the machine for themselves, then the others, several
/// at once. One that fails does not keep the others from running: whoever reads the end wants to know all that is broken, and why.
pub fn all(progress: &Progress, prepared: &Prepared) -> Result<()> {
    let binaries = build::binaries(progress)?;
    let (alone, together): (Vec<_>, Vec<_>) = scenarios::ALL.iter().partition(|scenario| scenario.alone);
    let lanes = several::processors().min(AT_ONCE);
    let mut failed = several::each(
        alone,
        1,
        |scenario| one(scenario, prepared, &binaries, progress),
        |_, error| progress.line(format!("{error:#}")),
    )?;
    failed.extend(several::each(
        together,
        lanes,
        |scenario| one(scenario, prepared, &binaries, &progress.of(scenario.name)),
        |scenario, error| progress.of(scenario.name).line(format!("{error:#}")),
    )?);
    if failed.is_empty() {
        return Ok(());
    }
    for (_, error) in &failed {
        progress.line(ends(&format!("{error:#}"), 1500));
    }
    let names: Vec<_> = failed.iter().map(|(scenario, _)| scenario.name).collect();
    bail!("{} of {} scenarios failed: {}", failed.len(), scenarios::ALL.len(), names.join(", "))
}

/// The first and the last so many characters of what was told in full when it came to pass: what was waited for stands at its end.
fn ends(text: &str, characters: usize) -> String {
    let count = text.chars().count();
    if count <= 2 * characters {
        return text.to_owned();
    }
    let first: String = text.chars().take(characters).collect();
    let last: String = text.chars().skip(count - characters).collect();
    format!("{first} [… {} characters …] {last}", count - 2 * characters)
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
