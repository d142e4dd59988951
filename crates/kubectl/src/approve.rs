//! A person's word that a key is the right box's: what may be said, what is written, and what comes of it.

use std::fmt::Write;

use jiff::{Timestamp, tz::TimeZone};
use magnetite_api::{Fingerprint, Machine, machine::IntentState};
use serde_json::{Value, json};

use crate::{
    error::Error,
    sides::{Side, Standing, can_go_on, moment},
    style::{Style, Tone::Bold, Tone::Dim, plain},
};

/// What is to be written, and what to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// The change of the Machine.
    pub patch: Value,
    /// What it means.
    pub told: String,
}

/// A moment as part of a name: of an intent, or of whatever else has to differ from the one before.
pub fn stamp(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string()
}

/// Both sides, or all that wait, as text.
pub fn table(name: &str, sides: &[Side], style: Style) -> String {
    let mut out = String::new();
    if sides.is_empty() {
        let _ = writeln!(out, "No box has claimed the Machine {} in its present intent.", plain(name));
        return out;
    }
    let head = format!("{:<21} {:<16} {:<24} {:<15} SAYS THAT IT IS", "KEY", "FROM", "AT", "STANDS");
    let _ = writeln!(out, "{}", style.paint(Dim, head));
    for side in sides {
        let Side { key, address, came_at, facts, standing, server: _ } = side;
        let stands = match standing {
            Standing::Bound { certified: true } => "has certificate",
            Standing::Bound { certified: false } => "is bound",
            Standing::Waits(reason, _) if reason.is_empty() => "waits",
            Standing::Waits(reason, _) | Standing::Refused(reason, _) => reason,
        };
        let key = style.paint(Bold, format_args!("{:<21}", key.to_string()));
        let _ = writeln!(out, "{key} {address:<16} {:<24} {stands:<15} {facts}", moment(*came_at));
    }
    out
}

/// True if the machine is bound and nobody else wants to be it, or a person's word is out.
pub fn is_settled(machine: &Machine, sides: &[Side]) -> bool {
    machine.spec.approved_fingerprint.is_some() || matches!(sides, [Side { standing: Standing::Bound { .. }, .. }])
}

/// What a person can do next.
pub fn hint(machine: &Machine, sides: &[Side]) -> Option<String> {
    let name = machine.metadata.name.as_deref().unwrap_or_default();
    if is_settled(machine, sides) {
        return machine.spec.approved_fingerprint.map(|key| format!("{key} is the one that was approved"));
    }
    let command = match sides {
        [] => return None,
        [_] => format!("kubectl magnetite approve {name} FINGERPRINT"),
        _ => format!("kubectl magnetite conflict {name} --keep FINGERPRINT"),
    };
    Some(format!(
        "compare the key with what the right box shows on its console (also: journalctl -u magnetite-agent on it), then: \
         {command}"
    ))
}

/// The word for one of the keys that came.
///
/// # Errors
/// No such key came.
pub fn word(machine: &Machine, sides: &[Side], key: Fingerprint, now: Timestamp) -> Result<Word, Error> {
    let name = machine.metadata.name.clone().unwrap_or_default();
    let Some(side) = sides.iter().find(|side| side.key == key) else {
        return Err(Error::NoSuchKey { name, key, came: sides.iter().map(|side| side.key.to_string()).collect() });
    };
    let rivals: Vec<_> = sides.iter().filter(|other| other.key != key).collect();
    let mut told = format!("Machine {name}: {key}, from {}, is the right box's key\n", side.address);
    let mut spec = json!({ "approvedFingerprint": key });
    // A Node that came of the other key, or a window that is over: the box has to begin anew.
    let joined = matches!(side.standing, Standing::Bound { .. });
    let fulfilled = machine
        .status
        .as_ref()
        .and_then(|status| status.intent.as_ref())
        .is_some_and(|intent| intent.state == IntentState::Fulfilled);
    if joined && fulfilled {
        told.push_str("  it is the one that joined; nothing changes for it\n");
    } else if can_go_on(machine, now) {
        told.push_str("  it goes on by itself within a minute: kubectl get machine -w\n");
    } else {
        let intent = format!("approved-{}", stamp(now));
        let _ = writeln!(told, "  its boot window is over: a new one opens as intent {intent}; power-cycle the box");
        spec["bootIntent"] = json!(intent);
    }
    for rival in rivals {
        let Side { key, address, .. } = rival;
        match rival.standing {
            Standing::Bound { certified: true } => {
                let _ = writeln!(
                    told,
                    "  {key}, from {address}, has a certificate of the Node. It is not renewed any more; until it ends (24 \
                     hours after it was issued, if it was not renewed yet) both can act as that Node. Not to wait: delete \
                     the Machine and its Node, and declare the box again under another spec.nodeName"
                );
            }
            _ => {
                let _ = writeln!(told, "  {key}, from {address}, is refused; look for the box that has this address");
            }
        }
    }
    Ok(Word { patch: json!({ "spec": spec }), told })
}

#[cfg(test)]
mod tests {
    use magnetite_api::{claim::Decision, conditions::reason};

    use super::*;
    use crate::sides::{
        fixtures::{at, claim, key, machine},
        sides,
    };

    fn conflict() -> Vec<magnetite_api::MachineClaim> {
        vec![
            claim(1, "10.0.0.5", 2, Some(Decision::Approved), "CertificateIssued"),
            claim(2, "10.0.0.9", 30, Some(Decision::Denied), reason::CLAIM_CONFLICT),
        ]
    }

    fn fingerprint(n: u8) -> Fingerprint {
        key(n).1.into()
    }

    #[test]
    fn both_sides_are_shown() {
        let machine = machine(IntentState::Frozen, Some(1));
        insta::assert_snapshot!(table("r7-u01", &sides(&machine, &conflict()), Style::PLAIN));
        assert!(table("r7-u01", &[], Style::PLAIN).contains("No box has claimed"));
    }

    #[test]
    fn a_box_that_can_go_on_needs_no_new_intent_and_one_that_cannot_gets_one() {
        let frozen = machine(IntentState::Frozen, Some(1));
        let sides = sides(&frozen, &conflict());
        let word_at = |second| word(&frozen, &sides, fingerprint(2), at(second)).unwrap();
        let word = word_at(60);
        assert_eq!(word.patch, json!({ "spec": { "approvedFingerprint": fingerprint(2) } }));
        insta::assert_snapshot!(word.told);
        let late = word_at(3600);
        assert_eq!(late.patch["spec"]["bootIntent"], "approved-20261121-040000");
        assert!(late.told.contains("power-cycle the box"), "{}", late.told);
    }

    #[test]
    fn the_one_that_joined_is_left_alone() {
        let joined = machine(IntentState::Fulfilled, Some(1));
        let word = word(&joined, &sides(&joined, &conflict()), fingerprint(1), at(60)).unwrap();
        assert!(word.patch["spec"].get("bootIntent").is_none(), "{}", word.patch);
        assert!(
            word.told.contains("nothing changes for it") && word.told.contains("10.0.0.9, is refused"),
            "{}",
            word.told
        );
    }

    #[test]
    fn a_key_that_never_came_is_not_approved() {
        let machine = machine(IntentState::Open, None);
        let error = word(&machine, &sides(&machine, &conflict()), fingerprint(3), at(60)).unwrap_err();
        assert!(error.to_string().contains(&fingerprint(1).to_string()), "{error}");
    }
}
