//! The kinds of object that there are, and objects as the values that everybody works with.

use std::sync::Arc;

use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Node};
use magnetite_api::{BootReport, Machine, MachineClaim, Profile};
use serde::de::DeserializeOwned;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Machine,
    Profile,
    Claim,
    Report,
    Request,
    Node,
    Event,
}

impl Kind {
    /// Those that are watched.
    pub const WATCHED: [Self; 6] = [Self::Profile, Self::Machine, Self::Claim, Self::Report, Self::Request, Self::Node];

    /// By the word in a path.
    pub fn of_path(word: &str) -> Option<Self> {
        Some(match word {
            "machines" => Self::Machine,
            "profiles" => Self::Profile,
            "machineclaims" => Self::Claim,
            "bootreports" => Self::Report,
            "certificatesigningrequests" => Self::Request,
            "nodes" => Self::Node,
            "events" => Self::Event,
            _ => return None,
        })
    }
}

/// An object, read.
#[derive(Debug, Clone)]
pub enum Object {
    Machine(Arc<Machine>),
    Profile(Arc<Profile>),
    Claim(Arc<MachineClaim>),
    Report(Arc<BootReport>),
    Request(Arc<CertificateSigningRequest>),
    Node(Arc<Node>),
    Event(Arc<Value>),
}

fn read<K: DeserializeOwned>(value: &Value) -> Arc<K> {
    Arc::new(
        K::deserialize(value)
            .unwrap_or_else(|error| panic!("the simulation stored what is no object: {error}: {value:#}")),
    )
}

impl Object {
    pub fn read(kind: Kind, value: &Arc<Value>) -> Self {
        match kind {
            Kind::Machine => Self::Machine(read(value)),
            Kind::Profile => Self::Profile(read(value)),
            Kind::Claim => Self::Claim(read(value)),
            Kind::Report => Self::Report(read(value)),
            Kind::Request => Self::Request(read(value)),
            Kind::Node => Self::Node(read(value)),
            Kind::Event => Self::Event(Arc::clone(value)),
        }
    }

    pub fn machine(&self) -> Option<&Arc<Machine>> {
        if let Self::Machine(machine) = self { Some(machine) } else { None }
    }

    pub fn claim(&self) -> Option<&Arc<MachineClaim>> {
        if let Self::Claim(claim) = self { Some(claim) } else { None }
    }

    pub fn request(&self) -> Option<&Arc<CertificateSigningRequest>> {
        if let Self::Request(request) = self { Some(request) } else { None }
    }

    pub fn profile(&self) -> Option<&Arc<Profile>> {
        if let Self::Profile(profile) = self { Some(profile) } else { None }
    }

    pub fn node(&self) -> Option<&Arc<Node>> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }
}
