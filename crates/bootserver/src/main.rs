//! Magnetite's boot server.
#![allow(missing_docs, reason = "a binary: its public items are public to itself")]

mod app;
mod args;
mod artifacts;
mod dhcp;
mod dhcpv6;
mod discovery;
mod fence;
#[cfg(test)]
mod fixtures;
mod folders;
mod http;
mod ipv6;
mod keys;
mod limits;
mod loaders;
mod metrics;
mod net;
mod quantity;
mod ra;
mod record;
mod report;
mod rivals;
mod store;
mod tftp;
mod thread;
mod tls;
mod told;
mod view;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result};
use axum_server::tls_rustls::RustlsConfig;
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
    artifacts::{Fetcher, Library, Rules},
    discovery::Discovery,
    metrics::Metrics,
    net::Interface,
    record::Records,
    report::{RecordFolder, Reports},
    store::{
        catalog::Folder,
        cluster,
        heard::{Heard, Listen},
        snapshot,
        windows::Windows,
    },
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
    let data = args.data_dir.clone().context("--data-dir is missing")?;
    std::fs::create_dir_all(&data).with_context(|| format!("create --data-dir {}", data.display()))?;
    let readiness = Readiness::default();
    let (sockets_bound, view_there) = (readiness.gate("sockets"), readiness.gate("machines and profiles"));

    let (writer, reader) = watch::channel(Arc::new(View::default()));
    let heard = Heard::new(tokio::time::Instant::now());
    let agents = keys::tls(&data)?;
    let app = Arc::new(prepare(&args, &data, reader, agents.pin.clone(), &heard).await?);
    // Everything is bound before anything is served.
    let sockets = Sockets::bind(&args, &app.interfaces).await?;
    let sockets6 = ipv6::Sockets::bind(&args, &app.interfaces).await?;
    let boot_tls = tls::Server::bind(&args.tls, &data, &app).await?;
    let admin = Admin::bind(&args.admin).await?;
    sockets_bound.open();

    let mut tasks = Vec::new();
    if args.report_other_servers {
        for Interface { name, .. } in &app.interfaces {
            let watcher = rivals::Watcher::bind(name, &app)?;
            tasks.push(task("other servers", watcher.run(stop.clone())));
        }
    }
    if args.catalog.is_none() {
        let told = heard.tell(app.metrics.clone(), readiness.gate("news of the cluster"), stop.clone());
        tasks.push(task("news of the cluster", told));
    }
    tasks.extend(watching(&args, data.clone(), &app, writer, view_there, &stop)?);
    let (config, strangers) = (RustlsConfig::from_config(Arc::new(agents.config)), Arc::default());
    tasks.extend(sockets6.into_iter().flat_map(|sockets| sockets.serve(&app, &config, &strangers, &stop)));
    tasks.extend(sockets.into_iter().flat_map(|sockets| sockets.serve(&app, &config, &strangers, &stop)));
    tasks.extend(boot_tls.into_iter().flat_map(|server| server.serve(&app, &stop)));
    let fetcher = Fetcher::of(Rules::from(&args.artifacts)).context("make a client for artifacts")?;
    tasks.push(task("artifacts", Arc::clone(&app.library).run(app.view.clone(), fetcher, stop.clone())));
    tasks.push(task("loaders", loaders::run(Arc::clone(&app), stop.clone())));
    let reports = Arc::new(Reports::new(&app).context("make the folder of the records")?);
    tasks.push(task("reports", Arc::clone(&reports).run(stop.clone())));
    let mut registry = prometheus_client::registry::Registry::default();
    app.metrics.register(&mut registry);
    tasks.push(task("admin", admin.run(registry, readiness, stop.clone())));
    let (http_port, https_port) = (app.http_port, app.https_port);
    for Interface { name, address, address6 } in &app.interfaces {
        let address6 = address6.map(tracing::field::display);
        tracing::info!(iface = name, %address, address6, http_port, https_port, dhcp = ?args.dhcp, "serving");
    }
    let ended = magnetite_daemon::supervise(stop, tasks).await;
    // Last of all: until now there was somebody who was being served.
    reports.finish().await;
    Ok(ended?)
}

/// All that the drivers have at hand.
async fn prepare(args: &Args, data: &std::path::Path, view: view::Reader, pin: String, heard: &Heard) -> Result<App> {
    let Args {
        catalog,
        interface,
        address,
        data_dir: _,
        ipxe_dir,
        secure_boot_dir,
        artifacts_dir,
        cache_quota,
        agent_dir,
        http_port,
        https_port,
        dhcp: _,
        dhcpv6: _,
        address6: _,
        router_advertisement: _,
        discovery,
        identify_by_serial,
        tftp_single_port,
        report_other_servers: _,
        server_name,
        namespace: _,
        completion: _,
        artifacts: _,
        tls,
        limits,
        fence,
        admin: _,
        log: _,
    } = args;
    let cluster = match catalog {
        Some(_) => Cluster::None(Arc::new(Windows::load(data))),
        None => Cluster::Client(client(heard).await?),
    };
    if interface.len() > 1 && address.is_some() {
        anyhow::bail!(
            "--address is for one interface; {} are given: each is reached at its own first address",
            interface.len()
        );
    }
    let mut interfaces: Vec<_> =
        interface.iter().map(|name| Interface::find(name, *address)).collect::<Result<_, _>>()?;
    ipv6::find_addresses(args, &mut interfaces)?;
    let records = Records::default();
    records.restore(report::remembered(data));
    let folder = artifacts_dir.clone().unwrap_or_else(|| data.join("artifacts"));
    Ok(App {
        view,
        records: Arc::new(records),
        folder: RecordFolder::of(data),
        library: Arc::new(Library::new(folder, data.join("cache"), *cache_quota).pinning(discovery.as_deref())),
        loaders: loaders::Loaders::read(ipxe_dir, secure_boot_dir.as_deref()),
        agents: loaders::read_agents(agent_dir)?,
        key: keys::capability(data)?,
        pin,
        interfaces,
        http_port: *http_port,
        https_port: *https_port,
        tls: tls.site(),
        server: match server_name {
            Some(name) => name.clone(),
            None => host_name()?,
        },
        discovery: Discovery::of(discovery.as_deref()),
        identify_by_serial: *identify_by_serial,
        tftp_single_port: *tftp_single_port,
        cluster,
        passed: http::Passed::default(),
        limits: limits.into(),
        fence: fence.into(),
        signatures: http::Signatures::default(),
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
            let mut folder =
                Folder::new(path.clone(), Arc::clone(windows), app.key.clone(), writer, app.metrics.clone());
            folder.look()?;
            there.open();
            Ok(vec![task("catalog", folder.run(stop.clone()))])
        }
        (Cluster::Client(client), _) => {
            if cluster::from_snapshot(&data, &app.key, &writer) {
                there.open();
            }
            let mut reader = app.view.clone();
            // What was read from the disk needs not be written to it.
            reader.mark_unchanged();
            let (client, namespace, metrics) = (client.clone(), args.namespace.clone(), app.metrics.clone());
            let run =
                cluster::run(client, namespace, app.key.clone(), writer, metrics, move || there.open(), stop.clone());
            let keep = snapshot::keep(data, reader, stop.clone());
            Ok(vec![task("cluster", run), task("snapshot", keep)])
        }
        (Cluster::None(_), None) => anyhow::bail!("--catalog is missing"),
    }
}

/// The sockets of one interface, bound.
struct Sockets {
    interface: Interface,
    dhcp: Vec<(dhcp::Service, UdpSocket)>,
    tftp: UdpSocket,
    http: TcpListener,
    https: TcpListener,
}

impl Sockets {
    async fn bind(args: &Args, interfaces: &[Interface]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for interface in interfaces {
            all.push(Self::bind_one(args, interface.clone()).await?);
        }
        Ok(all)
    }

    async fn bind_one(args: &Args, interface: Interface) -> Result<Self> {
        let Interface { name, address, address6: _ } = &interface;
        let services: &[(dhcp::Service, u16)] = match args.dhcp {
            DhcpMode::Proxy => &[(dhcp::Service::Proxy, 67), (dhcp::Service::BootServer, 4011)],
            DhcpMode::Reservations => &[(dhcp::Service::Reservations, 67), (dhcp::Service::BootServer, 4011)],
            DhcpMode::BootServer => &[(dhcp::Service::BootServer, 4011)],
            DhcpMode::Off => &[],
        };
        let any = Ipv4Addr::UNSPECIFIED;
        let bind = |(service, port): &(_, _)| Ok((*service, net::udp(Some(name), any, *port)?));
        let dhcp = services.iter().map(bind).collect::<Result<_, net::NetError>>()?;
        let tftp = net::udp(Some(name), *address, 69)?;
        let (http, https) = (bind_tcp((*address, args.http_port)).await?, bind_tcp((*address, args.https_port)).await?);
        Ok(Self { interface, dhcp, tftp, http, https })
    }

    fn serve(
        self,
        app: &Arc<App>,
        tls: &RustlsConfig,
        strangers: &Arc<dhcp::Strangers>,
        stop: &CancellationToken,
    ) -> Vec<Task> {
        let Self { interface, dhcp, tftp, http, https } = self;
        let mtu = net::mtu(&interface.name);
        let source = tftp::Source { address: interface.address.into(), interface: Some(interface.name.clone()) };
        let mut tasks = vec![
            task("tftp", tftp::Server::new(tftp, source, mtu, Arc::clone(app)).run(stop.clone())),
            task("http", http::plain(http, http::public(app), stop.clone())),
            task("https", http::tls(https, http::private(app), tls.clone(), stop.clone())),
        ];
        for (service, socket) in dhcp {
            let strangers = Arc::clone(strangers);
            let server = dhcp::Server::new(service, interface.clone(), Arc::clone(app), strangers);
            let name = if service == dhcp::Service::BootServer { "pxe" } else { "dhcp" };
            tasks.push(task(name, server.run(socket, stop.clone())));
        }
        tasks
    }
}

async fn client(heard: &Heard) -> Result<kube::Client> {
    let config = kube::Config::infer()
        .await
        .context("no cluster is configured; set KUBECONFIG, run in a Pod, or give --catalog to serve from a folder")?;
    let client = kube::client::ClientBuilder::try_from(config).context("make a client of the API server")?;
    Ok(client.with_layer(&Listen(heard.clone())).build())
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host's name")?;
    let name = name.to_string_lossy().to_ascii_lowercase();
    args::server_name(&name).map_err(|error| anyhow::anyhow!("the host's name {error}; give --server-name"))
}

async fn bind_tcp(address: impl Into<SocketAddr>) -> Result<TcpListener> {
    let address = address.into();
    TcpListener::bind(address)
        .await
        .with_context(|| format!("bind TCP {address}; is another server there? (`ss -ltnp` names it)"))
}
