//! Magnetite's controller: the one process that decides.

mod args;
mod claim;
mod context;
mod csr;
mod error;
#[cfg(test)]
mod fixtures;
mod lease;
mod machine;
mod metrics;
mod node;
mod profile;
mod stores;

use std::{convert::Infallible, fmt::Debug, sync::Arc, time::Duration};

use anyhow::Context as _;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Parser;
use futures::StreamExt;
use k8s_openapi::{api::certificates::v1::CertificateSigningRequest, api::coordination::v1::Lease};
use kube::{
    Api, Client, Config, Resource,
    runtime::{
        applier,
        controller::{self, Action},
        reflector::Store,
    },
};
use magnetite_api::{Machine, MachineClaim, Profile};
use magnetite_daemon::{
    admin::{Admin, Readiness},
    clock, crypto, log,
    supervise::{BoxError, signals, supervise, task},
};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use args::Args;
use context::{Context, Settings, after_failure, guarded};
use lease::{Elector, Leader};
use metrics::{Metrics, Phases};
use stores::{Queue, Stores, Triggers};

/// The Lease, and the prefix of this process' name in it.
const NAME: &str = "magnetite-controller";
/// How many objects of one kind are worked on at a time.
const CONCURRENCY: u16 = 16;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Args::parse()).await
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Args { namespace, join_api_server, join_ca_file, reserved_node_name, leader_elect, identity, log, admin } =
        args;
    log::init(&log)?;
    crypto::install();
    let stop = signals()?;
    let listener = Admin::bind(&admin).await?;

    let config = Config::infer().await.context("finding the cluster: set KUBECONFIG, or run in a Pod")?;
    let join_ca = match join_ca_file {
        Some(path) => {
            std::fs::read_to_string(&path).with_context(|| format!("reading --join-ca-file {}", path.display()))?
        }
        None => own_ca(&config)?,
    };
    let client = Client::try_from(config).context("making a client for the cluster")?;

    let readiness = Readiness::default();
    let synced = readiness.gate("watches");
    let (registry, metrics) = (Registry::default(), Metrics::default());
    let (stores, writers) = Stores::new(&namespace);
    let registry = registered(registry, &metrics, &stores);
    let (elector, leader) = if leader_elect {
        let (elector, leader) =
            Elector::new(Api::<Lease>::namespaced(client.clone(), &namespace), NAME, lease::identity(&identity));
        (Some(elector), leader)
    } else {
        (None, Leader::always())
    };
    let settings = Settings { join_api_server, join_ca, reserved_node_names: reserved_node_name };
    let ctx =
        Arc::new(Context::new(client.clone(), stores.clone(), settings, leader.clone(), metrics.clone(), clock::now));
    let (triggers, queues) = Triggers::new();

    let mut tasks = vec![task("admin", listener.run(registry, readiness, stop.clone()))];
    if let Some(elector) = elector {
        let stop = stop.clone();
        tasks.push(task("lease", async move {
            elector.run(stop).await;
            Ok::<_, Infallible>(())
        }));
    }
    let watching = stores::run(client, stores.clone(), writers, triggers.clone(), metrics);
    tasks.push(until(stop.clone(), "watches", watching));
    let waking = wake(leader, stores.clone(), triggers, synced);
    tasks.push(until(stop.clone(), "leadership", waking));
    tasks.push(reconciler::<Machine, _>("Machine", queues.machines, &stores.machines, &ctx, &stop, machine::reconcile));
    tasks.push(reconciler::<Profile, _>("Profile", queues.profiles, &stores.profiles, &ctx, &stop, profile::reconcile));
    let claims = &stores.claims;
    tasks.push(reconciler::<MachineClaim, _>("MachineClaim", queues.claims, claims, &ctx, &stop, claim::reconcile));
    tasks.push(reconciler::<CertificateSigningRequest, _>(
        "CertificateSigningRequest",
        queues.requests,
        &stores.requests,
        &ctx,
        &stop,
        csr::reconcile,
    ));
    tracing::info!(namespace, leader_elect, "controller started");
    Ok(supervise(stop, tasks).await?)
}

fn registered(mut registry: Registry, metrics: &Metrics, stores: &Stores) -> Registry {
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
async fn wake(mut leader: Leader, stores: Stores, triggers: Triggers, synced: magnetite_daemon::admin::Gate) {
    stores.ready().await;
    synced.open();
    loop {
        leader.leading().await;
        triggers.all(&stores).await;
        while leader.is_leading() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn until(
    stop: CancellationToken,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) -> magnetite_daemon::supervise::Task {
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
) -> magnetite_daemon::supervise::Task
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
