//! A box that comes back with the keys that it had, after the certificate of its claim has ended: its system lives in memory, and forgot
//! what its kubelet was given since. It claims with the same words, which have their answer; that it claimed is in its boot's record.

use jiff::Timestamp;
use magnetite_api::{Machine, MachineClaim, report::BootStepName};

use super::source::has_ended;

/// True if a claim's certificate has ended and its box claims all the same. Anybody with the box's link can say so, and gets the bound key a
/// certificate that only this key can use, once a day at most.
pub fn is_asked(claim: &MachineClaim, machine: &Machine, now: Timestamp) -> bool {
    let ended = |at: Timestamp| claim.certificate().is_some_and(|certificate| has_ended(certificate, at.min(now)));
    // In another intent it makes a claim of its own.
    machine.wanted_intent() == claim.spec.intent && claims_in_vain(machine).is_some_and(ended)
}

/// When a box claimed, if no certificate that it takes has come since.
pub fn claims_in_vain(machine: &Machine) -> Option<Timestamp> {
    let boot = machine.status.as_ref()?.boot.as_ref()?;
    let at = |name| boot.step(name).map(|step| step.last_at.0);
    at(BootStepName::Claiming).filter(|claimed| at(BootStepName::CertificateReceived).is_none_or(|got| got <= *claimed))
}

#[cfg(test)]
mod tests {
    use BootStepName::{CertificateReceived, Claiming, FirmwareSeen};
    use magnetite_api::{join::JoinBundle, time::seconds};
    use serde_json::json;

    use super::*;
    use crate::fixtures::{Keys, machine, t};

    const END: i64 = 86_400;

    /// Asked at `second`, after a boot with these steps.
    fn asked(intent: Option<&str>, steps: &[(BootStepName, i64)], second: i64) -> bool {
        let keys = Keys::new();
        let mut claim = keys.claim(&keys.kubelet_request);
        let join = JoinBundle { certificate: keys.certificate(END), ..JoinBundle::default() };
        claim.status = Some(magnetite_api::MachineClaimStatus { join: Some(join), ..Default::default() });
        let mut machine = machine();
        machine.spec.boot_intent = intent.map(str::to_owned);
        let step = |(name, at): &(BootStepName, i64)| {
            let at = seconds(t(*at));
            json!({ "name": name, "firstAt": at, "lastAt": at, "count": 1 })
        };
        let steps: Vec<_> = steps.iter().map(step).collect();
        let boot = json!({ "startedAt": seconds(t(0)), "lastSeen": seconds(t(0)), "server": "s", "steps": steps });
        machine.status.get_or_insert_default().boot = serde_json::from_value(boot).expect("a boot");
        is_asked(&claim, &machine, t(second))
    }

    #[test]
    fn only_a_box_that_claims_after_the_end_asks() {
        assert!(asked(None, &[(Claiming, END)], END + 1));
        assert!(!asked(None, &[(Claiming, END - 600)], END - 599), "it is good");
        assert!(!asked(None, &[(Claiming, END - 600)], END + 600), "that was while it was good");
        assert!(!asked(None, &[(FirmwareSeen, END)], END + 1), "it does not claim");
        assert!(!asked(Some("r2"), &[(Claiming, END)], END + 1), "it claims in another intent");
        assert!(!asked(None, &[(Claiming, END), (CertificateReceived, END + 1)], END + 2), "it has one");
        assert!(asked(None, &[(CertificateReceived, END), (Claiming, END + 1)], END + 2), "it has one no more");
    }
}
