//! Work on a thread of its own: a packet of every client waits for it, and for none of the runtime's other tasks.

use std::{io, os::unix::net::UnixStream, time::Duration};

use nix::poll::PollTimeout;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// For `poll` to wait as long, or for ever. Rounded up: a time that has not quite come is looked at again and again.
pub fn timeout(wait: Option<Duration>) -> PollTimeout {
    wait.map_or(PollTimeout::NONE, |wait| {
        PollTimeout::from(u16::try_from(wait.as_millis().saturating_add(1)).unwrap_or(u16::MAX))
    })
}

/// Runs `work` on a thread of that name until it ends. It is to end once the other end of the stream that it is given is closed: at
/// `stop`, or when this is dropped.
///
/// # Errors
/// If there is no thread to be had, it panics, or the work fails.
pub async fn run(
    name: &str,
    stop: CancellationToken,
    work: impl FnOnce(UnixStream) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let (tell, mut told) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || drop(tell.send(work(theirs))))?;
    let died = |_| Err(io::Error::other("its thread panicked"));
    tokio::select! {
        () = stop.cancelled() => {}
        ended = &mut told => return ended.unwrap_or_else(died),
    }
    drop(ours);
    told.await.unwrap_or_else(died)
}
