//! Emptying a Node: it takes no new Pods, and those that it has are evicted, with respect for PodDisruptionBudgets. Nothing is
//! ever forced: what the API server does not let go stays, and its words say why.

mod pods;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use magnetite_api::names::{ANNOTATION_CORDONED, ANNOTATION_RESTART, MANAGER_CONTROLLER};
use serde_json::{Value, json};

pub use pods::{Drain, PodSeen};

use crate::{
    error::{Error, code, gone_is_fine},
    machine::fold::clean,
};

/// More Pods than a kubelet runs (its default is 110). What a longer list leaves out shows in the next one.
const PODS: u32 = 500;
/// So many are evicted in one pass: a reconcile has a time limit.
const AT_ONCE: usize = 50;

/// What the API server said to the last evictions, by the Pod's UID. In memory: after a restart it is asked anew.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<String, String>>);

impl Refusals {
    fn of(&self, pods: &[PodSeen]) -> HashMap<String, String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.iter().filter_map(|pod| Some((pod.uid.clone(), all.get(&pod.uid)?.clone()))).collect()
    }

    fn set(&self, uid: &str, words: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Pods that are gone are not told of any more; they are forgotten with all others, and those still there are asked again.
        if all.len() >= 10_000 {
            all.clear();
        }
        match words {
            Some(words) => all.insert(uid.to_owned(), words),
            None => all.remove(uid),
        };
    }
}

/// Looks which Pods have to leave a Node, and what was said about each of them.
///
/// # Errors
/// The API server did not answer.
pub async fn look(client: &Client, node: &str, refusals: &Refusals) -> Result<Drain, Error> {
    let params = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(PODS);
    let list = Api::<Pod>::all(client.clone()).list(&params).await.map_err(Error::read("Pods of Node", node))?;
    let pods: Vec<_> = list.items.iter().filter_map(PodSeen::of).collect();
    let refused = refusals.of(&pods);
    Ok(Drain { pods, refused })
}

/// Asks for the eviction of Pods. What is refused is remembered, for a person to read; the others go on.
///
/// # Errors
/// The API server did not answer.
pub async fn evict(client: &Client, pods: &[PodSeen], refusals: &Refusals) -> Result<(), Error> {
    for PodSeen { namespace, name, uid, .. } in pods.iter().take(AT_ONCE) {
        // kube 5 writes `delete_options` where the API server reads `deleteOptions`, so that the UID would say nothing.
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name, "namespace": namespace },
            // Not its successor of the same name, which may run elsewhere.
            "deleteOptions": { "preconditions": { "uid": uid } },
        });
        let api = Api::<Pod>::namespaced(client.clone(), namespace);
        let words = match api.create_subresource::<_, Value>("eviction", name, &PostParams::default(), &body).await {
            Ok(_) => None,
            Err(error) if matches!(code(&error), Some(404 | 409)) => None,
            Err(kube::Error::Api(status)) => {
                // A budget's own words name it; the message of the whole only says that there is one.
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let causes: Vec<_> =
                    causes.map(|cause| cause.message.as_str()).filter(|text| !text.is_empty()).collect();
                let words = if causes.is_empty() { status.message.clone() } else { causes.join("; ") };
                Some(clean(&words, 200))
            }
            Err(error) => return Err(Error::write("evicting", "Pod", &format!("{namespace}/{name}"))(error)),
        };
        tracing::info!(namespace, pod = name, refused = words, "eviction asked for");
        refusals.set(uid, words);
    }
    Ok(())
}

/// Keeps new Pods away from a Node, and notes that it was we.
///
/// # Errors
/// The API server did not take it.
pub async fn cordon(client: &Client, node: &str, uid: &str) -> Result<(), Error> {
    let patch =
        json!({ "metadata": annotation(uid, ANNOTATION_CORDONED, "true".into()), "spec": { "unschedulable": true } });
    change(client, node, &patch, "cordoning").await
}

/// Lets a Node take Pods again.
///
/// # Errors
/// The API server did not take it.
pub async fn uncordon(client: &Client, node: &str, uid: &str) -> Result<(), Error> {
    let patch =
        json!({ "metadata": annotation(uid, ANNOTATION_CORDONED, Value::Null), "spec": { "unschedulable": null } });
    change(client, node, &patch, "uncordoning").await
}

/// Asks the agent on the box to restart it, or takes that back.
///
/// # Errors
/// The API server did not take it.
pub async fn restart(client: &Client, node: &str, uid: &str, id: Option<&str>) -> Result<(), Error> {
    let patch = json!({ "metadata": annotation(uid, ANNOTATION_RESTART, id.into()) });
    change(client, node, &patch, "annotating").await
}

/// The UID keeps it from changing the successor of the Node that was seen.
fn annotation(uid: &str, key: &str, value: Value) -> Value {
    json!({ "uid": uid, "annotations": { key: value } })
}

async fn change(client: &Client, node: &str, patch: &Value, what: &'static str) -> Result<(), Error> {
    let params = PatchParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PatchParams::default() };
    let result = Api::<Node>::all(client.clone()).patch(node, &params, &Patch::Merge(patch)).await;
    gone_is_fine(result).map(drop).map_err(Error::write(what, "Node", node))
}

#[cfg(test)]
mod tests;
