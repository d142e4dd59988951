//! Serving certificates: the API server trusts whoever holds one to be the kubelet at its addresses. So a
//! request may name the node and the addresses that its box claimed from, and nothing else.

use std::net::IpAddr;

use magnetite_api::Machine;

use super::{
    addresses,
    decide::{Verdict, deny, usages_are},
};
use magnetite_request::{Request, San, quoted};

/// Decides about a serving certificate of a joined machine whose common name is its own.
pub(super) fn decide(
    usages: &[String],
    request: &Request,
    machine: &Machine,
    node: &str,
    reserved: &[IpAddr],
) -> Verdict {
    if !usages_are(usages, "server auth") {
        return deny("BadUsages", "the usages are not digital signature and server auth");
    }
    if request.asks_more {
        return deny("BadRequest", "the request asks for more than subject alternative names");
    }
    if request.sans.is_empty() {
        return deny("BadNames", "a serving certificate needs a subject alternative name");
    }
    let seen = machine.status.as_ref().map(|status| status.addresses.as_slice()).unwrap_or_default();
    let seen: Vec<IpAddr> = seen.iter().filter_map(|text| addresses::usable(text)).collect();
    for san in &request.sans {
        let refusal = match san {
            San::Dns(name) if name == node => continue,
            San::Dns(name) => format!("the name {} is not the node's", quoted(name)),
            San::Ip(ip) if reserved.contains(ip) => format!("the address {ip} is the cluster's own"),
            San::Ip(ip) if seen.contains(ip) => continue,
            San::Ip(ip) => {
                let known: Vec<_> = seen.iter().map(ToString::to_string).collect();
                format!("the address {ip} is none that the box claimed from ({})", known.join(", "))
            }
            San::Other => "mail addresses, URIs and other names are not allowed".to_owned(),
        };
        return deny("BadNames", refusal);
    }
    Verdict::Approve("the names and addresses are those of the Machine".to_owned())
}
