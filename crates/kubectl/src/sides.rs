//! Who claims to be a machine: each key that came in its present intent, as a person has to compare it.

use jiff::{Timestamp, tz::TimeZone};
use kube::ResourceExt;
use magnetite_api::{
    Fingerprint, Machine, MachineClaim, Sha256,
    claim::Decision,
    conditions::reason,
    machine::{IdentityStatus, IntentState},
};

use crate::style::plain;

/// One key that claims a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The key.
    pub key: Fingerprint,
    /// Where it came from, as the boot server saw it.
    pub address: String,
    /// The boot server that passed it on.
    pub server: String,
    /// When it came.
    pub came_at: Option<Timestamp>,
    /// What the box says it is: not proven.
    pub facts: String,
    /// What became of it.
    pub standing: Standing,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is the one that the machine is bound to.
    Bound {
        /// A certificate was issued to it.
        certified: bool,
    },
    /// It waits for something: the reason and the sentence.
    Waits(String, String),
    /// It was refused: the reason and the sentence.
    Refused(String, String),
}

impl Standing {
    /// True if a person may want to decide for it.
    fn is_open(&self) -> bool {
        match self {
            Self::Bound { .. } => true,
            Self::Waits(..) => true,
            Self::Refused(reason, _) => reason::is_another_key(reason),
        }
    }
}

/// All keys that came in the machine's present intent and that it may be bound to, in the order in which they came.
pub fn sides(machine: &Machine, claims: &[MachineClaim]) -> Vec<Side> {
    let identity = machine.status.as_ref().and_then(|status| status.identity.as_ref());
    let (uid, intent) = (machine.uid().unwrap_or_default(), machine.wanted_intent());
    let about = |claim: &&MachineClaim| claim.spec.machine_uid == uid && claim.spec.intent == intent;
    let mut sides: Vec<Side> = claims.iter().filter(about).filter_map(|claim| side(claim, identity)).collect();
    sides.retain(|side| side.standing.is_open());
    sides.sort_by_key(|side| (side.came_at, side.key));
    // A box claims anew with the same key when it has more to show; the newest says how it stands.
    let mut seen: Vec<Side> = Vec::new();
    for side in sides {
        match seen.iter_mut().find(|other| other.key == side.key) {
            Some(other) => *other = Side { came_at: other.came_at, ..side },
            None => seen.push(side),
        }
    }
    seen
}

fn side(claim: &MachineClaim, identity: Option<&IdentityStatus>) -> Option<Side> {
    let key = claim.spec.fingerprint()?;
    let status = claim.status.clone().unwrap_or_default();
    let (reason, message) = (status.reason.unwrap_or_default(), status.message.unwrap_or_default());
    let bound = identity.filter(|identity| {
        identity.intent == claim.spec.intent
            && identity.claim_key.parse::<Sha256>().is_ok_and(|bound| Fingerprint::from(bound) == key)
    });
    let standing = match (status.decision, bound) {
        (_, Some(identity)) => Standing::Bound { certified: identity.issued_at.is_some() },
        (Some(Decision::Denied), None) => Standing::Refused(plain(&reason), plain(&message)),
        _ => Standing::Waits(plain(&reason), plain(&message)),
    };
    let facts = &claim.spec.facts;
    let mut said: Vec<String> = facts.macs.iter().take(3).map(ToString::to_string).collect();
    said.extend((facts.macs.len() > 3).then(|| format!("and {} more MACs", facts.macs.len() - 3)));
    said.extend(facts.uuid.map(|uuid| format!("UUID {uuid}")));
    said.extend(facts.serial.as_deref().map(|serial| format!("serial {}", plain(serial))));
    Some(Side {
        key,
        address: plain(&claim.spec.address),
        server: plain(&claim.spec.server),
        came_at: claim.creation_timestamp().map(|time| time.0),
        facts: if said.is_empty() { "nothing".to_owned() } else { said.join(", ") },
        standing,
    })
}

/// A moment as the other commands print it.
pub fn moment(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// True if the box that has a key can still get its identity without being started again: it asks again by itself for as
/// long as its intent's window lasts.
pub fn can_go_on(machine: &Machine, now: Timestamp) -> bool {
    let intent = machine.status.as_ref().and_then(|status| status.intent.as_ref());
    intent.is_some_and(|intent| {
        let open = matches!(intent.state, IntentState::Open | IntentState::Frozen);
        intent.id == machine.wanted_intent() && open && now < intent.expires_at.0
    })
}

#[cfg(test)]
pub mod fixtures {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use magnetite_api::{
        MachineClaimSpec, MachineClaimStatus, MachineSpec, MachineStatus,
        join::IdentityFacts,
        machine::{IdentityLevel, IntentStatus},
    };

    use super::*;

    pub fn at(second: i64) -> Timestamp {
        "2026-11-21T03:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(second)
    }

    /// Three bytes stand for a key: nothing here looks into one.
    pub fn key(n: u8) -> (String, Sha256) {
        let text = ["AAAA", "AAAB", "AAAC", "AAAD"][usize::from(n)];
        (text.to_owned(), Sha256::of(&[0, 0, n]))
    }

    pub fn claim(n: u8, address: &str, second: i64, decision: Option<Decision>, reason: &str) -> MachineClaim {
        let spec = MachineClaimSpec {
            machine: "r7-u01".into(),
            machine_uid: "uid-1".into(),
            intent: "created".into(),
            claim_key: key(n).0,
            certificate_request: String::new(),
            signature: String::new(),
            facts: IdentityFacts { macs: vec!["52:54:00:00:00:01".parse().unwrap()], uuid: None, serial: None },
            tpm: None,
            proof: None,
            address: address.into(),
            server: "boot-1".into(),
        };
        let mut claim = MachineClaim::new(&format!("r7-u01-{n}"), spec);
        claim.metadata.creation_timestamp = Some(Time(at(second)));
        claim.status = Some(MachineClaimStatus {
            decision,
            reason: Some(reason.into()),
            message: Some(format!("because {reason}")),
            ..MachineClaimStatus::default()
        });
        claim
    }

    pub fn machine(state: IntentState, bound: Option<u8>) -> Machine {
        let mut machine = Machine::new("r7-u01", MachineSpec::default());
        machine.metadata.uid = Some("uid-1".into());
        let identity = bound.map(|n| IdentityStatus {
            level: IdentityLevel::Mac,
            intent: "created".into(),
            claim_key: key(n).1.to_string(),
            kubelet_key: String::new(),
            claim: format!("r7-u01-{n}"),
            bound_at: Time(at(1)),
            certificate_request: None,
            issued_at: Some(Time(at(2))),
            certificates: Vec::new(),
            rebound: false,
        });
        let intent = IntentStatus { id: "created".into(), state, opened_at: Time(at(0)), expires_at: Time(at(3600)) };
        machine.status = Some(MachineStatus { intent: Some(intent), identity, ..MachineStatus::default() });
        machine
    }
}

#[cfg(test)]
mod tests {
    use super::{fixtures::*, *};

    #[test]
    fn both_sides_in_the_order_in_which_they_came() {
        let frozen = machine(IntentState::Frozen, Some(1));
        let rival = claim(2, "10.0.0.9", 30, Some(Decision::Denied), reason::CLAIM_CONFLICT);
        let mut earlier = claim(3, "10.0.0.7", 1, Some(Decision::Denied), reason::CLAIM_CONFLICT);
        earlier.spec.intent = "before".into();
        let stranger = claim(3, "10.0.0.8", 3, Some(Decision::Denied), "FactsMismatch");
        let first = claim(1, "10.0.0.5", 2, Some(Decision::Approved), "CertificateIssued");
        let found = sides(&frozen, &[rival, earlier, stranger, first]);
        let told: Vec<_> = found.iter().map(|side| (side.address.as_str(), side.key)).collect();
        assert_eq!(told, [("10.0.0.5", key(1).1.into()), ("10.0.0.9", key(2).1.into())]);
        assert_eq!(found[0].standing, Standing::Bound { certified: true });
        assert!(matches!(&found[1].standing, Standing::Refused(reason, _) if reason == reason::CLAIM_CONFLICT));
    }

    #[test]
    fn a_box_that_asks_goes_on_for_as_long_as_its_window_lasts() {
        for (state, second, can) in [
            (IntentState::Open, 10, true),
            (IntentState::Frozen, 3599, true),
            (IntentState::Frozen, 3600, false),
            (IntentState::Fulfilled, 10, false),
            (IntentState::Expired, 10, false),
        ] {
            assert_eq!(can_go_on(&machine(state, None), at(second)), can, "{state:?} {second}");
        }
    }
}
