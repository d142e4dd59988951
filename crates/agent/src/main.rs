//! `magnetite-agent`: runs once on a machine that Magnetite booted, and makes it a node of its cluster.
//!
//! `observe` looks, `plan` decides, `apply` and `claim` do; `run` is the loop around them. Reports go their own way
//! (`report`) and never hold up the join. In a system that lives in memory to install another, `install` takes the place of all that.

mod apply;
mod args;
mod claim;
mod clock;
mod console;
mod files;
mod held;
mod install;
mod inventory;
mod keys;
mod kubelet;
mod node;
mod observe;
mod plan;
mod report;
mod restart;
mod run;
mod secrets;
mod server;
mod sign;
mod state;
mod systemd;
mod tls;
mod tpm;
mod wipe;

use std::process::ExitCode;

use anyhow::Context;
use magnetite_daemon::{crypto, log, signals};
use tokio::select;

use crate::{
    args::{Args, Task},
    clock::BoxClock,
    files::Paths,
    held::Held,
    install::Install,
    run::{Agent, Memory, RunError},
    server::BootServer,
    sign::Signer,
    systemd::{After, Systemctl},
    wipe::Wipe,
};

/// Exit codes: see [`args`]. 2 is clap's.
const FAILED: u8 = 1;
const REFUSED: u8 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::read();
    if let Err(error) = log::init(&args.log) {
        eprintln!("magnetite-agent: {}", log::chain(&error));
        return ExitCode::from(FAILED);
    }
    crypto::install();
    match join(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not inside the macro: with its feature `log` on, which kube turns on, `log` is another module in there.
            let told = log::chain(error.as_ref());
            tracing::error!(error = told, "the box did not join");
            let refused = error.downcast_ref::<RunError>().is_some_and(RunError::is_refusal);
            ExitCode::from(if refused { REFUSED } else { FAILED })
        }
    }
}

/// Does what a system in memory is for, and then with the box what comes of it: once all that was said was heard.
async fn in_memory(
    work: impl Future<Output = After>,
    reports: impl Future<Output = ()>,
    systemctl: &Systemctl,
    stopped: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let all = async { tokio::join!(work, reports).0 };
    select! {
        after = all => match after {
            After::Off => systemctl.switch_off().await.context("the box cannot be switched off"),
            After::Restart => systemctl.restart_box().await.context("the box cannot be restarted"),
        },
        () = stopped => Ok(()),
    }
}

/// The join and, beside it, the reports. A signal ends both at once: all that is done is on the disk.
async fn join(args: &Args) -> anyhow::Result<()> {
    let stop = signals().context("signals cannot be received")?;
    let paths = Paths::new(&args.root, &args.state_dir);
    let server = BootServer::new(&args.server, args.pin).context("TLS to the boot server cannot be set up")?;
    let (reporter, reports) = report::reporter(server.clone(), Signer::new(&paths, &args.machine, &args.intent));
    let systemctl = Systemctl(args.systemctl.clone());
    match args.task {
        Task::Join => {}
        Task::Install => {
            let install = Install::new(args, &paths, &server, reporter).context("nothing can be fetched")?;
            let work = async {
                install.run().await;
                After::Restart
            };
            return in_memory(work, reports, &systemctl, stop.cancelled()).await;
        }
        Task::Inventory => {
            let held = Held { args, paths: &paths, server: &server, reporter };
            return in_memory(held.run(), reports, &systemctl, stop.cancelled()).await;
        }
        Task::Wipe => {
            let wipe = Wipe { args, paths: &paths, server: &server, reporter };
            return in_memory(wipe.run(), reports, &systemctl, stop.cancelled()).await;
        }
    }
    let clock = BoxClock::new(paths.is_real());
    let agent = Agent { args, paths: &paths, server: &server, reporter, clock, memory: Memory::default() };
    // The reports end after the agent, which is what says them.
    let all = async { tokio::join!(agent.run(), reports).0 };
    select! {
        outcome = all => Ok(outcome?),
        () = stop.cancelled() => Ok(()),
    }
}
