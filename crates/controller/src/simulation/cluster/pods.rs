//! Pods, as far as a drain sees them: on a Node, under one budget, gone when they are evicted.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, NOT_FOUND, Refused};

#[derive(Default)]
pub struct Pods {
    /// Where each runs; nowhere yet if it was just made.
    pub on: BTreeMap<String, Option<String>>,
    /// So many have to run somewhere.
    pub least: usize,
    /// Those that were evicted, for whoever makes them anew.
    pub evicted: Vec<String>,
}

impl Pods {
    /// Those of the Node that a field selector names.
    pub fn list(&self, query: &str) -> Value {
        let node =
            query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=spec.nodeName%3D")).unwrap_or_default();
        let there = self.on.iter().filter(|(_, on)| on.as_deref() == Some(node));
        let items: Vec<_> = there
            .map(|(name, _)| {
                let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true });
                json!({ "metadata": { "name": name, "namespace": "default", "uid": name, "ownerReferences": [owner] } })
            })
            .collect();
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
    }

    /// True if a Pod may go.
    pub fn evict(&mut self, name: &str) -> Answer {
        let running = self.on.values().flatten().count();
        let on = self.on.get_mut(name).ok_or(NOT_FOUND)?;
        if on.is_some() && running <= self.least {
            return Err(Refused(429, "TooManyRequests"));
        }
        if on.take().is_some() {
            self.evicted.push(name.to_owned());
        }
        Ok(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }))
    }
}
