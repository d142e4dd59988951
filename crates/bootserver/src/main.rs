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
mod limits;
mod loaders;
mod metrics;
mod net;
mod record;
mod report;
mod store;
mod tftp;
mod view;

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use magnetite_daemon::{
    admin::{Admin, Readiness},
    supervise::{Task, task},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Cluster, MOST_STREAMS},
    args::{Args, DhcpMode},
    artifacts::{Fetcher, Library, is_fetched_from},
    metrics::Metrics,
    record::Records,
    store::{catalog::Folder, cluster, snapshot, windows::Windows},
    view::{View, Writer},
};

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(shell) = args.completion {
        clap_complete::generate(shell, &mut Args::command(), "magnetite-bootserver", &mut std::io::stdout());
        return Ok(());
    }
    magnetite_daemon::log::init(&args.log)?;
    magnetite_daemon::crypto::install();
    net::allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let stop = magnetite_daemon::signals().context("listen for signals")?;
    let interface = args.interface.clone().context("--interface is missing")?;
    let data = args.data_dir.clone().context("--data-dir is missing")?;
    std::fs::create_dir_all(&data).with_context(|| format!("create --data-dir {}", data.display()))?;
    let readiness = Readiness::default();
    let (sockets_bound, view_there) = (readiness.gate("sockets"), readiness.gate("machines and profiles"));

    let (writer, reader) = watch::channel(Arc::new(View::default()));
    let tls = keys::tls(&data)?;
    let app = Arc::new(prepare(&args, &interface, &data, reader, tls.pin.clone()).await?);
    // Everything is bound before anything is served.
    let sockets = Sockets::bind(&args, &interface, app.address).await?;
    let admin = Admin::bind(&args.admin).await?;
    sockets_bound.open();

    let mut tasks = watching(&args, data.clone(), &app, writer, view_there, &stop)?;
    tasks.extend(sockets.serve(&app, interface.clone(), tls, &stop));
    let fetcher = Fetcher::new(is_fetched_from).context("make a client for artifacts")?;
    tasks.push(task("artifacts", Arc::clone(&app.library).run(app.view.clone(), fetcher, stop.clone())));
    tasks.push(task("reports", report::run(Arc::clone(&app), data, stop.clone())));
    let mut registry = prometheus_client::registry::Registry::default();
    app.metrics.register(&mut registry);
    tasks.push(task("admin", admin.run(registry, readiness, stop.clone())));
    let (http_port, https_port) = (app.http_port, app.https_port);
    tracing::info!(address = %app.address, interface, http_port, https_port, dhcp = ?args.dhcp, "serving");
    magnetite_daemon::supervise(stop, tasks).await?;
    Ok(())
}

/// All that the drivers have at hand.
async fn prepare(args: &Args, interface: &str, data: &std::path::Path, view: view::Reader, pin: String) -> Result<App> {
    let Args {
        catalog,
        interface: _,
        address,
        data_dir: _,
        ipxe_dir,
        artifacts_dir,
        agent_dir,
        http_port,
        https_port,
        dhcp: _,
        identify_by_serial,
        server_name,
        namespace: _,
        completion: _,
        admin: _,
        log: _,
    } = args;
    let cluster = match catalog {
        Some(_) => Cluster::None(Arc::new(Windows::load(data))),
        None => Cluster::Client(client().await?),
    };
    let records = Records::default();
    records.restore(report::remembered(data));
    let folder = artifacts_dir.clone().unwrap_or_else(|| data.join("artifacts"));
    Ok(App {
        view,
        records: Arc::new(records),
        library: Arc::new(Library::new(folder, data.join("cache"))),
        loaders: loaders::read(ipxe_dir),
        agents: loaders::read_agents(agent_dir)?,
        key: keys::capability(data)?,
        pin,
        address: match address {
            Some(address) => *address,
            None => net::address(interface)?,
        },
        http_port: *http_port,
        https_port: *https_port,
        server: match server_name {
            Some(name) => name.clone(),
            None => host_name()?,
        },
        identify_by_serial: *identify_by_serial,
        cluster,
        passed: http::Passed::default(),
        limits: app::Limits::default(),
        streams: Arc::new(Semaphore::new(MOST_STREAMS)),
        metrics: Metrics::default(),
    })
}

/// Where the view comes from. A view that can be had at once is there before anything is served.
fn watching(
    args: &Args,
    data: PathBuf,
    app: &Arc<App>,
    writer: Writer,
    there: magnetite_daemon::admin::Gate,
    stop: &CancellationToken,
) -> Result<Vec<Task>> {
    match (&app.cluster, &args.catalog) {
        (Cluster::None(windows), Some(path)) => {
            let mut folder = Folder::new(path.clone(), Arc::clone(windows), writer, app.metrics.clone());
            folder.look()?;
            there.open();
            Ok(vec![task("catalog", folder.run(stop.clone()))])
        }
        (Cluster::Client(client), _) => {
            if cluster::from_snapshot(&data, &writer) {
                there.open();
            }
            let mut reader = app.view.clone();
            // What was read from the disk needs not be written to it.
            reader.mark_unchanged();
            let (client, namespace, metrics) = (client.clone(), args.namespace.clone(), app.metrics.clone());
            let run = cluster::run(client, namespace, writer, metrics, move || there.open(), stop.clone());
            let keep = snapshot::keep(data, reader, stop.clone());
            Ok(vec![task("cluster", run), task("snapshot", keep)])
        }
        (Cluster::None(_), None) => anyhow::bail!("--catalog is missing"),
    }
}

/// Every socket, bound.
struct Sockets {
    dhcp: Option<(UdpSocket, UdpSocket)>,
    tftp: UdpSocket,
    http: TcpListener,
    https: TcpListener,
}

impl Sockets {
    async fn bind(args: &Args, interface: &str, address: Ipv4Addr) -> Result<Self> {
        let udp = |address, port| net::udp(Some(interface), address, port);
        let dhcp = match args.dhcp {
            DhcpMode::Proxy => Some((udp(Ipv4Addr::UNSPECIFIED, 67)?, udp(Ipv4Addr::UNSPECIFIED, 4011)?)),
            DhcpMode::Off => None,
        };
        let (http, https) = (bind_tcp(address, args.http_port).await?, bind_tcp(address, args.https_port).await?);
        Ok(Self { dhcp, tftp: udp(address, 69)?, http, https })
    }

    fn serve(self, app: &Arc<App>, interface: String, tls: keys::AgentTls, stop: &CancellationToken) -> Vec<Task> {
        let Self { dhcp, tftp, http, https } = self;
        let mtu = net::mtu(&interface);
        let source = tftp::Source { address: app.address, interface: Some(interface) };
        let tls = axum_server::tls_rustls::RustlsConfig::from_config(Arc::new(tls.config));
        let mut tasks = vec![
            task("tftp", tftp::Server::new(tftp, source, mtu, Arc::clone(app)).run(stop.clone())),
            task("http", http::plain(http, http::public(Arc::clone(app)), stop.clone())),
            task("https", http::tls(https, http::private(Arc::clone(app)), tls, stop.clone())),
        ];
        if let Some((proxy, boot_server)) = dhcp {
            let strangers = Arc::default();
            for (name, service, socket) in
                [("dhcp", dhcp::Service::Proxy, proxy), ("pxe", dhcp::Service::BootServer, boot_server)]
            {
                let server = dhcp::Server::new(socket, service, Arc::clone(app), Arc::clone(&strangers));
                tasks.push(task(name, server.run(stop.clone())));
            }
        }
        tasks
    }
}

async fn client() -> Result<kube::Client> {
    let config = kube::Config::infer()
        .await
        .context("no cluster is configured; set KUBECONFIG, run in a Pod, or give --catalog to serve from a folder")?;
    kube::Client::try_from(config).context("make a client of the API server")
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host's name")?;
    let name = name.to_string_lossy().to_ascii_lowercase();
    args::server_name(&name).map_err(|error| anyhow::anyhow!("the host's name {error}; give --server-name"))
}

async fn bind_tcp(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port))
        .await
        .with_context(|| format!("bind TCP {address}:{port}; is another server there? (`ss -ltnp` names it)"))
}
