//! A Profile's templates: cloud-init's seed, kickstart, preseed.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use magnetite_api::{Architecture, Machine, conditions::reason, report::BootStepName};
use magnetite_boot::{
    plan::{Next, Task},
    render::{self, AgentLink, Links, RenderError},
    select::Chosen,
};

use super::{Peer, Reached, guard::BootLink, later, refuse_unknown, text};
use crate::{app::App, dhcp::unix, record::Detail, view::View};

const TEXT: &str = "text/plain; charset=utf-8";
/// When a box may ask again for what does not render, in seconds: what fetches these gives up after few tries, so that it has to be soon.
const AGAIN: u32 = 5;

/// One of them, by its name.
pub async fn template(
    State(app): State<Arc<App>>,
    reached: Reached,
    peer: Peer,
    BootLink { view, machine, architecture, now }: BootLink,
    Path((_, _, _, name)): Path<(String, String, String, String)>,
) -> Response {
    let profile = match app.profile(&view, &machine) {
        Ok(profile) => profile,
        Err(error) => return later(error.reason(), error.to_string(), AGAIN),
    };
    if let Next::Boot(Task::Install | Task::Inventory | Task::Wipe) = app.next(&view, &machine, Ok(&profile), now) {
        // They belong to the system that stays. An installer that found its answers would install where a disk is to be wiped.
        return later("NotYet", "the machine boots to be looked at, installed or wiped by its agent", AGAIN);
    }
    if !profile.spec.templates.contains_key(&name) {
        // The only answer by which cloud-init goes on without what is optional, such as vendor-data.
        return refuse_unknown();
    }
    let intent = view.intent(&machine);
    let site = app.site_asked(&reached);
    let links = site.links(&machine, architecture, intent, unix(now));
    let agent = app.agent_link(&site, &machine, architecture, &links, intent, unix(now));
    let source = view.template(&profile, &name);
    match render::template(&profile, &machine, architecture, (&name, source), &links, agent.as_ref()) {
        Ok(rendered) => {
            let detail = Detail { bytes: Some(rendered.len() as u64), ..Detail::words(name) };
            let detail = detail.of_revision(profile.revision()).at_peer(peer.ip());
            app.records.step(&machine, BootStepName::ConfigFetched, detail, now);
            text(TEXT, rendered)
        }
        Err(error) => {
            let message = error.to_string();
            app.records.fail(&machine, BootStepName::ConfigFetched, reason::RENDER_FAILED, &message, now);
            // Not 404 and not 500: somebody may mend it while the box asks on.
            later(reason::RENDER_FAILED, message, AGAIN)
        }
    }
}

/// The first of a Profile's templates that does not render. Its script waits for that: an installer asks a few times and then stops, and
/// the box with it.
pub fn unrendered(
    view: &View,
    profile: &Chosen,
    (machine, architecture): (&Machine, Architecture),
    links: &Links,
    agent: Option<&AgentLink>,
) -> Option<RenderError> {
    let mut names = profile.spec.templates.keys();
    names.find_map(|name| {
        let source = view.template(profile, name);
        render::template(profile, machine, architecture, (name, source), links, agent).err()
    })
}
