use std::sync::{Arc, Mutex};

use http::{Request, Response};
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::client::Body;
use magnetite_api::conditions::reason;

use super::*;
use crate::fixtures::t0;

fn pod(name: &str, owner: Option<&str>) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.into());
    pod.metadata.namespace = Some("default".into());
    pod.metadata.uid = Some(format!("uid-{name}"));
    pod.metadata.owner_references = owner
        .map(|kind| vec![OwnerReference { kind: kind.into(), controller: Some(true), ..OwnerReference::default() }]);
    pod
}

fn phase(phase: &str) -> Pod {
    let status = PodStatus { phase: Some(phase.into()), ..PodStatus::default() };
    Pod { status: Some(status), ..pod("p", Some("Job")) }
}

#[test]
fn who_may_stay() {
    let mut mirror = pod("kube-proxy", Some("Node"));
    mirror.metadata.annotations = Some([("kubernetes.io/config.mirror".to_owned(), "x".to_owned())].into());
    for stays in [pod("p", Some("DaemonSet")), mirror, phase("Succeeded"), phase("Failed")] {
        assert_eq!(PodSeen::of(&stays), None, "{stays:?}");
    }
    for leaves in [pod("p", Some("ReplicaSet")), pod("p", None), phase("Running"), phase("Pending")] {
        assert!(PodSeen::of(&leaves).is_some(), "{leaves:?}");
    }
}

#[test]
fn what_is_waited_for() {
    let mut ending = pod("ending", Some("ReplicaSet"));
    ending.metadata.deletion_timestamp = Some(Time(t0()));
    let all = [ending, pod("web", Some("ReplicaSet")), pod("db", Some("StatefulSet")), pod("bare", None)];
    let pods: Vec<_> = all.iter().filter_map(PodSeen::of).collect();
    assert_eq!(Drain::default().waits(), None, "an empty Node");

    let drain = |pods: &[PodSeen], refused: &[(&str, &str)]| Drain {
        pods: pods.to_vec(),
        refused: refused.iter().map(|(uid, words)| ((*uid).to_owned(), (*words).to_owned())).collect(),
    };
    let waits = drain(&pods[..2], &[]).waits().unwrap();
    assert_eq!((waits.reason, waits.evict.len()), (reason::DRAINING, 1), "what ends already is not asked again");
    let waits = drain(&pods, &[("uid-db", "The disruption budget db needs 2 healthy pods and has 2 currently")])
        .waits()
        .unwrap();
    assert_eq!(waits.reason, reason::DRAIN_BLOCKED);
    let evicted: Vec<_> = waits.evict.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(evicted, ["web", "db"], "a Pod that nobody makes anew is never evicted");
    assert_eq!(
        waits.message,
        "4 Pods have to leave: default/bare has no controller and would be lost: delete it; default/db may not be evicted: \
         The disruption budget db needs 2 healthy pods and has 2 currently; default/web; and 1 more"
    );
}

/// Method and path of each request, and its body.
type Requests = Arc<Mutex<Vec<(String, Value)>>>;

/// An API server that answers each request by its path, and the requests that it saw.
fn server(answer: impl Fn(&str) -> (u16, Value) + Send + Sync + Clone + 'static) -> (Client, Requests) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, log) = (answer.clone(), Arc::clone(&log));
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?;
            let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            let (code, value) = answer(&path);
            log.lock().unwrap().push((format!("{} {path}", parts.method), body));
            Ok::<_, tower::BoxError>(Response::builder().status(code).body(Body::from(value.to_string().into_bytes()))?)
        }
    });
    (Client::new(service, "default"), seen)
}

fn status(code: u16, message: &str, causes: Value) -> (u16, Value) {
    let details = json!({ "causes": causes });
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": "x", "message": message, "details": details }),
    )
}

#[tokio::test]
async fn a_budget_is_respected_and_named_and_the_others_go_on() {
    let (client, seen) = server(|path| match path {
        path if path.contains("/pods/db/eviction") => status(
            429,
            "Cannot evict pod as it would violate the pod's disruption budget.",
            json!([{ "reason": "DisruptionBudget", "message": "The disruption budget db needs 2 healthy pods and has 2 currently" }]),
        ),
        path if path.contains("/pods/gone/eviction") => status(404, "not found", json!([])),
        path if path.contains("/eviction") => {
            (201, json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }))
        }
        _ => (
            200,
            json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod("db", Some("StatefulSet"))] }),
        ),
    });
    let refusals = Refusals::default();
    let pods: Vec<_> =
        ["db", "gone", "web"].iter().filter_map(|name| PodSeen::of(&pod(name, Some("ReplicaSet")))).collect();
    evict(&client, &pods, &refusals).await.unwrap();
    let drain = look(&client, "box-1", &refusals).await.unwrap();
    assert!(drain.waits().unwrap().message.contains("budget db needs 2"), "{drain:?}");
    assert_eq!(refusals.of(&pods).len(), 1);

    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[0].0, "POST /api/v1/namespaces/default/pods/db/eviction?");
    assert_eq!(seen[0].1.pointer("/deleteOptions/preconditions/uid"), Some(&"uid-db".into()));
    assert!(seen[0].1.pointer("/deleteOptions/gracePeriodSeconds").is_none(), "each Pod ends as it says itself");
    assert!(
        seen[3].0.contains("fieldSelector=spec.nodeName%3Dbox-1") && seen[3].0.contains("limit=500"),
        "{}",
        seen[3].0
    );
}

#[tokio::test]
async fn an_api_server_that_is_away_is_an_error() {
    let (client, _) = server(|_| (503, json!("no status at all")));
    assert!(look(&client, "box-1", &Refusals::default()).await.is_err());
}

#[tokio::test]
async fn a_node_is_changed_only_if_it_is_the_one_that_was_seen() {
    let (client, seen) =
        server(|_| (200, json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": "box-1" } })));
    cordon(&client, "box-1", "uid-n").await.unwrap();
    uncordon(&client, "box-1", "uid-n").await.unwrap();
    restart(&client, "box-1", "uid-n", Some("created.a.1@b")).await.unwrap();
    let bodies: Vec<_> = seen.lock().unwrap().iter().map(|(_, body)| body.clone()).collect();
    assert!(bodies.iter().all(|body| body["metadata"]["uid"] == "uid-n"), "{bodies:?}");
    assert_eq!(bodies[0]["spec"]["unschedulable"], true);
    assert_eq!(bodies[0]["metadata"]["annotations"][ANNOTATION_CORDONED], "true");
    assert_eq!(bodies[1]["spec"], json!({ "unschedulable": null }));
    assert_eq!(bodies[1]["metadata"]["annotations"], json!({ ANNOTATION_CORDONED: null }));
    assert_eq!(bodies[2]["metadata"]["annotations"][ANNOTATION_RESTART], "created.a.1@b");
    assert!(bodies[2].get("spec").is_none());
}
