//! Folders whose files are looked at again when they change.

use std::{path::Path, time::Duration};

use magnetite_daemon::log::chain;
use notify::Watcher;
use tokio::sync::mpsc;

/// Who copies or edits a file writes in several steps; wait until it is quiet, but not for ever.
const QUIET: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Pokes when a file is written. Reading is no change: we do it ourselves, and would never come to rest.
pub fn watch(folder: &Path, poke: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let told = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access() || is_written(&event.kind)) {
            // One poke that waits is enough.
            let _ = poke.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
        watcher.watch(folder, notify::RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    let failed = |error: &notify::Error| {
        tracing::warn!(folder = %folder.display(), error = chain(error), "changes of a folder are seen by polling only");
    };
    watcher.inspect_err(failed).ok()
}

fn is_written(kind: &notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

/// Waits until no more pokes come.
pub async fn quiet(poked: &mut mpsc::Receiver<()>) {
    let settled = async { while tokio::time::timeout(QUIET, poked.recv()).await.is_ok_and(|poke| poke.is_some()) {} };
    drop(tokio::time::timeout(LONGEST_WAIT, settled).await);
}
