//! Magnetite's controller: the one process that decides.

mod args;
mod claim;
mod context;
mod csr;
mod discovery;
mod drain;
mod error;
#[cfg(test)]
mod fixtures;
mod lease;
mod machine;
mod metrics;
mod node;
mod power;
mod preflight;
mod profile;
mod rollout;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
mod stores;

use std::{
    convert::Infallible,
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Parser;
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Config, Resource,
    runtime::{
        applier,
        controller::{self, Action},
        reflector::Store,
    },
};
use magnetite_daemon::{
    admin::{Admin, Gate, Readiness},
    clock, crypto, log,
    supervise::{BoxError, Task, signals, supervise, task},
};
use magnetite_tpm::verifier::Authorities;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use args::Args;
use context::{Context, Settings, after_failure, guarded};
use lease::{Elector, Leader};
use metrics::{Metrics, Phases};
use stores::{Queue, Queues, Stores, Triggers};

/// The Lease, and the prefix of this process' name in it.
const NAME: &str = "magnetite-controller";
/// How many objects of one kind are worked on at a time.
const CONCURRENCY: u16 = 16;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Args::parse()).await
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Args {
        namespace,
        join_api_server,
        join_ca_file,
        reserved_node_name,
        tpm_authorities,
        update_ceiling,
        wipes_at_once,
        reinstalls_at_once,
        discovery,
        discovered_at_most,
        leader_elect,
        identity,
        log,
        admin,
    } = args;
    log::init(&log)?;
    crypto::install();
    let stop = signals()?;
    let listener = Admin::bind(&admin).await?;

    let (client, evictor, join_ca) = cluster(join_ca_file).await?;
    let readiness = Readiness::default();
    let synced = readiness.gate("watches");
    let metrics = Metrics::default();
    let (stores, writers) = Stores::new(&namespace);
    let registry = registered(&metrics, &stores);
    let mut tasks = vec![task("admin", listener.run(registry, readiness, stop.clone()))];

    let leader = if leader_elect {
        let api = Api::<Lease>::namespaced(client.clone(), &namespace);
        let (elector, leader) = Elector::new(api, NAME, lease::identity(&identity));
        // Not cut off by the stop: it gives the lease back first.
        let stop = stop.clone();
        tasks.push(task("lease", async move {
            elector.run(stop).await;
            Ok::<_, Infallible>(())
        }));
        leader
    } else {
        Leader::always()
    };
    // The API server's own name is no node's.
    let own = join_api_server.as_deref().and_then(csr::addresses::host).map(str::to_owned);
    let reserved_node_names = reserved_node_name.into_iter().chain(own).collect();
    let tpm_authorities = tpm_authorities.as_deref().map(authorities).transpose()?;
    let own_namespace = namespace.clone();
    let settings = Settings {
        join_api_server,
        join_ca,
        reserved_node_names,
        namespace: own_namespace,
        tpm_authorities,
        update_ceiling,
        wipes_at_once,
        reinstalls_at_once,
        discovered_at_most: discovery.then_some(discovered_at_most),
    };
    let (triggers, queues) = Triggers::new();
    let watching = stores::run(client.clone(), stores.clone(), writers, triggers.clone(), metrics.clone(), discovery);
    tasks.push(until(stop.clone(), "watches", watching));
    tasks.push(until(stop.clone(), "leadership", wake(leader.clone(), stores.clone(), triggers, synced)));
    let ctx = Context::new(client, stores, settings, leader, metrics, clock::now).with_evictor(evictor);
    tasks.extend(reconcilers(queues, &Arc::new(ctx), &stop));
    tracing::info!(namespace, leader_elect, "controller started");
    Ok(supervise(stop, tasks).await?)
}

/// The cluster, the same for evictions, and its certificate authority for those that join it.
async fn cluster(join_ca_file: Option<PathBuf>) -> anyhow::Result<(Client, Client, String)> {
    let config = Config::infer().await.context("finding the cluster: set KUBECONFIG, or run in a Pod")?;
    let join_ca = match join_ca_file {
        Some(path) => {
            std::fs::read_to_string(&path).with_context(|| format!("reading --join-ca-file {}", path.display()))?
        }
        None => own_ca(&config)?,
    };
    let mut at_once = config.clone();
    at_once.default_retry = false;
    let client = Client::try_from(config).context("making a client for the cluster")?;
    let evictor = Client::try_from(at_once).context("making a client for evictions")?;
    Ok((client, evictor, join_ca))
}

/// Makers of TPMs that are believed.
fn authorities(path: &Path) -> anyhow::Result<Authorities> {
    let text = std::fs::read(path).with_context(|| format!("reading --tpm-authorities {}", path.display()))?;
    Authorities::from_pem(&text).with_context(|| format!("reading --tpm-authorities {}", path.display()))
}

fn reconcilers(queues: Queues, ctx: &Arc<Context>, stop: &CancellationToken) -> [Task; 7] {
    let Queues { machines, power, profiles, claims, requests, boxes, rules } = queues;
    let s = &ctx.stores;
    [
        reconciler("Machine", machines, &s.machines, ctx, stop, machine::reconcile),
        reconciler(power::KIND, power, &s.machines, ctx, stop, power::reconcile),
        reconciler("Profile", profiles, &s.profiles, ctx, stop, profile::reconcile),
        reconciler("MachineClaim", claims, &s.claims, ctx, stop, claim::reconcile),
        reconciler("CertificateSigningRequest", requests, &s.requests, ctx, stop, csr::reconcile),
        reconciler(self::discovery::KIND, boxes, &s.reports, ctx, stop, self::discovery::found),
        reconciler("DiscoveryRule", rules, &s.rules, ctx, stop, self::discovery::rule),
    ]
}

fn registered(metrics: &Metrics, stores: &Stores) -> Registry {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.register_collector(Box::new(Phases(stores.machines.clone())));
    registry
}

/// The certificate authority by which this process trusts the API server, as PEM.
fn own_ca(config: &Config) -> anyhow::Result<String> {
    if let Some(path) = &config.root_cert_file {
        return std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    }
    let certificates = config.root_cert.as_ref().filter(|certificates| !certificates.is_empty());
    let certificates = certificates.context("the kubeconfig names no certificate authority; give --join-ca-file")?;
    let each = certificates.iter().map(|der| {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    });
    Ok(each.collect())
}

/// Ready once every watch brought its first list. And whenever this process begins to lead, it looks at
/// everything: what happened before was another's business.
async fn wake(mut leader: Leader, stores: Stores, triggers: Triggers, synced: Gate) {
    stores.fill().await;
    synced.open();
    loop {
        leader.leading().await;
        triggers.all(&stores).await;
        while leader.is_leading() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn until(stop: CancellationToken, name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Task {
    task(name, async move {
        // None: asked to stop. Some: the work ended, which supervise takes for the failure that it is.
        stop.run_until_cancelled(work).await;
        Ok::<_, Infallible>(())
    })
}

/// Runs one kind's reconciler over its queue, until the stop; then finishes what it began.
fn reconciler<K, F>(
    kind: &'static str,
    queue: Queue<K>,
    store: &Store<K>,
    ctx: &Arc<Context>,
    stop: &CancellationToken,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
) -> Task
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, error::Error>> + Send + 'static,
{
    let queue = stores::stream(queue).take_until(stop.clone().cancelled_owned());
    let (store, ctx, all) = (store.clone(), Arc::clone(ctx), ctx.stores.clone());
    let config = controller::Config::default().concurrency(CONCURRENCY).debounce(Duration::from_millis(100));
    let work = async move {
        // Half a picture makes wrong decisions: every store first.
        all.ready().await;
        let results = applier(
            move |object, ctx| Box::pin(guarded(kind, object, ctx, reconcile)),
            move |object: Arc<K>, error: &error::Error, ctx: Arc<Context>| after_failure(kind, &*object, error, &ctx),
            ctx,
            store,
            queue,
            config,
        );
        results
            .for_each(|result| {
                if let Err(controller::Error::QueueError(_) | controller::Error::RunnerError(_)) = &result {
                    tracing::error!(kind, "the queue broke");
                }
                std::future::ready(())
            })
            .await;
        Ok::<_, BoxError>(())
    };
    let stop = stop.clone();
    task(kind, async move {
        tokio::select! {
            result = work => result,
            // What is under way gets a while; supervise ends it after its deadline.
            () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(15)).await } => Ok(()),
        }
    })
}
