//! Arguments.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Where a machine's boot is and why it stopped, and what a machine would get.
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
  kubectl magnetite --completion bash > ~/.local/share/bash-completion/completions/kubectl-magnetite

Exit codes: 0 all is well or under way; 1 the boot stopped, or the question could not be answered (stderr says why);
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

    /// Namespace of the boot servers. Machines have none.
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
    #[case(&["no-such-command"])]
    #[case(&[])]
    fn wrong_arguments_are_2(#[case] args: &[&str]) {
        let all = std::iter::once("kubectl-magnetite").chain(args.iter().copied());
        assert_eq!(Args::try_parse_from(all).unwrap_err().exit_code(), 2);
    }
}
