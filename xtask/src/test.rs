//! All tests, as CI runs them.

use std::time::Instant;

use anyhow::{Result, anyhow};
use magnetite_e2e::{apt, interrupt, prepare, progress::Progress};

use crate::{build, check, e2e, fuzz};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out what takes minutes: the fuzzer, and what needs machines to boot (no QEMU, no image; root only to install swtpm, where it is missing).
    #[arg(long)]
    fast: bool,
}

/// Runs unit, property and golden tests, the checks, then (unless `--fast`) the fuzzer and the lab's scenarios.
pub fn run(args: &Args) -> Result<()> {
    interrupt::install();
    let start = Instant::now();
    let progress = Progress::new();
    apt::ensure_for_tests(&progress)?;
    // What the lab is made from takes as long to make as the tests to build, and neither keeps two processors busy all the time.
    let of_lab = progress.of("lab");
    let lab = (!args.fast).then(|| std::thread::spawn(move || prepare::prepare(&of_lab)));
    progress.line("unit, property and golden tests (cargo test) …");
    build::run(build::cargo("test")?.arg("--workspace"))?;
    progress.line("format, lints, layers, generated files (cargo xtask check) …");
    check::run()?;
    let Some(lab) = lab else {
        progress.line(format!("fast tests passed in {} s; fuzzer and lab were left out", start.elapsed().as_secs()));
        return Ok(());
    };
    fuzz::all(&progress)?;
    let lab = lab.join().map_err(|_| anyhow!("what makes the lab panicked"))??;
    e2e::all(&progress, &lab)?;
    progress.line(format!("all tests passed in {} s", start.elapsed().as_secs()));
    Ok(())
}
