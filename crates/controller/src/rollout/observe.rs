//! Facts about the machines of a Profile, from the stores.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use magnetite_api::{
    Machine, Phase,
    conditions::{self, READY},
    profile::JoinMode,
    update::UpdateStage,
};

use super::{
    plan::{Ended, Member},
    version::Minor,
};
use crate::{
    node::{NodeSeen, Readiness},
    stores::Stores,
};

/// The machines of a Profile as a rollout sees them.
pub fn members(machines: &[Arc<Machine>], join: JoinMode, stores: &Stores) -> Vec<Member> {
    machines.iter().map(|machine| member(machine, join, stores)).collect()
}

fn member(machine: &Machine, join: JoinMode, stores: &Stores) -> Member {
    let status = machine.status.as_ref();
    let identity = status.and_then(|status| status.identity.as_ref());
    let node = stores.node(&machine.node_name()).map(|node| NodeSeen::of(&node));
    let node = node.filter(|node| node.belongs_to(machine.metadata.uid.as_deref(), identity));
    let booted = status.and_then(|status| status.booted_revision.clone());
    let ready = match join {
        JoinMode::Certificate => node.as_ref().is_some_and(|node| node.readiness == Readiness::Ready),
        JoinMode::None => status.is_some_and(|status| status.phase == Some(Phase::Ready)),
    };
    let update = status.and_then(|status| status.update.as_deref());
    Member {
        name: machine.name_any(),
        uid: machine.uid().unwrap_or_default(),
        ran: booted.is_some() || identity.is_some_and(|identity| identity.issued_at.is_some()),
        ready,
        down_since: (!ready).then(|| since(machine)).flatten(),
        maintenance: machine.spec.maintenance.is_some(),
        leaving: machine.metadata.deletion_timestamp.is_some(),
        booted,
        number: update.map_or(0, |update| update.number),
        active: update.filter(|update| update.stage.is_active()).map(|update| update.stage),
        ended: update.filter(|update| update.stage == UpdateStage::Failed).map(|update| Ended {
            revision: update.revision.clone(),
            retry: update.retry.clone(),
            message: update.message.clone().unwrap_or_default(),
        }),
        kubelet: node.and_then(|node| Minor::parse(&node.kubelet)),
    }
}

/// Since when it is not Ready.
fn since(machine: &Machine) -> Option<Timestamp> {
    let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice())?;
    conditions::find(conditions, READY).filter(|ready| ready.status != "True").map(|ready| ready.last_transition_time.0)
}
