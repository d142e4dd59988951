//! Scenarios of the lab, by name.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use std::num::NonZeroUsize;

use anyhow::{Context, Result, bail};
use magnetite_e2e::{
    interrupt,
    magnetite::Binaries,
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
    /// Run so many at once, but for those that measure and want the machine for themselves.
    #[arg(long, value_name = "COUNT", default_value = "1")]
    at_once: NonZeroUsize,
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
    let (chosen, progress) = (chosen?, Progress::new());
    interrupt::install();
    let binaries = build::binaries(&progress)?;
    let prepared = prepare::prepare(&progress)?;
    these(chosen, args.at_once.get(), &Lab { prepared: &prepared, binaries, progress: &progress })
}

/// How many scenarios run at once, at most: a box that boots takes one processor, and two gigabytes.
const AT_ONCE: usize = 4;

/// Runs all scenarios but those for which somebody has to ask, several at once.
pub fn all(progress: &Progress, prepared: &Prepared) -> Result<()> {
    let lab = Lab { prepared, binaries: build::binaries(progress)?, progress };
    these(scenarios::ALL.iter().collect(), several::processors().min(AT_ONCE), &lab)
}

/// What scenarios run on.
struct Lab<'a> {
    prepared: &'a Prepared,
    binaries: Binaries,
    progress: &'a Progress,
}

/// Runs these, first those that want the machine for themselves, then the others, so many at once. One that fails does not keep the others from
/// running: whoever reads the end wants to know all that is broken, and why.
fn these(scenarios: Vec<&'static Scenario>, at_once: usize, lab: &Lab) -> Result<()> {
    let all = scenarios.len();
    let (alone, together): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|scenario| scenario.alone);
    let run = |scenarios: Vec<&'static Scenario>, at_once| {
        let progress = |scenario: &Scenario| match at_once {
            1 => lab.progress.clone(),
            _ => lab.progress.of(scenario.name),
        };
        several::each(
            scenarios,
            at_once,
            |scenario| one(scenario, lab, &progress(scenario)),
            |scenario, error| progress(scenario).line(format!("{error:#}")),
        )
    };
    let mut failed = run(alone, 1)?;
    failed.extend(run(together, at_once)?);
    if failed.is_empty() {
        return Ok(());
    }
    // One alone was told just now.
    for (_, error) in failed.iter().filter(|_| all > 1) {
        lab.progress.line(ends(&format!("{error:#}"), 1500));
    }
    let names: Vec<_> = failed.iter().map(|(scenario, _)| scenario.name).collect();
    bail!("{} of {all} scenarios failed: {}", names.len(), names.join(", "))
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

fn one(scenario: &Scenario, lab: &Lab, progress: &Progress) -> Result<()> {
    progress.line(format!("— scenario {}: {}", scenario.name, scenario.about));
    let before = progress.elapsed();
    (scenario.run)(lab.prepared, &lab.binaries, progress)
        .with_context(|| format!("scenario {} failed", scenario.name))?;
    let took = progress.elapsed().saturating_sub(before).as_secs();
    progress.line(format!("— scenario {} passed in {took} s", scenario.name));
    Ok(())
}
