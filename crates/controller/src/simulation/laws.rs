//! What must hold at every moment, looked at when something changes. None of the code that is under test is used to say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use magnetite_api::{
    Machine, Sha256,
    claim::Decision,
    conditions,
    install::WipeState,
    machine::{DeletionPolicy, IntentState, MachineStatus},
    names::{LABEL_MACHINE, NODE_USER_PREFIX},
};
use magnetite_boot::plan::{Next, Task};

use super::{
    clock::{self, MINUTE},
    cluster::{Actor, Change, Kind, Object},
    controller::RESERVED,
    scene::Scene,
};

/// An agent takes no certificate that ends sooner.
const AGENTS_MARGIN: i64 = 2 * MINUTE;

#[derive(Default)]
pub struct Laws {
    /// The first law that was broken, and how.
    pub broken: Vec<String>,
    /// When the reconcile that is writing now began to read.
    pub began: i64,
    /// The Machines as they are in the store.
    pub machines: BTreeMap<String, Arc<Machine>>,
    /// When a Machine was deleted, by UID: from then on nothing is to be approved for it.
    deleted: BTreeMap<String, i64>,
    /// At which version the window of a Machine's intent was closed.
    closed: BTreeMap<(String, String), u64>,
    /// Keys that have a certificate, by Machine and intent and restore.
    keys: BTreeMap<(String, String, u32), BTreeSet<String>>,
    /// Requests that a controller made, in the same way.
    requests: BTreeMap<(String, String, u32), BTreeSet<String>>,
    /// When the newest certificate of a bound key ends, in the same way.
    ends: BTreeMap<(String, String, u32), i64>,
    /// The system lives in memory: it is served each time.
    live: bool,
    /// Notes of Events that may be told once.
    told: BTreeSet<String>,
    era: u32,
    /// When claims were made; when a conflict was told by an Event, and by a condition.
    pub claimed: BTreeMap<String, i64>,
    pub warned: Option<i64>,
    pub frozen: Option<i64>,
    /// For those who count: certificates, conflicts, refusals for want of a Machine.
    pub certificates: u32,
    pub conflicts: u32,
    pub gone: u32,
    /// How often the disk of a box was written, by Machine and intent and restore.
    installs: BTreeMap<(usize, String, String, u32), u32>,
    pub wiped: u32,
    pub held: u32,
}

fn version(machine: &Machine) -> u64 {
    machine.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Common name and key of a request, read without our own reader.
fn asked(csr: &CertificateSigningRequest) -> (String, String) {
    use x509_parser::prelude::FromDer;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&csr.spec.request.0).unwrap();
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).unwrap();
    let info = &request.certification_request_info;
    let name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    (name.to_owned(), Sha256::of(info.subject_pki.raw).to_string())
}

impl Laws {
    pub fn of(scene: &Scene) -> Self {
        Self { live: scene.live, ..Self::default() }
    }

    pub fn breach(&mut self, now: i64, text: impl Into<String>) {
        self.broken.push(format!("at {:.3} s: {}", now as f64 / 1000.0, text.into()));
    }

    /// The store is put back: what is known of it is what is in it.
    pub fn restored(&mut self, era: u32, machines: impl Iterator<Item = Arc<Machine>>) {
        self.machines = machines.map(|machine| (machine.name_any(), machine)).collect();
        let there: BTreeSet<String> = self.machines.values().filter_map(|machine| machine.uid()).collect();
        self.deleted.retain(|uid, _| !there.contains(uid));
        self.closed.clear();
        self.told.clear();
        self.era = era;
    }

    /// Something changed.
    pub fn changed(&mut self, now: i64, change: &Change) {
        match change.kind {
            Kind::Machine => {
                let of = |object: &Option<Object>| object.as_ref().and_then(|object| object.machine().cloned());
                self.machine(now, change, of(&change.before).as_deref(), of(&change.after));
            }
            Kind::Claim => self.claim(now, change),
            Kind::Request => self.request(now, change),
            Kind::Event => self.event(now, change),
            Kind::Profile | Kind::Report | Kind::Node => {}
        }
    }

    fn machine(&mut self, now: i64, change: &Change, before: Option<&Machine>, after: Option<Arc<Machine>>) {
        let Some(after) = after else {
            if let Some(machine) = before {
                self.went(now, machine);
            }
            if let Some(uid) = before.and_then(|machine| machine.uid()) {
                self.deleted.entry(uid).or_insert(now);
            }
            self.machines.remove(&change.name);
            return;
        };
        let uid = after.uid().unwrap_or_default();
        if after.metadata.deletion_timestamp.is_some() {
            self.deleted.entry(uid).or_insert(now);
        }
        let nothing = MachineStatus::default();
        let old = before.and_then(|machine| machine.status.as_ref()).unwrap_or(&nothing);
        let new = after.status.as_ref().unwrap_or(&nothing);
        self.identity(now, &after, old, new);
        let window = conditions::find(&new.conditions, conditions::WINDOW_OPEN);
        if self.frozen.is_none() && window.is_some_and(|window| window.reason == conditions::reason::CLAIM_CONFLICT) {
            self.frozen = Some(now);
        }
        self.window(now, &after, old, new);
        self.machines.insert(change.name.clone(), after);
        self.updates(now);
    }

    /// One machine at a time, as every Profile here has it.
    fn updates(&mut self, now: i64) {
        let active = |machine: &&Arc<Machine>| {
            machine
                .status
                .as_ref()
                .and_then(|status| status.update.as_ref())
                // The way back from maintenance is written as an update, and is as many machines' as a person gives back at once.
                .is_some_and(|update| update.stage.is_active() && !update.intent.contains(".maintenance-"))
        };
        let names: Vec<_> = self.machines.values().filter(active).map(|machine| machine.name_any()).collect();
        if names.len() > 1 {
            self.breach(now, format!("{names:?} are updated at once"));
        }
    }

    /// One key for a Machine and an intent, bound while its window is open, and never taken back.
    fn identity(&mut self, now: i64, machine: &Machine, old: &MachineStatus, new: &MachineStatus) {
        let name = machine.name_any();
        match (&old.identity, &new.identity) {
            (Some(_), None) => self.breach(now, format!("{name}: its identity vanished")),
            (Some(old), Some(new)) if old.intent == new.intent => {
                if (&old.claim_key, &old.kubelet_key) != (&new.claim_key, &new.kubelet_key) {
                    self.breach(
                        now,
                        format!("{name}: a second key took the place of the first in intent {}", new.intent),
                    );
                }
                if old.issued_at.is_some() && new.issued_at != old.issued_at {
                    self.breach(now, format!("{name}: the record of its certificate changed in intent {}", new.intent));
                }
            }
            (_, Some(bound)) => {
                let open = old.intent.as_ref().is_some_and(|intent| {
                    intent.id == bound.intent
                        && intent.state == IntentState::Open
                        && clock::at(self.began) < intent.expires_at.0
                });
                if !open {
                    self.breach(now, format!("{name}: a key was bound outside its window {:?}", old.intent));
                }
            }
            (None, None) => {}
        }
    }

    /// A window opens once for an intent, and only because the spec names it.
    fn window(&mut self, now: i64, machine: &Machine, old: &MachineStatus, new: &MachineStatus) {
        let (name, uid) = (machine.name_any(), machine.uid().unwrap_or_default());
        let Some(after) = &new.intent else {
            if old.intent.is_some() {
                self.breach(now, format!("{name}: its intent vanished"));
            }
            return;
        };
        if after.state != IntentState::Open {
            self.closed.entry((uid.clone(), after.id.clone())).or_insert_with(|| version(machine));
        }
        let Some(before) = old.intent.as_ref().filter(|before| before.id == after.id) else {
            if self.closed.contains_key(&(uid, after.id.clone())) {
                self.breach(now, format!("{name}: the window of intent {} was opened a second time", after.id));
            }
            return;
        };
        if before.state != IntentState::Open && after.state == IntentState::Open {
            self.breach(now, format!("{name}: the window of intent {} was opened again", after.id));
        }
        if before.state == IntentState::Frozen && after.state != IntentState::Frozen {
            self.breach(now, format!("{name}: intent {} was frozen and is {:?}", after.id, after.state));
        }
        // The window in which a box is wiped stays open until it is.
        let wipes = after.id.starts_with("wipe-");
        if !wipes && (before.opened_at != after.opened_at || before.expires_at != after.expires_at) {
            self.breach(now, format!("{name}: the window of intent {} was moved", after.id));
        }
    }

    fn claim(&mut self, now: i64, change: &Change) {
        let of = |object: &Option<Object>| object.as_ref().and_then(|object| object.claim().cloned());
        let (Some(claim), before) = (of(&change.after), of(&change.before)) else { return };
        self.claimed.entry(change.name.clone()).or_insert(now);
        let decision = |claim: &magnetite_api::MachineClaim| claim.status.as_ref().and_then(|status| status.decision);
        let was = before.as_deref().and_then(decision);
        if was == decision(&claim) {
            return;
        }
        if matches!(was, Some(Decision::Approved | Decision::Denied)) {
            self.breach(now, format!("{}: what was decided was decided again", change.name));
        }
        let machine = self.machines.get(&claim.spec.machine);
        let status = machine.and_then(|machine| machine.status.as_ref());
        let identity = status.and_then(|status| status.identity.as_ref());
        let reason = claim.status.as_ref().and_then(|status| status.reason.clone()).unwrap_or_default();
        match decision(&claim) {
            Some(Decision::Approved) => {
                self.certificates += 1;
                let recorded = identity.is_some_and(|identity| identity.issued_at.is_some());
                let gone = self.deleted.contains_key(&claim.spec.machine_uid);
                if !recorded && !gone {
                    self.breach(now, format!("{}: a certificate was handed over before it was on record", change.name));
                }
            }
            Some(Decision::Denied) if reason == "ClaimConflict" => {
                self.conflicts += 1;
                let intent = status.and_then(|status| status.intent.as_ref());
                let running = intent.is_some_and(|intent| {
                    // What is a Node already has nothing left to freeze.
                    let stopped = [IntentState::Frozen, IntentState::Fulfilled].contains(&intent.state);
                    intent.id == claim.spec.intent && !stopped
                });
                if running {
                    self.breach(now, format!("{}: a conflict was told and nothing is frozen", change.name));
                }
            }
            Some(Decision::Denied) if reason == "MachineGone" => self.gone += 1,
            Some(Decision::Denied | Decision::Bound | Decision::Challenged) | None => {}
        }
    }

    fn request(&mut self, now: i64, change: &Change) {
        let of = |object: &Option<Object>| object.as_ref().and_then(|object| object.request().cloned());
        let Some(csr) = of(&change.after) else { return };
        let before = of(&change.before);
        if before.is_none()
            && let Actor::Controller(_) = change.by
            && let Some(machine) = csr.labels().get(LABEL_MACHINE).and_then(|name| self.machines.get(name))
            && let Some(identity) = machine.status.as_ref().and_then(|status| status.identity.as_ref())
        {
            let key = (machine.uid().unwrap_or_default(), identity.intent.clone(), self.era);
            // A box that forgot all but its keys is given another one, once the first has ended: one for each that has.
            let end = self.ends.get(&key).copied();
            if end.is_some_and(|end| clock::at(self.began) >= clock::at(end - AGENTS_MARGIN)) {
                self.ends.remove(&key);
                self.requests.remove(&key);
            }
            let made = self.requests.entry(key).or_default();
            made.insert(change.name.clone());
            if made.len() > 1 {
                let text = format!("{}: {} requests were made in one intent", machine.name_any(), made.len());
                self.breach(now, text);
            }
        }
        let approved = |csr: &CertificateSigningRequest| {
            let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            conditions.iter().any(|condition| condition.type_ == "Approved")
        };
        let newly = approved(&csr) && !before.as_deref().is_some_and(approved);
        if newly && let Actor::Controller(_) = change.by {
            self.approved(now, &csr);
        }
    }

    /// Approved: for the node of a Machine that is there, for its bound key, or by its own kubelet.
    fn approved(&mut self, now: i64, csr: &CertificateSigningRequest) {
        let (subject, key) = asked(csr);
        let request = csr.name_any();
        let Some(node) = subject.strip_prefix(NODE_USER_PREFIX) else {
            return self.breach(now, format!("{request}: approved for {subject}, which is no node"));
        };
        if node == RESERVED {
            return self.breach(now, format!("{request}: approved for the reserved node {node}"));
        }
        let owner = self.machines.values().find(|machine| machine.node_name() == node);
        let gone_since = match owner {
            Some(machine) => machine.uid().and_then(|uid| self.deleted.get(&uid).copied()),
            None => self.deleted.values().copied().max().or(Some(0)),
        };
        // What was read a moment before it was deleted, no API server can make unread.
        if gone_since.is_some_and(|gone| gone <= self.began) {
            return self.breach(now, format!("{request}: approved for the node {node}, whose Machine is gone"));
        }
        let Some(machine) = owner else { return };
        let identity = machine.status.as_ref().and_then(|status| status.identity.as_ref());
        if csr.labels().contains_key(LABEL_MACHINE) {
            if identity.is_none_or(|identity| identity.kubelet_key != key) {
                self.breach(now, format!("{request}: approved for a key that is not bound to {}", machine.name_any()));
            }
        } else if csr.spec.username.as_deref() != Some(subject.as_str()) {
            self.breach(now, format!("{request}: {:?} got a certificate of {node}", csr.spec.username));
        } else if identity.is_none_or(|identity| identity.issued_at.is_none()) {
            self.breach(now, format!("{request}: approved for {node}, which has no certificate on record"));
        }
    }

    /// The signer made a certificate.
    pub fn signed(&mut self, now: i64, csr: &CertificateSigningRequest, machines: &[Arc<Machine>], era: u32, end: i64) {
        let Some(name) = csr.labels().get(LABEL_MACHINE) else { return };
        let Some(machine) = machines.iter().find(|machine| machine.name_any() == *name) else { return };
        let identity = machine.status.as_ref().and_then(|status| status.identity.as_ref());
        let Some(identity) =
            identity.filter(|identity| csr.creation_timestamp().is_some_and(|at| at.0 >= identity.bound_at.0))
        else {
            return;
        };
        let key = (machine.uid().unwrap_or_default(), identity.intent.clone(), era);
        self.ends.insert(key.clone(), end);
        let keys = self.keys.entry(key).or_default();
        keys.insert(asked(csr).1);
        if keys.len() > 1 {
            self.breach(now, format!("{name}: two keys have a certificate in intent {}", identity.intent));
        }
    }

    /// What a controller tells once, it tells once.
    fn event(&mut self, now: i64, change: &Change) {
        let Some(Object::Event(event)) = &change.after else { return };
        let reason = event["reason"].as_str().unwrap_or_default();
        if reason == "ClaimConflict" && event["type"] == "Warning" {
            self.warned.get_or_insert(now);
        }
        let note = event["note"].as_str().unwrap_or_default().to_owned();
        if ["ClaimConflict", "CertificateIssued"].contains(&reason) && !self.told.insert(note.clone()) {
            self.breach(now, format!("told twice: {reason}: {note}"));
        }
    }

    /// A system is on a box's disk: once in an intent. A rogue has a disk of its own.
    pub fn installed(&mut self, now: i64, box_: usize, uid: &str, intent: &str) {
        let times = self.installs.entry((box_, uid.to_owned(), intent.to_owned(), self.era)).or_default();
        *times += 1;
        if *times > 1 {
            self.breach(now, format!("{uid}: a disk was written a second time in intent {intent}"));
        }
    }

    /// A disk is about to be wiped: of a Machine that is being deleted for that.
    pub fn wiping(&mut self, now: i64, uid: &str) {
        self.wiped += 1;
        let machine = self.machines.values().find(|machine| machine.uid().as_deref() == Some(uid));
        let kept = machine.is_some_and(|machine| machine.spec.deletion_policy != DeletionPolicy::Wipe);
        if kept || !self.deleted.contains_key(uid) {
            self.breach(now, format!("{uid}: its disk is wiped, and nobody asked for that"));
        }
    }

    /// A Machine is gone: wiped, if that was to be.
    fn went(&mut self, now: i64, machine: &Machine) {
        let status = machine.status.as_ref();
        let wiped = status.and_then(|status| status.wipe.as_ref()).is_some_and(|wipe| wipe.state == WipeState::Wiped);
        let was_something = status.is_some_and(|status| status.intent.is_some());
        if machine.spec.deletion_policy == DeletionPolicy::Wipe && was_something && !wiped {
            self.breach(now, format!("{}: it went, and was not wiped", machine.name_any()));
        }
    }

    /// A boot server told a box what is next.
    pub fn served(&mut self, now: i64, seen: &Machine, next: &Next) {
        if *next == Next::Boot(Task::Inventory) && seen.maintenance().is_some() {
            self.held += 1;
            return;
        }
        let Some(intent) = seen.status.as_ref().and_then(|status| status.intent.as_ref()) else {
            if matches!(next, Next::Boot(_)) {
                self.breach(now, format!("{}: served without an intent", seen.name_any()));
            }
            return;
        };
        let closed = self.closed.get(&(seen.uid().unwrap_or_default(), intent.id.clone()));
        // A picture from before the window closed is an old picture. Its time is read from the clock, and never old.
        let known = closed.is_some_and(|closed| version(seen) >= *closed);
        if matches!(next, Next::Boot(_)) && !self.live && (known || clock::at(now) >= intent.expires_at.0) {
            self.breach(
                now,
                format!("{}: served its profile after the window of {} closed", seen.name_any(), intent.id),
            );
        }
    }
}
