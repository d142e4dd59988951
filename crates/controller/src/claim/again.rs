//! A box that comes back with the keys that it had, after the certificate of its claim has ended: its system lives in memory, and forgot
//! what its kubelet was given since. It claims with the same words, which have their answer; that it claimed is in the boot report.

use jiff::Timestamp;
use magnetite_api::{BootReport, Machine, MachineClaim, report::BootStepName};

use super::decide::has_ended;
use crate::stores::Stores;

/// True if a claim's certificate has ended and its box claims all the same. Anybody with the box's link can say so, and gets the bound key a
/// certificate that only this key can use, once a day at most.
pub fn is_asked(claim: &MachineClaim, machine: &Machine, stores: &Stores, now: Timestamp) -> bool {
    let join = claim.status.as_ref().and_then(|status| status.join.as_ref());
    let of_this = |report: &BootReport| {
        let subject = &report.spec.subject;
        subject.uid == claim.spec.machine_uid && subject.name == claim.spec.machine
    };
    let after_its_end = |certificate: &str| {
        let reports = stores.reports.state();
        let claims = reports.iter().filter(|report| of_this(report)).filter_map(|report| claims_in_vain(report));
        claims.into_iter().any(|at| has_ended(certificate, at.min(now)))
    };
    // In another intent it makes a claim of its own.
    machine.wanted_intent() == claim.spec.intent && join.is_some_and(|join| after_its_end(&join.certificate))
}

/// When a box claimed, if no certificate that it takes has come since.
pub fn claims_in_vain(report: &BootReport) -> Option<Timestamp> {
    let boot = report.spec.boot.as_ref()?;
    let at = |name| boot.step(name).map(|step| step.last_at.0);
    at(BootStepName::Claiming).filter(|claimed| at(BootStepName::CertificateReceived).is_none_or(|got| got <= *claimed))
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use magnetite_api::{join::JoinBundle, report::BootStepName::FirmwareSeen, time::seconds};
    use serde_json::json;

    use super::*;
    use crate::fixtures::{Keys, machine, t};

    const END: i64 = 86_400;

    /// Asked at `second`, with a boot in the report whose last step was seen then.
    fn asked(uid: &str, intent: Option<&str>, step: BootStepName, at: i64, second: i64) -> bool {
        let keys = Keys::new();
        let mut machine = machine();
        machine.spec.boot_intent = intent.map(str::to_owned);
        let mut claim = keys.claim(&keys.kubelet_request);
        let join = JoinBundle { certificate: keys.certificate(END), ..JoinBundle::default() };
        claim.status = Some(magnetite_api::MachineClaimStatus { join: Some(join), ..Default::default() });
        let at = seconds(t(at));
        let step = json!({ "name": step, "firstAt": at, "lastAt": at, "count": 1 });
        let spec = json!({
            "subject": { "kind": "Machine", "name": "box-1", "uid": uid },
            "server": "s",
            "boot": { "startedAt": at, "lastSeen": at, "server": "s", "steps": [step] },
        });
        let (stores, mut writers) = Stores::new("magnetite");
        let report = BootReport::new("box-1.s", serde_json::from_value(spec).unwrap());
        writers.reports.apply_watcher_event(&Event::Apply(report));
        is_asked(&claim, &machine, &stores, t(second))
    }

    #[test]
    fn only_a_box_that_claims_after_the_end_asks() {
        assert!(asked("uid-1", None, BootStepName::Claiming, END, END + 1));
        assert!(!asked("uid-1", None, BootStepName::Claiming, END - 600, END - 599), "it is good");
        assert!(!asked("uid-1", None, BootStepName::Claiming, END - 600, END + 600), "that was while it was good");
        assert!(!asked("uid-1", None, FirmwareSeen, END, END + 1), "it does not claim");
        assert!(!asked("uid-2", None, BootStepName::Claiming, END, END + 1), "of another Machine");
        assert!(!asked("uid-1", Some("r2"), BootStepName::Claiming, END, END + 1), "it claims in another intent");
    }
}
