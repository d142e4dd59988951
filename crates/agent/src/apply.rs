//! Does what the plan says. Each of these may be killed at any point and done again.

use std::path::Path;

use jiff::Timestamp;
use magnetite_api::join::JoinBundle;

use crate::{
    files::{self, CURRENT, FileError, PKI, Paths},
    keys::{self, KeyError},
    kubelet, observe, plan,
    plan::Observed,
    state::State,
    systemd::{Systemctl, SystemctlError},
};

/// Why the box could not be made what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file could not be written.
    #[error("the kubelet's files could not be written")]
    File(#[from] FileError),
    /// The kubelet's key could not be read.
    #[error("the kubelet's key could not be read")]
    Keys(#[from] KeyError),
    /// The answer to the claim is for another box, or half an answer.
    #[error("the answer to the claim cannot be used: {0}")]
    WrongAnswer(&'static str),
    /// The unit did not start.
    #[error("the kubelet could not be started")]
    Start(#[source] SystemctlError),
    /// It started and ended at once.
    #[error("the kubelet does not stay up: {0}")]
    NotUp(String),
}

/// Keeps the answer to a claim, if it is one for us.
pub fn keep_answer(paths: &Paths, state: &State, now: Timestamp) -> Result<(), ApplyError> {
    check(paths, &state.join, now)?;
    Ok(state.save(paths)?)
}

/// What would make every later step fail is refused here, where it can still be told from a fault of the box.
fn check(paths: &Paths, join: &JoinBundle, now: Timestamp) -> Result<(), ApplyError> {
    let facts = observe::issued(paths, join)?.ok_or(ApplyError::WrongAnswer("there is no certificate in it"))?;
    let wrong = if !facts.ours {
        "the certificate is not for this node's name and key"
    } else if plan::ends(facts.not_after, now) {
        "the certificate has ended already; another one is on its way, unless the Machine's Events say why not; are the \
         clocks of the cluster and of this box right?"
    } else if !join.api_server.starts_with("https://") {
        "the API server's URL does not begin with https://"
    } else if !join.certificate_authority.contains("-----BEGIN CERTIFICATE-----") {
        "there is no certificate authority in it"
    } else if serde_json::from_str::<serde_json::Map<_, _>>(&join.kubelet_configuration).is_err() {
        "the kubelet's configuration is no JSON object"
    } else {
        return Ok(());
    };
    Err(ApplyError::WrongAnswer(wrong))
}

/// Writes the kubelet's files, and its certificate where what is there is not good or not as good.
pub fn write_files(
    paths: &Paths,
    state: &mut State,
    seen: &Observed,
    wanted: &[kubelet::File],
    now: Timestamp,
) -> Result<(), ApplyError> {
    // First of all, so that a kubelet that runs with the old files is started again even if we are killed.
    if state.started {
        state.started = false;
        state.save(paths)?;
    }
    for file in wanted {
        files::write(&paths.at(file.path), file.mode, file.text.as_bytes())?;
    }
    let issued = seen.answer.as_ref().and_then(|answer| answer.certificate.as_ref());
    if !plan::is_kept(seen.installed.as_ref(), issued, now) {
        install_certificate(paths, &state.join, now)?;
    }
    Ok(())
}

/// As the kubelet's own certificate store does: certificate and key in one file with the time in its name, and a
/// symlink to it. It insists on the symlink.
fn install_certificate(paths: &Paths, join: &JoinBundle, now: Timestamp) -> Result<(), ApplyError> {
    let folder = paths.at(PKI);
    files::folder(&folder, 0o700)?;
    let name = format!("kubelet-client-{}.pem", now.strftime("%Y-%m-%d-%H-%M-%S"));
    let mut pair = join.certificate.trim_end().as_bytes().to_vec();
    pair.push(b'\n');
    pair.extend(keys::kubelet_pem(paths)?);
    files::write(&folder.join(&name), 0o600, &pair)?;
    // Relative, so that it is right wherever the folder is mounted.
    Ok(files::link(Path::new(&name), &paths.at(CURRENT))?)
}

/// Starts the kubelet with what was written, and records that.
pub async fn start_kubelet(paths: &Paths, state: &mut State, systemctl: &Systemctl) -> Result<(), ApplyError> {
    systemctl.start_anew().await.map_err(ApplyError::Start)?;
    if !systemctl.is_active().await.map_err(ApplyError::Start)? {
        return Err(ApplyError::NotUp(systemctl.condition().await));
    }
    state.started = true;
    Ok(state.save(paths)?)
}
