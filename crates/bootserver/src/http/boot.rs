//! Scripts and Ignition configs.

use std::{str::FromStr, sync::Arc};

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use magnetite_api::{Architecture, Machine, Profile, conditions::reason, report::BootStepName};
use magnetite_boot::{
    capability::Purpose,
    command_line::for_echo,
    fleet::{Found, Identity},
    plan::{self, Next},
    render::{self, Links},
};
use magnetite_daemon::clock;
use serde::Deserialize;

use super::{Peer, later, refuse, refuse_unknown, text};
use crate::{app::App, artifacts, dhcp::unix, record::Detail, view::View};

const SCRIPT: &str = "text/plain; charset=utf-8";

/// The machine's script: boot, local boot, or wait.
pub async fn script(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, cap, arch)): Path<(String, String, String)>,
) -> Response {
    let (view, now) = (app.view(), clock::now());
    let Some((machine, architecture)) = open(&app, &view, &id, &cap, &arch) else { return refuse_unknown() };
    let intent = view.intent(&machine);
    let links = app.links(&machine, architecture, intent, unix(now));
    let profile = view.profile(&machine);
    let conflicted = !view.fleet.conflicts(&machine).is_empty();
    let next = plan::next(&machine, profile.as_deref(), intent, conflicted, now);
    let name = machine.metadata.name.as_deref().unwrap_or_default();
    let mut obstacle = None;
    let (body, words) = match (next, profile) {
        (Next::Boot, Ok(profile)) => match boot_script(&app, &machine, &profile, architecture, &links) {
            Ok(script) => (script, format!("boots profile {}", profile.spec.revision())),
            Err(found) => {
                let message = found.message.clone();
                obstacle = Some(found);
                (render::wait_script(&machine, &message, 10, &links), format!("waits: {message}"))
            }
        },
        (Next::Local, _) => (render::local_script(&machine), "local boot: no window is open".to_owned()),
        (Next::Wait { seconds, why }, _) => {
            (render::wait_script(&machine, &why, seconds, &links), format!("waits: {why}"))
        }
        (Next::Boot, Err(error)) => {
            (render::wait_script(&machine, &error.to_string(), 30, &links), format!("waits: {error}"))
        }
    };
    tracing::info!(machine = name, peer = %peer.0, detail = words, "script served");
    app.records.step(&machine, BootStepName::ScriptServed, Detail::words(words).at_peer(peer.ip()), now);
    if let Some(Obstacle { reason, message }) = obstacle {
        app.records.fail(&machine, BootStepName::ScriptServed, reason, &message, now);
    }
    text(SCRIPT, body)
}

/// Why the script that boots cannot be served.
struct Obstacle {
    reason: &'static str,
    message: String,
}

fn boot_script(
    app: &App,
    machine: &Machine,
    profile: &Profile,
    architecture: Architecture,
    links: &Links,
) -> Result<String, Obstacle> {
    let field = format!("spec.boot.{architecture}.");
    for (name, artifact) in artifacts::artifacts(profile).into_iter().filter(|(name, _)| name.starts_with(&field)) {
        if let Some(message) = app.library.obstacle(&name, artifact) {
            return Err(Obstacle { reason: reason::ARTIFACT_FAILED, message });
        }
    }
    render::script(profile, machine, architecture, links)
        .map_err(|error| Obstacle { reason: reason::RENDER_FAILED, message: error.to_string() })
}

/// The machine's Ignition config.
pub async fn ignition(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path((id, cap, arch)): Path<(String, String, String)>,
) -> Response {
    let (view, now) = (app.view(), clock::now());
    let Some((machine, architecture)) = open(&app, &view, &id, &cap, &arch) else { return refuse_unknown() };
    let profile = match view.profile(&machine) {
        Ok(profile) => profile,
        Err(error) => return later(error.reason(), error.to_string(), 10),
    };
    let intent = view.intent(&machine);
    let links = app.links(&machine, architecture, intent, unix(now));
    let agent = app.agent_link(&machine, architecture, &links, intent, unix(now));
    match render::ignition(&profile, &machine, architecture, view.ignition(&profile), &links, agent.as_ref()) {
        Ok(config) => {
            let detail = Detail { bytes: Some(config.len() as u64), ..Detail::default() };
            app.records.step(&machine, BootStepName::ConfigFetched, detail.at_peer(peer.ip()), now);
            text("application/vnd.coreos.ignition+json", config)
        }
        Err(error) => {
            app.records.fail(&machine, BootStepName::ConfigFetched, reason::RENDER_FAILED, &error.to_string(), now);
            refuse(StatusCode::INTERNAL_SERVER_ERROR, reason::RENDER_FAILED, error.to_string())
        }
    }
}

/// The Machine and architecture that a link names.
pub fn open(app: &App, view: &View, id: &str, cap: &str, arch: &str) -> Option<(Arc<Machine>, Architecture)> {
    let machine = app.authorize(view, id, cap, Purpose::Boot, unix(clock::now()))?;
    Some((machine, Architecture::from_str(arch).ok()?))
}

/// Asks iPXE on a box that nobody knows for what its firmware did not say.
pub async fn identify_script(State(app): State<Arc<App>>) -> Response {
    if !app.identify_by_serial {
        return refuse_unknown();
    }
    let url =
        format!("{}/identify?mac=${{mac}}&uuid=${{uuid}}&arch=${{buildarch}}&serial=${{serial:uristring}}", app.base());
    text(
        SCRIPT,
        format!(
            "#!ipxe\necho Magnetite: nobody declared this MAC or UUID, asking by serial number ${{serial}}\nchain --replace --autofree {url} || exit\n"
        ),
    )
}

/// What iPXE says of a box.
#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    mac: String,
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    serial: String,
    #[serde(default)]
    arch: String,
}

/// Sends a box that is known by its serial number to its script, and one that is not to its next boot device.
pub async fn identify(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Response {
    if !app.identify_by_serial {
        return refuse_unknown();
    }
    let identity = Identity { mac: asked.mac.parse().ok(), uuid: asked.uuid.parse().ok(), serial: Some(asked.serial) };
    let architecture = if asked.arch == "arm64" { Architecture::Aarch64 } else { Architecture::X86_64 };
    match app.view().fleet.find(&identity) {
        Found::Machine(machine) => {
            let url = app.script_link(&machine, architecture, unix(clock::now()));
            text(SCRIPT, format!("#!ipxe\nchain --replace --autofree {url}\n"))
        }
        Found::Unknown | Found::Conflict(_) => {
            let serial = identity.serial.unwrap_or_default();
            text(
                SCRIPT,
                format!("#!ipxe\necho Magnetite: no Machine has the serial number {}\nexit\n", for_echo(&serial)),
            )
        }
    }
}
