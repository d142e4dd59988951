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

/// What a source knocked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct At {
    /// The server.
    pub server: &'static str,
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
    /// Agents' reports by what they were answered.
    pub progress: Family<Outcome, Counter>,
    /// Requests of sources that are not answered.
    pub fences: Family<At, Counter>,
    /// Answers of other servers that tell boxes what to boot.
    pub rivals: Counter,
    /// Bytes of loaders and files.
    pub bytes: Family<Sent, Counter>,
    /// Machines, Profiles, and artifacts that are ready or not.
    pub known: Family<Kind, Gauge>,
    /// Documents of the catalog, or objects of the cluster, that cannot be used.
    pub unusable: Gauge,
    /// Seconds since something was heard of each watch of the cluster.
    pub watch_age: Family<Kind, Gauge>,
}

impl Metrics {
    /// Registers all counters.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            dhcp,
            dhcpv6,
            advertisements,
            tftp,
            http,
            claims,
            reports,
            progress,
            fences,
            rivals,
            bytes,
            known,
            unusable,
            watch_age,
        } = self;
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
        registry.register(
            "magnetite_bootserver_agent_reports",
            "Agents' reports by what they were answered",
            progress.clone(),
        );
        registry.register(
            "magnetite_bootserver_fenced",
            "Packets and requests of sources that are not answered, by server",
            fences.clone(),
        );
        registry.register(
            "magnetite_bootserver_other_servers",
            "Answers of other servers that tell boxes what to boot",
            rivals.clone(),
        );
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
        registry.register(
            "magnetite_bootserver_watch_age_seconds",
            "Seconds since anything was heard of the watch of a kind",
            watch_age.clone(),
        );
    }

    /// Counts what a source that is not answered sent.
    pub fn fenced(&self, server: &'static str) {
        self.fences.get_or_create(&At { server }).inc();
    }

    /// How often.
    #[cfg(test)]
    pub fn fenced_at(&self, server: &'static str) -> u64 {
        self.fences.get_or_create(&At { server }).get()
    }

    /// Says for how long nothing was heard of a watch.
    pub fn watch_is_of(&self, kind: &'static str, age: std::time::Duration) {
        self.watch_age.get_or_create(&Kind { kind }).set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }

    /// What was said.
    #[cfg(test)]
    pub fn age_of_watch(&self, kind: &'static str) -> i64 {
        self.watch_age.get_or_create(&Kind { kind }).get()
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
