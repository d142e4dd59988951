//! Which certificate requests of kubelets are approved, refused, or none of our business (threats.md, S5).
//! No client, no log. What it is given was read live.

use std::collections::BTreeSet;

use kube::ResourceExt;
use magnetite_api::{
    Machine, Sha256,
    names::{NODE_USER_PREFIX, NODES_GROUP, SIGNER_CLIENT, SIGNER_SERVING},
};
use magnetite_request::{Flaw, Request};

use super::{renewal, serving};
use crate::node::NodeSeen;

/// A certificate request, as the API server recorded it. Who asked is the API server's word.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The signer.
    pub signer: String,
    /// Who asked.
    pub username: String,
    /// In which groups.
    pub groups: Vec<String>,
    /// For which usages.
    pub usages: Vec<String>,
    /// SHA-256 of the client certificate with which it was asked. API servers before 1.32 do not tell.
    pub credential: Option<Sha256>,
    /// The request itself.
    pub request: Result<Request, Flaw>,
}

/// What is known about one node name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Party {
    /// The Machine whose node has that name.
    pub machine: Option<Machine>,
    /// The Node itself.
    pub node: Option<NodeSeen>,
}

/// How a node name stands to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A Machine's Node, with a certificate that we issued.
    Joined,
    /// A Machine's that is being deleted.
    Leaving,
    /// It carries our mark, and its Machine is gone.
    Left,
    /// A Machine has that node name, and has no certificate of ours yet.
    NotJoined,
    /// None of our business.
    Foreign,
}

impl Party {
    /// How this node name stands to us.
    pub fn standing(&self) -> Standing {
        let owner = self.node.as_ref().and_then(|node| node.owner.as_deref());
        let Some(machine) = &self.machine else {
            return if owner.is_some() { Standing::Left } else { Standing::Foreign };
        };
        let identity = machine.status.as_ref().and_then(|status| status.identity.as_ref());
        let issued = identity.is_some_and(|identity| identity.issued_at.is_some());
        let same = owner.is_none_or(|owner| machine.uid().as_deref() == Some(owner));
        match (machine.metadata.deletion_timestamp.is_some(), same, issued) {
            (true, true, true) => Standing::Leaving,
            // The Node is that of a Machine of the same name that was deleted; its certificate outlives it.
            (_, false, _) => Standing::Left,
            (false, true, true) => Standing::Joined,
            (_, true, false) if owner.is_some() => Standing::NotJoined,
            (true, true, false) => Standing::Foreign,
            (false, true, false) if identity.is_some() => Standing::NotJoined,
            (false, true, false) => Standing::Foreign,
        }
    }
}

/// Everything that the decision may know.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The request.
    pub asked: Asked,
    /// The node that asks.
    pub asker: Party,
    /// The node that the request names, where it is another one.
    pub target: Party,
    /// Addresses that belong to the cluster and to no box.
    pub reserved: Vec<std::net::IpAddr>,
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is not ours: leave it to others.
    Ignore,
    /// Look again soon.
    Wait(String),
    /// Approve it.
    Approve(String),
    /// Deny it.
    Deny {
        /// Why, in a word.
        reason: &'static str,
        /// Why, in a sentence.
        message: String,
    },
}

pub(super) fn deny(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict::Deny { reason, message: message.into() }
}

/// Name of the node that asks, if a kubelet does.
pub fn asking_node(username: &str) -> Option<&str> {
    username.strip_prefix(NODE_USER_PREFIX).filter(|name| !name.is_empty())
}

/// Decides.
pub fn decide(seen: &Observed) -> Verdict {
    let Observed { asked, asker, target, reserved } = seen;
    if asked.signer != SIGNER_CLIENT && asked.signer != SIGNER_SERVING {
        return Verdict::Ignore;
    }
    // Requests of users, of bootstrap tokens and of this controller itself are not renewals.
    let Some(node) = asking_node(&asked.username) else {
        return Verdict::Ignore;
    };
    let standing = asker.standing();
    if let Some(other) = names_another(asked, node) {
        let ours = |standing| !matches!(standing, Standing::Foreign);
        if ours(standing) || ours(target.standing()) {
            return deny("AnotherNode", format!("the node {node} asks for a certificate of the node {other}"));
        }
        return Verdict::Ignore;
    }
    match standing {
        Standing::Foreign => Verdict::Ignore,
        Standing::NotJoined => Verdict::Wait(format!("no certificate of {node} is on record yet")),
        Standing::Leaving => deny("MachineGone", format!("the Machine of the node {node} is being deleted")),
        Standing::Left => deny("MachineGone", format!("the Machine of the node {node} is gone")),
        Standing::Joined => joined(asked, asker, node, reserved),
    }
}

/// True if the certificate that was asked with descends from the key that is bound. A certificate cannot be revoked:
/// one that a rogue was given, before another key was bound, ends by not being renewed.
fn is_of_the_line(credential: Option<Sha256>, machine: &Machine) -> bool {
    let Some(identity) = machine.status.as_ref().and_then(|status| status.identity.as_ref()) else {
        return false;
    };
    // Where no other key was ever bound there is no other line. A renewal may have been missed, by a controller that was
    // away for longer than requests are kept, and then its certificate is of this line all the same.
    !identity.rebound || credential.is_none_or(|credential| identity.certificates.contains(&credential))
}

fn names_another<'a>(asked: &'a Asked, node: &str) -> Option<&'a str> {
    let request = asked.request.as_ref().ok()?;
    let subject = request.subject.as_ref().ok()?;
    asking_node(&subject.common_name).filter(|asked_for| *asked_for != node)
}

fn joined(asked: &Asked, asker: &Party, node: &str, reserved: &[std::net::IpAddr]) -> Verdict {
    let Some(machine) = &asker.machine else {
        return Verdict::Ignore;
    };
    if asker.node.as_ref().is_some_and(|node| node.control_plane) {
        return deny("ControlPlane", format!("{node} is a control-plane node"));
    }
    if !asked.groups.iter().any(|group| group == NODES_GROUP) {
        return deny("NotANode", format!("{} is not in the group {NODES_GROUP}", asked.username));
    }
    let request = match &asked.request {
        Ok(request) => request,
        Err(Flaw(flaw)) => return deny("BadRequest", flaw.clone()),
    };
    if !is_of_the_line(asked.credential, machine) {
        let message = format!(
            "{node} asks with a certificate of another key than the one that is bound to the Machine {}; if the box that \
             asks is the right one, provision it again: set another spec.bootIntent",
            machine.name_any()
        );
        return deny("AnotherKey", message);
    }
    match request.node() {
        Ok(name) if name == node => {}
        Ok(_) => return deny("AnotherNode", "the common name is another node's"),
        Err(Flaw(flaw)) => return deny("BadRequest", flaw),
    }
    if let Err(Flaw(flaw)) = &request.key_kind {
        return deny("BadRequest", flaw.clone());
    }
    if asked.signer == SIGNER_SERVING {
        serving::decide(&asked.usages, request, machine, node, reserved)
    } else {
        renewal::decide(&asked.usages, request, machine, asker.node.as_ref())
    }
}

/// True if the usages are `digital signature` and `wanted`, with or without `key encipherment`, and nothing
/// else and nothing twice: the two forms that Kubernetes' signer takes.
pub(super) fn usages_are(usages: &[String], wanted: &str) -> bool {
    let set: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut exact = BTreeSet::from(["digital signature", wanted]);
    let plain = set == exact;
    exact.insert("key encipherment");
    set.len() == usages.len() && (plain || set == exact)
}
