//! Scripts and Ignition configs.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use magnetite_api::{Architecture, Profile, conditions::reason, report::BootStepName};
use magnetite_boot::{
    command_line::for_echo,
    diagnose::{INSTALLED, LOCAL, WAITS},
    fleet::{Found, Identity},
    plan::{Next, Task},
    render,
    select::Chosen,
};
use magnetite_daemon::clock;
use serde::Deserialize;

use super::{Peer, Reached, guard::BootLink, later, refuse, refuse_unknown, templates, text};
use crate::{
    app::App,
    artifacts::{self, Obstacle},
    dhcp::unix,
    record::Detail,
};

const SCRIPT: &str = "text/plain; charset=utf-8";

/// The machine's script: boot, local boot, or wait.
pub async fn script(
    State(app): State<Arc<App>>,
    reached: Reached,
    peer: Peer,
    BootLink { view, machine, architecture, now }: BootLink,
) -> Response {
    let intent = view.intent(&machine);
    let site = app.site_asked(&reached);
    let links = site.links(&machine, architecture, intent, unix(now));
    let profile = app.profile(&view, &machine);
    let step = |detail: Detail| app.records.step(&machine, BootStepName::ScriptServed, detail.at_peer(peer.ip()), now);
    let served = |words: String| step(Detail::words(words));
    let wait = |seconds, why: &str| {
        served(format!("{WAITS}{why}"));
        text(SCRIPT, render::wait_script(&machine, why, seconds, &links))
    };
    match (app.next(&view, &machine, profile.as_deref(), now), profile) {
        (Next::Local, _) => {
            served(format!("{LOCAL}: no window is open"));
            text(SCRIPT, render::local_script(&machine))
        }
        (Next::Installed, _) => {
            served(format!("{INSTALLED}: boots from its disk"));
            text(SCRIPT, render::installed_script(&machine))
        }
        (Next::Wait { seconds, why }, _) => wait(seconds, &why),
        (Next::Boot(_), Err(error)) => wait(30, &error.to_string()),
        (Next::Boot(task), Ok(profile)) => {
            if let Some(Obstacle { on_its_way, message }) = obstacle(&app, &profile, architecture) {
                let response = wait(10, &message);
                if !on_its_way {
                    // After the step, which would clear it.
                    app.records.fail(&machine, BootStepName::ScriptServed, reason::ARTIFACT_FAILED, &message, now);
                }
                return response;
            }
            let texts = match task {
                Task::Boot => {
                    let agent = app.agent_link(&site, &machine, architecture, &links, intent, unix(now));
                    templates::unrendered(&view, &profile, (&machine, architecture), &links, agent.as_ref())
                }
                Task::Install | Task::Inventory | Task::Wipe => None,
            };
            match texts.map_or_else(|| render::script(&profile, &machine, architecture, &links), Err) {
                Ok(script) => {
                    let what = match task {
                        Task::Boot => "boots",
                        Task::Install => "boots the installer of",
                        Task::Inventory => "boots, held, to tell what it is made of,",
                        Task::Wipe => "boots, to be wiped,",
                    };
                    let revision = profile.revision();
                    step(revised(Detail::words(format!("{what} profile {revision}")), task, &profile));
                    text(SCRIPT, script)
                }
                Err(error) => {
                    // Not 500: iPXE would go on to the next boot device, and whatever is there. This box waits for who mends the Profile.
                    let response = wait(30, &error.to_string());
                    app.records.fail(
                        &machine,
                        BootStepName::ScriptServed,
                        reason::RENDER_FAILED,
                        &error.to_string(),
                        now,
                    );
                    response
                }
            }
        }
    }
}

/// What was served of a Profile, with its revision where the machine is to run that: one that is held, or wiped, runs as much of it as its
/// work needs.
fn revised(detail: Detail, task: Task, profile: &Chosen) -> Detail {
    match task {
        Task::Boot | Task::Install => detail.of_revision(profile.revision()),
        Task::Inventory | Task::Wipe => detail,
    }
}

/// Why the files of an architecture are not all at hand. What somebody must do something about comes first.
fn obstacle(app: &App, profile: &Profile, architecture: Architecture) -> Option<Obstacle> {
    let field = format!("spec.boot.{architecture}.");
    let all = artifacts::artifacts(profile).into_iter().filter(|(name, _)| name.starts_with(&field));
    all.filter_map(|(name, named)| app.library.obstacle(&name, named)).min_by_key(|found| found.on_its_way)
}

/// The machine's Ignition config.
pub async fn ignition(
    State(app): State<Arc<App>>,
    reached: Reached,
    peer: Peer,
    BootLink { view, machine, architecture, now }: BootLink,
) -> Response {
    let profile = match app.profile(&view, &machine) {
        Ok(profile) => profile,
        Err(error) => return later(error.reason(), error.to_string(), 10),
    };
    let intent = view.intent(&machine);
    let site = app.site_asked(&reached);
    let links = site.links(&machine, architecture, intent, unix(now));
    let agent = app.agent_link(&site, &machine, architecture, &links, intent, unix(now));
    let task = match app.next(&view, &machine, Ok(&profile), now) {
        Next::Boot(task) => task,
        // Who asks is one that the link was opened to.
        Next::Installed | Next::Local | Next::Wait { .. } => Task::Boot,
    };
    let rendered = match task {
        Task::Install | Task::Inventory | Task::Wipe => {
            render::worker(&profile, &machine, architecture, agent.as_ref(), task)
        }
        Task::Boot => {
            render::ignition(&profile, &machine, architecture, view.ignition(&profile), &links, agent.as_ref())
        }
    };
    match rendered {
        Ok(config) => {
            let detail = revised(Detail::bytes(config.len() as u64), task, &profile).at_peer(peer.ip());
            app.records.step(&machine, BootStepName::ConfigFetched, detail, now);
            text("application/vnd.coreos.ignition+json", config)
        }
        Err(error) => {
            let message = error.to_string();
            app.records.fail(&machine, BootStepName::ConfigFetched, reason::RENDER_FAILED, &message, now);
            // Ignition asks again.
            refuse(StatusCode::INTERNAL_SERVER_ERROR, reason::RENDER_FAILED, message)
        }
    }
}

/// Asks iPXE on a box that nobody knows for what its firmware did not say.
pub async fn identify_script(State(app): State<Arc<App>>, reached: Reached) -> Response {
    if !app.identify_by_serial {
        return refuse_unknown();
    }
    let base = app.site_asked(&reached).base();
    let url = format!("{base}/identify?mac=${{mac}}&uuid=${{uuid}}&arch=${{buildarch}}&serial=${{serial:uristring}}");
    text(
        SCRIPT,
        format!(
            "#!ipxe\necho Magnetite: nobody declared this MAC or UUID, asking by serial number ${{serial}}\nchain --replace --autofree {url} || exit 1\n"
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
pub async fn identify(State(app): State<Arc<App>>, reached: Reached, Query(asked): Query<Asked>) -> Response {
    if !app.identify_by_serial {
        return refuse_unknown();
    }
    let identity = Identity { mac: asked.mac.parse().ok(), uuid: asked.uuid.parse().ok(), serial: Some(asked.serial) };
    let architecture = if asked.arch == "arm64" { Architecture::Aarch64 } else { Architecture::X86_64 };
    match app.find(&app.view(), &identity, clock::now()) {
        Found::Machine(machine) => {
            let url = app.site_asked(&reached).script_link(&machine, architecture, unix(clock::now()));
            text(SCRIPT, format!("#!ipxe\nchain --replace --autofree {url}\n"))
        }
        Found::Unknown | Found::Conflict(_) => {
            let serial = identity.serial.unwrap_or_default();
            text(
                SCRIPT,
                format!("#!ipxe\necho Magnetite: no Machine has the serial number {}\nexit 1\n", for_echo(&serial)),
            )
        }
    }
}
