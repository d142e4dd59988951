//! The flags. Each may come from the environment too.

use std::path::PathBuf;

use magnetite_daemon::{admin::AdminArgs, log::LogArgs};

/// Magnetite's controller: reconciles Machines and Profiles, decides claims, and approves the certificates of
/// the kubelets that it let in. Finds its cluster by KUBECONFIG, ~/.kube/config or the Pod's own account.
#[derive(clap::Parser, Debug)]
#[command(name = "magnetite-controller", version)]
pub struct Args {
    /// Magnetite's own namespace: its ConfigMaps hold Ignition configs, its Lease says who leads.
    #[arg(long, env = "MAGNETITE_NAMESPACE", default_value = "magnetite", value_name = "NAME")]
    pub namespace: String,

    /// URL of the API server as joining machines reach it, where a Profile's spec.join.apiServer does not say.
    /// Without both, a Profile that joins by certificate says so and its machines do not join.
    #[arg(long, env = "MAGNETITE_JOIN_API_SERVER", value_parser = https_url, value_name = "URL")]
    pub join_api_server: Option<String>,

    /// File with the cluster's certificate authority, PEM, for joining machines. Default: the one by which this
    /// controller itself trusts the API server.
    #[arg(long, env = "MAGNETITE_JOIN_CA_FILE", value_name = "PATH")]
    pub join_ca_file: Option<PathBuf>,

    /// A node name that no Machine may have, beside `kubernetes`, `localhost`, `kube-apiserver`, `openshift` and the host of the API
    /// server's URL, which certificates of API servers carry. May be given several times, or with commas between.
    #[arg(long, env = "MAGNETITE_RESERVED_NODE_NAMES", value_delimiter = ',', value_name = "NAME")]
    pub reserved_node_name: Vec<String>,

    /// File with certificates, PEM, of makers of TPMs. With it a box that has to prove its TPM must show a certificate that one of
    /// these signed: an emulated TPM is refused. Default: who made a TPM does not matter, only that it is the known one.
    #[arg(long, env = "MAGNETITE_TPM_AUTHORITIES", value_name = "PATH")]
    pub tpm_authorities: Option<PathBuf>,

    /// How many machines may be updated at once in the whole cluster, whatever Profiles say. Default: 10, or 5 % of all Machines,
    /// whichever is more. There is no way to switch it off.
    #[arg(long, env = "MAGNETITE_UPDATE_CEILING", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "NUMBER")]
    pub update_ceiling: Option<u32>,
    /// At most so many machines are wiped at once, where that is less than 10 or 5 % of all, whichever is larger. 0: none is begun, as long as
    /// it is so; those that are under way go on.
    #[arg(long, env = "MAGNETITE_WIPES_AT_ONCE", value_name = "COUNT")]
    pub wipes_at_once: Option<usize>,

    /// At most so many machines that ran something before are installed anew at once by their own bootIntent, where that is less than 10 or 5 %
    /// of all, whichever is larger. 0: no window opens for one, as long as it is so; those that are under way go on.
    #[arg(long, env = "MAGNETITE_REINSTALLS_AT_ONCE", value_name = "COUNT")]
    pub reinstalls_at_once: Option<usize>,

    /// Make Machines of boxes that boot servers with --discovery find, and have DiscoveryRules say what they become. Without it what boot servers
    /// tell of such boxes is not looked at.
    #[arg(long, env = "MAGNETITE_DISCOVERY")]
    pub discovery: bool,
    /// With --discovery: while so many Machines are held, none is made for further boxes.
    #[arg(long, env = "MAGNETITE_DISCOVERED_AT_MOST", default_value_t = 200, value_name = "COUNT")]
    pub discovered_at_most: usize,

    /// Write only while holding the Lease `magnetite-controller`. Without it two controllers would get in each
    /// other's way (`--leader-elect=false`, for one that is surely alone).
    #[arg(
        long,
        env = "MAGNETITE_LEADER_ELECT",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        value_name = "BOOL"
    )]
    pub leader_elect: bool,

    /// Name of this process in the Lease. In a Pod, HOSTNAME is the Pod's name.
    #[arg(long, env = "HOSTNAME", default_value = "controller", value_name = "NAME")]
    pub identity: String,

    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,

    /// Admin listener.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// The form that `spec.join.apiServer` has, too.
fn https_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").filter(|rest| !rest.is_empty());
    if rest.is_none() || text.contains(['@', ' ', '\n', '\t']) {
        return Err("write https://HOST:PORT, without credentials".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn flags() {
        let args = Args::try_parse_from(["c", "--leader-elect=false", "--reserved-node-name", "a,b"]).unwrap();
        assert!(!args.leader_elect);
        assert_eq!(args.reserved_node_name, ["a", "b"]);
        assert!(Args::try_parse_from(["c"]).unwrap().leader_elect);
        let bad = ["c", "--join-api-server", "http://10.0.0.1:6443"];
        assert!(Args::try_parse_from(bad).is_err());
    }
}
