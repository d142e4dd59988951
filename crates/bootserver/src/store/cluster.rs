//! The view from a cluster: watched, and kept on disk for when the API server is away.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures::{Stream, StreamExt, future};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{WatchStreamExt, reflector, reflector::Store, watcher},
};
use magnetite_api::{Machine, MachineClaim, Profile};
use magnetite_boot::fleet::Fleet;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::snapshot::{self, Snapshot};
use crate::view::{ConfigMaps, View, Writer};

/// How long changes are gathered before the view is built anew: a site of thousands of Machines changes in bursts.
const GATHER: Duration = Duration::from_millis(50);
/// How long between two writes of the snapshot.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);

/// Publishes what the snapshot holds, if there is one. Returns true if so.
pub fn from_snapshot(data: &Path, view: &Writer) -> bool {
    match snapshot::load(data) {
        Ok(Some(Snapshot { machines, profiles, config_maps })) => {
            tracing::info!(
                machines = machines.len(),
                profiles = profiles.len(),
                "serving from the snapshot until the API server answers"
            );
            let new = View {
                fleet: Fleet::index(machines.into_iter().map(Arc::new)),
                profiles: profiles.into_iter().map(Arc::new).collect(),
                config_maps,
                ..View::default()
            };
            view.send_replace(Arc::new(new));
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "no snapshot");
            false
        }
    }
}

/// Watches the cluster and keeps the view up to date until `stop`. `synced` is called once everything was listed.
pub async fn run(
    client: Client,
    namespace: String,
    data: PathBuf,
    view: Writer,
    synced: impl FnOnce() + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let changed = Arc::new(Notify::new());
    let (machines, a) = watch::<Machine>(Api::all(client.clone()), &changed);
    let (profiles, b) = watch::<Profile>(Api::all(client.clone()), &changed);
    let (config_maps, c) = watch::<ConfigMap>(Api::namespaced(client.clone(), &namespace), &changed);
    let (claims, d) = watch::<MachineClaim>(Api::all(client), &changed);
    let publish = async {
        // Until everything was listed once, what the snapshot says is better than a part of the truth.
        let ready = future::join4(
            machines.wait_until_ready(),
            profiles.wait_until_ready(),
            config_maps.wait_until_ready(),
            claims.wait_until_ready(),
        );
        let (a, b, c, d) = ready.await;
        a.and(b).and(c).and(d).context("a watch ended before it listed anything")?;
        synced();
        tracing::info!(machines = machines.len(), profiles = profiles.len(), "synced with the API server");
        let mut saved = None;
        loop {
            let new = build(&machines, &profiles, &config_maps, &claims);
            saved = save(&data, saved, &new).await;
            view.send_replace(Arc::new(new));
            changed.notified().await;
            tokio::time::sleep(GATHER).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        _ = future::join4(a, b, c, d) => anyhow::bail!("the watches ended"),
        result = publish => result,
    }
}

type Watch = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn watch<K>(api: Api<K>, changed: &Arc<Notify>) -> (Store<K>, Watch)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store::<K>();
    let stream = watcher(api, watcher::Config::default())
        // Nobody here reads who wrote which field, and it is half of an object's size.
        .modify(|object| object.managed_fields_mut().clear())
        .default_backoff()
        .reflect(writer);
    let changed = Arc::clone(changed);
    (store, Box::pin(drive(stream, changed)))
}

async fn drive<K: Resource<DynamicType = ()>>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    changed: Arc<Notify>,
) {
    let mut stream = pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(_) => changed.notify_one(),
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "watch interrupted; trying again");
            }
        }
    }
}

fn build(
    machines: &Store<Machine>,
    profiles: &Store<Profile>,
    config_maps: &Store<ConfigMap>,
    claims: &Store<MachineClaim>,
) -> View {
    let mut machines = machines.state();
    machines.sort_by_key(|machine| machine.name_any());
    let mut profiles = profiles.state();
    profiles.sort_by_key(|profile| profile.name_any());
    let config_maps: ConfigMaps =
        config_maps.state().iter().map(|map| (map.name_any(), map.data.clone().unwrap_or_default())).collect();
    View {
        fleet: Fleet::index(machines),
        profiles,
        config_maps,
        claims: claims.state().into_iter().map(|claim| (claim.name_any(), claim)).collect(),
        windows: BTreeMap::new(),
    }
}

/// Writes the snapshot, at most once a second; what is not written now is written with the next change or not at
/// all, since a watch tells of the window's opening and closing separately.
async fn save(
    data: &Path,
    last: Option<(tokio::time::Instant, u64)>,
    view: &View,
) -> Option<(tokio::time::Instant, u64)> {
    let machines: Vec<_> = view.fleet.machines().cloned().collect();
    let snapshot = snapshot::of(&machines, &view.profiles, &view.config_maps);
    let fingerprint = fingerprint(&snapshot);
    if let Some((at, before)) = last {
        if before == fingerprint {
            return last;
        }
        tokio::time::sleep_until(at + SNAPSHOT_EVERY).await;
    }
    let data = data.to_owned();
    let written = tokio::task::spawn_blocking(move || snapshot::save(&data, &snapshot)).await;
    match written {
        Ok(Ok(())) => Some((tokio::time::Instant::now(), fingerprint)),
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "no snapshot was written");
            last
        }
        Err(_) => last,
    }
}

/// Changes when anything does that the boot path reads: resourceVersions would do, were status updates not most
/// of what changes them.
fn fingerprint(snapshot: &Snapshot) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for machine in &snapshot.machines {
        machine.uid().hash(&mut hasher);
        machine.metadata.generation.hash(&mut hasher);
        machine.labels().hash(&mut hasher);
        machine.metadata.deletion_timestamp.is_some().hash(&mut hasher);
        let intent = machine.status.as_ref().and_then(|status| status.intent.as_ref());
        intent.map(|intent| serde_json::to_string(intent).unwrap_or_default()).hash(&mut hasher);
    }
    for profile in &snapshot.profiles {
        (profile.uid(), profile.metadata.generation).hash(&mut hasher);
    }
    snapshot.config_maps.hash(&mut hasher);
    hasher.finish()
}
