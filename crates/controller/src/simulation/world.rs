//! Everything there is, and the order in which it happens. Whatever may happen stands in one list with its moment; what comes first,
//! and how long everything takes, is drawn from the seed.

use std::collections::BTreeMap;

use kube::ResourceExt;
use magnetite_api::names::ANNOTATION_RESTART;
use tokio::runtime::Runtime;

use super::{
    clock::{self, SECOND},
    cluster::{Actor, Backup, Change, Cluster, Kind, http::Wire},
    controller::{Controller, Key, Task},
    faults::Fault,
    laws::Laws,
    metal::{Metal, Reply},
    network::{Datagram, Network},
    random::Random,
    scene::Scene,
    server::{Question, Server},
    trace::Trace,
};

/// Who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watcher {
    Controller(usize),
    Server(usize),
}

/// What may happen. What is meant for one life of something says which.
#[derive(Debug, Clone)]
pub enum Step {
    Watch(Watcher, Kind),
    Begin { controller: usize, life: u32, key: Key, serial: u64 },
    Effect(u64),
    Answer(u64),
    Overdue(u64),
    Restart(usize, u32),
    Elect,
    Resume(usize),
    Depose(usize, u32),
    Sign(String),
    Collect(String),
    Datagram(Datagram),
    TransferTimer { server: usize, life: u32, transfer: u64, serial: u64 },
    Ask { server: usize, box_: usize, life: u32, question: Box<Question> },
    Decide { server: usize, life: u32, waiting: u64 },
    Told { box_: usize, life: u32, reply: Box<Reply> },
    Wake { box_: usize, life: u32, serial: u64 },
    Kubelet { box_: usize, life: u32, what: super::kubelet::Duty },
    Silent { node: String },
    Restarts { node: String, asked: String },
    Place(String),
    Flush { server: usize, life: u32, machine: String },
    ServerBack(usize),
    Fault(Fault),
    Remember,
}

/// When a controller is to be killed: at which of all requests, and where that request is then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    pub call: u64,
    pub at: Point,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// It never happens.
    Before,
    /// It happened, and nobody hears of it.
    After,
    /// It happens later, when another may have gone on.
    Late,
}

pub struct World {
    pub scene: Scene,
    pub now: i64,
    pub random: Random,
    steps: BTreeMap<(i64, u64), Step>,
    serial: u64,
    pub runtime: Runtime,
    pub wire: Wire,
    pub cluster: Cluster,
    pub controllers: Vec<Controller>,
    pub leader: Option<usize>,
    pub tasks: BTreeMap<u64, Task>,
    pub servers: Vec<Server>,
    pub boxes: Vec<Metal>,
    pub network: Network,
    pub laws: Laws,
    pub trace: Trace,
    pub crash: Option<Crash>,
    /// Requests of controllers so far, and writes of theirs that were taken.
    pub calls: u64,
    pub writes: u64,
    pub kills: u32,
    pub keys: usize,
    pub requests: usize,
    watching: BTreeMap<(Watcher, Kind), i64>,
    frozen: BTreeMap<(Watcher, Kind), i64>,
    pub backup: Option<Backup>,
    /// What each boot server has on its disk.
    pub kept: Vec<super::disk::Kept>,
    /// How much longer things may take than they should, in milliseconds.
    pub slow: i64,
}

impl World {
    pub fn new(seed: u64, scene: Scene) -> Self {
        clock::set(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut world = Self {
            now: 0,
            random: Random::new(seed),
            steps: BTreeMap::new(),
            serial: 0,
            runtime,
            wire: Wire::default(),
            cluster: Cluster::new(scene.broken),
            controllers: Vec::new(),
            leader: None,
            tasks: BTreeMap::new(),
            servers: Vec::new(),
            boxes: Vec::new(),
            network: Network { loss: scene.loss, twice: scene.twice, late: scene.late },
            laws: Laws::of(&scene),
            trace: Trace::new(),
            crash: None,
            calls: 0,
            writes: 0,
            kills: 0,
            // Number 0 is the signer's.
            keys: 1,
            requests: 0,
            watching: BTreeMap::new(),
            frozen: BTreeMap::new(),
            backup: None,
            kept: Vec::new(),
            slow: 0,
            scene,
        };
        world.populate();
        world
    }

    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Something will happen after so many milliseconds.
    pub fn at(&mut self, after: i64, step: Step) {
        let serial = self.next_serial();
        self.steps.insert((self.now + after.max(0), serial), step);
    }

    pub fn say(&mut self, text: impl AsRef<str>) {
        self.trace.line(self.now, text.as_ref());
    }

    pub fn slowness(&mut self) -> i64 {
        if self.slow > 0 && self.random.chance(100) { self.random.between(0, self.slow) } else { 0 }
    }

    /// Runs until `done`, or until the moment is there. True if it is done.
    pub fn until(&mut self, moment: i64, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let Some(((at, serial), _)) = self.steps.first_key_value() else { return false };
            let (at, serial) = (*at, *serial);
            if at > moment || !self.laws.broken.is_empty() {
                self.now = self.now.max(moment.min(at));
                clock::set(self.now);
                return false;
            }
            let Some(step) = self.steps.remove(&(at, serial)) else { return false };
            self.now = at;
            clock::set(at);
            self.happen(step);
        }
    }

    /// Runs until the moment is there.
    pub fn run_to(&mut self, moment: i64) {
        self.until(moment, |_| false);
    }

    fn happen(&mut self, step: Step) {
        match step {
            Step::Watch(watcher, kind) => self.deliver(watcher, kind),
            Step::Begin { controller, life, key, serial } => self.begin(controller, life, key, serial),
            Step::Effect(task) => self.effect(task),
            Step::Answer(task) => self.answer(task),
            Step::Overdue(task) => self.overdue(task),
            Step::Restart(number, life) => {
                if self.controllers[number].life == life {
                    self.start_controller(number);
                }
            }
            Step::Elect => self.elect(),
            Step::Resume(number) => self.resume_controller(number),
            Step::Depose(number, life) => self.depose(number, life),
            Step::Sign(name) => self.sign(&name),
            Step::Collect(uid) => self.collect(&uid),
            Step::Datagram(datagram) => self.arrive(datagram),
            Step::TransferTimer { server, life, transfer, serial } => {
                self.transfer_timer(server, life, transfer, serial);
            }
            Step::Ask { server, box_, life, question } => self.asked(server, box_, life, *question),
            Step::Decide { server, life, waiting } => self.patience_ends(server, life, waiting),
            Step::Told { box_, life, reply } => self.told(box_, life, *reply),
            Step::Wake { box_, life, serial } => self.wake(box_, life, serial),
            Step::Kubelet { box_, life, what } => self.kubelet(box_, life, what),
            Step::Silent { node } => self.silent(&node),
            Step::Restarts { node, asked } => self.restarts(&node, &asked),
            Step::Place(pod) => self.place(&pod),
            Step::Flush { server, life, machine } => self.flush(server, life, &machine),
            Step::ServerBack(number) => self.start_server(number),
            Step::Fault(fault) => self.fault(fault),
            Step::Remember => {
                self.cluster.remember(self.now);
                self.at(20 * SECOND, Step::Remember);
            }
        }
    }

    /// Looks at what changed in the store: whether it may, and who is to hear of it.
    pub fn digest_news(&mut self) {
        for pod in std::mem::take(&mut self.cluster.pods.evicted) {
            let after = self.random.between(500, 5000);
            self.at(after, Step::Place(pod));
        }
        for change in std::mem::take(&mut self.cluster.news) {
            self.laws.changed(self.now, &change);
            self.note(&change);
            for kind in Kind::WATCHED.into_iter().filter(|kind| *kind == change.kind) {
                let controllers = (0..self.controllers.len()).map(Watcher::Controller);
                let servers = (0..self.servers.len()).map(Watcher::Server);
                let all: Vec<_> = controllers.chain(servers).collect();
                all.into_iter().for_each(|watcher| self.notify(watcher, kind));
            }
            match (change.kind, &change.after) {
                (Kind::Request, Some(_)) => {
                    let after = self.random.between(50, 2000) + self.slowness();
                    self.at(after, Step::Sign(change.name.clone()));
                }
                (Kind::Node, Some(object)) => {
                    if let Some(asked) =
                        object.node().and_then(|node| node.annotations().get(ANNOTATION_RESTART).cloned())
                    {
                        let after = self.random.between(1, 40) * SECOND;
                        self.at(after, Step::Restarts { node: change.name.clone(), asked });
                    }
                }
                (Kind::Machine, None) => {
                    let uid = change.before.as_ref().and_then(|object| object.machine()?.metadata.uid.clone());
                    let after = self.random.between(100, 5000);
                    self.at(after, Step::Collect(uid.unwrap_or_default()));
                }
                _ => {}
            }
        }
    }

    fn note(&mut self, change: &Change) {
        let verb = match (&change.before, &change.after) {
            (None, _) => "created",
            (_, None) => "gone",
            _ => "changed",
        };
        let machine = change.after.as_ref().and_then(|object| object.machine());
        let status = machine.and_then(|machine| machine.status.as_ref());
        let more = status.map_or(String::new(), |status| {
            let intent = status.intent.as_ref().map(|intent| format!("{} {:?}", intent.id, intent.state));
            let key = status.identity.as_ref().map(|identity| &identity.claim_key[..10]);
            format!(" {:?} {:?} key {key:?}: {:?}", intent, status.phase, status.reason)
        });
        let claim = change.after.as_ref().and_then(|object| object.claim());
        let decision = claim.and_then(|claim| claim.status.as_ref());
        let decision = decision.map_or(String::new(), |status| format!(" {:?} {:?}", status.decision, status.reason));
        // The name of an Event holds the time of day, which is no part of a run.
        let name = match &change.after {
            Some(super::cluster::Object::Event(event)) => event["reason"].as_str().unwrap_or_default(),
            _ => change.name.as_str(),
        };
        let text = format!("  {:?} {name} {verb} by {:?}{more}{decision}", change.kind, change.by);
        self.say(text);
    }

    /// A watch will bring something.
    fn notify(&mut self, watcher: Watcher, kind: Kind) {
        if self.watching.contains_key(&(watcher, kind)) {
            return;
        }
        let thawed = self.frozen.get(&(watcher, kind)).copied().unwrap_or_default() - self.now;
        let after = (self.random.between(1, 60) + self.slowness()).max(thawed);
        self.watching.insert((watcher, kind), self.now + after);
        self.at(after, Step::Watch(watcher, kind));
    }

    /// A watch brings nothing until then.
    pub fn freeze_watch(&mut self, watcher: Watcher, kind: Kind, until: i64) {
        let frozen = self.frozen.entry((watcher, kind)).or_default();
        *frozen = until.max(*frozen);
    }

    /// A watch brings what it has: some of it, or all.
    fn deliver(&mut self, watcher: Watcher, kind: Kind) {
        self.watching.remove(&(watcher, kind));
        if self.frozen.get(&(watcher, kind)).is_some_and(|until| *until > self.now) {
            return self.notify(watcher, kind);
        }
        let (up, stopped, era, cursor) = match watcher {
            Watcher::Controller(number) => {
                let c = &self.controllers[number];
                (c.up, c.stopped_until > self.now, c.era, c.cursors.get(&kind).copied())
            }
            Watcher::Server(number) => {
                let s = &self.servers[number];
                (s.up, false, s.era, s.cursors.get(&kind).copied())
            }
        };
        if !up {
            return;
        }
        if stopped {
            let Watcher::Controller(number) = watcher else { return };
            let after = self.controllers[number].stopped_until - self.now;
            self.watching.insert((watcher, kind), self.now + after);
            return self.at(after, Step::Watch(watcher, kind));
        }
        if era != self.cluster.era {
            return self.list_anew(watcher);
        }
        let cursor = cursor.unwrap_or_default();
        let there = self.cluster.log(kind).len().saturating_sub(cursor);
        if there == 0 {
            return;
        }
        let some = 1 + self.random.below(there);
        let changes: Vec<Change> = self.cluster.log(kind)[cursor..cursor + some].to_vec();
        for change in &changes {
            match watcher {
                Watcher::Controller(number) => {
                    let keys = self.controllers[number].watched(change);
                    self.enqueue(number, keys);
                }
                Watcher::Server(number) => self.servers[number].watched(change),
            }
        }
        let cursors = match watcher {
            Watcher::Controller(number) => &mut self.controllers[number].cursors,
            Watcher::Server(number) => &mut self.servers[number].cursors,
        };
        cursors.insert(kind, cursor + some);
        if let (Watcher::Server(number), Kind::Claim) = (watcher, kind) {
            self.look_for_answers(number);
        }
        if some < there {
            self.notify(watcher, kind);
        }
    }

    /// All watches of one process broke, and it lists everything.
    pub fn list_anew(&mut self, watcher: Watcher) {
        let era = self.cluster.era;
        for kind in Kind::WATCHED {
            let objects: Vec<_> = self.cluster.all(kind).collect();
            let end = self.cluster.log(kind).len();
            match watcher {
                Watcher::Controller(number) => {
                    let controller = &mut self.controllers[number];
                    controller.list(kind, &objects);
                    controller.cursors.insert(kind, end);
                    controller.era = era;
                }
                Watcher::Server(number) => {
                    let server = &mut self.servers[number];
                    server.list(kind, &objects);
                    server.cursors.insert(kind, end);
                    server.era = era;
                }
            }
        }
        self.say(format!("{watcher:?} lists everything"));
        match watcher {
            Watcher::Controller(number) => {
                let everything = self.controllers[number].everything();
                self.enqueue(number, everything);
            }
            Watcher::Server(number) => self.look_for_answers(number),
        }
    }

    /// Everybody's watches end, as after a restore: each lists anew in its own time.
    pub fn end_watches(&mut self) {
        self.watching.clear();
        for watcher in self.watchers() {
            self.notify(watcher, Kind::Machine);
        }
    }

    pub fn watchers(&self) -> Vec<Watcher> {
        let controllers = (0..self.controllers.len()).map(Watcher::Controller);
        controllers.chain((0..self.servers.len()).map(Watcher::Server)).collect()
    }

    /// No watch is held up any more.
    pub fn thaw(&mut self) {
        self.frozen.clear();
        self.watching.clear();
        for watcher in self.watchers() {
            Kind::WATCHED.into_iter().for_each(|kind| self.notify(watcher, kind));
        }
    }

    /// The garbage collector: what belongs to what is gone goes too.
    fn collect(&mut self, uid: &str) {
        for kind in [Kind::Claim, Kind::Report] {
            let owned = |object: &super::cluster::Object| {
                use super::cluster::Object::{Claim, Report};
                let metadata = match object {
                    Claim(claim) => &claim.metadata,
                    Report(report) => &report.metadata,
                    _ => return None,
                };
                let owners = metadata.owner_references.iter().flatten();
                owners.into_iter().any(|owner| owner.uid == uid).then(|| metadata.name.clone()).flatten()
            };
            let names: Vec<String> = self.cluster.all(kind).filter_map(|object| owned(&object)).collect();
            for name in names {
                drop(self.cluster.delete(kind, &name, None, Actor::Person));
            }
        }
        self.digest_news();
    }
}
