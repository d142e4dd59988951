//! The kubelet's configuration, as a joining box gets it.

use magnetite_api::{
    Machine, Profile,
    profile::{Taint, TaintEffect},
};
use serde_json::{Map, Value, json};

/// What a Profile may not change: who may talk to the kubelet, and how it keeps its certificates.
const KEPT: [&str; 6] =
    ["apiVersion", "kind", "authentication", "authorization", "rotateCertificates", "serverTLSBootstrap"];

/// The KubeletConfiguration of a machine, as JSON.
pub fn configuration(machine: &Machine, profile: &Profile) -> String {
    let join = &profile.spec.join;
    let mut config = defaults();
    config.insert("clusterDomain".to_owned(), join.cluster_domain.clone().into());
    if !join.cluster_dns.is_empty() {
        config.insert("clusterDNS".to_owned(), join.cluster_dns.clone().into());
    }
    let own = &machine.spec.node_taints;
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let of_profile = profile.spec.node.taints.iter().filter(|theirs| !own.iter().any(|ours| same(ours, theirs)));
    let taints: Vec<Value> = of_profile.chain(own).map(taint).collect();
    if !taints.is_empty() {
        config.insert("registerWithTaints".to_owned(), taints.into());
    }
    if let Some(own) = &join.kubelet_configuration {
        let own = own.iter().filter(|(key, _)| !KEPT.contains(&key.as_str()));
        lay_over(&mut config, own.map(|(key, value)| (key.clone(), value.clone())).collect());
    }
    Value::Object(config).to_string()
}

fn defaults() -> Map<String, Value> {
    let defaults = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": "/etc/kubernetes/pki/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "rotateCertificates": true,
        "serverTLSBootstrap": true,
        "cgroupDriver": "systemd",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    });
    match defaults {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn taint(taint: &Taint) -> Value {
    let Taint { key, value, effect } = taint;
    let effect = match effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    };
    match value {
        Some(value) => json!({ "key": key, "value": value, "effect": effect }),
        None => json!({ "key": key, "effect": effect }),
    }
}

/// Lays `over` over `base`: objects are merged key by key, everything else is replaced.
fn lay_over(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => lay_over(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use magnetite_api::{
        ProfileSpec,
        profile::{JoinSpec, NodeSpec, Taint},
    };

    use super::*;

    fn profile(own: Value) -> Profile {
        let Value::Object(own) = own else { panic!("an object") };
        let join = JoinSpec {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            kubelet_configuration: Some(own),
            ..JoinSpec::default()
        };
        let taints = vec![
            Taint { key: "gpu".into(), value: Some("a100".into()), effect: TaintEffect::NoSchedule },
            Taint { key: "new".into(), value: None, effect: TaintEffect::NoExecute },
        ];
        let node = NodeSpec { taints, ..NodeSpec::default() };
        Profile::new("p", ProfileSpec { join, node, ..ProfileSpec::default() })
    }

    #[test]
    fn golden() {
        let own = json!({ "maxPods": 32, "evictionHard": { "memory.available": "100Mi" }, "cgroupDriver": "cgroupfs" });
        let config: Value = serde_json::from_str(&configuration(&crate::fixtures::machine(), &profile(own))).unwrap();
        insta::assert_json_snapshot!(config);
    }

    #[test]
    fn a_machine_s_own_taints_come_beside_the_profile_s_and_win() {
        let mut machine = crate::fixtures::machine();
        let taint = |key: &str, effect| Taint { key: key.into(), value: Some("own".into()), effect };
        machine.spec.node_taints = vec![taint("gpu", TaintEffect::NoSchedule), taint("new", TaintEffect::NoSchedule)];
        let config: Value = serde_json::from_str(&configuration(&machine, &profile(json!({})))).unwrap();
        let want = json!([
            { "key": "new", "effect": "NoExecute" },
            { "key": "gpu", "value": "own", "effect": "NoSchedule" },
            { "key": "new", "value": "own", "effect": "NoSchedule" },
        ]);
        assert_eq!(config["registerWithTaints"], want);
    }

    #[test]
    fn what_keeps_strangers_out_stays() {
        let own = json!({
            "kind": "Other", "authentication": { "anonymous": { "enabled": true } },
            "authorization": { "mode": "AlwaysAllow" }, "rotateCertificates": false, "serverTLSBootstrap": false,
        });
        let config: Value = serde_json::from_str(&configuration(&crate::fixtures::machine(), &profile(own))).unwrap();
        assert_eq!(config["kind"], "KubeletConfiguration");
        assert_eq!(config["authentication"]["anonymous"]["enabled"], false);
        assert_eq!(config["authorization"]["mode"], "Webhook");
        assert_eq!(config["rotateCertificates"], true);
        assert_eq!(config["serverTLSBootstrap"], true);
    }

    #[test]
    fn objects_merge_and_the_rest_is_replaced() {
        let mut base = json!({ "a": { "b": 1, "c": [1, 2] }, "d": 1 });
        let over = json!({ "a": { "c": [3], "e": 2 }, "d": { "f": 1 } });
        let (Value::Object(base), Value::Object(over)) = (&mut base, over) else { panic!("objects") };
        lay_over(base, over);
        assert_eq!(Value::Object(base.clone()), json!({ "a": { "b": 1, "c": [3], "e": 2 }, "d": { "f": 1 } }));
    }
}
