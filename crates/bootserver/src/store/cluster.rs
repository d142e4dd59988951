//! The view from a cluster: watched, and kept on disk for when the API server is away.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use magnetite_api::{Machine, MachineClaim, Profile};
use magnetite_boot::{capability::CapabilityKey, fleet::Fleet};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use magnetite_daemon::log::chain;

use super::{
    mirror::{Mirror, Trim},
    snapshot::{self, Snapshot},
};
use crate::{
    metrics::Metrics,
    view::{ConfigMaps, View, Writer},
};

/// How long changes are gathered before the view is built anew: a site of thousands of Machines changes in bursts.
const GATHER: Duration = Duration::from_millis(50);

/// Publishes what the snapshot holds, if there is one. Returns true if so.
pub fn from_snapshot(data: &Path, key: &CapabilityKey, view: &Writer) -> bool {
    match snapshot::load(data) {
        Ok(Some(Snapshot { machines, profiles, config_maps })) => {
            tracing::info!(
                machines = machines.len(),
                profiles = profiles.len(),
                "serving from the snapshot until the API server answers"
            );
            let fleet = Arc::new(Fleet::index(machines).with_ids(key));
            let new = View { fleet, profiles, config_maps, ..View::default() };
            view.send_replace(Arc::new(new));
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::error!(error = chain(&error), "no snapshot");
            false
        }
    }
}

/// A change of the cluster.
#[allow(clippy::large_enum_variant, reason = "one lives at a time, and is taken apart at once")]
enum Change {
    Machine(Event<DeserializeGuard<Machine>>),
    Profile(Event<DeserializeGuard<Profile>>),
    ConfigMap(Event<DeserializeGuard<ConfigMap>>),
    Claim(Event<DeserializeGuard<MachineClaim>>),
}

/// All that is watched.
#[derive(Debug, Default)]
struct Mirrors {
    machines: Mirror<Machine>,
    profiles: Mirror<Profile>,
    config_maps: Mirror<ConfigMap>,
    claims: Mirror<MachineClaim>,
    /// Built anew only when a Machine changes.
    fleet: Option<Arc<Fleet>>,
}

impl Mirrors {
    /// True if the view must be built anew.
    fn on(&mut self, change: Change) -> bool {
        match change {
            Change::Machine(event) => {
                let changed = self.machines.on(event);
                if changed {
                    self.fleet = None;
                }
                changed
            }
            Change::Profile(event) => self.profiles.on(event),
            Change::ConfigMap(event) => self.config_maps.on(event),
            Change::Claim(event) => self.claims.on(event),
        }
    }

    /// True once everything was listed: until then, what the snapshot says is better than a part of the truth.
    fn are_synced(&self) -> bool {
        let Self { machines, profiles, config_maps, claims, fleet: _ } = self;
        machines.is_synced() && profiles.is_synced() && config_maps.is_synced() && claims.is_synced()
    }

    fn unreadable(&self) -> usize {
        let Self { machines, profiles, config_maps, claims, fleet: _ } = self;
        machines.unreadable() + profiles.unreadable() + config_maps.unreadable() + claims.unreadable()
    }

    fn view(&mut self, key: &CapabilityKey) -> View {
        let machines = self.machines.objects().values();
        let fleet = self.fleet.get_or_insert_with(|| Arc::new(Fleet::index(machines.cloned()).with_ids(key)));
        let profiles: Vec<_> = self.profiles.objects().values().cloned().collect();
        View {
            fleet: Arc::clone(fleet),
            config_maps: named(&profiles, &self.config_maps),
            profiles,
            claims: self.claims.objects().clone(),
            ..View::default()
        }
    }
}

/// The ConfigMaps that Profiles name. The namespace has others, which are nobody's business here, nor the snapshot's.
fn named(profiles: &[Arc<Profile>], all: &Mirror<ConfigMap>) -> ConfigMaps {
    let names: BTreeSet<_> = profiles.iter().flat_map(|profile| profile.spec.config_maps()).collect();
    let data = |name: &str| Some((name.to_owned(), all.objects().get(name)?.data.clone().unwrap_or_default()));
    names.into_iter().filter_map(data).collect()
}

/// Watches the cluster and keeps the view up to date until `stop`. `synced` is called once everything was listed.
pub async fn run(
    client: Client,
    namespace: String,
    key: CapabilityKey,
    view: Writer,
    metrics: Metrics,
    synced: impl FnOnce() + Send,
    stop: CancellationToken,
) -> Result<(), WatchesEnded> {
    let changes: [BoxStream<'static, Change>; 4] = [
        watch(Api::all(client.clone())).map(Change::Machine).boxed(),
        watch(Api::all(client.clone())).map(Change::Profile).boxed(),
        watch(Api::namespaced(client.clone(), &namespace)).map(Change::ConfigMap).boxed(),
        watch(Api::all(client)).map(Change::Claim).boxed(),
    ];
    let mut changes = futures::stream::select_all(changes);
    let mut mirrors = Mirrors::default();
    let (mut synced, mut due) = (Some(synced), None::<Instant>);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            change = changes.next() => {
                let changed = mirrors.on(change.ok_or(WatchesEnded)?);
                if changed && mirrors.are_synced() {
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                view.send_replace(Arc::new(mirrors.view(&key)));
                metrics.unusable.set(i64::try_from(mirrors.unreadable()).unwrap_or(i64::MAX));
                if let Some(synced) = synced.take() {
                    let (machines, profiles) = (mirrors.machines.objects().len(), mirrors.profiles.objects().len());
                    tracing::info!(machines, profiles, "in sync with the API server");
                    synced();
                }
            }
        }
    }
}

/// The watches ended, which they never do.
#[derive(Debug, thiserror::Error)]
#[error("the watches of the cluster ended")]
pub struct WatchesEnded;

/// Watches one kind for ever, with a back-off.
fn watch<K>(api: Api<DeserializeGuard<K>>) -> impl Stream<Item = Event<DeserializeGuard<K>>> + Send + 'static
where
    K: Trim + DeserializeOwned + Send + Sync + 'static,
{
    watcher(api, watcher::Config::default()).default_backoff().filter_map(|event| {
        std::future::ready(match event {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), error = chain(&error), "watch interrupted; trying again");
                None
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use magnetite_api::profile::{ConfigMapKey, IgnitionSource};

    use super::*;
    use crate::fixtures::{machine, profile};

    fn all<K: Clone>(objects: &[K], change: fn(Event<DeserializeGuard<K>>) -> Change) -> Vec<Change> {
        let applied = objects.iter().map(|object| Event::InitApply(DeserializeGuard(Ok(object.clone()))));
        std::iter::once(Event::Init).chain(applied).chain([Event::InitDone]).map(change).collect()
    }

    fn config_map(name: &str) -> ConfigMap {
        let mut map =
            ConfigMap { data: Some([("config.ign".to_owned(), "{}".to_owned())].into()), ..ConfigMap::default() };
        map.metadata.name = Some(name.to_owned());
        map
    }

    #[test]
    fn nothing_is_believed_before_everything_was_listed() {
        let mut workers = profile("workers");
        let from = ConfigMapKey { name: "workers".to_owned(), key: "config.ign".to_owned() };
        workers.spec.ignition = Some(IgnitionSource { inline: None, config_map: Some(from) });
        let mut mirrors = Mirrors::default();
        let lists = [
            all(&[machine("a")], Change::Machine),
            all(&[workers], Change::Profile),
            all(&[config_map("workers"), config_map("kube-root-ca.crt")], Change::ConfigMap),
            all(&[], Change::Claim),
        ];
        for list in lists {
            assert!(!mirrors.are_synced());
            for change in list {
                mirrors.on(change);
            }
        }
        assert!(mirrors.are_synced());
        let key = CapabilityKey::new([7; 32]);
        let view = mirrors.view(&key);
        assert_eq!(view.fleet.machines().count(), 1);
        assert_eq!(view.config_maps.keys().collect::<Vec<_>>(), ["workers"], "those that a Profile names");
        assert_eq!(view.ignition(&view.profiles[0]), Some("{}"));
        let fleet = Arc::clone(&view.fleet);
        mirrors.on(Change::Profile(Event::Apply(DeserializeGuard(Ok(profile("other"))))));
        assert!(Arc::ptr_eq(&fleet, &mirrors.view(&key).fleet), "the index is built anew only for Machines");
        mirrors.on(Change::Machine(Event::Apply(DeserializeGuard(Ok(machine("b"))))));
        assert_eq!(mirrors.view(&key).fleet.machines().count(), 2);
    }
}
