//! What an agent in memory is to install, and whether it is to wipe. Over TLS pinned by key: by this answer the image is believed, whatever way it comes.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kube::ResourceExt;
use magnetite_api::{
    Architecture,
    conditions::reason,
    join::{InstallConfig, InstallOrder, WipeOrder},
};
use magnetite_boot::{
    capability::machine_key,
    plan::{Next, Task},
    render,
    scheme::Scheme,
    site::{Site, Tls},
};

use super::{Reached, guard::AgentLink, later, refuse, refuse_unknown};
use crate::{app::App, artifacts::Named, dhcp::unix};

/// The order for a machine of an architecture: 200 and an `InstallOrder`; 409 where nothing is to be installed (any more); 503 not yet.
pub async fn order(
    State(app): State<Arc<App>>,
    reached: Reached,
    AgentLink { machine, now }: AgentLink,
    Path((_, _, architecture)): Path<(String, String, String)>,
) -> Response {
    let Ok(architecture) = architecture.parse::<Architecture>() else { return refuse_unknown() };
    let view = app.view();
    let profile = match app.profile(&view, &machine) {
        Ok(profile) => profile,
        Err(error) => return later(error.reason(), error.to_string(), 10),
    };
    let intent = view.intent(&machine);
    match app.next(&view, &machine, Ok(&profile), now) {
        Next::Boot(Task::Install) => {}
        Next::Installed => return done(reason::INTENT_ALREADY_DONE, "the system of this intent is installed"),
        Next::Boot(Task::Boot | Task::Inventory | Task::Wipe) | Next::Local => {
            return done(reason::WINDOW_EXPIRED, "no boot window is open in which anything is to be installed");
        }
        Next::Wait { seconds, why } => return later("NotYet", why, seconds),
    }
    let (Some(install), Some(image), Some(intent)) = (&profile.spec.install, profile.spec.image(architecture), intent)
    else {
        let why = format!("spec.install.image of the Profile names no file of {architecture}");
        return later("ProfileChanged", why, 30);
    };
    let named = Named { artifact: image, kernel_of: None };
    if app.library.get(named).is_none() {
        let why = app.library.obstacle(&install.image, named).map(|obstacle| obstacle.message);
        return later("ArtifactNotReady", why.unwrap_or_default(), 5);
    }
    let site = app.site_asked(&reached);
    let links = site.links(&machine, architecture, Some(intent), unix(now));
    // The agent believes no certificate authority, and needs none: it knows the sum.
    let plain = Site { scheme: Scheme::Http, tls: Tls::default(), ..site };
    let image_url = plain.links(&machine, architecture, Some(intent), unix(now)).file(&install.image);
    let agent = app.agent_link(&site, &machine, architecture, &links, Some(intent), unix(now));
    let config = match &install.config {
        None => None,
        Some(place) => {
            let template = view.ignition(&profile);
            match render::ignition(&profile, &machine, architecture, template, &links, agent.as_ref()) {
                Ok(ignition) => Some(InstallConfig { place: place.clone(), ignition }),
                Err(error) => return later(reason::RENDER_FAILED, error.to_string(), 30),
            }
        }
    };
    let order = InstallOrder {
        machine: machine_key(&machine),
        intent: intent.id.clone(),
        opened_at: intent.opened_at.clone(),
        image: image_url,
        sha256: image.sha256,
        format: install.format,
        disk: install.disk.clone(),
        config,
    };
    Json(order).into_response()
}

/// Whether a machine's box is to be wiped: 200 and a `WipeOrder`, or 409.
pub async fn wipe(State(app): State<Arc<App>>, AgentLink { machine, now }: AgentLink) -> Response {
    let view = app.view();
    let profile = app.profile(&view, &machine);
    match app.next(&view, &machine, profile.as_deref(), now) {
        Next::Boot(Task::Wipe) => {
            Json(WipeOrder { machine: machine.name_any(), intent: machine.wanted_intent().to_owned() }).into_response()
        }
        Next::Boot(Task::Boot | Task::Inventory | Task::Install)
        | Next::Installed
        | Next::Local
        | Next::Wait { .. } => done(reason::WAITING, "nobody asks for this box to be wiped now"),
    }
}

/// Nothing is to be done: the agent restarts its box, which is told what to do instead.
fn done(reason: &str, message: &str) -> Response {
    refuse(StatusCode::CONFLICT, reason, message)
}
