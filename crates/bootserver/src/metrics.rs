//! What is counted. Labels come from closed sets: never a MAC, a name or an address.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// One label: how it went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// How it went.
    pub outcome: &'static str,
}

/// What was asked over HTTP, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// The kind of thing.
    pub route: &'static str,
    /// HTTP status.
    pub status: u16,
}

/// The counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// DHCP packets by what became of them.
    pub dhcp: Family<Outcome, Counter>,
    /// TFTP transfers by how they ended.
    pub tftp: Family<Outcome, Counter>,
    /// HTTP answers.
    pub http: Family<Answered, Counter>,
    /// Claims by what they were answered.
    pub claims: Family<Outcome, Counter>,
    /// Writes of boot reports.
    pub reports: Family<Outcome, Counter>,
}

impl Metrics {
    /// Registers all counters.
    pub fn register(&self, registry: &mut Registry) {
        let Self { dhcp, tftp, http, claims, reports } = self;
        registry.register(
            "magnetite_bootserver_dhcp_packets",
            "DHCP and PXE packets by what became of them",
            dhcp.clone(),
        );
        registry.register("magnetite_bootserver_tftp_transfers", "TFTP transfers by how they ended", tftp.clone());
        registry.register("magnetite_bootserver_http_answers", "HTTP answers by route and status", http.clone());
        registry.register("magnetite_bootserver_claims", "Claims by what they were answered", claims.clone());
        registry.register("magnetite_bootserver_reports", "Writes of boot reports by how they went", reports.clone());
    }
}

/// Counts one.
pub fn count(family: &Family<Outcome, Counter>, outcome: &'static str) {
    family.get_or_create(&Outcome { outcome }).inc();
}
