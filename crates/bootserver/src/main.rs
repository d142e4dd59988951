//! Magnetite's boot server.
#![allow(missing_docs, reason = "a binary: its public items are public to itself")]

mod app;
mod args;
mod artifacts;
mod dhcp;
#[cfg(test)]
mod fixtures;
mod http;
mod keys;
mod metrics;
mod net;
mod record;
mod report;
mod store;
mod tftp;
mod view;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use magnetite_boot::client::loaders;
use magnetite_daemon::{
    admin::{Admin, Readiness},
    supervise::task,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Agent, App, Cluster},
    args::{Args, DhcpMode},
    artifacts::{Checked, Library},
    metrics::Metrics,
    record::Records,
    store::{catalog, cluster, windows::Windows},
    view::View,
};

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(shell) = args.completion {
        clap_complete::generate(shell, &mut Args::command(), "magnetite-bootserver", &mut std::io::stdout());
        return Ok(());
    }
    magnetite_daemon::log::init(&args.log)?;
    magnetite_daemon::crypto::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let Args {
        catalog,
        interface,
        address,
        data_dir,
        ipxe_dir,
        artifacts_dir,
        agent_dir,
        http_port,
        https_port,
        dhcp,
        identify_by_serial,
        server_name,
        namespace,
        completion: _,
        admin,
        log: _,
    } = args;
    let interface = interface.context("--interface is missing")?;
    let data = data_dir.context("--data-dir is missing")?;
    std::fs::create_dir_all(&data).with_context(|| format!("create --data-dir {}", data.display()))?;
    let stop = magnetite_daemon::signals().context("listen for signals")?;
    let address = match address {
        Some(address) => address,
        None => net::address(&interface)?,
    };
    let readiness = Readiness::default();
    let (sockets_bound, view_there) = (readiness.gate("sockets"), readiness.gate("machines and profiles"));

    let (writer, reader) = tokio::sync::watch::channel(Arc::new(View::default()));
    let cluster = match &catalog {
        Some(_) => Cluster::None(Arc::new(Mutex::new(Windows::load(&data)))),
        None => Cluster::Client(client().await?),
    };
    let tls = keys::tls(&data)?;
    let records = Arc::new(Records::default());
    records.restore(report::remembered(&data));
    let folder = artifacts_dir.unwrap_or_else(|| data.join("artifacts"));
    let library = Arc::new(Library::new(folder, data.join("cache")));
    let app = Arc::new(App {
        view: reader,
        records,
        library: Arc::clone(&library),
        loaders: read_loaders(&ipxe_dir),
        agents: read_agents(&agent_dir)?,
        key: keys::capability(&data)?,
        pin: tls.pin.clone(),
        address,
        http_port,
        https_port,
        server: server_name.map_or_else(host_name, Ok)?,
        identify_by_serial,
        cluster,
        metrics: Metrics::default(),
    });

    // Everything is bound before anything is served.
    let http_listener = bind_tcp(address, http_port).await?;
    let https_listener = bind_tcp(address, https_port).await?;
    let tftp_socket = net::udp(None, address, 69)?;
    let strangers = Arc::default();
    let mut tasks = Vec::new();
    if dhcp == DhcpMode::Proxy {
        for (name, service, port) in [("dhcp", dhcp::Service::Proxy, 67), ("pxe", dhcp::Service::BootServer, 4011)] {
            let socket = net::udp(Some(&interface), Ipv4Addr::UNSPECIFIED, port)?;
            let server = dhcp::Server::new(socket, service, Arc::clone(&app), Arc::clone(&strangers));
            tasks.push(task(name, server.run(stop.clone())));
        }
    }
    let admin = Admin::bind(&admin).await?;
    sockets_bound.open();

    tasks.push(task("tftp", tftp::Server::new(tftp_socket, Arc::clone(&app)).run(stop.clone())));
    tasks.push(task("http", serve_http(http_listener, Arc::clone(&app), stop.clone())));
    tasks.push(task("https", serve_https(https_listener, tls, Arc::clone(&app), stop.clone())));
    tasks.push(task("artifacts", boxed(library.run(app.view.clone(), stop.clone()))));
    tasks.push(task("reports", boxed(report::run(Arc::clone(&app), data.clone(), stop.clone()))));
    let mut registry = prometheus_client::registry::Registry::default();
    app.metrics.register(&mut registry);
    tasks.push(task("admin", admin.run(registry, readiness, stop.clone())));
    match (catalog, &app.cluster) {
        (Some(folder), Cluster::None(windows)) => {
            catalog::publish(&folder, windows, &writer, &mut Vec::new());
            view_there.open();
            tasks.push(task("catalog", boxed(catalog::run(folder, Arc::clone(windows), writer, stop.clone()))));
        }
        (_, Cluster::Client(client)) => {
            if cluster::from_snapshot(&data, &writer) {
                view_there.open();
            }
            let gate = view_there.clone();
            let watching = cluster::run(client.clone(), namespace, data, writer, move || gate.open(), stop.clone());
            tasks.push(task("cluster", boxed(watching)));
        }
        (None, Cluster::None(_)) => unreachable!("without a catalog there is a client"),
    }
    tracing::info!(%address, interface, http_port, https_port, dhcp = ?dhcp, "serving");
    magnetite_daemon::supervise(stop, tasks).await?;
    Ok(())
}

/// `anyhow` in a binary, boxed errors in `daemon`.
async fn boxed(work: impl Future<Output = Result<()>>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    work.await.map_err(Into::into)
}

async fn client() -> Result<kube::Client> {
    let config = kube::Config::infer()
        .await
        .context("no cluster is configured; set KUBECONFIG, run in a Pod, or give --catalog to serve from a folder")?;
    kube::Client::try_from(config).context("make a client of the API server")
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host's name")?;
    name.into_string().map_err(|_| anyhow::anyhow!("the host's name is not text; give --server-name"))
}

/// The loaders that are there, whole.
fn read_loaders(folder: &Path) -> BTreeMap<String, Arc<[u8]>> {
    let mut found = BTreeMap::new();
    for name in loaders() {
        match std::fs::read(folder.join(name)) {
            Ok(bytes) => drop(found.insert(name.to_owned(), Arc::from(bytes))),
            Err(error) => {
                tracing::warn!(file = %folder.join(name).display(), error = &error as &dyn std::error::Error, "a loader is missing; machines that need it are not answered by TFTP");
            }
        }
    }
    found
}

/// The agents that are there, summed once.
fn read_agents(folder: &Path) -> Result<BTreeMap<&'static str, Agent>> {
    use sha2::Digest;
    let mut found = BTreeMap::new();
    for architecture in ["x86_64", "aarch64"] {
        let path = folder.join(format!("magnetite-agent-{architecture}"));
        let Ok(bytes) = std::fs::read(&path) else {
            tracing::warn!(file = %path.display(), "an agent is missing; machines of its architecture cannot join");
            continue;
        };
        let meta = std::fs::metadata(&path)?;
        let digest: String = sha2::Sha512::digest(&bytes).iter().map(|octet| format!("{octet:02x}")).collect();
        let file = Checked { path, size: meta.len(), modified: meta.modified()? };
        found.insert(architecture, Agent { file, verification: format!("sha512-{digest}") });
    }
    Ok(found)
}

async fn bind_tcp(address: Ipv4Addr, port: u16) -> Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind((address, port))
        .await
        .with_context(|| format!("bind TCP {address}:{port}; is another server there? (`ss -ltnp` names it)"))
}

async fn serve_http(listener: tokio::net::TcpListener, app: Arc<App>, stop: CancellationToken) -> std::io::Result<()> {
    let service = http::public(app).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn serve_https(
    listener: tokio::net::TcpListener,
    tls: keys::AgentTls,
    app: Arc<App>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let service = http::private(app).into_make_service_with_connect_info::<SocketAddr>();
    let config = axum_server::tls_rustls::RustlsConfig::from_config(Arc::new(tls.config));
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp_rustls(listener.into_std()?, config)?.handle(handle.clone()).serve(service);
    tokio::select! {
        result = server => result,
        () = async { stop.cancelled().await; handle.graceful_shutdown(Some(std::time::Duration::from_secs(5))); std::future::pending::<()>().await } => Ok(()),
        () = async { stop.cancelled().await; tokio::time::sleep(std::time::Duration::from_secs(6)).await } => Ok(()),
    }
}
