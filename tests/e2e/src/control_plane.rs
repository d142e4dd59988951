//! A Kubernetes control plane of real parts: etcd, API server and controller manager. No scheduler:
//! the lab's pods name their node.
//!
//! It is set up as kubeadm would: Node and RBAC authorisation, NodeRestriction, certificates that
//! everybody verifies. One thing differs on purpose: the controller that approves the kubelets'
//! first certificate requests is off, because that decision is Magnetite's here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::kube_build::Kubernetes;
use crate::kubectl::{Kubectl, Login, write_kubeconfig};
use crate::net::SERVER;
use crate::pki::{Authority, Pair, Subject};
use crate::proc::{Cmd, Process};
use crate::wait;

/// Where clients find the API server.
pub const ENDPOINT: &str = "https://172.30.0.1:6443";
/// The user that the API server is when it talks to kubelets.
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// A running control plane. Its parts end when it is dropped, the last one started first.
pub struct ControlPlane {
    dir: PathBuf,
    netns: String,
    kubectl_binary: PathBuf,
    authority: Authority,
    admin: Kubectl,
    controller_manager: Process,
    apiserver: Process,
    etcd: Process,
}

impl ControlPlane {
    /// Starts it in `netns`, with its files in `dir`, and waits until it serves.
    pub fn start(kubernetes: &Kubernetes, netns: &str, dir: &Path, logs: &Path, certificates: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let files = Files::make(dir)?;
        let etcd = start_etcd(netns, dir, logs)?;
        let mut apiserver = start_apiserver(kubernetes, netns, &files, logs)?;
        let admin = files.kubeconfig(kubernetes, netns, "admin", "kubernetes-admin", &files.admin)?;
        wait::until("the API server", Duration::from_secs(120), || {
            apiserver.check()?;
            Ok(admin.run(&["get", "--raw", "/readyz"]).ok())
        })?;
        let manager = files.kubeconfig(
            kubernetes,
            netns,
            "controller-manager",
            "system:kube-controller-manager",
            &files.manager,
        )?;
        let mut controller_manager =
            start_controller_manager(kubernetes, netns, manager.kubeconfig(), &files, logs, certificates)?;
        admin.apply(&kubelet_api_binding())?;
        // The controller manager works once it has made the first service account.
        wait::until("the controller manager", Duration::from_secs(60), || {
            controller_manager.check()?;
            admin.get(&["serviceaccount", "default", "-n", "default"])
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            netns: netns.to_owned(),
            kubectl_binary: kubernetes.kubectl.clone(),
            authority: files.authority,
            admin,
            controller_manager,
            apiserver,
            etcd,
        })
    }

    /// kubectl as the cluster's administrator.
    #[must_use]
    pub fn admin(&self) -> &Kubectl {
        &self.admin
    }

    /// The cluster's certificate authority.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// kubectl, and above all a kubeconfig, as a service account: what a pod of it could do, and no
    /// more.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<Kubectl> {
        let token = self.admin.run(&["create", "token", name, "-n", namespace, "--duration", "24h"])?;
        let path = self.dir.join(format!("{namespace}-{name}.conf"));
        write_kubeconfig(&path, ENDPOINT, self.authority.pem(), name, &Login::Token(token.trim()))?;
        Ok(Kubectl::new(&self.kubectl_binary, &path, &self.netns))
    }

    /// Sends the API server a signal: SIGSTOP is an API server that is away, its connections left hanging.
    pub fn signal_apiserver(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        self.apiserver.signal(signal)
    }

    /// An error if a part has ended.
    pub fn check(&mut self) -> Result<()> {
        self.etcd.check()?;
        self.apiserver.check()?;
        self.controller_manager.check()
    }
}

/// Keys, certificates and kubeconfigs.
struct Files {
    dir: PathBuf,
    authority: Authority,
    serving: Pair,
    kubelet_client: Pair,
    accounts: Pair,
    admin: Pair,
    manager: Pair,
}

impl Files {
    fn make(dir: &Path) -> Result<Self> {
        let authority = Authority::create(&dir.join("pki"))?;
        let client = |name: &str, common_name: &str, organizations: &[&str]| {
            authority.issue(name, &Subject { common_name, organizations, names: &[] })
        };
        let names = [
            SERVER,
            "127.0.0.1",
            "10.96.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        Ok(Self {
            dir: dir.to_owned(),
            serving: authority
                .issue("apiserver", &Subject { common_name: "kube-apiserver", organizations: &[], names: &names })?,
            kubelet_client: client(KUBELET_CLIENT, KUBELET_CLIENT, &[])?,
            accounts: authority.bare_key("sa")?,
            admin: client("admin", "kubernetes-admin", &["system:masters"])?,
            manager: client("controller-manager", "system:kube-controller-manager", &[])?,
            authority,
        })
    }

    fn kubeconfig(&self, kubernetes: &Kubernetes, netns: &str, name: &str, user: &str, pair: &Pair) -> Result<Kubectl> {
        let path = self.dir.join(format!("{name}.conf"));
        let login = Login::Certificate { certificate: &pair.certificate, key: &pair.key };
        write_kubeconfig(&path, ENDPOINT, self.authority.pem(), user, &login)?;
        Ok(Kubectl::new(&kubernetes.kubectl, &path, netns))
    }
}

fn start_etcd(netns: &str, dir: &Path, logs: &Path) -> Result<Process> {
    let process = Cmd::new("etcd")
        .netns(netns)
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380",
            // Nothing of it is worth a disk's time.
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        ])
        .spawn("etcd", &logs.join("etcd.log"))?;
    Ok(process.grace(Duration::ZERO))
}

fn start_apiserver(kubernetes: &Kubernetes, netns: &str, files: &Files, logs: &Path) -> Result<Process> {
    let ca = files.authority.pair();
    let process = Cmd::new(&kubernetes.apiserver)
        .netns(netns)
        .args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            "--bind-address=0.0.0.0",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth=true",
            "--anonymous-auth=true",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--profiling=false",
        ])
        .arg(format!("--advertise-address={SERVER}"))
        .arg(flag("--client-ca-file", &ca.certificate))
        .arg(flag("--tls-cert-file", &files.serving.certificate))
        .arg(flag("--tls-private-key-file", &files.serving.key))
        .arg(flag("--kubelet-certificate-authority", &ca.certificate))
        .arg(flag("--kubelet-client-certificate", &files.kubelet_client.certificate))
        .arg(flag("--kubelet-client-key", &files.kubelet_client.key))
        .arg(flag("--service-account-key-file", &files.accounts.certificate))
        .arg(flag("--service-account-signing-key-file", &files.accounts.key))
        .spawn("kube-apiserver", &logs.join("kube-apiserver.log"))?;
    // It drains for seconds, for clients that are gone already.
    Ok(process.grace(Duration::ZERO))
}

fn start_controller_manager(
    kubernetes: &Kubernetes,
    netns: &str,
    kubeconfig: &Path,
    files: &Files,
    logs: &Path,
    certificates: &str,
) -> Result<Process> {
    let ca = files.authority.pair();
    let process = Cmd::new(&kubernetes.controller_manager)
        .netns(netns)
        .args([
            "--controllers=*,-certificatesigningrequest-approving-controller",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
        ])
        .arg(format!("--cluster-signing-duration={certificates}"))
        .arg(flag("--kubeconfig", kubeconfig))
        .arg(flag("--cluster-signing-cert-file", &ca.certificate))
        .arg(flag("--cluster-signing-key-file", &ca.key))
        .arg(flag("--root-ca-file", &ca.certificate))
        .arg(flag("--service-account-private-key-file", &files.accounts.key))
        .spawn("kube-controller-manager", &logs.join("kube-controller-manager.log"))?;
    Ok(process.grace(Duration::ZERO))
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Lets the API server read logs from kubelets and run commands through them.
fn kubelet_api_binding() -> String {
    serde_json::json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "lab:kube-apiserver-to-kubelet" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:kubelet-api-admin",
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": KUBELET_CLIENT,
        }],
    })
    .to_string()
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // etcd's data is of no use to whoever reads the logs afterwards; the keys still are.
        drop(self.etcd.signal(nix::sys::signal::Signal::SIGKILL).context("stop etcd"));
        drop(std::fs::remove_dir_all(self.dir.join("etcd")));
    }
}
