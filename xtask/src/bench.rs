//! The benchmark.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use std::path::PathBuf;

use anyhow::Result;
use magnetite_bench::Options;
use magnetite_e2e::progress::Progress;

use crate::build;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(
    after_help = "Needs root and Debian: it installs its peers (dnsmasq, tftpd-hpa, nginx) and builds others through Go's module proxy. Read the
ratios: generator and servers share the processors, and whatever else runs here falls on all of them."
)]
pub struct Args {
    /// Measure these rows only.
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
    /// List the rows.
    #[arg(long)]
    list: bool,
    /// Rounds of each row; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Print one JSON object for each row and server, and no table.
    #[arg(long)]
    json: bool,
    /// Measure this boot server instead of building one.
    #[arg(long, value_name = "FILE")]
    bootserver: Option<PathBuf>,
}

/// Measures, and prints each row once it is done.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        for name in magnetite_bench::names() {
            println!("{name}");
        }
        return Ok(());
    }
    if let Some(wrong) = args.only.iter().find(|only| !magnetite_bench::names().contains(&only.as_str())) {
        anyhow::bail!("there is no row {wrong:?}; `cargo xtask bench --list` names them");
    }
    let progress = Progress::new();
    let bootserver = match &args.bootserver {
        Some(file) => std::path::absolute(file)?,
        None => build::release(&progress, "magnetite-bootserver")?,
    };
    let options = Options { only: args.only.clone(), rounds: args.rounds, seconds: args.seconds, bootserver };
    if !args.json {
        let (rounds, seconds) = (args.rounds, args.seconds);
        println!(
            "Median of {rounds} rounds of {seconds} s (least .. most). Read the ratios: generator and servers share the processors.\n"
        );
    }
    magnetite_bench::run(&options, &progress, |row| {
        if args.json {
            row.json().iter().for_each(|object| println!("{object}"));
        } else {
            println!("{}", row.text());
        }
    })
}
