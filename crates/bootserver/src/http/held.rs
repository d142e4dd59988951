//! Boxes that are held: each tells what it is made of, again and again, so that nothing has to be remembered of it, and is told what
//! becomes of it.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kube::ResourceExt;
use magnetite_api::{
    Machine,
    join::{Held, InventoryAnswer, InventoryRequest},
    machine::IntentState,
    report::BootStepName,
};

use super::{Peer, body::Posted, guard::AgentLink, later, progress::bounded, refuse};
use crate::{
    app::{App, Cluster},
    record::{Detail, clean},
};

/// Seconds after which a box asks again.
const AGAIN: u32 = 15;

/// A box tells what it is made of, and asks what becomes of it.
pub async fn inventory(
    State(app): State<Arc<App>>,
    peer: Peer,
    AgentLink { machine, now }: AgentLink,
    Posted(body): Posted<InventoryRequest>,
) -> Response {
    let InventoryRequest { inventory } = match body {
        Ok(request) => request,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, "BadRequest", clean(&why, 300)),
    };
    // A share of its own: this link is of use to whoever read it, and must not use up that of the Machine's own agent.
    if !app.limits.reports.admit(format!("held/{}", machine.name_any()), now) {
        return later("Busy", "one report a second", 1);
    }
    // What it says of a Machine that is held no more is not its business: that one's own boot tells.
    if machine.is_held() {
        app.records.inventory(&machine, bounded(inventory), now);
        app.records.step(&machine, BootStepName::Inventoried, Detail::default().at_peer(peer.ip()), now);
    }
    // Without a cluster nobody would switch the box on again; and one that comes back to the system on its disk needs nobody to.
    let settled = machine.status.as_ref().and_then(|status| status.intent.as_ref());
    let settled =
        settled.is_some_and(|intent| intent.state == IntentState::Fulfilled && intent.id == machine.wanted_intent());
    let switched = matches!(app.cluster, Cluster::Client(_)) && machine.power_is_kept() && !settled;
    Json(answer(&machine, switched)).into_response()
}

fn answer(machine: &Machine, switched: bool) -> InventoryAnswer {
    let name = machine.name_any();
    let (next, message) = if machine.is_held() {
        let message = match machine.uid() {
            Some(_) if machine.maintenance().is_some() => {
                format!("is in maintenance: kubectl magnetite maintenance {name} --off brings it back")
            }
            Some(_) => format!("waits for approval: kubectl magnetite approve {name} --profile PROFILE"),
            None => format!("found, as {name}; waits to be declared"),
        };
        (Held::Wait, message)
    } else if switched {
        (Held::PowerOff, format!("is the Machine {name}; switches itself off, and its BMC switches it on"))
    } else {
        (Held::Restart, format!("is the Machine {name}; restarts to become it"))
    };
    InventoryAnswer { next, seconds: AGAIN, machine: name, message }
}
