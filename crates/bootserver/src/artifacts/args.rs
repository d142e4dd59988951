//! The flags that narrow where files are fetched from.

use ipnet::IpNet;

/// Where files that Profiles name by URL may come from. Never, whatever is set: this host, and what is no further than its link.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Artifacts")]
pub struct ArtifactArgs {
    /// A host that files are fetched from, as URLs name it: `files.example`, `10.0.0.5`. May be given several times, or with commas
    /// between; then no other host is. Default: any.
    #[arg(long, value_name = "HOST", env = "MAGNETITE_ARTIFACT_HOST", value_delimiter = ',')]
    pub artifact_host: Vec<String>,

    /// A network that no file is fetched from, by whatever name: those of Pods and Services, `10.244.0.0/16`. May be given several times,
    /// or with commas between. Default: none.
    #[arg(long, value_name = "CIDR", env = "MAGNETITE_REFUSE_ARTIFACT_NETWORK", value_delimiter = ',')]
    pub refuse_artifact_network: Vec<IpNet>,
}
