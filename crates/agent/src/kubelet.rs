//! What the kubelet's files say. Pure: texts from the answer to a claim.

use std::path::Path;

use magnetite_api::join::JoinBundle;
use serde_json::json;

use crate::files::{CA, CURRENT, KUBECONFIG, KUBELET_CONFIG};

/// The unit that runs the kubelet.
pub const UNIT: &str = "kubelet.service";
/// Our own unit, where the system has none.
pub const UNIT_FILE: &str = "/etc/systemd/system/kubelet.service";
/// Our part of the system's unit, where it has one. Sorts behind the `10-kubeadm.conf` that distributions ship.
pub const DROP_IN: &str = "/etc/systemd/system/kubelet.service.d/10-magnetite.conf";
/// How we know our own unit again.
pub const MARK: &str = "# Written by magnetite-agent: what is changed here is lost.";

/// Whose unit runs the kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitOwner {
    /// The system has none, so we write one.
    Agent,
    /// The system has one, and we change what it starts.
    System,
}

/// A file of the kubelet's.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Where, on the box.
    pub path: &'static str,
    /// Its mode.
    pub mode: u32,
    /// Its text.
    pub text: String,
}

/// Something in the answer cannot become an argument of the kubelet.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0:?} cannot be an argument of the kubelet; change spec.join.kubeletArgs of the Profile")]
pub struct ArgumentError(String);

/// The kubelet's files, without its certificate.
pub fn files(join: &JoinBundle, owner: UnitOwner, program: &Path) -> Result<Vec<File>, ArgumentError> {
    let command = command(join, program)?;
    let (path, text) = match owner {
        UnitOwner::Agent => (UNIT_FILE, unit(&command)),
        UnitOwner::System => (DROP_IN, drop_in(&command)),
    };
    Ok(vec![
        File { path: CA, mode: 0o644, text: join.certificate_authority.clone() },
        File { path: KUBECONFIG, mode: 0o600, text: kubeconfig(join) },
        File { path: KUBELET_CONFIG, mode: 0o644, text: join.kubelet_configuration.clone() },
        File { path, mode: 0o644, text },
    ])
}

/// JSON, which is YAML. It names the certificate's file and does not hold it, so that it stays right when the kubelet
/// rotates.
fn kubeconfig(join: &JoinBundle) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {"server": join.api_server, "certificate-authority": CA}}],
        "users": [{"name": "kubelet", "user": {"client-certificate": CURRENT, "client-key": CURRENT}}],
        "contexts": [{"name": "kubelet", "context": {"cluster": "cluster", "user": "kubelet"}}],
        "current-context": "kubelet",
    });
    format!("{config:#}\n")
}

fn command(join: &JoinBundle, program: &Path) -> Result<String, ArgumentError> {
    let ours = [
        program.to_string_lossy().into_owned(),
        format!("--config={KUBELET_CONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        format!("--hostname-override={}", join.node_name),
    ];
    let words: Vec<_> = ours.iter().chain(&join.kubelet_args).map(|word| quoted(word)).collect::<Result<_, _>>()?;
    Ok(words.join(" "))
}

/// A word of a command line as systemd reads it: `%` and `$` would be expanded, a quote would end the word, and a
/// line break would begin another setting, which no kubelet needs.
fn quoted(word: &str) -> Result<String, ArgumentError> {
    if word.is_empty() || word.chars().any(char::is_control) {
        return Err(ArgumentError(word.to_owned()));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@".contains(c);
    if word.chars().all(plain) {
        return Ok(word.to_owned());
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    Ok(format!("\"{escaped}\""))
}

fn unit(command: &str) -> String {
    format!(
        "{MARK}\n[Unit]\nDescription=Kubernetes node agent\nWants=network-online.target\n\
         After=network-online.target containerd.service crio.service\nStartLimitIntervalSec=0\n\n\
         [Service]\nExecStart={command}\nRestart=always\nRestartSec=5\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn drop_in(command: &str) -> String {
    format!(
        "{MARK}\n[Unit]\nWants=network-online.target\nAfter=network-online.target containerd.service crio.service\n\
         StartLimitIntervalSec=0\n\n[Service]\nExecStart=\nExecStart={command}\nRestart=always\nRestartSec=5\n"
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn join(args: &[&str]) -> JoinBundle {
        JoinBundle {
            node_name: "box-1".to_owned(),
            api_server: "https://192.0.2.1:6443".to_owned(),
            kubelet_args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..JoinBundle::default()
        }
    }

    #[test]
    fn a_drop_in_replaces_the_system_s_command() {
        let files = files(&join(&["--v=2"]), UnitOwner::System, Path::new("/usr/bin/kubelet")).expect("files");
        let unit = files.last().expect("a unit");
        assert_eq!(unit.path, DROP_IN);
        let command = "/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml \
                       --kubeconfig=/etc/kubernetes/kubelet.conf --hostname-override=box-1 --v=2";
        assert!(unit.text.contains(&format!("\nExecStart=\nExecStart={command}\nRestart=always\n")), "{}", unit.text);
    }

    #[test]
    fn our_own_unit_can_be_enabled_and_is_known_again() {
        let files = files(&join(&[]), UnitOwner::Agent, Path::new("/opt/bin/kubelet")).expect("files");
        let unit = files.last().expect("a unit");
        assert!(unit.path == UNIT_FILE && unit.text.starts_with(MARK) && unit.text.contains("[Install]"));
    }

    #[test]
    fn the_kubeconfig_names_the_certificate_that_rotates() {
        let config: serde_json::Value = serde_json::from_str(&kubeconfig(&join(&[]))).expect("JSON");
        assert_eq!(config["users"][0]["user"]["client-key"], CURRENT);
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://192.0.2.1:6443");
    }

    #[rstest]
    #[case("--node-labels=a=b,c/d=e", Ok("--node-labels=a=b,c/d=e"))]
    #[case("--x=a b", Ok("\"--x=a b\""))]
    #[case("--x=100%$HOME", Ok("\"--x=100%%$$HOME\""))]
    #[case(r#"--x="\"#, Ok(r#""--x=\"\\""#))]
    #[case("--x=;rm", Ok("\"--x=;rm\""))]
    #[case("--x\nExecStartPre=/bin/evil", Err(()))]
    #[case("", Err(()))]
    fn a_word_stays_one_word(#[case] word: &str, #[case] expected: Result<&str, ()>) {
        assert_eq!(quoted(word).map_err(drop).as_deref(), expected.as_ref().map(|text| *text).map_err(|()| &()));
    }
}
