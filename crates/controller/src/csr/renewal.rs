//! Client certificates of kubelets that have one already. A certificate cannot be revoked, so its renewal is
//! where a machine that left is stopped (threats.md, S23).

use kube::ResourceExt;
use magnetite_api::Machine;
use magnetite_request::Request;

use super::decide::{Verdict, deny, usages_are};
use crate::node::NodeSeen;

/// Decides about a renewal by a joined machine whose common name is its own.
pub(super) fn decide(usages: &[String], request: &Request, machine: &Machine, node: Option<&NodeSeen>) -> Verdict {
    if !usages_are(usages, "client auth") {
        return deny("BadUsages", "the usages are not digital signature and client auth");
    }
    if !request.sans.is_empty() {
        return deny("BadNames", "a client certificate has no subject alternative name");
    }
    if request.asks_more {
        return deny("BadRequest", "the request asks for extensions or attributes");
    }
    match node {
        // A node that deleted itself may not come back as another (CVE-2025-5187): creating is not joining.
        None => deny("NodeGone", "the Node does not exist; the machine must claim its identity again"),
        Some(node) if node.owner.is_some() && node.owner == machine.uid() => {
            Verdict::Approve("the Machine is joined and its Node is its own".to_owned())
        }
        Some(node) => Verdict::Wait(format!("the Node {} does not carry the Machine's mark yet", node.name)),
    }
}
