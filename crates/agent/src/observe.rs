//! Looks at the box: what of the join is there already. Reads files and asks systemctl; changes nothing.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use magnetite_api::join::JoinBundle;

use crate::{
    args::Args,
    files::{self, CURRENT, FileError, Paths, UPDATED},
    keys::{self, KeyError, certificate_facts},
    kubelet::{self, ArgumentError, MARK, UNIT_FILE, UnitOwner},
    plan::{Answer, CertificateFacts, Observed},
    state::State,
    systemd::{Systemctl, SystemctlError},
};

/// Why the box could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A file could not be read.
    #[error("the state of the join could not be read")]
    File(#[from] FileError),
    /// The keys could not be read.
    #[error("the keys could not be read")]
    Keys(#[from] KeyError),
    /// systemd could not be asked.
    #[error("systemd could not be asked")]
    Systemctl(#[from] SystemctlError),
    /// The answer holds something that cannot be written.
    #[error("the answer to the claim cannot be used")]
    Argument(#[from] ArgumentError),
}

/// What is so, for the plan; and what the plan's steps are done with.
#[derive(Debug)]
pub struct Look {
    /// For the plan.
    pub seen: Observed,
    /// The answer to our claim.
    pub state: Option<State>,
    /// The kubelet's files as the answer wants them, without its certificate.
    pub wanted: Vec<kubelet::File>,
    /// Where the kubelet's program was looked for.
    pub searched: Vec<String>,
}

/// Looks at the box.
pub async fn observe(
    args: &Args,
    paths: &Paths,
    systemctl: &Systemctl,
    started_here: bool,
) -> Result<Look, ObserveError> {
    let candidates = candidates(args);
    let program = candidates.iter().find(|program| is_program(&paths.at(program)));
    let ours = |state: &State| {
        state.machine == args.machine && state.intent == args.intent && state.join.node_name == args.node_name
    };
    let state = State::load(paths)?.filter(ours);
    let (mut wanted, mut same, mut active) = (Vec::new(), false, false);
    if let (Some(state), Some(program)) = (&state, program) {
        wanted = kubelet::files(&state.join, unit_owner(paths, systemctl).await?, program)?;
        same = all_same(paths, &wanted)?;
        active = systemctl.is_active().await?;
    }
    let seen = Observed {
        join: args.join,
        kubelet: program.is_some(),
        keys: keys::exist(paths)?,
        answer: state.as_ref().map(|state| answer(paths, state)).transpose()?,
        installed: installed(paths, &args.node_name)?,
        files: same,
        active,
        started_here,
    };
    Ok(Look { seen, state, wanted, searched: candidates.iter().map(|path| path.display().to_string()).collect() })
}

/// The certificate of an answer, with our kubelet key.
pub fn issued(paths: &Paths, join: &JoinBundle) -> Result<Option<CertificateFacts>, KeyError> {
    let key = keys::kubelet_pem(paths)?;
    Ok(certificate_facts(join.certificate.as_bytes(), &key, &join.node_name))
}

fn answer(paths: &Paths, state: &State) -> Result<Answer, KeyError> {
    Ok(Answer { started: state.started, certificate: issued(paths, &state.join)? })
}

/// The certificate that the kubelet would use. If it was killed while it rotated there is only the new symlink,
/// which it then takes over at its start.
fn installed(paths: &Paths, node_name: &str) -> Result<Option<CertificateFacts>, FileError> {
    let pair = match files::read(&paths.at(CURRENT))? {
        Some(pair) => Some(pair),
        None => files::read(&paths.at(UPDATED))?,
    };
    // A file in the symlink's place would make the kubelet fail at its first rotation.
    let is_link = |path| fs::symlink_metadata(paths.at(path)).is_ok_and(|file| file.is_symlink());
    Ok(pair
        .filter(|_| is_link(CURRENT) || is_link(UPDATED))
        .and_then(|pair| certificate_facts(&pair, &pair, node_name)))
}

/// Whose unit it is. One that we wrote at an earlier run is known to systemd too, and still ours.
async fn unit_owner(paths: &Paths, systemctl: &Systemctl) -> Result<UnitOwner, ObserveError> {
    let written = files::read(&paths.at(UNIT_FILE))?.unwrap_or_default();
    if written.starts_with(MARK.as_bytes()) {
        return Ok(UnitOwner::Agent);
    }
    Ok(if systemctl.knows_unit().await? { UnitOwner::System } else { UnitOwner::Agent })
}

fn all_same(paths: &Paths, wanted: &[kubelet::File]) -> Result<bool, FileError> {
    for file in wanted {
        if files::read(&paths.at(file.path))?.as_deref() != Some(file.text.as_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where the kubelet may be, in the order in which it is looked for.
fn candidates(args: &Args) -> Vec<PathBuf> {
    if let Some(program) = &args.kubelet {
        return vec![program.clone()];
    }
    let mut found = Vec::new();
    for folder in ["/usr/local/bin", "/opt/bin", "/usr/bin"].into_iter().chain(args.search_path.split(':')) {
        let program = Path::new(folder).join("kubelet");
        if program.is_absolute() && !found.contains(&program) {
            found.push(program);
        }
    }
    found
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
