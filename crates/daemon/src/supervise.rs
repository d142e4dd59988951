//! All parts of a process live and end together: a process of which one part is dead and nobody noticed serves
//! nobody, and its supervisor cannot tell.

use std::{error::Error, time::Duration};

use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::log::chain;

/// How long the parts may take to end once one of them did or a signal asked.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Any error of a part.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A part of a process: its name and what it does until `stop`.
pub type Task = (&'static str, BoxFuture<'static, Result<(), BoxError>>);

/// Names a part, whatever its error type.
pub fn task<E: Into<BoxError> + 'static>(
    name: &'static str,
    future: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Task {
    (name, future.map_err(Into::into).boxed())
}

/// Why a process ended though no signal asked.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// A part returned without an error, too early.
    #[error("{0} ended though nobody asked it to")]
    Ended(&'static str),
    /// A part failed.
    #[error("{0} failed")]
    Failed(&'static str, #[source] BoxError),
    /// A part panicked.
    #[error("{0} panicked")]
    Panicked(&'static str, #[source] tokio::task::JoinError),
}

/// A token that SIGTERM and SIGINT cancel. A second signal while the process is ending does nothing more:
/// [`supervise`] ends within [`DEADLINE`] anyway.
pub fn signals() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop");
        asked.cancel();
    });
    Ok(stop)
}

/// Runs all parts until the first of them ends, for whatever reason, or `stop` is cancelled. Then cancels `stop`,
/// waits for the rest until [`DEADLINE`], and drops what has not ended by then. An error unless `stop` was
/// cancelled from outside before the first part ended.
pub async fn supervise(stop: CancellationToken, tasks: Vec<Task>) -> Result<(), SuperviseError> {
    supervise_within(stop, tasks, DEADLINE).await
}

async fn supervise_within(stop: CancellationToken, tasks: Vec<Task>, deadline: Duration) -> Result<(), SuperviseError> {
    let mut running = JoinSet::new();
    let mut names = Vec::new();
    for (name, future) in tasks {
        names.push((running.spawn(future).id(), name));
    }
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        first = running.join_next_with_id() => first,
    };
    let verdict = match first.map(|end| outcome(&mut names, end)) {
        Some((name, Ok(()))) => Err(SuperviseError::Ended(name)),
        Some((_, Err(error))) => Err(error),
        None => Ok(()),
    };
    stop.cancel();
    let until = Instant::now() + deadline;
    while let Ok(Some(end)) = timeout_at(until, running.join_next_with_id()).await {
        if let (_, Err(error)) = outcome(&mut names, end) {
            tracing::warn!(error = chain(&error), "failed while stopping");
        }
    }
    for (_, name) in names {
        tracing::warn!(task = name, "did not stop in time");
    }
    verdict
}

type End = Result<(tokio::task::Id, Result<(), BoxError>), tokio::task::JoinError>;

/// Takes an ended part off the list and says how it ended.
fn outcome(names: &mut Vec<(tokio::task::Id, &'static str)>, end: End) -> (&'static str, Result<(), SuperviseError>) {
    let id = end.as_ref().map_or_else(|error| error.id(), |(id, _)| *id);
    let name = names.iter().position(|(known, _)| *known == id).map_or("a task", |index| names.remove(index).1);
    let result = match end {
        Ok((_, Ok(()))) => Ok(()),
        Ok((_, Err(error))) => Err(SuperviseError::Failed(name, error)),
        Err(error) => Err(SuperviseError::Panicked(name, error)),
    };
    (name, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(stop: CancellationToken) -> Result<(), BoxError> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn the_first_to_end_ends_the_rest() {
        let stop = CancellationToken::new();
        let tasks = vec![task("waits", until(stop.clone())), task("ends", async { Ok::<_, BoxError>(()) })];
        let error = supervise(stop.clone(), tasks).await.expect_err("nobody asked");
        assert!(stop.is_cancelled());
        assert_eq!(error.to_string(), "ends ended though nobody asked it to");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_with_a_name() {
        let stop = CancellationToken::new();
        let broken = async { if true { panic!("on purpose") } else { Ok::<_, BoxError>(()) } };
        let error = supervise(stop, vec![task("broken", broken)]).await.expect_err("it panicked");
        assert_eq!(error.to_string(), "broken panicked");
    }

    #[tokio::test]
    async fn a_signal_is_no_error() {
        let stop = CancellationToken::new();
        stop.cancel();
        supervise(stop.clone(), vec![task("waits", until(stop))]).await.expect("it was asked to stop");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_stop_does_not_hold_up_the_end() {
        let stop = CancellationToken::new();
        stop.cancel();
        let deaf = task("deaf", futures::future::pending::<Result<(), BoxError>>());
        supervise_within(stop, vec![deaf], Duration::from_secs(1)).await.expect("it was asked to stop");
    }
}
