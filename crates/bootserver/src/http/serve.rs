//! Connections: plain ones and those over TLS.

use std::{io, net::SocketAddr, time::Duration};

use axum_server::{
    Handle,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use futures::future::BoxFuture;
use hyper_util::{rt::TokioTimer, server::conn::auto::Builder};
use magnetite_daemon::log::chain;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{guard::Guarded, paced::Pace};

/// How long a client may take over the head of a request, and how long it may be silent between two: iPXE keeps its
/// connection while it starts the kernel that it fetched.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// Bytes that hyper gathers before it waits for the client to take some, where its own default is 408 KiB: that much would lie here for
/// each client that takes nothing. It is also the most that a request's head may have.
const GATHERED: usize = 64 << 10;
/// How long requests under way may take to end once the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// Serves HTTP until `stop`.
///
/// # Errors
/// If the listener breaks.
pub async fn plain(listener: TcpListener, routes: Guarded, stop: CancellationToken) -> io::Result<()> {
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener.into_std()?)?.acceptor(Pace).http1_only().handle(handle.clone());
    limits(server.http_builder());
    let service = routes.into_router().into_make_service_with_connect_info::<SocketAddr>();
    until(server.serve(service), handle, stop).await
}

/// Serves HTTPS until `stop`.
///
/// # Errors
/// If the listener breaks.
pub async fn tls(
    listener: TcpListener,
    routes: Guarded,
    config: RustlsConfig,
    stop: CancellationToken,
) -> io::Result<()> {
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener.into_std()?)?
        .acceptor(Told(RustlsAcceptor::new(config).acceptor(Pace)))
        .http1_only()
        .handle(handle.clone());
    limits(server.http_builder());
    let service = routes.into_router().into_make_service_with_connect_info::<SocketAddr>();
    until(server.serve(service), handle, stop).await
}

/// Tells of handshakes that fail, which axum-server keeps to itself: a machine that does not trust our certificate says so here and
/// nowhere else.
#[derive(Clone)]
struct Told(RustlsAcceptor<Pace>);

impl<S: Send + 'static> Accept<TcpStream, S> for Told {
    type Stream = <RustlsAcceptor<Pace> as Accept<TcpStream, S>>::Stream;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let (peer, accepted) = (stream.peer_addr(), self.0.accept(stream, service));
        Box::pin(async move {
            let result = accepted.await;
            // Who only looks whether the port is open hangs up.
            let told = result.as_ref().err().filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
            if let (Some(error), Ok(peer)) = (told, peer) {
                tracing::info!(%peer, error = chain(error), "a TLS handshake failed");
            }
            result
        })
    }
}

fn limits<E>(builder: &mut Builder<E>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(GATHERED);
}

async fn until(
    server: impl Future<Output = io::Result<()>>,
    handle: Handle<SocketAddr>,
    stop: CancellationToken,
) -> io::Result<()> {
    let stopped = async {
        stop.cancelled().await;
        handle.graceful_shutdown(Some(GRACE));
        // A moment more than the grace: the server ends first, unless it hangs.
        tokio::time::sleep(GRACE + Duration::from_secs(1)).await;
    };
    tokio::select! {
        result = server => result,
        () = stopped => Ok(()),
    }
}
