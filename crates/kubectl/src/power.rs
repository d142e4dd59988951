//! A person's word about a box's power: what is written, and what its BMC said.

use std::fmt::Write;

use jiff::Timestamp;
use magnetite_api::{
    Machine,
    power::{PowerStatus, PowerWanted, RestartHow, RestartStage, RestartStatus},
};
use serde_json::json;

use crate::{
    approve::{Word, stamp},
    args::PowerVerb,
    error::Error,
    style::{Style, Tone, plain},
};

/// The change that a word asks for; none for the word that only asks.
///
/// # Errors
/// The Machine has no BMC, or should be off.
pub fn word(machine: &Machine, verb: PowerVerb, now: Timestamp) -> Result<Option<Word>, Error> {
    let name = machine.metadata.name.clone().unwrap_or_default();
    let how = match verb {
        PowerVerb::Status => return Ok(None),
        PowerVerb::On | PowerVerb::Off => None,
        PowerVerb::Cycle => Some(RestartHow::Cycle),
        PowerVerb::Reset => Some(RestartHow::Reset),
        PowerVerb::Restart => Some(RestartHow::Graceful),
    };
    if machine.spec.bmc.is_none() {
        return Err(Error::NoBmc(name));
    }
    let (spec, told) = match how {
        Some(_) if machine.spec.power == Some(PowerWanted::Off) => return Err(Error::ShouldBeOff(name)),
        Some(how) => {
            let id = stamp(now);
            (json!({ "restart": { "id": id, "how": how } }), format!("spec.restart is {id} ({how:?})"))
        }
        None => {
            let wanted = if verb == PowerVerb::On { PowerWanted::On } else { PowerWanted::Off };
            (json!({ "power": wanted }), format!("spec.power is {wanted:?}"))
        }
    };
    let told = format!("Machine {name}: {told}; kubectl magnetite power {name} status shows what becomes of it\n");
    Ok(Some(Word { patch: json!({ "spec": spec }), told }))
}

/// True if the BMC has nothing to complain of.
pub fn is_well(machine: &Machine) -> bool {
    machine.spec.bmc.is_some() && power(machine).is_some_and(|power| power.reason.is_none() && power.state.is_some())
}

fn power(machine: &Machine) -> Option<&PowerStatus> {
    machine.status.as_ref().and_then(|status| status.power.as_deref())
}

/// What is known of a machine's power, as text.
pub fn text(machine: &Machine, style: Style) -> String {
    let name = plain(machine.metadata.name.as_deref().unwrap_or_default());
    let mut out = String::new();
    let Some(bmc) = &machine.spec.bmc else {
        let _ = writeln!(out, "{name} has no BMC: spec.bmc names none");
        return out;
    };
    let redfish = bmc.redfish.as_ref().map(|redfish| format!("Redfish at {}", redfish.url));
    let at = redfish.or_else(|| bmc.ipmi.as_ref().map(|ipmi| format!("IPMI at {}", ipmi.host))).unwrap_or_default();
    let wanted = machine.spec.power.map_or("as it is", |wanted| match wanted {
        PowerWanted::On => "On",
        PowerWanted::Off => "Off",
    });
    let Some(power) = power(machine) else {
        let _ = writeln!(out, "{name}: not asked yet ({at}); wanted: {wanted}");
        return out;
    };
    let state = power.state.map_or("not known", |state| state.as_str());
    let since = power.checked_at.as_ref().map_or(String::new(), |at| format!(", as its BMC said at {}", at.0));
    let _ = writeln!(out, "{name}: {}{since} ({}); wanted: {wanted}", style.paint(Tone::Bold, state), plain(&at));
    for RestartStatus { source: _, id, how, stage, since, told: _ } in &power.restarts {
        let stage = match stage {
            RestartStage::SwitchingOff => "is being switched off",
            RestartStage::SwitchingOn => "is being switched on again",
            RestartStage::Resetting => "the reset button is being pressed",
            RestartStage::Done => "done",
            RestartStage::Skipped => {
                "not carried out: the box should be off, or it was asked for before its power was first looked at"
            }
            RestartStage::Unknown => "may have been carried out or not; it is not done again",
        };
        let _ = writeln!(out, "  restart {} ({how:?}): {stage}, {}", plain(id), since.0);
    }
    if let (Some(reason), message) = (&power.reason, power.message.as_deref().unwrap_or_default()) {
        let _ = writeln!(out, "  {}: {}", style.paint(Tone::Bad, plain(reason)), plain(message));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn machine(spec: Value, status: Value) -> Machine {
        let object = json!({
            "apiVersion": "magnetite.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "r7-u01" }, "spec": spec, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn bmc() -> Value {
        json!({ "redfish": { "url": "https://10.0.8.21" }, "credentials": "bmc" })
    }

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_word_writes_one_field() {
        let machine = machine(json!({ "bmc": bmc() }), json!({}));
        let patch = |verb| word(&machine, verb, now()).unwrap().map(|word| word.patch);
        assert_eq!(patch(PowerVerb::On), Some(json!({ "spec": { "power": "On" } })));
        assert_eq!(patch(PowerVerb::Off), Some(json!({ "spec": { "power": "Off" } })));
        let restart = json!({ "spec": { "restart": { "id": "20261121-120000", "how": "Cycle" } } });
        assert_eq!(patch(PowerVerb::Cycle), Some(restart));
        assert_eq!(patch(PowerVerb::Restart).unwrap()["spec"]["restart"]["how"], "Graceful");
        assert_eq!(patch(PowerVerb::Status), None);
    }

    #[test]
    fn what_would_do_nothing_is_said_to() {
        let none = machine(json!({}), json!({}));
        assert!(matches!(word(&none, PowerVerb::On, now()), Err(Error::NoBmc(_))));
        let off = machine(json!({ "bmc": bmc(), "power": "Off" }), json!({}));
        assert!(matches!(word(&off, PowerVerb::Reset, now()), Err(Error::ShouldBeOff(_))));
    }

    #[test]
    fn what_is_known_is_shown() {
        let known = machine(
            json!({ "bmc": bmc(), "power": "On" }),
            json!({ "power": {
                "state": "Off", "checkedAt": "2026-11-21T11:59:00Z", "reason": "BmcRefused", "message": "It says: no license",
                "restarts": [{ "source": "Spec", "id": "1", "how": "Cycle", "stage": "Done", "since": "2026-11-21T11:00:00Z" }],
            } }),
        );
        insta::assert_snapshot!(text(&known, Style::PLAIN), @r"
        r7-u01: Off, as its BMC said at 2026-11-21T11:59:00Z (Redfish at https://10.0.8.21); wanted: On
          restart 1 (Cycle): done, 2026-11-21T11:00:00Z
          BmcRefused: It says: no license
        ");
        assert!(!is_well(&known));
        assert!(text(&machine(json!({}), json!({})), Style::PLAIN).contains("has no BMC"));
    }
}
