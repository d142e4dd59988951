//! Scenarios of the lab, by name.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// How many scenarios run at once, at most: a box that boots takes one processor, and two gigabytes.
const AT_ONCE: usize = 4;

/// Runs all scenarios but those for which somebody has to ask: first those that want the machine for themselves, then the others, several
/// at once. One that fails does not keep the others from running: whoever reads the end wants to know all that is broken.
pub fn all(progress: &Progress) -> Result<()> {
    let (prepared, binaries) = ready(progress)?;
    let failed = Mutex::new(Vec::new());
    let run = |scenario: &Scenario, progress: &Progress| {
        if let Err(error) = one(scenario, &prepared, &binaries, progress) {
            progress.line(format!("{error:#}"));
            locked(&failed).push(scenario.name);
        }
    };
    let (alone, together): (Vec<_>, Vec<_>) = scenarios::ALL.iter().partition(|scenario| scenario.alone);
    for scenario in alone {
        interrupt::check()?;
        run(scenario, progress);
    }
    let queue = Mutex::new(together.into_iter());
    let lanes = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE);
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let next = || locked(&queue).next();
                while let (false, Some(scenario)) = (interrupt::requested(), next()) {
                    run(scenario, &progress.of(scenario.name));
                }
            });
        }
    });
    interrupt::check()?;
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("{} of {} scenarios failed: {}", failed.len(), scenarios::ALL.len(), failed.join(", "));
    }
    Ok(())
}

/// A panic of another thread is told by that thread, and leaves nothing half done in these lists.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
