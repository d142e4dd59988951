//! Arguments.

use std::{net::Ipv4Addr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use magnetite_api::Fingerprint;

/// Where a machine's boot is and why it stopped, what a machine would get, and whether a box is the right one.
#[derive(Parser, Debug)]
#[command(
    name = "kubectl-magnetite",
    bin_name = "kubectl magnetite",
    version,
    subcommand_required = false,
    arg_required_else_help = true,
    after_help = "Examples:
  kubectl magnetite timeline r7-u01                    the newest boot of a Machine, and why it stopped
  kubectl magnetite timeline r7-u01 --all              also what each boot server saw, and all Events
  kubectl magnetite timeline r7-u01 -o json | jq .diagnosis.reason
  kubectl magnetite timeline r7-u01 --catalog-data /var/lib/magnetite      without a cluster
  kubectl magnetite preview r7-u01 --catalog ./site    all that it would get, before it is powered on
  kubectl magnetite approve r7-u01 7f3a-91c2-0b5d-44e1 this box is the right one
  kubectl magnetite conflict r7-u01                    two keys claimed it: both sides
  kubectl magnetite rollout status workers --watch     how far a changed Profile is with its machines
  kubectl magnetite maintenance r7-u01                 empty its Node, then boot it into memory
  kubectl magnetite power r7-u01 cycle                 switch a box off and on again, by its BMC
  kubectl magnetite reprovision r7-u01                 boot, and install, it anew
  kubectl magnetite wipe r7-u01                        wipe its disks and delete it
  kubectl magnetite doctor                             the whole installation at a glance
  kubectl magnetite --completion bash > ~/.local/share/bash-completion/completions/kubectl-magnetite

Exit codes: 0 all is well or under way; 1 the boot stopped or would stop, or the question could not be answered;
2 wrong arguments."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Print a completion script for a shell and exit.
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completion: Option<clap_complete::Shell>,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    Timeline(Timeline),
    Preview(Preview),
    Approve(Approve),
    Conflict(Conflict),
    Power(Power),
    Reprovision(Reprovision),
    Wipe(Wipe),
    Doctor(Doctor),
    Rollout(Rollout),
    Maintenance(Maintenance),
}

/// Show how far the machines of a Profile are with its current revision; pause, resume, retry or undo that.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite rollout status workers --watch
  kubectl magnetite rollout pause workers       no further machine begins; what has begun is finished
  kubectl magnetite rollout resume workers
  kubectl magnetite rollout retry workers       those that failed are tried again
  kubectl magnetite rollout history workers     its revisions, the present one first
  kubectl magnetite rollout undo workers        the Profile is again what it was before
  kubectl magnetite rollout undo workers --to 7f3a91c20b

It sets spec.update.paused and spec.update.retry of the Profile, which a file in a repository can do as well. undo writes the spec of an earlier
revision, but for selector, update and node, which no revision has; where a repository says what the Profile is, go back there.
Exit codes: 0 done, complete or under way; 1 the rollout stopped, or it could not be done; 2 wrong arguments.")]
pub struct Rollout {
    /// What to do.
    #[arg(value_enum)]
    pub what: What,

    /// Name of the Profile.
    pub profile: String,

    /// undo: the revision to go back to. Default: the one before the present one.
    #[arg(long, value_name = "REVISION")]
    pub to: Option<String>,

    /// status: go on until every machine runs the revision, or the rollout stops.
    #[arg(short, long)]
    pub watch: bool,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// What to do about a rollout.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Show how far it is.
    Status,
    /// No further machine begins.
    Pause,
    /// Machines begin again.
    Resume,
    /// Machines whose update failed are tried again.
    Retry,
    /// Show the revisions that it had.
    History,
    /// Make it what it was before.
    Undo,
}

/// Take a machine out of service: its Node gets no new Pods, and those that it has are evicted. Or give it back.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite maintenance r7-u01                 its Node is emptied, then it boots a system in memory
  kubectl magnetite maintenance r7-u01 --drain-only    its Node is emptied, and the box runs on
  kubectl wait --for=condition=Maintenance machine/r7-u01 --timeout=30m      it is there
  kubectl magnetite maintenance r7-u01 --off

It sets spec.maintenance of the Machine, which a file in a repository can do as well.
Exit codes: 0 done; 1 it could not be done; 2 wrong arguments.")]
pub struct Maintenance {
    /// Name of the Machine.
    pub machine: String,

    /// Give it back: the box becomes what it was, and its Node takes Pods again.
    #[arg(long)]
    pub off: bool,

    /// Only empty its Node: the box is not restarted.
    #[arg(long, conflicts_with = "off")]
    pub drain_only: bool,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// Provision a machine anew: it boots over the network once more, is given an identity and, where its Profile installs, is installed again. What was on
/// that disk is lost. Nothing happens before the box restarts.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite reprovision r7-u01
  kubectl magnetite reprovision r7-u01 --intent change-4711

It sets spec.bootIntent of the Machine, which a file in a repository can do as well.
Exit codes: 0 a boot window opens; 1 it could not be done; 2 wrong arguments.")]
pub struct Reprovision {
    /// Name of the Machine.
    pub machine: String,

    /// Name of the intent. Default: made of the time.
    #[arg(long, value_name = "ID", value_parser = intent)]
    pub intent: Option<String>,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// Delete a Machine and wipe all disks of its box, except removable ones. Asks first. Its Node is emptied, and then its box has to restart: its
/// BMC sees to it where the spec has one and power: On, else you do.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite wipe r7-u01          asks
  kubectl magnetite wipe r7-u01 --yes

It sets spec.deletionPolicy to Wipe and deletes the Machine, which stays until its box is wiped and says what it waits for.
Exit codes: 0 it is being deleted; 1 it is not; 2 wrong arguments.")]
pub struct Wipe {
    /// Name of the Machine.
    pub machine: String,

    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// An intent's name, as the schema takes it.
fn intent(text: &str) -> Result<String, String> {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let good = text.len() <= 63 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last());
    if good { Ok(text.to_owned()) } else { Err("write at most 63 letters, digits, '-', '_' and '.'".to_owned()) }
}

/// Say that a box is the right one, by the fingerprint that it shows on its console. Without a fingerprint: show the keys that
/// came. Where Profile or Machine ask for the identity level `approved`, a box waits for this. Of a box that was found: show what it is made of,
/// and with a Profile say what it becomes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite approve r7-u01                          who claims to be it
  kubectl magnetite approve r7-u01 7f3a-91c2-0b5d-44e1      as the console of the box shows it
  kubectl magnetite approve box-525400300010                a box that was found: what it is made of
  kubectl magnetite approve box-525400300010 --profile worker --name r7-u02

It sets spec.approvedFingerprint of the Machine; of one that is held it clears spec.hold and sets spec.profile. A file in a repository can do
so as well. With --name the Machine is made anew under that name.
Exit codes: 0 approved, or nothing waits; 1 somebody waits to be approved, or it could not be done; 2 wrong arguments.")]
pub struct Approve {
    /// Name of the Machine.
    pub machine: String,

    /// The fingerprint of the box's key, as its console shows it.
    #[arg(conflicts_with_all = ["profile", "name", "identity", "label"])]
    pub fingerprint: Option<Fingerprint>,

    #[command(flatten)]
    pub becomes: Becomes,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// What a box becomes that was found.
#[derive(clap::Args, Debug, Default)]
#[command(next_help_heading = "A box that was found")]
pub struct Becomes {
    /// The Profile that it boots.
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,

    /// What the Machine, and its Node, is called from now on. Default: as it is.
    #[arg(long, value_name = "NAME", value_parser = label)]
    pub name: Option<String>,

    /// A label for the Machine, by which Profiles select it. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,

    /// The level at which its identity must be proven. With mac it joins by itself; with approved a person compares its key once it booted.
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub identity: Option<Level>,
}

impl Becomes {
    /// True if nothing is said.
    pub fn is_empty(&self) -> bool {
        let Self { profile, name, label, identity } = self;
        profile.is_none() && name.is_none() && label.is_empty() && identity.is_none()
    }
}

/// A level of identity.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Its MAC address names it, and its key came first.
    Mac,
    /// A person compared its key. As it is set where a box was found.
    Approved,
    /// Also the TPM is the one of its first approved use.
    TpmPinned,
    /// Also the TPM was declared beforehand.
    TpmEnrolled,
}

/// A DNS label.
fn label(text: &str) -> Result<String, String> {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = text.len() <= 63 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last());
    if good { Ok(text.to_owned()) } else { Err("write at most 63 lower-case letters, digits and '-'".to_owned()) }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Show both sides where two keys claimed one machine, and settle which of them is right.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite conflict r7-u01
  kubectl magnetite conflict r7-u01 --keep 7f3a-91c2-0b5d-44e1

The other key is refused from then on, and what it was given is not renewed.
Exit codes: 0 settled, or there is no conflict; 1 it is not settled, or could not be; 2 wrong arguments.")]
pub struct Conflict {
    /// Name of the Machine.
    pub machine: String,

    /// The key of the right box, as its console shows it.
    #[arg(long, value_name = "FINGERPRINT")]
    pub keep: Option<Fingerprint>,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// Switch a box on or off by its BMC, restart it, or show what its BMC says.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite power r7-u01                            what its BMC says
  kubectl magnetite power r7-u01 on                         and it stays on: it is switched on whenever it is found off
  kubectl magnetite power r7-u01 off                        its system is shut down first
  kubectl magnetite power r7-u01 cycle                      once; nothing is drained before
  kubectl magnetite power r7-u01 restart                    once; its system is shut down first

It sets spec.power or spec.restart of the Machine, which a file in a repository can do as well; the controller does the rest.
Exit codes: 0 written, or the BMC answers; 1 the BMC does not, or it could not be written; 2 wrong arguments.")]
pub struct Power {
    /// Name of the Machine.
    pub machine: String,

    /// What to do.
    #[arg(value_enum, default_value_t = PowerVerb::Status)]
    pub verb: PowerVerb,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// What to do with a box's power.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerVerb {
    /// It should be on: spec.power: On.
    On,
    /// It should be off: spec.power: Off.
    Off,
    /// Cut its power, and switch it on again, once.
    Cycle,
    /// Press its reset button, once.
    Reset,
    /// Shut its system down, and switch it on again, once.
    Restart,
    /// Show what its BMC says.
    Status,
}

/// Look the whole installation over: controller, boot servers, Profiles, Machines that wait or failed, and ways into the
/// cluster that pass beside Magnetite.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 nothing has to be mended; 1 something has, or nothing could be read; 2 wrong arguments."
)]
pub struct Doctor {
    #[command(flatten)]
    pub cluster: Cluster,
}

/// Show a machine's last boots, step by step, and say where and why the newest one stopped.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite timeline r7-u01
  kubectl magnetite timeline r7-u01 --context lab -o yaml
  kubectl magnetite timeline r7-u01 --catalog-data /var/lib/magnetite

Exit codes: 0 the machine runs, or its boot is under way; 1 the boot stopped, or nothing could be read; 2 wrong arguments.")]
pub struct Timeline {
    /// Name of the Machine.
    pub machine: String,

    /// Read the files of a boot server instead of a cluster: its --data-dir.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    pub catalog_data: Option<PathBuf>,

    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Also what each boot server saw, the conditions, and all Events.
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// Show all that a machine would get, before it is powered on: DHCP answers, loader, script, command line, Ignition config, templates,
/// join. Made by the code that serves it, as a boot server with `--dhcp proxy` does; capabilities, and what looks secret, are masked.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl magnetite preview r7-u01                                 from a cluster
  kubectl magnetite preview r7-u01 --open --show ignition          as if its boot window were open
  kubectl magnetite preview r7-u01 --catalog ./site --firmware bios

Exit codes: 0 the chain is whole; 1 it ends where stderr says, or nothing could be read; 2 wrong arguments.")]
pub struct Preview {
    /// Name of the Machine.
    pub machine: String,

    /// Read a folder of YAML files instead of a cluster, as the boot server's --catalog.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    pub catalog: Option<PathBuf>,

    /// The kind of box. Default: what it was when it was last seen, or uefi.
    #[arg(long, value_enum)]
    pub firmware: Option<BoxKind>,

    /// What to show.
    #[arg(long, value_enum, default_value_t = Show::All)]
    pub show: Show,

    /// As if the Machine's boot window had just been opened. Always so with --catalog.
    #[arg(long)]
    pub open: bool,

    /// Address of the boot server, for the links.
    #[arg(long, value_name = "IPV4", default_value = "192.0.2.1")]
    pub address: Ipv4Addr,

    /// Folder with the boot server's loaders. Without it all of them are taken to be there.
    #[arg(long, value_name = "DIR")]
    pub ipxe_dir: Option<PathBuf>,

    #[command(flatten)]
    pub cluster: Cluster,
}

/// A kind of box.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxKind {
    /// PC BIOS, PXE.
    Bios,
    /// UEFI on 64-bit x86, PXE.
    Uefi,
    /// UEFI on 64-bit x86, HTTP boot.
    UefiHttp,
    /// UEFI on 64-bit Arm, PXE.
    Arm64,
    /// UEFI on 64-bit Arm, HTTP boot.
    Arm64Http,
}

/// A part of the chain.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// What firmware and iPXE are answered.
    Dhcp,
    /// Script, files and command line.
    Script,
    /// The Ignition config.
    Ignition,
    /// The Profile's templates: cloud-init's seed, kickstart, preseed.
    Templates,
    /// How it joins.
    Join,
    /// All of it.
    All,
}

/// Which cluster to ask, as kubectl's flags say it.
#[derive(clap::Args, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub struct Cluster {
    /// The kubeconfig. Default: $KUBECONFIG, then ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig. Default: its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// Namespace of the boot servers, where the ConfigMaps of Profiles are. Machines have none.
    #[arg(short, long, value_name = "NAME", default_value = "magnetite")]
    pub namespace: String,
}

/// Form of an answer.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For a person.
    Text,
    /// For a program.
    Json,
    /// For a program, or a person who wants all of it.
    Yaml,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use rstest::rstest;

    use super::*;

    #[test]
    fn flags_are_as_kubectl_has_them() {
        Args::command().debug_assert();
        let args = ["kubectl-magnetite", "timeline", "box", "--context", "lab", "-n", "x", "-o", "json", "--all"];
        let Some(Command::Timeline(timeline)) = Args::try_parse_from(args).unwrap().command else { panic!() };
        assert_eq!((timeline.machine.as_str(), timeline.output, timeline.all), ("box", Output::Json, true));
        assert_eq!((timeline.cluster.context.as_deref(), timeline.cluster.namespace.as_str()), (Some("lab"), "x"));
    }

    #[rstest]
    #[case(&["timeline"])]
    #[case(&["timeline", "box", "-o", "xml"])]
    #[case(&["timeline", "box", "--catalog-data", "/d", "--context", "lab"])]
    #[case(&["timeline", "box", "--completion", "bash"])]
    #[case(&["preview", "box", "--firmware", "amiga"])]
    #[case(&["preview", "box", "--catalog", "/d", "--kubeconfig", "/k"])]
    #[case(&["approve", "box", "7f3a"])]
    #[case(&["conflict", "box", "--keep"])]
    #[case(&["power", "box", "explode"])]
    #[case(&["no-such-command"])]
    #[case(&[])]
    fn wrong_arguments_are_2(#[case] args: &[&str]) {
        let all = std::iter::once("kubectl-magnetite").chain(args.iter().copied());
        assert_eq!(Args::try_parse_from(all).unwrap_err().exit_code(), 2);
    }
}
