//! What goes on in the cluster besides: kubelets register their Nodes and ask for certificates, the signer signs.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
        core::v1::{Node, NodeCondition, NodeStatus, NodeSystemInfo},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::api::ObjectMeta;
use magnetite_api::{
    Machine, Sha256,
    names::{NODE_USER_PREFIX, NODES_GROUP, SIGNER_CLIENT, SIGNER_SERVING},
    report::BootStepName,
    time::seconds,
};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use super::{
    clock::{self, MINUTE, SECOND},
    cluster::{Actor, Kind},
    keys,
    metal::Stage,
    world::{Step, World},
};
use crate::fixtures::Csr;

/// What a kubelet does when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    Register,
    Heartbeat,
    /// It asks for a serving certificate.
    Serve,
    /// It asks for a new client certificate.
    Renew,
    /// It looks at what it asked for.
    Look,
}

/// Signed by key number 0, which no box has.
fn authority() -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::try_from(keys::key(0).serialized_der()).unwrap();
    Issuer::new(params, key)
}

fn ready(boot: &str) -> serde_json::Value {
    let now = Time(seconds(clock::now()).0);
    let condition = NodeCondition {
        type_: "Ready".into(),
        status: "True".into(),
        last_heartbeat_time: Some(now),
        ..NodeCondition::default()
    };
    let node_info = Some(NodeSystemInfo {
        boot_id: boot.to_owned(),
        kubelet_version: "v1.34.0".into(),
        ..NodeSystemInfo::default()
    });
    json!(NodeStatus { conditions: Some(vec![condition]), node_info, ..NodeStatus::default() })
}

impl World {
    /// A kubelet does something, if the box still runs it.
    pub fn kubelet(&mut self, number: usize, life: u32, what: Duty) {
        let box_ = &self.boxes[number];
        if box_.life != life || !matches!(box_.stage, Stage::Node) {
            return;
        }
        let Some(system) = box_.system.clone() else { return };
        let node = system.link.node;
        let again = |world: &mut Self, after: i64, what: Duty| {
            world.at(after, Step::Kubelet { box_: number, life, what });
        };
        if self.cluster.away {
            return again(self, 5 * SECOND, what);
        }
        match what {
            Duty::Register => {
                self.heartbeat(number, &node);
                self.say(format!("the kubelet of box {number} registers {node}"));
                self.report(number, BootStepName::KubeletStarted);
                if self.boxes[number].dies_at.is_some_and(|at| at <= BootStepName::NodeReady) {
                    return self.power_off(number);
                }
                again(self, SECOND, Duty::Serve);
                again(self, 5 * MINUTE, Duty::Heartbeat);
                if self.scene.renewals {
                    let after = self.random.between(1, 40) * MINUTE;
                    again(self, after, Duty::Renew);
                }
            }
            Duty::Heartbeat => {
                self.heartbeat(number, &node);
                again(self, 5 * MINUTE, Duty::Heartbeat);
            }
            Duty::Serve => {
                let address = self.boxes[number].address.octets();
                let csr = Csr::new(&keys::key(system.kubelet)).cn(&format!("{NODE_USER_PREFIX}{node}"));
                let csr = csr.sans(&[(2, node.as_bytes()), (7, &address)]);
                self.request(number, &node, SIGNER_SERVING, "server auth", &csr);
                again(self, MINUTE, Duty::Look);
            }
            // A renewal is no rest.
            Duty::Renew if !self.scene.renewals => {}
            Duty::Renew => {
                self.keys += 1;
                let csr = Csr::new(&keys::key(self.keys - 1)).cn(&format!("{NODE_USER_PREFIX}{node}"));
                self.request(number, &node, SIGNER_CLIENT, "client auth", &csr);
                again(self, MINUTE, Duty::Look);
            }
            Duty::Look => {
                let name = self.boxes[number].pending.clone().unwrap_or_default();
                let found = self.cluster.object(Kind::Request, &name);
                let status = found.and_then(|object| object.request()?.status.clone());
                let certificate = status.and_then(|status| status.certificate);
                self.say(format!("box {number} looks at {name}: {}", certificate.is_some()));
            }
        }
    }

    fn heartbeat(&mut self, number: usize, node: &str) {
        let boot = self.boot_id(number);
        let by = Actor::Kubelet(node.to_owned());
        if self.cluster.exists(Kind::Node, node) {
            drop(self.cluster.edit(Kind::Node, node, by, |object| object["status"] = ready(&boot)));
        } else {
            let metadata = ObjectMeta { name: Some(node.to_owned()), ..ObjectMeta::default() };
            let mut object = json!(Node { metadata, ..Node::default() });
            object["status"] = ready(&boot);
            drop(self.cluster.create(Kind::Node, object, by));
        }
        self.digest_news();
    }

    /// The node was not heard of for a while.
    pub fn silent(&mut self, node: &str) {
        let runs = self.boxes.iter().any(|box_| {
            matches!(box_.stage, Stage::Node) && box_.system.as_ref().is_some_and(|system| system.link.node == node)
        });
        if runs || self.cluster.away {
            return;
        }
        let unknown = |object: &mut serde_json::Value| {
            // The last heartbeat stays as it was.
            object["status"]["conditions"][0]["status"] = "Unknown".into();
        };
        if self.cluster.exists(Kind::Node, node) {
            drop(self.cluster.edit(Kind::Node, node, Actor::Person, unknown));
            self.digest_news();
        }
    }

    /// A kubelet asks for a certificate. Who asks is the API server's word.
    pub fn request(&mut self, number: usize, node: &str, signer: &str, usage: &str, csr: &Csr) -> String {
        self.requests += 1;
        let name = format!("csr-{}", self.requests);
        let spec = CertificateSigningRequestSpec {
            request: ByteString(csr.pem().into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".into(), usage.into()]),
            username: Some(format!("{NODE_USER_PREFIX}{node}")),
            extra: self.credential(number),
            groups: Some(vec![NODES_GROUP.into(), "system:authenticated".into()]),
            ..CertificateSigningRequestSpec::default()
        };
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let object = json!(CertificateSigningRequest { metadata, spec, status: None });
        drop(self.cluster.create(Kind::Request, object, Actor::Kubelet(node.to_owned())));
        self.boxes[number].pending = Some(name.clone());
        self.digest_news();
        name
    }

    /// With which certificate a box asks, as the API server writes it down.
    fn credential(&self, number: usize) -> Option<BTreeMap<String, Vec<String>>> {
        let pem = self.boxes[number].system.as_ref()?.certificate.as_ref()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let id = format!("X509SHA256={}", Sha256::of(&pem.contents));
        Some([("authentication.kubernetes.io/credential-id".to_owned(), vec![id])].into())
    }

    /// The signer looks at a request.
    pub fn sign(&mut self, name: &str) {
        let Some(object) = self.cluster.object(Kind::Request, name) else { return };
        let Some(csr) = object.request() else { return };
        if self.cluster.away {
            return self.at(5 * SECOND, Step::Sign(name.to_owned()));
        }
        let status = csr.status.clone().unwrap_or_default();
        let has = |kind: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == kind);
        let approved = has("Approved");
        if !approved || has("Denied") || status.certificate.is_some() {
            return;
        }
        let (_, pem) = x509_parser::pem::parse_x509_pem(&csr.spec.request.0).unwrap();
        let mut params = CertificateSigningRequestParams::from_der(&pem.contents.as_slice().into()).unwrap();
        let end = self.now + self.scene.lifetime;
        let since_1970 = std::time::Duration::from_secs(clock::at(end).as_second().unsigned_abs());
        params.params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970;
        let certificate = params.signed_by(&authority()).unwrap().pem();
        let machines: Vec<Arc<Machine>> =
            self.cluster.all(Kind::Machine).filter_map(|object| object.machine().cloned()).collect();
        self.laws.signed(self.now, csr, &machines, self.cluster.era, end);
        self.say(format!("  the signer signs {name}"));
        let bytes = json!(ByteString(certificate.into_bytes()));
        drop(self.cluster.edit(Kind::Request, name, Actor::Signer, |object| object["status"]["certificate"] = bytes));
        self.digest_news();
    }
}
