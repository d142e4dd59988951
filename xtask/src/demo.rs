//! The main job, before one's eyes.

use std::time::Duration;

use anyhow::Result;
use magnetite_e2e::{demo, interrupt, prepare, progress::Progress};

use crate::build;

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
#[command(after_help = "Needs root, Rust and Go, and Debian with network; says what it installs by apt.
Everything happens in network namespaces of its own and is gone after Ctrl-C.")]
pub struct Args {
    /// End as soon as every machine is Ready: exit 0; or with the reason after the time limit: exit 1.
    #[arg(long)]
    once: bool,
    /// How many boxes, BIOS and UEFI in turns. Each takes 1.5 GiB of memory.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    machines: u8,
    /// Seconds for all boxes to be Ready.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

/// Runs the demo.
pub fn run(args: &Args) -> Result<()> {
    interrupt::install();
    let progress = Progress::new();
    let binaries = build::binaries(&progress)?;
    let prepared = prepare::prepare(&progress)?;
    let options =
        demo::Options { machines: args.machines, once: args.once, timeout: Duration::from_secs(args.timeout) };
    demo::run(&prepared, &binaries, &progress, &options)
}
