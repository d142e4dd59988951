//! The fuzzer: every decoder, with libFuzzer looking for the bytes that break it.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use magnetite_e2e::{interrupt, proc::Cmd, progress::Progress};

use crate::{build, several};

/// How long each target runs in `cargo xtask test`.
pub const SECONDS: u32 = 30;

/// What makes code tell the fuzzer where it went: the compiler's own coverage, which the pinned stable toolchain has.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
#[command(
    after_help = "Inputs that reach something new are kept in target/fuzz/found, so the next run goes on from there.
What breaks a property is kept in target/fuzz/crashes. Once the bug is understood, move it into fuzz/regressions/TARGET:
`cargo test` runs it from then on."
)]
pub struct Args {
    /// The targets to run, by name; all, if none is named.
    names: Vec<String>,
    /// Seconds for each target; as many run at once as there are processors.
    #[arg(long, default_value_t = SECONDS, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// List the targets.
    #[arg(long)]
    list: bool,
    /// Write the seeds (fuzz/corpus) anew from the captures in tests/golden/pcap and run nothing.
    #[arg(long, conflicts_with_all = ["list", "names"])]
    seed: bool,
    /// A further folder of captures for `--seed`.
    #[arg(long, requires = "seed", value_name = "FOLDER")]
    from: Option<PathBuf>,
}

/// Runs the targets that were named.
pub fn run(args: &Args) -> Result<()> {
    interrupt::install();
    if args.seed {
        return seed(args.from.as_deref());
    }
    let known = targets()?;
    if args.list {
        for name in known {
            println!("{name}");
        }
        return Ok(());
    }
    if let Some(name) = args.names.iter().find(|name| !known.contains(name)) {
        bail!("there is no target {name:?}; `cargo xtask fuzz --list` names them");
    }
    let names = if args.names.is_empty() { known } else { args.names.clone() };
    these(names, args.seconds, &Progress::new())
}

/// Runs every target.
pub fn all(progress: &Progress) -> Result<()> {
    these(targets()?, SECONDS, progress)
}

/// The targets: each has a binary of its own.
pub fn targets() -> Result<Vec<String>> {
    let folder = build::root()?.join("fuzz/targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        names.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn seed(from: Option<&Path>) -> Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(build::root()?).args(["run", "--package", "magnetite-fuzz", "--example", "seed", "--"]);
    build::run(command.args(from))
}

/// The folder of the fuzzer's builds, and of what it finds.
fn folder() -> Result<PathBuf> {
    Ok(build::root()?.join("target/fuzz"))
}

/// Builds the targets and returns the folder of their binaries.
fn binaries(progress: &Progress) -> Result<PathBuf> {
    // Cargo's own progress follows, so no heartbeat of ours.
    progress.line("building the fuzz targets (cargo) …");
    let (host, folder) = (build::host()?, folder()?);
    let mut command = Command::new("cargo");
    command.current_dir(build::root()?);
    command.args(["build", "--package", "magnetite-fuzz", "--features", "libfuzzer", "--bins", "--profile", "fuzz"]);
    // Naming the target keeps the coverage away from build scripts and macros, which nothing would count.
    command.args(["--target", &host, "--target-dir"]).arg(&folder);
    command.env(build::rustflags_variable(&host), COVERAGE);
    build::run(&mut command).context("build the fuzz targets; libFuzzer is C++ and wants a compiler (Debian: g++)")?;
    Ok(folder.join(host).join("fuzz"))
}

fn these(names: Vec<String>, seconds: u32, progress: &Progress) -> Result<()> {
    let binaries = binaries(progress)?;
    let workers = several::processors().min(names.len());
    let rounds = names.len().div_ceil(workers) as u64;
    let (count, total) = (names.len(), rounds * u64::from(seconds));
    progress.line(format!("fuzzing {count} targets for {seconds} s each, {workers} at once: about {total} s"));
    let broken = several::each(
        names,
        workers,
        |name| one(name, seconds, &binaries, progress),
        |name, error| progress.line(format!("{name}: {error:#}")),
    )?;
    if !broken.is_empty() {
        let names: Vec<_> = broken.into_iter().map(|(name, _)| name).collect();
        bail!("{} of {count} fuzz targets broke: {}", names.len(), names.join(", "));
    }
    Ok(())
}

/// Runs one target for its time. Reads seeds and regressions, writes only what it found.
fn one(name: &str, seconds: u32, binaries: &Path, progress: &Progress) -> Result<()> {
    let (root, folder) = (build::root()?, folder()?);
    let (found, crashes) = (folder.join("found").join(name), folder.join("crashes").join(name));
    let log = folder.join(format!("{name}.log"));
    for dir in [&found, &crashes] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    // The log of the last run; there is none before the first.
    drop(std::fs::remove_file(&log));
    let shown = |path: &Path| path.display().to_string();
    let binary = binaries.join(name);
    let inputs = ["corpus", "regressions"].map(|kind| root.join("fuzz").join(kind).join(name));
    let words = root.join("fuzz/dictionaries").join(format!("{name}.dict"));
    let command = Cmd::new(&binary)
        .arg(shown(&found))
        .args(inputs.iter().filter(|dir| dir.is_dir()).map(|dir| shown(dir)))
        .args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={}/", crashes.display())])
        .args(words.is_file().then(|| format!("-dict={}", words.display())))
        // DHCP and TFTP are read into 4096 and 2048 bytes. One input in more than ten seconds is a fault too.
        .args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]);
    let step = progress.step(format!("fuzz {name}"));
    let ended = command.run_watched(&step, &log);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    match (ended, crash(&said)) {
        (Ok(()), _) => {
            step.done(summary(&said));
            Ok(())
        }
        (Err(error), None) => Err(error),
        (Err(_), Some(input)) => bail!(
            "{}\n  the input: {input}\n  again:     {} {input}\n  keep it:   mkdir -p fuzz/regressions/{name} && cp {input} \
             fuzz/regressions/{name}/WHAT-IT-SHOWS\n  the log:   {}",
            panic_of(&said),
            binary.display(),
            log.display()
        ),
    }
}

/// The input that broke a property, as libFuzzer names it.
fn crash(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim())
}

/// What the property said: the lines of the panic, or libFuzzer's own (a timeout, too much memory).
fn panic_of(said: &str) -> String {
    let panic = said.lines().skip_while(|line| !line.contains("panicked at"));
    let lines: Vec<_> = panic.take_while(|line| !line.starts_with("note:") && !line.starts_with("==")).collect();
    match lines.as_slice() {
        [] => said.lines().find(|line| line.contains("ERROR: libFuzzer")).unwrap_or("it ended early").to_owned(),
        lines => lines.join("\n  "),
    }
}

/// Inputs tried, edges of the code reached, inputs worth keeping.
fn summary(said: &str) -> String {
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).unwrap_or("?").trim();
    let last = said.lines().rfind(|line| line.contains(" cov: ")).unwrap_or_default();
    let after = |word| last.split_whitespace().skip_while(|part| *part != word).nth(1).unwrap_or("?");
    let corpus = after("corp:").split('/').next().unwrap_or("?");
    format!("{runs} inputs tried, {} edges and {} features reached by {corpus}", after("cov:"), after("ft:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: &str = "#2\tINITED cov: 17 ft: 18 corp: 3/12b exec/s: 0 rss: 30Mb\n\
        #4096\tDONE   cov: 210 ft: 480 corp: 96/11Kb lim: 4096 exec/s: 819 rss: 41Mb\n\
        Done 4096 runs in 5 second(s)\nstat::number_of_executed_units: 4096\n";
    const CRASH: &str = "#7\tNEW    cov: 20 ft: 21 corp: 4/13b\n\nthread '<unnamed>' panicked at fuzz/src/dhcp.rs:9:5:\n\
        an error is a line\nnote: run with `RUST_BACKTRACE=1`\n==12== ERROR: libFuzzer: deadly signal\n\
        artifact_prefix='/t/'; Test unit written to /t/crash-da39\nBase64: \n";

    #[test]
    fn what_libfuzzer_says_is_read() {
        assert_eq!(summary(DONE), "4096 inputs tried, 210 edges and 480 features reached by 96");
        assert_eq!(crash(DONE), None);
        assert_eq!(crash(CRASH), Some("/t/crash-da39"));
        assert_eq!(panic_of(CRASH), "thread '<unnamed>' panicked at fuzz/src/dhcp.rs:9:5:\n  an error is a line");
        assert_eq!(
            panic_of("==1== ERROR: libFuzzer: timeout after 10 seconds"),
            "==1== ERROR: libFuzzer: timeout after 10 seconds"
        );
    }
}
