//! Nodes: which of them is a Machine's, and what it carries of ours.
//!
//! A kubelet may write nearly every label of its own Node. So a label alone proves nothing: a Node counts as
//! a Machine's only after this controller issued a certificate for that name and recorded it.

pub mod marks;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use magnetite_api::{
    Machine,
    machine::IdentityStatus,
    names::{ANNOTATION_CORDONED, ANNOTATION_RESTART, LABEL_MACHINE_UID, MANAGER_CONTROLLER},
};

use self::marks::Marks;
use crate::error::{Error, gone_is_fine};

/// Clocks of different hosts may differ by this much before an order of events is believed.
pub const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// What a Node's Ready condition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The kubelet says that it is ready.
    Ready,
    /// The kubelet says that it is not, or has not said yet.
    NotReady,
    /// The kubelet has not been heard of for too long.
    Silent,
}

/// What the controller knows of a Node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was registered, by the API server's clock.
    pub created_at: Option<Timestamp>,
    /// UID of the Machine that its label names.
    pub owner: Option<String>,
    /// True of a control-plane node: those are never a Machine's.
    pub control_plane: bool,
    /// Whether it is ready.
    pub readiness: Readiness,
    /// What the kubelet says about that.
    pub message: String,
    /// When the kubelet last wrote its status, by the box's clock.
    pub heartbeat: Option<Timestamp>,
    /// All of its labels.
    pub labels: BTreeMap<String, String>,
    /// All of its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Keys of the labels and annotations that this controller set.
    pub managed: Managed,
    /// True if no new Pods come to it.
    pub unschedulable: bool,
    /// True if it was this controller that keeps them away.
    pub cordoned: bool,
    /// What its agent is asked to restart for.
    pub restart: Option<String>,
    /// The kernel's name for the boot that it runs.
    pub boot_id: String,
    /// The kubelet's version.
    pub kubelet: String,
}

/// Keys that our field manager owns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Managed {
    /// Of labels.
    pub labels: BTreeSet<String>,
    /// Of annotations.
    pub annotations: BTreeSet<String>,
}

impl NodeSeen {
    /// Reads what matters from a Node.
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let info = status.and_then(|status| status.node_info.as_ref());
        let ready = status.and_then(|status| status.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready"));
        let readiness = match ready.map(|condition| condition.status.as_str()) {
            Some("True") => Readiness::Ready,
            Some("Unknown") => Readiness::Silent,
            _ => Readiness::NotReady,
        };
        Self {
            name: node.name_any(),
            uid: node.uid().unwrap_or_default(),
            created_at: node.creation_timestamp().map(|Time(at)| at),
            owner: node.labels().get(LABEL_MACHINE_UID).cloned(),
            control_plane: is_control_plane(node),
            readiness,
            message: ready.and_then(|condition| condition.message.clone()).unwrap_or_default(),
            heartbeat: ready.and_then(|condition| Some(condition.last_heartbeat_time.clone()?.0)),
            labels: node.labels().clone(),
            annotations: node.annotations().clone(),
            managed: Managed { labels: managed(node, "f:labels"), annotations: managed(node, "f:annotations") },
            unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
            cordoned: node.annotations().contains_key(ANNOTATION_CORDONED),
            restart: node.annotations().get(ANNOTATION_RESTART).cloned(),
            boot_id: info.map(|info| info.boot_id.clone()).unwrap_or_default(),
            kubelet: info.map(|info| info.kubelet_version.clone()).unwrap_or_default(),
        }
    }

    /// True if this Node belongs to the Machine with this UID and this record of its identity.
    pub fn belongs_to(&self, uid: Option<&str>, identity: Option<&IdentityStatus>) -> bool {
        let Some(identity) = identity.filter(|identity| identity.issued_at.is_some()) else {
            return false;
        };
        match &self.owner {
            Some(owner) => Some(owner.as_str()) == uid,
            // Not labelled yet: it is ours if it appeared after the key was bound; before that, no Node of
            // this name existed, or the claim would have been refused.
            None => self.created_at.is_some_and(|at| at + SKEW >= identity.bound_at.0),
        }
    }

    /// True if the kubelet was heard of after `moment`, so that what the Node says is about the present system.
    pub fn heard_since(&self, moment: Timestamp) -> bool {
        let newest = self.heartbeat.max(self.created_at);
        newest.is_some_and(|at| at + SKEW >= moment)
    }

    /// True if what we set is exactly this.
    pub fn carries(&self, wanted: &Marks) -> bool {
        let same = |wanted: &BTreeMap<String, String>, there: &BTreeMap<String, String>, ours: &BTreeSet<String>| {
            wanted.iter().all(|(key, value)| there.get(key) == Some(value))
                && ours.iter().all(|key| wanted.contains_key(key))
        };
        same(&wanted.labels, &self.labels, &self.managed.labels)
            && same(&wanted.annotations, &self.annotations, &self.managed.annotations)
    }
}

fn is_control_plane(node: &Node) -> bool {
    let roles = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
    let labels = node.labels();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    roles.iter().any(|role| {
        labels.contains_key(*role) || taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == **role))
    })
}

/// Keys of the labels or annotations that our field manager owns, from the object's own record.
fn managed(node: &Node, kind: &str) -> BTreeSet<String> {
    let entries = node.metadata.managed_fields.iter().flatten();
    let ours = entries.filter(|entry| {
        entry.manager.as_deref() == Some(MANAGER_CONTROLLER) && entry.operation.as_deref() == Some("Apply")
    });
    let fields = ours.filter_map(|entry| Some(&entry.fields_v1.as_ref()?.0));
    let keys = fields.filter_map(|fields| fields.get("f:metadata")?.get(kind)?.as_object());
    keys.flat_map(serde_json::Map::keys).filter_map(|key| Some(key.strip_prefix("f:")?.to_owned())).collect()
}

/// True if the Machine's Node has this name. Asked of every Machine for each, so it makes no copies.
pub fn is_named(machine: &Machine, node_name: &str) -> bool {
    machine.spec.node_name.as_deref().or(machine.metadata.name.as_deref()) == Some(node_name)
}

/// Sets labels and annotations of a Node, and removes those that we set before and want no more.
///
/// # Errors
/// The API server did not take them.
pub async fn mark(client: &Client, name: &str, uid: &str, marks: &Marks) -> Result<(), Error> {
    let Marks { labels, annotations } = marks;
    // The UID keeps the apply from creating a Node where there is none, or from labelling its successor.
    let patch = serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "uid": uid, "labels": labels, "annotations": annotations },
    });
    let params = PatchParams::apply(MANAGER_CONTROLLER).force();
    let api = Api::<Node>::all(client.clone());
    let result = api.patch(name, &params, &Patch::Apply(&patch)).await;
    gone_is_fine(result).map(drop).map_err(Error::write("labelling", "Node", name))
}

/// Removes a Node object, if it is still the one that was seen.
///
/// # Errors
/// The API server did not do it.
pub async fn remove(client: &Client, name: &str, uid: &str) -> Result<(), Error> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let result = Api::<Node>::all(client.clone()).delete(name, &params).await;
    gone_is_fine(result).map(drop).map_err(Error::write("removing", "Node", name))
}

/// Reads a Node live.
///
/// # Errors
/// The API server did not answer.
pub async fn get(client: &Client, name: &str) -> Result<Option<NodeSeen>, Error> {
    let node = Api::<Node>::all(client.clone()).get_opt(name).await.map_err(Error::read("Node", name))?;
    Ok(node.as_ref().map(NodeSeen::of))
}
