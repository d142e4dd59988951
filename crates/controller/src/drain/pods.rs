//! Which Pods have to leave a Node, which of them may be evicted, and what is waited for. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use magnetite_api::conditions::reason;

/// How many Pods are named in a message.
const NAMED: usize = 3;

/// A Pod that has to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// True if somebody makes it anew elsewhere.
    pub owned: bool,
    /// True if it is being deleted already.
    pub leaving: bool,
}

impl PodSeen {
    /// Reads a Pod. None if it may stay: a DaemonSet's belongs to its Node, a static one is the kubelet's own, and one that is over
    /// serves nobody.
    pub fn of(pod: &Pod) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        let stays = owner.is_some_and(|owner| owner.kind == "DaemonSet")
            || pod.annotations().contains_key("kubernetes.io/config.mirror")
            || ["Succeeded", "Failed"].contains(&phase);
        (!stays).then(|| Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            owned: owner.is_some(),
            leaving: pod.metadata.deletion_timestamp.is_some(),
        })
    }
}

/// The Pods that have to leave a Node, and what was said about them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drain {
    /// The Pods.
    pub pods: Vec<PodSeen>,
    /// Why the API server did not evict them, by UID.
    pub refused: HashMap<String, String>,
}

/// What a drain waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// Those that may be asked to leave now.
    pub evict: Vec<PodSeen>,
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

impl Drain {
    /// What is waited for; nothing if the Node is empty.
    pub fn waits(&self) -> Option<Waits> {
        if self.pods.is_empty() {
            return None;
        }
        let evict = self.pods.iter().filter(|pod| pod.owned && !pod.leaving).cloned().collect();
        let mut said: Vec<_> = self.pods.iter().map(|pod| self.says(pod)).collect();
        // What somebody has to do something about comes first.
        said.sort();
        let blocked = said.iter().any(|(rank, _)| *rank < 2);
        let named: Vec<_> = said.iter().take(NAMED).map(|(_, text)| text.as_str()).collect();
        let more = said.len().saturating_sub(NAMED);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        let message = format!("{} Pods have to leave: {}{more}", said.len(), named.join("; "));
        let reason = if blocked { reason::DRAIN_BLOCKED } else { reason::DRAINING };
        Some(Waits { evict, reason, message })
    }

    fn says(&self, pod: &PodSeen) -> (u8, String) {
        let PodSeen { namespace, name, uid, owned, leaving } = pod;
        match (leaving, owned, self.refused.get(uid)) {
            (true, _, _) => (3, format!("{namespace}/{name} is ending")),
            (false, false, _) => (0, format!("{namespace}/{name} has no controller and would be lost: delete it")),
            (false, true, Some(words)) => (1, format!("{namespace}/{name} may not be evicted: {words}")),
            (false, true, None) => (2, format!("{namespace}/{name}")),
        }
    }
}
