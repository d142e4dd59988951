//! `kubectl magnetite`: where a machine's boot is and why it stopped, what a machine would get, and whether a box is the
//! right one.
#![allow(missing_docs, reason = "a binary: its public items are public to itself")]

mod approve;
mod args;
mod cluster;
mod declared;
mod doctor;
mod error;
mod held;
mod history;
mod leave;
mod power;
mod preview;
mod records;
mod rollout;
mod sides;
mod style;
mod suggest;
mod timeline;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use kube::ResourceExt;
use magnetite_api::{Fingerprint, Machine, machine::MaintenanceMode};
use magnetite_daemon::clock;
use serde::Serialize;
use serde_json::json;

use crate::{
    args::{Args, Becomes, Command, Output, What},
    declared::Declared,
    error::Error,
    history::History,
    preview::{Preview, Supposed},
    rollout::Rollout,
    style::Style,
    timeline::Timeline,
};

/// The boot stopped, or the question could not be answered.
const STOPPED: u8 = 1;
/// Wrong arguments, as clap says it too.
const WRONG: u8 = 2;
/// How often a rollout that is watched is looked at.
const PAUSE: Duration = Duration::from_secs(2);
/// After this long somebody wants to know what is waited for.
const LONG: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let Args { command, completion } = Args::parse();
    if let Some(shell) = completion {
        clap_complete::generate(shell, &mut Args::command(), "kubectl-magnetite", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let Some(command) = command else {
        // As clap does it when a subcommand is missing.
        drop(write!(std::io::stderr(), "{}", Args::command().render_help()));
        return ExitCode::from(WRONG);
    };
    magnetite_daemon::crypto::install();
    let answered = match command {
        Command::Timeline(args) => timeline(&args),
        Command::Preview(args) => preview(&args),
        Command::Approve(args) => approve(&args.machine, args.fingerprint, &args.becomes, &args.cluster),
        Command::Conflict(args) => approve(&args.machine, args.keep, &Becomes::default(), &args.cluster),
        Command::Power(args) => power(&args),
        Command::Reprovision(args) => reprovision(&args),
        Command::Wipe(args) => wipe(&args),
        Command::Doctor(args) => doctor(&args),
        Command::Rollout(args) => rollout(&args),
        Command::Maintenance(args) => maintenance(&args),
    };
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(STOPPED),
        Err(error) => {
            say(&format!("error: {}", error::chain(&error)));
            ExitCode::from(STOPPED)
        }
    }
}

/// Shows a timeline; true if nothing has to be done.
fn timeline(args: &args::Timeline) -> Result<bool, Error> {
    let args::Timeline { machine, catalog_data, output, all, cluster } = args;
    let timeline = match catalog_data {
        Some(data) => Timeline::of_record(machine, records::read(data, machine)?, clock::now()),
        None => {
            let known = wait(async {
                let client = cluster::client(cluster).await?;
                cluster::read(&client, machine).await
            })?;
            Timeline::of_cluster(known, *all, clock::now())
        }
    };
    print(&timeline, *output, || timeline.text(Style::of_stdout(), clock::now()))?;
    Ok(!timeline.is_stopped())
}

/// Shows what a machine would get; true if that is all it needs.
fn preview(args: &args::Preview) -> Result<bool, Error> {
    let args::Preview { machine, catalog, firmware, show, open, address, ipxe_dir, cluster } = args;
    let now = clock::now();
    let declared = match catalog {
        Some(folder) => Declared::of_catalog(folder, machine, now)?,
        None => wait(async {
            let client = cluster::client(cluster).await?;
            Declared::of_cluster(&client, &cluster.namespace, machine).await
        })?,
    };
    for problem in &declared.problems {
        say(&format!("not served: {problem}"));
    }
    let declared = if *open { declared.opened(now) } else { declared };
    let loaders = ipxe_dir.as_deref().map(preview::loaders).transpose()?;
    let supposed = Supposed { kind: *firmware, address: *address, loaders };
    let preview = Preview::of(&declared, &supposed, now);
    write(&preview.text(*show, Style::of_stdout()))?;
    if let Some(failed) = &preview.failed {
        say(&format!("the boot would stop at the {}: {}", failed.stage, style::plain(&failed.why)));
    }
    Ok(preview.failed.is_none())
}

/// Shows who claims a machine; with a key, says that it is the right one's. True if nobody is left to wait for.
fn approve(machine: &str, key: Option<Fingerprint>, becomes: &Becomes, cluster: &args::Cluster) -> Result<bool, Error> {
    wait(async {
        let client = cluster::client(cluster).await?;
        let known = cluster::machine(&client, machine).await?;
        if !becomes.is_empty() {
            return become_machine(&client, &known, becomes).await;
        }
        if known.spec.hold && key.is_none() {
            write(&held::text(&known, Style::of_stdout()))?;
            return Ok(false);
        }
        let sides = sides::sides(&known, &cluster::claims(&client, machine).await?);
        let Some(key) = key else {
            write(&approve::table(machine, &sides, Style::of_stdout()))?;
            if let Some(hint) = approve::hint(&known, &sides) {
                say(&hint);
            }
            return Ok(approve::is_settled(&known, &sides));
        };
        let word = approve::word(&known, &sides, key, clock::now())?;
        cluster::change(&client, &known, &word.patch).await?;
        write(&word.told)?;
        Ok(true)
    })
}

/// Says what a box becomes that was found.
async fn become_machine(client: &kube::Client, known: &Machine, becomes: &Becomes) -> Result<bool, Error> {
    let word = held::word(known, becomes, clock::now())?;
    if let Some(profile) = &becomes.profile {
        // Under a name that is not there it would wait for good.
        match cluster::profile(client, profile).await {
            Err(error @ Error::NoProfile(_)) => return Err(error),
            Err(error) => say(&format!("whether there is such a Profile was not seen: {error}")),
            Ok(_) => {}
        }
    }
    match &becomes.name {
        Some(name) if *name != known.name_any() => {
            let renamed = held::renamed(known, name, &word)?;
            // Until the old one is gone they are in each other's way, and the box waits. The other way round what was said would be lost if
            // this ended in between.
            cluster::create(client, &renamed).await?;
            cluster::delete(client, known).await?;
            cluster::gone(client, known).await?;
        }
        Some(_) | None => cluster::change(client, known, &word.patch).await?,
    }
    write(&word.told)?;
    Ok(true)
}

/// Shows a rollout or changes it; true unless it stopped.
fn rollout(args: &args::Rollout) -> Result<bool, Error> {
    let args::Rollout { what, profile: name, to, watch, cluster } = args;
    let (update, told) = match what {
        What::Status => return status(name, *watch, cluster),
        What::History | What::Undo => return history(name, *what, to.as_deref(), cluster),
        What::Pause => (json!({ "paused": true }), "no further machine begins; what has begun is finished"),
        What::Resume => (json!({ "paused": null }), "machines begin again"),
        What::Retry => {
            (json!({ "retry": approve::stamp(clock::now()) }), "machines whose update failed are tried again")
        }
    };
    wait(async {
        let client = cluster::client(cluster).await?;
        cluster::change_profile(&client, name, &json!({ "spec": { "update": update } })).await?;
        write(&format!("Profile {name}: {told}\n"))?;
        Ok(true)
    })
}

/// Shows the revisions of a Profile, or goes back to one.
fn history(name: &str, what: What, to: Option<&str>, cluster: &args::Cluster) -> Result<bool, Error> {
    wait(async {
        let client = cluster::client(cluster).await?;
        let profile = cluster::profile(&client, name).await?;
        let history = History::of(&profile, cluster::revisions(&client, &cluster.namespace, name).await?);
        if what == What::History {
            write(&history.text(Style::of_stdout()))?;
            return Ok(true);
        }
        let (back, told) = history.back(&profile, to)?;
        cluster::replace_profile(&client, &back).await?;
        write(&told)?;
        Ok(true)
    })
}

fn status(name: &str, watch: bool, cluster: &args::Cluster) -> Result<bool, Error> {
    let mut shown = None;
    loop {
        let rollout = wait(async {
            // Each look has a runtime of its own, and a client belongs to one.
            let client = cluster::client(cluster).await?;
            let profile = cluster::profile(&client, name).await?;
            Ok(Rollout::of(&profile, &cluster::machines(&client).await?))
        })?;
        if shown.as_ref() != Some(&rollout) {
            write(&rollout.text(Style::of_stdout()))?;
        }
        if !watch || rollout.is_complete() || rollout.is_stopped() {
            return Ok(!rollout.is_stopped());
        }
        shown = Some(rollout);
        std::thread::sleep(PAUSE);
    }
}

/// Takes a machine out of service, or gives it back.
fn maintenance(args: &args::Maintenance) -> Result<bool, Error> {
    let args::Maintenance { machine: name, off, drain_only, cluster } = args;
    wait(async {
        let client = cluster::client(cluster).await?;
        let machine = cluster::machine(&client, name).await?;
        let mode = match (off, drain_only) {
            (true, _) => None,
            (false, true) => Some(MaintenanceMode::Drained),
            (false, false) => Some(MaintenanceMode::InMemory),
        };
        cluster::change(&client, &machine, &json!({ "spec": { "maintenance": mode } })).await?;
        let wait = format!("kubectl wait --for=condition=Maintenance machine/{name}");
        let told = match mode {
            None => format!("Machine {name}: the box becomes what it was, and its Node takes Pods again\n"),
            Some(MaintenanceMode::Drained) => format!("Machine {name}: its Node is being emptied; {wait}\n"),
            Some(MaintenanceMode::InMemory) => {
                format!("Machine {name}: its Node is being emptied, then the box boots a system in memory; {wait}\n")
            }
        };
        write(&told)?;
        Ok(true)
    })
}

/// Writes what a box's power should be, or shows what it is; true if its BMC has nothing to complain of.
fn power(args: &args::Power) -> Result<bool, Error> {
    let args::Power { machine, verb, cluster } = args;
    wait(async {
        let client = cluster::client(cluster).await?;
        let known = cluster::machine(&client, machine).await?;
        let Some(word) = power::word(&known, *verb, clock::now())? else {
            write(&power::text(&known, Style::of_stdout()))?;
            return Ok(power::is_well(&known));
        };
        // Not guarded by what was read: a status that changes meanwhile is no reason to leave a box off.
        cluster::set(&client, &known, &word.patch).await?;
        write(&word.told)?;
        Ok(true)
    })
}

/// Opens a new intent.
fn reprovision(args: &args::Reprovision) -> Result<bool, Error> {
    let args::Reprovision { machine, intent, cluster } = args;
    wait(async {
        let client = cluster::client(cluster).await?;
        let known = cluster::machine(&client, machine).await?;
        let word = leave::reprovision(&known, intent.as_deref(), clock::now())?;
        cluster::change(&client, &known, &word.patch).await?;
        write(&word.told)?;
        Ok(true)
    })
}

/// Deletes a Machine such that its box is wiped, once somebody said yes.
fn wipe(args: &args::Wipe) -> Result<bool, Error> {
    let args::Wipe { machine, yes, cluster } = args;
    let known = wait(async {
        let client = cluster::client(cluster).await?;
        cluster::machine(&client, machine).await
    })?;
    let word = leave::wipe(&known)?;
    write(&word.told)?;
    if !yes {
        say(&format!("To go on, write the Machine's name ({machine}):"));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(Error::Write)?;
        if answer.trim() != machine {
            say("nothing was done");
            return Ok(false);
        }
    }
    wait(async {
        // Another runtime by now: a client does not outlive the one that it was made in.
        let client = cluster::client(cluster).await?;
        cluster::change(&client, &known, &word.patch).await?;
        cluster::delete(&client, &known).await?;
        let restart = if known.power_is_kept() { "" } else { " restart its box, then:" };
        write(&format!("Machine {machine} is being deleted;{restart} kubectl get machine {machine} -w\n"))?;
        Ok(true)
    })
}

/// Shows what stands in the way; true if nothing has to be mended.
fn doctor(args: &args::Doctor) -> Result<bool, Error> {
    let args::Doctor { cluster } = args;
    let facts = wait(async {
        let client = cluster::client(cluster).await?;
        doctor::examine(&client, &cluster.namespace).await
    })?;
    let findings = doctor::findings(&facts, clock::now());
    write(&doctor::text(&findings, Style::of_stdout()))?;
    Ok(findings.iter().all(|finding| finding.grade != doctor::Grade::Bad))
}

fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Waits for what the network has to say, and says so when that takes long.
fn wait<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        tokio::pin!(asking);
        tokio::select! {
            answer = &mut asking => return answer,
            () = tokio::time::sleep(LONG) => {}
        }
        if std::io::stderr().is_terminal() {
            say("waiting for the API server…");
        }
        asking.await
    })
}

fn print<T: Serialize>(value: &T, output: Output, text: impl FnOnce() -> String) -> Result<(), Error> {
    let text = match output {
        Output::Text => text(),
        Output::Json => serde_json::to_string_pretty(value).map_err(|error| Error::Write(error.into()))? + "\n",
        Output::Yaml => {
            serde_saphyr::to_string(value).map_err(|error| Error::Write(std::io::Error::other(error.to_string())))?
        }
    };
    write(&text)
}

fn write(text: &str) -> Result<(), Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::Write),
    }
}
