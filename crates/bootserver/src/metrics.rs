//! What is counted. Labels come from closed sets: never a MAC, a name or an address.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
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

/// A way by which bytes go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Way {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

/// How many bytes went which way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Sent {
    /// The way.
    pub protocol: Way,
}

/// What there is how many of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// What.
    pub kind: &'static str,
}

/// The counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// DHCP packets by what became of them.
    pub dhcp: Family<Outcome, Counter>,
    /// DHCPv6 packets by what became of them.
    pub dhcpv6: Family<Outcome, Counter>,
    /// Router advertisements by what became of them.
    pub advertisements: Family<Outcome, Counter>,
    /// TFTP transfers by how they ended.
    pub tftp: Family<Outcome, Counter>,
    /// HTTP answers.
    pub http: Family<Answered, Counter>,
    /// Claims by what they were answered.
    pub claims: Family<Outcome, Counter>,
    /// Writes of boot reports.
    pub reports: Family<Outcome, Counter>,
    /// Bytes of loaders and files.
    pub bytes: Family<Sent, Counter>,
    /// Machines, Profiles, and artifacts that are ready or not.
    pub known: Family<Kind, Gauge>,
    /// Documents of the catalog, or objects of the cluster, that cannot be used.
    pub unusable: Gauge,
}

impl Metrics {
    /// Registers all counters.
    pub fn register(&self, registry: &mut Registry) {
        let Self { dhcp, dhcpv6, advertisements, tftp, http, claims, reports, bytes, known, unusable } = self;
        registry.register(
            "magnetite_bootserver_dhcp_packets",
            "DHCP and PXE packets by what became of them",
            dhcp.clone(),
        );
        registry.register(
            "magnetite_bootserver_dhcpv6_packets",
            "DHCPv6 packets by what became of them",
            dhcpv6.clone(),
        );
        registry.register(
            "magnetite_bootserver_router_advertisements",
            "Empty router advertisements by what became of them",
            advertisements.clone(),
        );
        registry.register("magnetite_bootserver_tftp_transfers", "TFTP transfers by how they ended", tftp.clone());
        registry.register("magnetite_bootserver_http_answers", "HTTP answers by route and status", http.clone());
        registry.register("magnetite_bootserver_claims", "Claims by what they were answered", claims.clone());
        registry.register("magnetite_bootserver_reports", "Writes of boot reports by how they went", reports.clone());
        registry.register("magnetite_bootserver_sent_bytes", "Bytes of loaders and files, by protocol", bytes.clone());
        registry.register(
            "magnetite_bootserver_known",
            "Machines, Profiles, and artifacts that are ready or not",
            known.clone(),
        );
        registry.register(
            "magnetite_bootserver_unusable_objects",
            "Documents of the catalog, or objects of the cluster, that cannot be used",
            unusable.clone(),
        );
    }

    /// Counts bytes that went out.
    pub fn sent(&self, protocol: Way, bytes: u64) {
        self.bytes.get_or_create(&Sent { protocol }).inc_by(bytes);
    }

    /// Says how many there are of a kind.
    pub fn set(&self, kind: &'static str, number: usize) {
        self.known.get_or_create(&Kind { kind }).set(i64::try_from(number).unwrap_or(i64::MAX));
    }
}

/// Counts one.
pub fn count(family: &Family<Outcome, Counter>, outcome: &'static str) {
    family.get_or_create(&Outcome { outcome }).inc();
}
