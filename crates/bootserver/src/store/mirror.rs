//! The cluster's objects of one kind, as a watch tells of them: a value, without a client.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Resource, ResourceExt, core::DeserializeGuard, runtime::watcher::Event};
use magnetite_api::{
    Machine, MachineClaim, Profile,
    machine::{MachineStatus, MaintenanceStage, MaintenanceStatus},
    update::{UpdateStage, UpdateStatus},
};

/// An object of which only a part is read here.
pub trait Trim: Resource<DynamicType = ()> + Clone + Debug + PartialEq {
    /// Drops what is not read. Most changes of an object change nothing else, and then nothing has to be done.
    fn trim(&mut self) {}
}

impl Trim for Machine {
    fn trim(&mut self) {
        // What is told of a Machine's boot comes from boot servers in the first place.
        self.status = self.status.take().map(
            |MachineStatus { intent, identity, tpm, install, wipe, update, maintenance, queued, .. }| MachineStatus {
                intent,
                identity,
                tpm,
                install,
                wipe,
                queued,
                maintenance: maintenance.map(|maintenance| Box::new(settled(*maintenance))),
                update: update.map(|update| Box::new(still(*update))),
                ..MachineStatus::default()
            },
        );
    }
}

/// Of an update only the intent is read here; what it waits for changes all the time.
fn still(update: UpdateStatus) -> UpdateStatus {
    let (since, stage) = (update.started_at.clone(), UpdateStage::Draining);
    UpdateStatus { since, stage, reason: None, message: None, ..update }
}

/// That it is out of service is read here, and not how far it is.
fn settled(maintenance: MaintenanceStatus) -> MaintenanceStatus {
    MaintenanceStatus { stage: MaintenanceStage::Restarting, ..maintenance }
}

impl Trim for Profile {
    fn trim(&mut self) {
        self.status = None;
    }
}

impl Trim for MachineClaim {}

impl Trim for ConfigMap {}

/// The objects of one kind. What is being listed anew is kept apart until it is whole: half a list must not unmake the
/// other half's machines.
#[derive(Debug)]
pub struct Mirror<K> {
    objects: BTreeMap<String, Arc<K>>,
    listing: Option<BTreeMap<String, Arc<K>>>,
    unreadable: BTreeSet<String>,
    synced: bool,
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: None, unreadable: BTreeSet::new(), synced: false }
    }
}

impl<K: Trim> Mirror<K> {
    /// Takes one event; true if anything changed that is read here.
    pub fn on(&mut self, event: Event<DeserializeGuard<K>>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                self.unreadable.clear();
                false
            }
            Event::InitApply(object) => {
                let (name, object) = self.read(object);
                if let (Some(listing), Some(object)) = (&mut self.listing, object) {
                    listing.insert(name, object);
                }
                false
            }
            Event::InitDone => {
                let new = self.listing.take().unwrap_or_default();
                let changed = !self.synced || new != self.objects;
                (self.objects, self.synced) = (new, true);
                changed
            }
            Event::Apply(object) => match self.read(object) {
                (name, Some(object)) => self.objects.insert(name, Arc::clone(&object)).as_ref() != Some(&object),
                (name, None) => self.objects.remove(&name).is_some(),
            },
            Event::Delete(object) => {
                let name = object.name_any();
                self.unreadable.remove(&name);
                self.objects.remove(&name).is_some()
            }
        }
    }

    /// Reads an object. One that cannot be read is left out, and the others are served.
    fn read(&mut self, object: DeserializeGuard<K>) -> (String, Option<Arc<K>>) {
        let name = object.name_any();
        match object.0 {
            Ok(mut object) => {
                self.unreadable.remove(&name);
                let meta = object.meta_mut();
                (meta.managed_fields, meta.resource_version, meta.annotations) = (None, None, None);
                object.trim();
                (name, Some(Arc::new(object)))
            }
            Err(invalid) => {
                if self.unreadable.insert(name.clone()) {
                    let (kind, error) = (K::kind(&()), &invalid.error);
                    tracing::error!(%kind, name, error, "an object cannot be read and is left out");
                }
                (name, None)
            }
        }
    }

    /// The objects, by name.
    pub fn objects(&self) -> &BTreeMap<String, Arc<K>> {
        &self.objects
    }

    /// How many objects cannot be read.
    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// True once all were listed.
    pub fn is_synced(&self) -> bool {
        self.synced
    }
}

#[cfg(test)]
mod tests {
    use kube::core::error_boundary::InvalidObject;
    use magnetite_api::machine::Phase;

    use super::*;
    use crate::fixtures::machine;

    fn good(name: &str) -> DeserializeGuard<Machine> {
        DeserializeGuard(Ok(machine(name)))
    }

    fn bad(name: &str) -> DeserializeGuard<Machine> {
        let metadata = machine(name).metadata;
        DeserializeGuard(Err(InvalidObject { error: "no".to_owned(), metadata }))
    }

    fn names(mirror: &Mirror<Machine>) -> Vec<&str> {
        mirror.objects().keys().map(String::as_str).collect()
    }

    fn listed(objects: impl IntoIterator<Item = DeserializeGuard<Machine>>) -> Mirror<Machine> {
        let mut mirror = Mirror::default();
        relist(&mut mirror, objects);
        mirror
    }

    fn relist(mirror: &mut Mirror<Machine>, objects: impl IntoIterator<Item = DeserializeGuard<Machine>>) -> bool {
        mirror.on(Event::Init);
        for object in objects {
            assert!(!mirror.on(Event::InitApply(object)));
        }
        mirror.on(Event::InitDone)
    }

    #[test]
    fn half_a_list_takes_nothing_away() {
        let mut mirror = listed([good("a"), good("b")]);
        assert!(mirror.is_synced());
        mirror.on(Event::Init);
        mirror.on(Event::InitApply(good("a")));
        assert_eq!(names(&mirror), ["a", "b"]);
        assert!(mirror.on(Event::InitDone));
        assert_eq!(names(&mirror), ["a"]);
        assert!(!relist(&mut mirror, [good("a")]), "the same again is no change");
    }

    #[test]
    fn an_empty_cluster_is_in_sync_too() {
        let mut mirror = Mirror::<Machine>::default();
        assert!(!mirror.is_synced());
        assert!(relist(&mut mirror, []), "the first list is always news");
        assert!(mirror.is_synced());
    }

    #[test]
    fn one_that_cannot_be_read_stops_no_other() {
        let mut mirror = listed([good("a"), bad("b")]);
        assert_eq!((names(&mirror), mirror.unreadable()), (vec!["a"], 1));
        assert!(mirror.on(Event::Apply(good("b"))));
        assert_eq!((names(&mirror), mirror.unreadable()), (vec!["a", "b"], 0));
        assert!(mirror.on(Event::Apply(bad("a"))), "an older version is not served in its place");
        assert_eq!(names(&mirror), ["b"]);
        assert!(!mirror.on(Event::Delete(bad("a"))));
        assert_eq!(mirror.unreadable(), 0);
    }

    #[test]
    fn what_is_not_read_changes_nothing() {
        let mut mirror = listed([good("a")]);
        let mut object = machine("a");
        object.metadata.resource_version = Some("7".to_owned());
        object.metadata.annotations = Some([("note".to_owned(), "x".to_owned())].into());
        object.status.get_or_insert_default().phase = Some(Phase::Booting);
        // A status without an intent is the first change, and the phase in it is not.
        mirror.on(Event::Apply(DeserializeGuard(Ok(object.clone()))));
        object.status.get_or_insert_default().phase = Some(Phase::Ready);
        assert!(!mirror.on(Event::Apply(DeserializeGuard(Ok(object)))));
    }
}
