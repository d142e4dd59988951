//! What the watches bring, and whom it concerns.
//!
//! One watch a kind, shared by all reconcilers. Each change is turned into the names of the objects that
//! have to be looked at again. After a watch was broken, everything is: what vanished meanwhile left no event.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{ConfigMap, Node},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        controller::ReconcileRequest,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher::{self, watcher},
    },
};
use magnetite_api::{
    BootReport, DiscoveryRule, Machine, MachineClaim, Profile, claim::Decision, conditions, names::ANNOTATION_CLAIM,
    report::SubjectKind, update::UpdateStage,
};
use magnetite_boot::fleet::Fleet;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{claim::again, csr, metrics::Metrics, node};

/// What the watches brought.
#[derive(Clone)]
pub struct Stores {
    /// Machines.
    pub machines: Store<Machine>,
    /// Profiles.
    pub profiles: Store<Profile>,
    /// ConfigMaps of our own namespace.
    pub config_maps: Store<ConfigMap>,
    /// Claims.
    pub claims: Store<MachineClaim>,
    /// Boot reports.
    pub reports: Store<BootReport>,
    /// What boxes become that nobody declared. Empty where none are looked for.
    pub rules: Store<DiscoveryRule>,
    /// Certificate requests.
    pub requests: Store<CertificateSigningRequest>,
    /// Nodes.
    pub nodes: Store<Node>,
    fleet: Arc<Mutex<Option<Arc<Fleet>>>>,
    namespace: String,
    filled: CancellationToken,
}

/// The ends that the watches write to.
pub struct Writers {
    pub(crate) machines: Writer<Machine>,
    pub(crate) profiles: Writer<Profile>,
    config_maps: Writer<ConfigMap>,
    pub(crate) claims: Writer<MachineClaim>,
    pub(crate) reports: Writer<BootReport>,
    pub(crate) rules: Writer<DiscoveryRule>,
    pub(crate) requests: Writer<CertificateSigningRequest>,
    pub(crate) nodes: Writer<Node>,
}

impl Stores {
    /// Empty stores, and the ends to fill them.
    pub fn new(namespace: &str) -> (Self, Writers) {
        let (machines, machines_in) = reflector::store();
        let (profiles, profiles_in) = reflector::store();
        let (config_maps, config_maps_in) = reflector::store();
        let (claims, claims_in) = reflector::store();
        let (reports, reports_in) = reflector::store();
        let (rules, rules_in) = reflector::store();
        let (requests, requests_in) = reflector::store();
        let (nodes, nodes_in) = reflector::store();
        let (fleet, namespace, filled) = (Arc::default(), namespace.to_owned(), CancellationToken::new());
        let stores =
            Self { machines, profiles, config_maps, claims, reports, rules, requests, nodes, fleet, namespace, filled };
        let writers = Writers {
            machines: machines_in,
            profiles: profiles_in,
            config_maps: config_maps_in,
            claims: claims_in,
            reports: reports_in,
            rules: rules_in,
            requests: requests_in,
            nodes: nodes_in,
        };
        (stores, writers)
    }

    /// Waits until every watch brought its first list: decisions on half a picture are wrong ones.
    pub async fn ready(&self) {
        self.filled.cancelled().await;
    }

    /// Waits for the first list of every watch and tells all that wait in [`Stores::ready`]. Only one task may
    /// do this: kube's own wait keeps one waker, so that of several tasks only the last one would wake up.
    pub async fn fill(&self) {
        let Self { machines, profiles, config_maps, claims, reports, rules, requests, nodes, .. } = self;
        let _ = tokio::join!(
            machines.wait_until_ready(),
            profiles.wait_until_ready(),
            config_maps.wait_until_ready(),
            claims.wait_until_ready(),
            reports.wait_until_ready(),
            // At once, where nobody writes to it.
            rules.wait_until_ready(),
            requests.wait_until_ready(),
            nodes.wait_until_ready(),
        );
        self.filled.cancel();
    }

    /// The index of all Machines by identifier, made anew only when a spec changed.
    pub fn fleet(&self) -> Arc<Fleet> {
        let mut fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(fleet.get_or_insert_with(|| Arc::new(Fleet::index(self.machines.state()))))
    }

    /// A Node by name.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectRef::new(name))
    }

    /// A ConfigMap of our own namespace by name.
    pub fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(&ObjectRef::new(name).within(&self.namespace))
    }

    pub(crate) fn forget_fleet(&self) {
        *self.fleet.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One queue of objects to look at again.
pub type Queue<K> = mpsc::Receiver<ReconcileRequest<K>>;

/// A queue as the stream that kube's applier takes.
pub fn stream<K>(mut queue: Queue<K>) -> impl Stream<Item = Result<ReconcileRequest<K>, std::convert::Infallible>>
where
    K: Resource<DynamicType = ()>,
{
    futures::stream::poll_fn(move |cx| queue.poll_recv(cx)).map(Ok)
}

/// Where objects to look at again are put. Bounded: a full queue slows the watch down, and loses nothing.
#[derive(Clone)]
pub struct Triggers {
    machines: mpsc::Sender<ReconcileRequest<Machine>>,
    power: mpsc::Sender<ReconcileRequest<Machine>>,
    profiles: mpsc::Sender<ReconcileRequest<Profile>>,
    claims: mpsc::Sender<ReconcileRequest<MachineClaim>>,
    requests: mpsc::Sender<ReconcileRequest<CertificateSigningRequest>>,
    boxes: mpsc::Sender<ReconcileRequest<BootReport>>,
    rules: mpsc::Sender<ReconcileRequest<DiscoveryRule>>,
}

/// The other ends.
pub struct Queues {
    /// Machines to look at.
    pub machines: Queue<Machine>,
    /// Machines whose power to look at.
    pub power: Queue<Machine>,
    /// Profiles to look at.
    pub profiles: Queue<Profile>,
    /// Claims to look at.
    pub claims: Queue<MachineClaim>,
    /// Certificate requests to look at.
    pub requests: Queue<CertificateSigningRequest>,
    /// Reports on boxes that were found, to look at.
    pub boxes: Queue<BootReport>,
    /// Discovery rules to look at.
    pub rules: Queue<DiscoveryRule>,
}

impl Triggers {
    /// Queues, and both of their ends.
    pub fn new() -> (Self, Queues) {
        let (machines, machines_out) = mpsc::channel(1024);
        let (power, power_out) = mpsc::channel(1024);
        let (profiles, profiles_out) = mpsc::channel(1024);
        let (claims, claims_out) = mpsc::channel(1024);
        let (requests, requests_out) = mpsc::channel(1024);
        let (boxes, boxes_out) = mpsc::channel(1024);
        let (rules, rules_out) = mpsc::channel(1024);
        let triggers = Self { machines, power, profiles, claims, requests, boxes, rules };
        let queues = Queues {
            machines: machines_out,
            power: power_out,
            profiles: profiles_out,
            claims: claims_out,
            requests: requests_out,
            boxes: boxes_out,
            rules: rules_out,
        };
        (triggers, queues)
    }

    /// Everything is looked at again.
    pub async fn all(&self, stores: &Stores) {
        self.put(Concerned::everything(stores)).await;
    }

    async fn put(&self, concerned: Concerned) {
        let Concerned { machines, profiles, claims, requests, boxes, rules } = concerned;
        put(&self.profiles, profiles).await;
        let switched = machines.iter().filter(|machine| has_power(machine)).map(Arc::clone).collect();
        put(&self.power, switched).await;
        put(&self.machines, machines).await;
        put(&self.claims, claims).await;
        put(&self.requests, requests).await;
        put(&self.rules, rules).await;
        put(&self.boxes, boxes).await;
    }
}

/// Whom a change concerns.
#[derive(Default)]
pub(crate) struct Concerned {
    pub(crate) machines: Vec<Arc<Machine>>,
    pub(crate) profiles: Vec<Arc<Profile>>,
    pub(crate) claims: Vec<Arc<MachineClaim>>,
    pub(crate) requests: Vec<Arc<CertificateSigningRequest>>,
    pub(crate) boxes: Vec<Arc<BootReport>>,
    pub(crate) rules: Vec<Arc<DiscoveryRule>>,
}

impl Concerned {
    /// All there is: after a watch was broken, and when this process begins to lead.
    pub(crate) fn everything(stores: &Stores) -> Self {
        let Stores { machines, profiles, claims, requests, rules, .. } = stores;
        Self {
            machines: machines.state(),
            profiles: profiles.state(),
            claims: claims.state(),
            requests: requests.state(),
            boxes: boxes(stores),
            rules: rules.state(),
        }
    }
}

async fn put<K>(queue: &mpsc::Sender<ReconcileRequest<K>>, objects: Vec<Arc<K>>)
where
    K: Resource<DynamicType = ()> + Debug,
{
    for object in objects {
        // A closed queue: the reconciler is shutting down.
        let _ = queue.send(ObjectRef::from_obj(&*object).into()).await;
    }
}

/// What a watch brought.
enum Change<K> {
    /// This object is new, other, or gone.
    One(Arc<K>),
    /// The list was read anew.
    All,
}

/// Watches one kind into its store, for ever, with a back-off. An object that cannot be read is left out.
fn watch<K>(
    api: Api<DeserializeGuard<K>>,
    writer: Writer<K>,
    metrics: Metrics,
) -> impl Stream<Item = Change<K>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let kind = K::kind(&()).into_owned();
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let readable = events.try_filter_map(move |event| {
        let event = match event {
            watcher::Event::Apply(object) => readable(&kind, object, &metrics).map(watcher::Event::Apply),
            watcher::Event::Delete(object) => readable(&kind, object, &metrics).map(watcher::Event::Delete),
            watcher::Event::InitApply(object) => readable(&kind, object, &metrics).map(watcher::Event::InitApply),
            watcher::Event::Init => Some(watcher::Event::Init),
            watcher::Event::InitDone => Some(watcher::Event::InitDone),
        };
        std::future::ready(Ok(event))
    });
    reflector::reflector(writer, readable).filter_map(|event| {
        let change = match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => Some(Change::One(Arc::new(object))),
            Ok(watcher::Event::InitDone) => Some(Change::All),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, kind = %K::kind(&()), "a watch broke and is taken up again");
                None
            }
        };
        std::future::ready(change)
    })
}

fn readable<K>(kind: &str, object: DeserializeGuard<K>, metrics: &Metrics) -> Option<K> {
    match object.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            tracing::error!(kind, name, error = %invalid.error, "an object cannot be read and is left out");
            metrics.unreadable();
            None
        }
    }
}

/// Runs all watches until the caller drops the future. `discovery`: rules for boxes that are found too.
pub async fn run(
    client: Client,
    stores: Stores,
    writers: Writers,
    triggers: Triggers,
    metrics: Metrics,
    discovery: bool,
) {
    let Writers { machines, profiles, config_maps, claims, reports, rules, requests, nodes } = writers;
    let (s, t, m) = (&stores, &triggers, &metrics);
    let own = Api::namespaced(client.clone(), &s.namespace);
    let mut before = HashMap::new();
    tokio::join!(
        each(watch(Api::all(client.clone()), machines, m.clone()), s, t, move |s, machine| {
            machine_changed(s, &mut before, machine)
        }),
        each(watch(Api::all(client.clone()), profiles, m.clone()), s, t, profile_changed),
        each(watch(own, config_maps, m.clone()), s, t, config_map_changed),
        each(watch(Api::all(client.clone()), claims, m.clone()), s, t, claim_changed),
        each(watch(Api::all(client.clone()), reports, m.clone()), s, t, report_changed),
        async {
            // Otherwise its end is dropped here, and nobody waits for a list; the right to read one is not given either.
            if discovery {
                each(watch(Api::all(client.clone()), rules, m.clone()), s, t, rule_changed).await;
            }
        },
        each(watch(Api::all(client.clone()), requests, m.clone()), s, t, request_changed),
        each(watch(Api::all(client.clone()), nodes, m.clone()), s, t, node_changed),
    );
}

async fn each<K>(
    changes: impl Stream<Item = Change<K>>,
    stores: &Stores,
    triggers: &Triggers,
    mut concerns: impl FnMut(&Stores, Arc<K>) -> Concerned,
) {
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Change::One(object) => triggers.put(concerns(stores, object)).await,
            Change::All => {
                stores.forget_fleet();
                triggers.all(stores).await;
            }
        }
    }
}

/// What of a Machine concerns others: its spec and labels, and what a rollout goes by. The rest of its status does not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fingerprint {
    declared: (Option<String>, Option<i64>, BTreeMap<String, String>),
    rolls: Rolls,
}

/// What a rollout goes by: Profile, revision, whether it is Ready, and where its update is.
type Rolls = (Option<String>, Option<String>, bool, Option<(i64, UpdateStage)>);

fn rolls(machine: &Machine) -> Rolls {
    let Some(status) = &machine.status else { return Rolls::default() };
    let ready = conditions::is_true(&status.conditions, conditions::READY);
    let update = status.update.as_deref().map(|update| (update.number, update.stage));
    (status.profile.clone(), status.booted_revision.clone(), ready, update)
}

pub(crate) fn machine_changed(
    stores: &Stores,
    before: &mut HashMap<String, Fingerprint>,
    machine: Arc<Machine>,
) -> Concerned {
    let name = machine.name_any();
    let present = stores.machines.get(&ObjectRef::from_obj(&*machine)).is_some();
    let declared = (machine.uid(), machine.metadata.generation, machine.labels().clone());
    let fingerprint = Fingerprint { declared, rolls: rolls(&machine) };
    let known = before.get(&name).filter(|_| present);
    let same = known.is_some_and(|known| known.declared == fingerprint.declared);
    let still = known.is_some_and(|known| known.rolls == fingerprint.rolls);
    let profile = fingerprint.rolls.0.clone();
    if present {
        before.insert(name.clone(), fingerprint);
    } else {
        before.remove(&name);
    }
    let mut concerned = Concerned { machines: vec![Arc::clone(&machine)], ..Concerned::default() };
    if !same {
        stores.forget_fleet();
        let now: Vec<_> = stores.fleet().conflicts(&machine).into_iter().map(|conflict| conflict.other).collect();
        // Those that it stood in the way of until now, and those that it stands in the way of from now on.
        concerned.machines.extend(stores.machines.state_filter(|other| {
            now.contains(&other.name_any()) || node::is_named(other, &machine.node_name()) || in_doubt(other)
        }));
        concerned.profiles = stores.profiles.state();
        // One of them may be this Machine's, or free again.
        concerned.boxes = boxes(stores);
    }
    if same && !still {
        concerned.profiles = profile.and_then(|name| stores.profiles.get(&ObjectRef::new(&name))).into_iter().collect();
    }
    // A box that claims again with the same keys makes no new claim: its status alone tells of it.
    let again = again::claims_in_vain(&machine).is_some();
    let asks = |claim: &MachineClaim| !is_decided(claim) || again && claim.decision() == Some(Decision::Approved);
    concerned.claims = stores.claims.state_filter(|claim| claim.spec.machine == name && asks(claim));
    concerned
}

/// True if somebody switches its box, or did.
fn has_power(machine: &Machine) -> bool {
    machine.spec.bmc.is_some() || machine.status.as_ref().is_some_and(|status| status.power.is_some())
}

fn is_decided(claim: &MachineClaim) -> bool {
    claim.decision().is_some_and(Decision::is_final)
}

fn in_doubt(machine: &Machine) -> bool {
    let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    !conditions::is_true(conditions, conditions::IDENTITY_UNIQUE)
}

pub(crate) fn profile_changed(stores: &Stores, profile: Arc<Profile>) -> Concerned {
    let machines = interested(stores, &profile.name_any());
    Concerned { machines, profiles: vec![profile], ..Concerned::default() }
}

/// Machines that boot this Profile, or might.
fn interested(stores: &Stores, profile: &str) -> Vec<Arc<Machine>> {
    stores.machines.state_filter(|machine| machine.spec.profile.as_deref().is_none_or(|named| named == profile))
}

fn config_map_changed(stores: &Stores, map: Arc<ConfigMap>) -> Concerned {
    let name = map.name_any();
    let profiles = stores.profiles.state_filter(|profile| profile.spec.config_maps().any(|named| named == name));
    let machines = profiles.iter().flat_map(|profile| interested(stores, &profile.name_any())).collect();
    Concerned { machines, profiles, ..Concerned::default() }
}

pub(crate) fn claim_changed(stores: &Stores, claim: Arc<MachineClaim>) -> Concerned {
    let machines = stores.machines.get(&ObjectRef::new(&claim.spec.machine)).into_iter().collect();
    Concerned { machines, claims: vec![claim], ..Concerned::default() }
}

pub(crate) fn report_changed(stores: &Stores, report: Arc<BootReport>) -> Concerned {
    let name = &report.spec.subject.name;
    match report.spec.subject.kind {
        SubjectKind::Machine => {
            let machines = stores.machines.get(&ObjectRef::new(name)).into_iter().collect();
            Concerned { machines, ..Concerned::default() }
        }
        SubjectKind::Box => Concerned { boxes: vec![report], ..Concerned::default() },
        SubjectKind::Profile => {
            let profiles = stores.profiles.get(&ObjectRef::new(name)).into_iter().collect();
            Concerned { machines: interested(stores, name), profiles, ..Concerned::default() }
        }
    }
}

/// A rule that is new, other or gone may be that of every box that waits.
pub(crate) fn rule_changed(stores: &Stores, rule: Arc<DiscoveryRule>) -> Concerned {
    let machines = stores.machines.state_filter(|machine| machine.spec.hold);
    Concerned { machines, boxes: boxes(stores), rules: vec![rule], ..Concerned::default() }
}

/// Reports on boxes that no Machine declared.
fn boxes(stores: &Stores) -> Vec<Arc<BootReport>> {
    stores.reports.state_filter(|report| report.spec.subject.kind == SubjectKind::Box)
}

pub(crate) fn request_changed(stores: &Stores, request: Arc<CertificateSigningRequest>) -> Concerned {
    let claim = request.annotations().get(ANNOTATION_CLAIM);
    let claims = claim.and_then(|claim| stores.claims.get(&ObjectRef::new(claim))).into_iter().collect();
    Concerned { claims, requests: vec![request], ..Concerned::default() }
}

pub(crate) fn node_changed(stores: &Stores, node: Arc<Node>) -> Concerned {
    let name = node.name_any();
    let machines = stores.machines.state_filter(|machine| node::is_named(machine, &name));
    let requests = stores.requests.state_filter(|request| csr::is_open(request) && csr::asked_by(request, &name));
    Concerned { machines, requests, ..Concerned::default() }
}
