//! A catalog that is watched: what changes in the folder changes what is served.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use magnetite_api::machine::IntentStatus;
use magnetite_boot::{capability::CapabilityKey, fleet::Fleet};
use magnetite_catalog::{Catalog, Problem};
use magnetite_daemon::{clock, log::chain};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::windows::Windows;
use crate::{
    folders,
    metrics::Metrics,
    view::{View, Writer},
};

/// Network file systems tell nobody of changes; and windows run out without a change of any file.
const LOOK: Duration = Duration::from_secs(5);

/// Why the catalog cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The folder is not there, or may not be read.
    #[error("the catalog {0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// Reading it was cut short.
    #[error("reading the catalog was cut short")]
    CutShort(#[source] tokio::task::JoinError),
}

/// A folder, and the view that is kept up to date with it.
pub struct Folder {
    path: PathBuf,
    windows: Arc<Windows>,
    key: CapabilityKey,
    view: Writer,
    metrics: Metrics,
    /// The files as of the last reading.
    stamps: Vec<(PathBuf, u64, SystemTime)>,
    catalog: Catalog,
    published: Option<BTreeMap<String, IntentStatus>>,
}

impl Folder {
    /// Reads nothing yet.
    pub fn new(path: PathBuf, windows: Arc<Windows>, key: CapabilityKey, view: Writer, metrics: Metrics) -> Self {
        Self { path, windows, key, view, metrics, stamps: Vec::new(), catalog: Catalog::default(), published: None }
    }

    /// Reads what changed, moves the windows on, and swaps the view if it is another.
    ///
    /// # Errors
    /// If the folder cannot be read. The view stays what it was.
    pub fn look(&mut self) -> Result<(), CatalogError> {
        let unreadable = |error| CatalogError::Read(self.path.clone(), error);
        let stamps = magnetite_catalog::stamps(&self.path).map_err(unreadable)?;
        let same = self.published.is_some() && stamps == self.stamps;
        let mut changed = false;
        if !same {
            let new = magnetite_catalog::read(&self.path, &stamps);
            let known = &self.catalog.problems;
            for problem in new.problems.iter().filter(|new| !known.contains(new)) {
                let Problem { file, line, column, message } = problem;
                // As compilers write a place, which editors and terminals open.
                let file = format!("{file}:{line}:{column}");
                tracing::error!(file, reason = message, "not served, but the rest of the catalog is");
            }
            self.metrics.unusable.set(i64::try_from(new.problems.len()).unwrap_or(i64::MAX));
            changed = self.catalog != new;
            (self.catalog, self.stamps) = (new, stamps);
        }
        if let Err(error) = self.windows.update(self.catalog.machines.iter().map(AsRef::as_ref), clock::now()) {
            tracing::error!(error = chain(&error), "boot windows are not remembered");
        }
        let windows = self.windows.all();
        if changed || self.published.as_ref() != Some(&windows) {
            let Catalog { machines, profiles, config_maps, problems: _ } = &self.catalog;
            tracing::info!(machines = machines.len(), profiles = profiles.len(), "catalog read");
            self.view.send_replace(Arc::new(View {
                fleet: Arc::new(Fleet::index(machines.iter().cloned()).with_ids(&self.key)),
                profiles: profiles.clone(),
                config_maps: config_maps.clone(),
                windows: windows.clone(),
                ..View::default()
            }));
            self.published = Some(windows);
        }
        Ok(())
    }

    /// Keeps the view up to date with the folder until `stop`.
    ///
    /// # Errors
    /// If a reading was cut short. A folder that cannot be read for a while is served as it was.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), CatalogError> {
        let (poke, mut poked) = mpsc::channel::<()>(1);
        let _watcher = folders::watch(&self.path, poke);
        let windows = Arc::clone(&self.windows);
        let mut told = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
                () = windows.changed.notified() => {}
                Some(()) = poked.recv() => folders::quiet(&mut poked).await,
            }
            let looked = tokio::task::spawn_blocking(move || {
                let result = self.look();
                (self, result)
            });
            let (folder, result) = looked.await.map_err(CatalogError::CutShort)?;
            self = folder;
            let error = result.err().map(|error| error.to_string());
            if let Some(message) = error.as_ref().filter(|_| told != error) {
                tracing::error!(error = message, "serving what was read before");
            }
            told = error;
        }
    }
}
