//! The API server and its store, as far as anything here uses them: versions that a write is refused by, the status and approval
//! subresources, finalizers, merge and apply patches, and a log from which watches are fed.

pub mod http;
pub mod objects;
mod pods;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::clock;
pub use objects::{Kind, Object};
use pods::Pods;

/// Why a request is refused: as HTTP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub u16, pub &'static str);

pub const NOT_FOUND: Refused = Refused(404, "NotFound");
pub const CONFLICT: Refused = Refused(409, "Conflict");
pub const EXISTS: Refused = Refused(409, "AlreadyExists");
pub const INVALID: Refused = Refused(422, "Invalid");

pub type Answer = Result<Value, Refused>;

/// A fault that no API server has: put in on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Writes are taken whatever they were made from.
    IgnoresVersions,
    /// Reads are answered from a copy that is a minute old.
    ReadsOldCopies,
    /// `status.identity` is dropped from what is written, as by a schema that does not know it.
    DropsIdentities,
    /// Boot servers serve the whole chain whatever the window says.
    ServesAlways,
    /// Boot servers have every box wiped that asks.
    WipesAll,
    /// Agents install whatever the mark on the disk says.
    IgnoresMarks,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    Controller(usize),
    Server(usize),
    /// The kubelet of this node.
    Kubelet(String),
    Signer,
    /// A person, or what the cluster does by itself.
    Person,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: Kind,
    pub name: String,
    pub before: Option<Object>,
    pub after: Option<Object>,
    pub by: Actor,
}

/// An object as it is stored, and as it is read: once, however often.
#[derive(Clone)]
struct Stored {
    value: Arc<Value>,
    object: Object,
}

type Objects = BTreeMap<(Kind, String), Stored>;

/// A copy of everything.
#[derive(Clone)]
pub struct Backup(Objects);

#[derive(Default)]
pub struct Cluster {
    objects: Objects,
    /// What was there at some moments, for a server that reads old copies.
    past: Vec<(i64, Objects)>,
    version: u64,
    uids: BTreeMap<Kind, u32>,
    log: BTreeMap<Kind, Vec<Change>>,
    /// Changes that the world has not looked at yet.
    pub news: Vec<Change>,
    /// Counts restores: a watch from before one is of no use.
    pub era: u32,
    pub broken: Option<Broken>,
    /// Refuses everything, as one that is away.
    pub away: bool,
    /// Pods on the Nodes.
    pub pods: Pods,
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

impl Cluster {
    pub fn new(broken: Option<Broken>) -> Self {
        Self { broken, ..Self::default() }
    }

    pub fn log(&self, kind: Kind) -> &[Change] {
        self.log.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// What is there, of one kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = Object> {
        let of_kind = self.objects.iter().filter(move |((other, _), _)| *other == kind);
        of_kind.map(|(_, stored)| stored.object.clone())
    }

    pub fn object(&self, kind: Kind, name: &str) -> Option<Object> {
        self.objects.get(&(kind, name.to_owned())).map(|stored| stored.object.clone())
    }

    pub fn exists(&self, kind: Kind, name: &str) -> bool {
        self.objects.contains_key(&(kind, name.to_owned()))
    }

    pub fn backup(&self) -> Backup {
        Backup(self.objects.clone())
    }

    /// Puts everything back to what it was, as etcd is restored: versions do not go back (`--bump-revision`), and watches end.
    pub fn restore(&mut self, backup: &Backup) {
        self.objects.clone_from(&backup.0);
        self.version += 100_000;
        self.era += 1;
        self.log.clear();
    }

    fn stored(&self, kind: Kind, name: &str) -> Result<Value, Refused> {
        let stored = self.objects.get(&(kind, name.to_owned())).ok_or(NOT_FOUND)?;
        Ok(Value::clone(&stored.value))
    }

    pub fn get(&self, kind: Kind, name: &str) -> Answer {
        if self.broken == Some(Broken::ReadsOldCopies) {
            let minute_ago = clock::now() - jiff::SignedDuration::from_secs(60);
            let old = self.past.iter().rev().find(|(at, _)| clock::at(*at) <= minute_ago);
            if let Some(stored) = old.and_then(|(_, objects)| objects.get(&(kind, name.to_owned()))) {
                return Ok(Value::clone(&stored.value));
            }
        }
        self.stored(kind, name)
    }

    /// Remembers everything as it is now, for [`Broken::ReadsOldCopies`].
    pub fn remember(&mut self, now: i64) {
        if self.broken == Some(Broken::ReadsOldCopies) {
            self.past.push((now, self.objects.clone()));
        }
    }

    pub fn create(&mut self, kind: Kind, mut object: Value, by: Actor) -> Answer {
        let name = text(&object, "/metadata/name").ok_or(INVALID)?.to_owned();
        if self.exists(kind, &name) {
            return Err(EXISTS);
        }
        let count = self.uids.entry(kind).or_default();
        *count += 1;
        let uid = format!("uid-{kind:?}-{count}");
        let created = magnetite_api::time::seconds(clock::now());
        let metadata = object["metadata"].as_object_mut().ok_or(INVALID)?;
        metadata.insert("uid".into(), uid.into());
        metadata.insert("creationTimestamp".into(), json!(created));
        metadata.insert("generation".into(), 1.into());
        metadata.remove("resourceVersion");
        self.commit(kind, &name, Some(object), by)
    }

    /// Replaces one subresource of an object: the rest of what was sent is not looked at.
    pub fn replace(&mut self, kind: Kind, name: &str, sent: &Value, part: &str, by: Actor) -> Answer {
        let mut object = self.stored(kind, name)?;
        self.same_version(&object, sent)?;
        match part {
            "status" => object["status"] = sent["status"].clone(),
            "approval" => object["status"]["conditions"] = sent["status"]["conditions"].clone(),
            _ => return Err(NOT_FOUND),
        }
        if self.broken == Some(Broken::DropsIdentities)
            && kind == Kind::Machine
            && let Some(status) = object["status"].as_object_mut()
        {
            status.remove("identity");
        }
        self.commit(kind, name, Some(object), by)
    }

    fn same_version(&self, stored: &Value, sent: &Value) -> Result<(), Refused> {
        let differ = |field: &str| sent.pointer(field).is_some_and(|sent| Some(sent) != stored.pointer(field));
        let versions = self.broken != Some(Broken::IgnoresVersions) && differ("/metadata/resourceVersion");
        if versions || differ("/metadata/uid") { Err(CONFLICT) } else { Ok(()) }
    }

    /// A merge patch (RFC 7386).
    pub fn merge(&mut self, kind: Kind, name: &str, patch: &Value, by: Actor) -> Answer {
        let mut object = self.stored(kind, name)?;
        self.same_version(&object, patch)?;
        merge(&mut object, patch);
        self.commit(kind, name, Some(object), by)
    }

    /// Server-side apply of labels and annotations, which is all that the controller applies.
    pub fn apply_marks(&mut self, kind: Kind, name: &str, patch: &Value, manager: &str, by: Actor) -> Answer {
        // With a UID, nothing is created where there is nothing: that is a conflict to the API server.
        let mut object = self.stored(kind, name).map_err(|_| CONFLICT)?;
        self.same_version(&object, patch)?;
        let managed = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let (mine, mut others): (Vec<_>, Vec<_>) =
            managed.into_iter().partition(|entry| entry["manager"] == manager && entry["operation"] == "Apply");
        let mut owned = Map::new();
        for field in ["labels", "annotations"] {
            let managed = format!("f:{field}");
            let old = mine.iter().filter_map(|entry| entry["fieldsV1"]["f:metadata"][&managed].as_object());
            let old: Vec<String> = old.flat_map(Map::keys).map(|key| key.trim_start_matches("f:").to_owned()).collect();
            let wanted = patch["metadata"][field].as_object().cloned().unwrap_or_default();
            if object["metadata"][field].is_null() {
                object["metadata"][field] = json!({});
            }
            let there = object["metadata"][field].as_object_mut().ok_or(INVALID)?;
            there.retain(|key, _| !old.contains(key) || wanted.contains_key(key));
            there.extend(wanted.clone());
            let keys: Map<String, Value> = wanted.keys().map(|key| (format!("f:{key}"), json!({}))).collect();
            owned.insert(managed, keys.into());
        }
        others.push(json!({
            "manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": { "f:metadata": owned },
        }));
        object["metadata"]["managedFields"] = others.into();
        self.commit(kind, name, Some(object), by)
    }

    pub fn delete(&mut self, kind: Kind, name: &str, uid: Option<&str>, by: Actor) -> Answer {
        let mut object = self.stored(kind, name)?;
        if uid.is_some_and(|uid| Some(uid) != text(&object, "/metadata/uid")) {
            return Err(CONFLICT);
        }
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty());
        if !held {
            return self.commit(kind, name, None, by);
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!(magnetite_api::time::seconds(clock::now()));
            let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
            object["metadata"]["generation"] = (generation + 1).into();
        }
        self.commit(kind, name, Some(object), by)
    }

    /// Changes an object as its owner does, whatever else is under way.
    pub fn edit(&mut self, kind: Kind, name: &str, by: Actor, change: impl FnOnce(&mut Value)) -> Answer {
        let mut object = self.stored(kind, name)?;
        let spec = object["spec"].clone();
        change(&mut object);
        if object["spec"] != spec {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
            object["metadata"]["generation"] = (generation + 1).into();
        }
        self.commit(kind, name, Some(object), by)
    }

    fn commit(&mut self, kind: Kind, name: &str, object: Option<Value>, by: Actor) -> Answer {
        let key = (kind, name.to_owned());
        let before = self.objects.get(&key).cloned();
        let leaves = |object: &Value| {
            let held = object["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty());
            !object["metadata"]["deletionTimestamp"].is_null() && !held
        };
        let object = object.filter(|object| !leaves(object));
        if let (Some(before), Some(object)) = (&before, &object)
            && *before.value == *object
        {
            return Ok(Value::clone(object));
        }
        self.version += 1;
        let after = object.map(|mut object| {
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            let value = Arc::new(object);
            Stored { object: Object::read(kind, &value), value }
        });
        match &after {
            Some(stored) => self.objects.insert(key, stored.clone()),
            None => self.objects.remove(&key),
        };
        let read = |stored: &Stored| stored.object.clone();
        let change = Change {
            kind,
            name: name.to_owned(),
            before: before.as_ref().map(read),
            after: after.as_ref().map(read),
            by,
        };
        self.log.entry(kind).or_default().push(change.clone());
        self.news.push(change);
        Ok(after.or(before).map(|stored| Value::clone(&stored.value)).unwrap_or_default())
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(into) = into.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
