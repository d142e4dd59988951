//! A controller process: the real reconcilers over stores that the world fills, and the queue that kube's own scheduler keeps.
//! A reconcile runs until it asks the API server for something. When that happens, and whether an answer ever comes, the world says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Response;
use kube::{
    Client,
    client::Body,
    runtime::{
        controller::Action,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::Event,
    },
};
use tokio::sync::watch;

use super::{
    clock,
    cluster::{Actor, Change, Kind, Object, http::Call},
    world::{Step, World},
};
use crate::{
    claim,
    context::{Context, Settings, after_failure, guarded},
    csr,
    error::Error,
    lease::Leader,
    machine,
    metrics::Metrics,
    profile,
    stores::{self, Concerned, Fingerprint, Stores, Writers},
};

/// What is worked on: one object.
pub type Key = (Kind, String);
/// A reconcile that is under way.
pub type Work = Pin<Box<dyn Future<Output = Result<Action, Error>> + Send>>;

/// `debounce` of main.rs.
const DEBOUNCE: i64 = 100;
/// The time limit of a reconcile, as context.rs has it.
const LIMIT: i64 = 30 * clock::SECOND;

/// The name that a node may not have, and the API server's address.
pub const RESERVED: &str = "control-1";

pub struct Controller {
    /// Counts restarts: what was meant for an earlier life is dropped.
    pub life: u32,
    pub up: bool,
    /// Stopped, as by SIGSTOP or a hypervisor, until then.
    pub stopped_until: i64,
    pub leads: bool,
    pub stores: Stores,
    writers: Writers,
    ctx: Arc<Context>,
    lead: watch::Sender<Option<Instant>>,
    seen: HashMap<String, Fingerprint>,
    pub cursors: BTreeMap<Kind, usize>,
    pub era: u32,
    due: BTreeMap<Key, (i64, u64)>,
    running: BTreeMap<Key, u64>,
    again: BTreeSet<Key>,
}

/// A reconcile under way.
pub struct Task {
    pub controller: usize,
    pub key: Key,
    pub work: Work,
    pub began: i64,
    pub call: Option<Call>,
    pub answer: Option<Response<Body>>,
    /// Whoever began it is gone or gave up; what it asked for may still happen.
    pub orphan: bool,
}

impl Task {
    fn abandon(&mut self) {
        self.work = Box::pin(std::future::pending());
        self.orphan = true;
    }
}

impl Controller {
    /// A process that knows nothing yet. Needs the runtime: kube's client keeps a task there.
    pub fn new(world: &World, life: u32) -> Self {
        let _inside = world.runtime.enter();
        let client = Client::new(world.wire.clone(), "default");
        let (stores, writers) = Stores::new("magnetite");
        let settings = Settings {
            join_api_server: Some("https://10.0.0.1:6443".into()),
            join_ca: "CA".into(),
            reserved_node_names: vec![RESERVED.into()],
            ..Settings::default()
        };
        let (lead, leader) = Leader::by_hand();
        let ctx = Context::new(client, stores.clone(), settings, leader, Metrics::default(), clock::now);
        Self {
            life,
            up: true,
            stopped_until: 0,
            leads: false,
            stores,
            writers,
            ctx: Arc::new(ctx),
            lead,
            seen: HashMap::new(),
            cursors: BTreeMap::new(),
            era: world.cluster.era,
            due: BTreeMap::new(),
            running: BTreeMap::new(),
            again: BTreeSet::new(),
        }
    }

    pub fn set_leading(&mut self, leads: bool) {
        self.leads = leads;
        self.lead.send_replace(leads.then(|| Instant::now() + Duration::from_secs(86_400)));
    }

    /// One kind, listed anew.
    pub fn list(&mut self, kind: Kind, objects: &[Object]) {
        fn fill<K>(writer: &mut Writer<K>, objects: Vec<K>)
        where
            K: kube::Resource<DynamicType = ()> + Clone + 'static,
        {
            writer.apply_watcher_event(&Event::Init);
            objects.into_iter().for_each(|object| writer.apply_watcher_event(&Event::InitApply(object)));
            writer.apply_watcher_event(&Event::InitDone);
        }
        macro_rules! each {
            ($variant:path) => {
                objects
                    .iter()
                    .filter_map(|object| if let $variant(object) = object { Some((**object).clone()) } else { None })
                    .collect()
            };
        }
        let w = &mut self.writers;
        match kind {
            Kind::Machine => fill(&mut w.machines, each!(Object::Machine)),
            Kind::Profile => fill(&mut w.profiles, each!(Object::Profile)),
            Kind::Claim => fill(&mut w.claims, each!(Object::Claim)),
            Kind::Report => fill(&mut w.reports, each!(Object::Report)),
            Kind::Request => fill(&mut w.requests, each!(Object::Request)),
            Kind::Node => fill(&mut w.nodes, each!(Object::Node)),
            Kind::Event => {}
        }
        if kind == Kind::Machine {
            self.stores.forget_fleet();
        }
    }

    /// One change that a watch brought, and whom it concerns.
    pub fn watched(&mut self, change: &Change) -> Vec<Key> {
        fn put<K>(writer: &mut Writer<K>, object: &Arc<K>, gone: bool)
        where
            K: kube::Resource<DynamicType = ()> + Clone + 'static,
        {
            let object = K::clone(object);
            writer.apply_watcher_event(&if gone { Event::Delete(object) } else { Event::Apply(object) });
        }
        let gone = change.after.is_none();
        let Some(object) = change.after.as_ref().or(change.before.as_ref()) else { return Vec::new() };
        let (w, s) = (&mut self.writers, &self.stores);
        let concerned = match object {
            Object::Machine(object) => {
                put(&mut w.machines, object, gone);
                stores::machine_changed(s, &mut self.seen, Arc::clone(object))
            }
            Object::Profile(object) => {
                put(&mut w.profiles, object, gone);
                stores::profile_changed(s, Arc::clone(object))
            }
            Object::Claim(object) => {
                put(&mut w.claims, object, gone);
                stores::claim_changed(s, Arc::clone(object))
            }
            Object::Report(object) => {
                put(&mut w.reports, object, gone);
                stores::report_changed(s, Arc::clone(object))
            }
            Object::Request(object) => {
                put(&mut w.requests, object, gone);
                stores::request_changed(s, Arc::clone(object))
            }
            Object::Node(object) => {
                put(&mut w.nodes, object, gone);
                stores::node_changed(s, Arc::clone(object))
            }
            Object::Event(_) => return Vec::new(),
        };
        keys(concerned)
    }

    pub fn everything(&self) -> Vec<Key> {
        keys(Concerned::everything(&self.stores))
    }

    /// The reconcile of an object, if the cache has the object: kube drops it otherwise.
    fn work(&self, key: &Key) -> Option<Work> {
        macro_rules! work {
            ($store:ident, $kind:literal, $module:ident) => {{
                let object = cached(&self.stores.$store, &key.1)?;
                Some(Box::pin(guarded($kind, object, Arc::clone(&self.ctx), $module::reconcile)))
            }};
        }
        match key.0 {
            Kind::Machine => work!(machines, "Machine", machine),
            Kind::Profile => work!(profiles, "Profile", profile),
            Kind::Claim => work!(claims, "MachineClaim", claim),
            Kind::Request => work!(requests, "CertificateSigningRequest", csr),
            Kind::Report | Kind::Node | Kind::Event => None,
        }
    }

    fn failed(&self, key: &Key, error: &Error) -> Option<Action> {
        let (s, ctx) = (&self.stores, &self.ctx);
        Some(match key.0 {
            Kind::Machine => after_failure("Machine", &*cached(&s.machines, &key.1)?, error, ctx),
            Kind::Profile => after_failure("Profile", &*cached(&s.profiles, &key.1)?, error, ctx),
            Kind::Claim => after_failure("MachineClaim", &*cached(&s.claims, &key.1)?, error, ctx),
            Kind::Request => after_failure("CertificateSigningRequest", &*cached(&s.requests, &key.1)?, error, ctx),
            Kind::Report | Kind::Node | Kind::Event => return None,
        })
    }
}

fn cached<K>(store: &Store<K>, name: &str) -> Option<Arc<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name))
}

/// In an order that does not hang on a hash.
fn keys(concerned: Concerned) -> Vec<Key> {
    fn names<K: kube::ResourceExt>(kind: Kind, objects: &[Arc<K>]) -> impl Iterator<Item = Key> {
        objects.iter().map(move |object| (kind, object.name_any()))
    }
    // No boxes are looked for in this world.
    let Concerned { machines, profiles, claims, requests, boxes: _, rules: _ } = concerned;
    let all: BTreeSet<Key> = names(Kind::Profile, &profiles)
        .chain(names(Kind::Machine, &machines))
        .chain(names(Kind::Claim, &claims))
        .chain(names(Kind::Request, &requests))
        .collect();
    all.into_iter().collect()
}

/// kube tells the pause to its own scheduler only, and to whoever prints it.
fn pause(action: &Action) -> Option<i64> {
    let text = format!("{action:?}");
    let text = text.split_once("Some(")?.1.split_once(')')?.0;
    let digits = text.trim_end_matches(char::is_alphabetic).trim_end_matches('µ');
    let number: f64 = digits.parse().unwrap();
    let millis = match &text[digits.len()..] {
        "s" => 1000.0,
        "ms" => 1.0,
        "ns" | "µs" => 0.0,
        other => panic!("a pause in {other}"),
    };
    Some((number * millis).ceil() as i64)
}

impl World {
    /// A controller starts: it lists everything, and looks at everything.
    pub fn start_controller(&mut self, number: usize) {
        let life = self.controllers.get(number).map_or(0, |old| old.life + 1);
        let mut controller = Controller::new(self, life);
        for kind in Kind::WATCHED {
            let objects: Vec<_> = self.cluster.all(kind).collect();
            controller.list(kind, &objects);
            controller.cursors.insert(kind, self.cluster.log(kind).len());
        }
        if number == self.controllers.len() {
            self.controllers.push(controller);
        } else {
            self.controllers[number] = controller;
        }
        self.say(format!("controller {number} starts"));
    }

    /// A controller is killed. Its requests that did not happen yet may happen all the same: they are on their way.
    pub fn kill_controller(&mut self, number: usize, requests_arrive: bool) {
        self.say(format!("controller {number} is killed"));
        self.kills += 1;
        self.controllers[number].up = false;
        self.controllers[number].set_leading(false);
        let of_it = |task: &&mut Task| task.controller == number;
        if !requests_arrive {
            self.tasks.values_mut().filter(of_it).for_each(|task| task.call = None);
        }
        for task in self.tasks.values_mut().filter(|task| task.controller == number) {
            task.abandon();
        }
        self.tasks.retain(|_, task| task.controller != number || task.call.is_some());
        let life = self.controllers[number].life;
        let after = self.random.between(500, 5000);
        self.at(after, Step::Restart(number, life));
        if self.leader == Some(number) {
            self.leader = None;
            let after = self.random.between(15_000, 20_000);
            self.at(after, Step::Elect);
        }
    }

    /// One controller becomes the leader, and looks at everything.
    pub fn elect(&mut self) {
        if self.leader.is_some() {
            return;
        }
        let now = self.now;
        let able = |controller: &Controller| controller.up && controller.stopped_until <= now;
        let able: Vec<_> = (0..self.controllers.len()).filter(|number| able(&self.controllers[*number])).collect();
        if able.is_empty() {
            self.at(clock::SECOND, Step::Elect);
            return;
        }
        let number = able[self.random.below(able.len())];
        self.leader = Some(number);
        self.controllers[number].set_leading(true);
        self.say(format!("controller {number} leads"));
        let everything = self.controllers[number].everything();
        self.enqueue(number, everything);
    }

    /// Something is to be looked at soon.
    pub fn enqueue(&mut self, number: usize, keys: Vec<Key>) {
        for key in keys {
            self.schedule(number, key, DEBOUNCE);
        }
    }

    fn schedule(&mut self, number: usize, key: Key, after: i64) {
        let (serial, moment) = (self.next_serial(), self.now + after);
        let controller = &mut self.controllers[number];
        if controller.running.contains_key(&key) {
            controller.again.insert(key);
            return;
        }
        if controller.due.get(&key).is_some_and(|(due, _)| *due <= moment) {
            return;
        }
        controller.due.insert(key.clone(), (moment, serial));
        let life = controller.life;
        self.at(after, Step::Begin { controller: number, life, key, serial });
    }

    /// The time of an object has come.
    pub fn begin(&mut self, number: usize, life: u32, key: Key, serial: u64) {
        let controller = &mut self.controllers[number];
        if controller.life != life || !controller.up {
            return;
        }
        if controller.stopped_until > self.now {
            let after = controller.stopped_until - self.now;
            self.at(after, Step::Begin { controller: number, life, key, serial });
            return;
        }
        if controller.due.get(&key).is_none_or(|(_, due)| *due != serial) {
            return;
        }
        controller.due.remove(&key);
        // Who does not lead drops it here; whoever begins to lead looks at everything.
        if !controller.leads {
            return;
        }
        let Some(work) = controller.work(&key) else { return };
        let id = self.next_serial();
        self.controllers[number].running.insert(key.clone(), id);
        self.tasks.insert(
            id,
            Task { controller: number, key, work, began: self.now, call: None, answer: None, orphan: false },
        );
        self.at(LIMIT, Step::Overdue(id));
        self.resume(id);
    }

    /// A reconcile goes on until it ends or asks for something.
    fn resume(&mut self, id: u64) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        match self.run(&mut task.work) {
            Ran::Asked(call) => {
                let number = task.controller;
                self.calls += 1;
                self.say(format!("controller {number} {} {} for {:?}", call.method, call.path, task.key));
                task.call = Some(call);
                self.tasks.insert(id, task);
                if self.crash.is_some_and(|crash| crash.call == self.calls) {
                    self.crash_now(number, id);
                } else {
                    let after = self.random.between(1, 20) + self.slowness();
                    self.at(after, Step::Effect(id));
                }
            }
            Ran::Ended(result) => self.ended(task.controller, &task.key, result),
        }
    }

    fn ended(&mut self, number: usize, key: &Key, result: Result<Action, Error>) {
        let controller = &mut self.controllers[number];
        controller.running.remove(key);
        let again = controller.again.remove(key);
        let action = match &result {
            Ok(action) => Some(action.clone()),
            Err(error) => controller.failed(key, error),
        };
        if let Err(error) = &result {
            self.say(format!("controller {number} failed at {key:?}: {error}"));
        }
        let after = action.as_ref().and_then(pause);
        if let Some(after) = after.into_iter().chain(again.then_some(DEBOUNCE)).min() {
            self.schedule(number, key.clone(), after);
        }
    }

    /// A request happens.
    pub fn effect(&mut self, id: u64) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        let Some(call) = task.call.take() else { return };
        let by = Actor::Controller(task.controller);
        self.laws.began = task.began;
        let answer = super::cluster::http::handle(&mut self.cluster, &call, by);
        if call.is_write() {
            let outcome = answer.as_ref().err().map_or(200, |refused| refused.0);
            self.say(format!("  {} {} of controller {}: {outcome}", call.method, call.path, task.controller));
            self.writes += u64::from(answer.is_ok());
        }
        self.digest_news();
        task.answer = Some(super::cluster::http::response(&answer));
        task.call = Some(call);
        self.tasks.insert(id, task);
        let after = self.random.between(1, 20) + self.slowness();
        self.at(after, Step::Answer(id));
    }

    /// The answer to a request is there.
    pub fn answer(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let controller = &self.controllers[task.controller];
        if task.orphan {
            self.tasks.remove(&id);
            return;
        }
        if controller.stopped_until > self.now {
            let after = controller.stopped_until - self.now;
            self.at(after, Step::Answer(id));
            return;
        }
        if let (Some(call), Some(answer)) = (task.call.take(), task.answer.take()) {
            // Nobody there any more: the reconcile was given up.
            drop(call.reply.send(answer));
            self.resume(id);
        }
    }

    /// A reconcile had its time.
    pub fn overdue(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let controller = &self.controllers[task.controller];
        if task.orphan {
            return;
        }
        if controller.stopped_until > self.now {
            let after = controller.stopped_until - self.now;
            self.at(after, Step::Overdue(id));
            return;
        }
        let (number, key) = (task.controller, task.key.clone());
        // What is on its way still happens.
        let unanswered = task.call.is_some() && task.answer.is_none();
        task.abandon();
        if !unanswered {
            self.tasks.remove(&id);
        }
        self.ended(number, &key, Err(Error::Timeout { seconds: 30 }));
    }

    fn run(&self, work: &mut Work) -> Ran {
        self.runtime.block_on(async {
            for _ in 0..1000 {
                let polled = futures::future::poll_fn(|cx| std::task::Poll::Ready(work.as_mut().poll(cx))).await;
                if let std::task::Poll::Ready(result) = polled {
                    return Ran::Ended(result);
                }
                if let Some(call) = self.wire.take() {
                    return Ran::Asked(call);
                }
                tokio::task::yield_now().await;
            }
            panic!("a reconcile waits for something that is not the API server");
        })
    }
}

enum Ran {
    Asked(Call),
    Ended(Result<Action, Error>),
}
