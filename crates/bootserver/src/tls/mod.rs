//! HTTPS for firmware and iPXE: the same that plain HTTP serves, with a certificate that they were made to trust.
//! The agents' HTTPS is another port, and needs nobody's trust but theirs in its key.

mod args;
mod authority;
mod pair;

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum_server::tls_rustls::RustlsConfig;
use magnetite_daemon::{
    log::chain,
    supervise::{Task, task},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::args::TlsArgs;
use self::pair::{Pair, Served};
use crate::{
    app::App,
    bind_tcp, http,
    net::{self, Interface},
};

/// How often the files are looked at. The kubelet itself takes a minute to bring a changed Secret.
const LOOK: Duration = Duration::from_secs(10);

/// Sockets and certificate.
pub struct Server {
    sockets: Vec<TcpListener>,
    config: RustlsConfig,
    /// The certificate's files, if it has any.
    pair: Option<Pair>,
}

impl Server {
    /// Reads or makes the certificate and binds the port on every interface, for both families; nothing, if there is to be none.
    ///
    /// # Errors
    /// If the certificate cannot be served with, or the port is taken.
    pub async fn bind(args: &TlsArgs, data: &Path, app: &App) -> Result<Option<Self>> {
        let TlsArgs { tls_cert, tls_key, tls_own_ca, boot_tls_port, boot_tls: _ } = args;
        let addresses: Vec<_> = addresses(&app.interfaces).map(|(_, address)| address).collect();
        let (pair, served) = match (tls_cert, tls_key, tls_own_ca) {
            (Some(certificate), Some(key), _) => {
                let mut pair = Pair::new(certificate.clone(), key.clone());
                let served = pair.look()?.context("a certificate is new when it is first read")?;
                (Some(pair), served)
            }
            (_, _, true) => {
                let served = authority::served(data, &addresses, &app.server)?;
                let file = data.join(authority::CERTIFICATE);
                tracing::info!(file = %file.display(), "own certificate for HTTPS: machines that are to trust it trust this authority");
                (None, served)
            }
            _ => return Ok(None),
        };
        complain(&served, tls_cert.as_deref(), &addresses);
        let mut sockets = Vec::new();
        for (iface, address) in self::addresses(&app.interfaces) {
            sockets.push(bind_tcp(net::socket_address(Some(iface), address, *boot_tls_port)?).await?);
        }
        let config = RustlsConfig::from_config(served.config);
        Ok(Some(Self { sockets, config, pair }))
    }

    /// Serves on them, and looks at the files.
    pub fn serve(self, app: &Arc<App>, stop: &CancellationToken) -> Vec<Task> {
        let Self { sockets, config, pair } = self;
        let serve = |socket| {
            let router = http::public(app).over_tls();
            task("https for boot", http::tls(socket, router, config.clone(), stop.clone()))
        };
        let mut tasks: Vec<_> = sockets.into_iter().map(serve).collect();
        if let Some(pair) = pair {
            let watched = watch(pair, config.clone(), Arc::clone(app), stop.clone());
            tasks.push(task("certificate", watched));
        }
        tasks
    }
}

/// Takes a renewed certificate for the connections to come. One that cannot be served with leaves the old one in place.
async fn watch(mut pair: Pair, config: RustlsConfig, app: Arc<App>, stop: CancellationToken) -> std::io::Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = looks.tick() => take(&mut pair, &config, &app.interfaces),
        }
    }
}

fn take(pair: &mut Pair, config: &RustlsConfig, interfaces: &[Interface]) {
    match pair.look() {
        Ok(None) => {}
        Ok(Some(served)) => {
            let addresses: Vec<_> = addresses(interfaces).map(|(_, address)| address).collect();
            complain(&served, Some(pair.file()), &addresses);
            config.reload_from_config(served.config);
            tracing::info!(file = %pair.file().display(), "the certificate changed: new connections get the new one");
        }
        Err(error) => {
            let file = pair.file().display();
            tracing::error!(%file, error = chain(&error), "the new certificate cannot be served with; the old one stays");
        }
    }
}

/// Says of which of our addresses a certificate says nothing: a machine that is sent there ends its boot.
fn complain(served: &Served, file: Option<&Path>, addresses: &[IpAddr]) {
    for address in addresses.iter().filter(|address| !served.names(**address)) {
        let file = file.map(|file| tracing::field::display(file.display()));
        tracing::warn!(file, %address, "the certificate does not name this address (subjectAltName IP): machines will refuse it there");
    }
}

/// Our addresses, and the interface of each.
fn addresses(interfaces: &[Interface]) -> impl Iterator<Item = (&str, IpAddr)> {
    interfaces.iter().flat_map(|Interface { name, address, address6 }| {
        let both = [Some(IpAddr::V4(*address)), address6.map(IpAddr::V6)];
        both.into_iter().flatten().map(move |address| (name.as_str(), address))
    })
}

#[cfg(test)]
mod tests;
