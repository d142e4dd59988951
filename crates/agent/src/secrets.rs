//! Files with secrets: opened with the claim key, written before the kubelet starts, and written anew when they change.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use magnetite_api::join::{JoinBundle, SealedFiles};
use magnetite_daemon::{backoff::jittered, log::chain};
use magnetite_seal::{PlainFile, SealError};
use reqwest::StatusCode;
use tokio::time::sleep;

use crate::{
    files::{self, FileError, Paths},
    keys::{self, KeyError},
    server::BootServer,
    state::State,
};

/// How long it may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// They could not be opened.
    #[error("the secret files could not be opened")]
    Open(#[from] SealError),
    /// A file could not be written.
    #[error("a secret file could not be written")]
    File(#[from] FileError),
    /// The key could not be read.
    #[error("the claim key could not be read")]
    Key(#[from] KeyError),
}

/// Writes what is not there or differs. Says which files it wrote, and nothing of what is in them.
pub fn lay(paths: &Paths, machine: &str, sealed: &SealedFiles) -> Result<(), SecretError> {
    let key = keys::claim_pem(paths)?;
    for file in magnetite_seal::open(&key, machine, sealed)? {
        if lay_one(paths, &file)? {
            tracing::info!(path = file.path, "secret file written");
        }
    }
    Ok(())
}

fn lay_one(paths: &Paths, file: &PlainFile) -> Result<bool, SecretError> {
    let (path, contents) = (paths.at(&file.path), file.contents()?);
    let mode = fs::metadata(&path).map(|found| found.permissions().mode() & 0o7777);
    if mode.is_ok_and(|mode| mode == file.mode) && files::read(&path)?.as_deref() == Some(&contents) {
        return Ok(false);
    }
    files::write(&path, file.mode, &contents)?;
    Ok(true)
}

/// Keeps them as the cluster has them, for as long as the box runs. Ends at once where there are none.
pub async fn keep(paths: &Paths, server: &BootServer, mut state: State, pause: Duration) {
    let Some(refresh) = state.refresh.clone() else { return };
    if state.join.secret_files.is_none() {
        return;
    }
    tracing::info!("keeping the secret files as the cluster has them");
    let mut told = None;
    loop {
        sleep(jittered(pause)).await;
        match look(paths, server, &refresh, &mut state).await {
            Ok(()) => told = None,
            // Said once, and again when it is another: a boot server may be away for hours.
            Err(why) if told.as_ref() != Some(&why) => {
                tracing::warn!(error = why, "the secret files stay as they are");
                told = Some(why);
            }
            Err(_) => {}
        }
    }
}

async fn look(paths: &Paths, server: &BootServer, refresh: &str, state: &mut State) -> Result<(), String> {
    let answer = server.get(refresh, LIMIT).await.map_err(|error| chain(&error))?;
    if answer.status != StatusCode::OK {
        return Err(format!("the boot server answered with status {}", answer.status.as_u16()));
    }
    let sealed: SealedFiles = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let JoinBundle { secret_files, .. } = &state.join;
    if secret_files.as_ref().is_some_and(|known| known.revision == sealed.revision) {
        return Ok(());
    }
    lay(paths, &state.join.machine_uid, &sealed).map_err(|error| chain(&error))?;
    state.join.secret_files = Some(sealed);
    state.save(paths).map_err(|error| chain(&error))
}
