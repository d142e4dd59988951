//! Counters. Labels come from closed sets: never a machine, a MAC or an address.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use kube::runtime::reflector::Store;
use magnetite_api::{Machine, Phase};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconciled {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    decision: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    protocol: &'static str,
    request: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verdict: &'static str,
    reason: &'static str,
}

/// All counters. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    reconciles: Family<Reconciled, Counter>,
    claims: Family<Decided, Counter>,
    requests: Family<Answered, Counter>,
    bmc: Family<Asked, Counter>,
    invalid: Counter,
}

impl Metrics {
    /// Adds the counters to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Self { reconciles, claims, requests, bmc, invalid } = self;
        registry.register("magnetite_controller_reconciles", "Reconciles by kind and result", reconciles.clone());
        registry.register("magnetite_controller_claims", "Claims by decision and reason", claims.clone());
        let help = "Certificate requests of kubelets by verdict and reason";
        registry.register("magnetite_controller_certificate_requests", help, requests.clone());
        let help = "What BMCs were asked, by protocol and result: ok, or the reason of the condition BmcReachable";
        registry.register("magnetite_controller_bmc_requests", help, bmc.clone());
        let help = "Objects that could not be read and were left out";
        registry.register("magnetite_controller_unreadable_objects", help, invalid.clone());
    }

    /// A reconcile ended.
    pub fn reconciled(&self, kind: &'static str, result: &'static str) {
        self.reconciles.get_or_create(&Reconciled { kind, result }).inc();
    }

    /// A claim was decided.
    pub fn claim(&self, decision: &'static str, reason: &'static str) {
        self.claims.get_or_create(&Decided { decision, reason }).inc();
    }

    /// A certificate request was answered.
    pub fn request(&self, verdict: &'static str, reason: &'static str) {
        self.requests.get_or_create(&Answered { verdict, reason }).inc();
    }

    /// A BMC was asked for something.
    pub fn bmc(&self, protocol: &'static str, request: &'static str, result: &'static str) {
        self.bmc.get_or_create(&Asked { protocol, request, result }).inc();
    }

    /// An object of a watch could not be read.
    pub fn unreadable(&self) {
        self.invalid.inc();
    }
}

/// Counts Machines by phase when it is asked, from what the watch brought.
#[derive(Debug)]
pub struct Phases(pub Store<Machine>);

/// The name of a phase, as the API writes it.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Discovered => "Discovered",
        Phase::Pending => "Pending",
        Phase::Booting => "Booting",
        Phase::Provisioning => "Provisioning",
        Phase::Joining => "Joining",
        Phase::Ready => "Ready",
        Phase::Maintenance => "Maintenance",
        Phase::Failed => "Failed",
    }
}

impl Collector for Phases {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let machines = self.0.state();
        let all = [
            Phase::Discovered,
            Phase::Pending,
            Phase::Booting,
            Phase::Provisioning,
            Phase::Joining,
            Phase::Ready,
            Phase::Maintenance,
            Phase::Failed,
        ];
        let first = ConstGauge::new(0_i64);
        let kind = first.metric_type();
        let mut family = encoder.encode_descriptor("magnetite_controller_machines", "Machines by phase", None, kind)?;
        for phase in all {
            let of = |machine: &&std::sync::Arc<Machine>| {
                machine.status.as_ref().and_then(|status| status.phase).unwrap_or_default() == phase
            };
            let count = i64::try_from(machines.iter().filter(of).count()).unwrap_or(i64::MAX);
            let labels = [("phase", phase_name(phase))];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
