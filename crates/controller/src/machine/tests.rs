//! What a Machine says in each situation, and what must hold in all of them.

mod fold;
mod phases;
mod properties;
mod reinstall;
mod update;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use magnetite_api::{
    Machine,
    profile::JoinMode,
    report::{BootRecord, BootStep, BootStepName},
};

use super::observe::{Observed, ProfileSeen, Turn, WipeSeen};
use crate::{
    fixtures::{machine, t},
    node,
};

/// `box-1` as it was created: finalizer set, no status.
fn created() -> Observed {
    let mut machine = machine();
    machine.status = None;
    observed(machine)
}

fn observed(machine: Machine) -> Observed {
    let marks = node::marks::wanted(&machine, Some(&crate::fixtures::profile()), None);
    let profile = ProfileSeen {
        name: "p".into(),
        revision: "0123456789".into(),
        lives_in_memory: true,
        boots_an_installer: false,
        join: JoinMode::Certificate,
        trouble: None,
        unreported: false,
        marks,
        update: magnetite_api::update::UpdateSpec::default(),
        admission: None,
    };
    Observed {
        machine: Arc::new(machine),
        conflicts: vec![],
        profile: Ok(profile),
        boot: None,
        inventory: None,
        install: None,
        reinstall: None,
        wipe: WipeSeen { turn: Turn { before: 0, limit: 10 }, ..WipeSeen::default() },
        node: None,
        claims: vec![],
        open_requests: vec![],
        held: None,
        pods: None,
    }
}

/// A boot that began at `began`, with steps at their seconds.
pub(super) fn boot(began: i64, steps: &[(BootStepName, i64)]) -> BootRecord {
    let step = |(name, at): &(BootStepName, i64)| BootStep {
        name: *name,
        first_at: Time(t(*at)),
        last_at: Time(t(*at)),
        count: 1,
        bytes: None,
        detail: None,
    };
    BootRecord {
        started_at: Time(t(began)),
        last_seen: Time(t(steps.iter().map(|(_, at)| *at).max().unwrap_or(began))),
        server: "server-1".into(),
        firmware: None,
        architecture: None,
        mac: None,
        uuid: None,
        address: None,
        steps: steps.iter().map(step).collect(),
        failure: None,
        loader: None,
        revision: None,
        failed_loaders: Vec::new(),
        previous: vec![],
    }
}
