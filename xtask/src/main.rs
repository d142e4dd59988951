//! `cargo xtask`: the one tool for people.

mod bench;
mod build;
mod check;
mod demo;
mod e2e;
mod fuzz;
mod generate;
mod requirements;
mod several;
mod supply;
mod test;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Magnetite's tool: demo, test, fuzz, e2e, generate, check.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
#[command(after_help = "Examples:
  cargo xtask demo                   two bare boxes join a real cluster, before your eyes
  cargo xtask demo --once            the same, then exit: 0 when all are Ready
  cargo xtask test                   everything, as CI runs it
  cargo xtask test --fast            what needs no machine to boot, for the inner loop
  cargo xtask fuzz                   look for bytes that break a decoder
  cargo xtask e2e --list             the lab's scenarios
  cargo xtask bench --only dhcp      offers a second, beside dnsmasq's
  cargo xtask e2e conflict           one of them, keeping consoles, captures and logs

Exit codes: 0 all went well, 1 something did not (the last lines say what), 2 wrong arguments, 130 Ctrl-C twice.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot bare machines into a real cluster, in a lab on this machine.
    Demo(demo::Args),
    /// Run all tests.
    Test(test::Args),
    /// Let a fuzzer look for bytes that break a decoder.
    Fuzz(fuzz::Args),
    /// Run scenarios of the lab by name.
    E2e(e2e::Args),
    /// Measure the boot server and its peers, side by side in one run.
    Bench(bench::Args),
    /// Write what is generated: CRDs and the chart that carries them.
    Generate(GenerateArgs),
    /// Check format, lints, the crate graph, and that what is generated is up to date.
    Check,
    /// Write a list of what each shipped program stands on (CycloneDX), with a tool that is installed first.
    Sbom,
    /// Check licences, bans, sources and advisories by deny.toml, with a tool that is installed first.
    Deny,
    /// Print a completion script.
    Completion {
        /// The shell to complete in.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args)]
struct GenerateArgs {
    /// Write nothing; fail if something would change.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Generate(args) => build::root().and_then(|root| generate::run(&root, args.check)),
        Command::Check => check::run(),
        Command::Sbom => supply::sbom(),
        Command::Deny => supply::deny(),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "xtask", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes, without the backtrace that RUST_BACKTRACE would add: it tells a person nothing.
            let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
            eprintln!("\nfailed: {}", causes.join("\n  because: "));
            ExitCode::FAILURE
        }
    }
}
