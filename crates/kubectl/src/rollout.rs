//! How far the machines of a Profile are with its current revision, and a person's word on it.

use std::fmt::Write;

use kube::ResourceExt;
use magnetite_api::{
    Machine, Profile,
    conditions::{self, PROGRESSING, UP_TO_DATE, UPDATED, reason},
    update::UpdateStage,
};

use crate::style::{Style, Tone, plain};

/// The state of a rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    name: String,
    revision: String,
    counts: [i32; 4],
    updated: Option<(bool, String)>,
    progressing: Option<(bool, String, String)>,
    machines: Vec<Row>,
}

/// One machine.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: String,
    runs: String,
    up_to_date: bool,
    stage: Option<UpdateStage>,
    message: String,
}

impl Rollout {
    /// Of what the cluster holds.
    pub fn of(profile: &Profile, machines: &[Machine]) -> Self {
        let status = profile.status.clone().unwrap_or_default();
        let name = profile.name_any();
        let found = |kind| conditions::find(&status.conditions, kind);
        let boots =
            |machine: &&Machine| machine.status.as_ref().and_then(|status| status.profile.as_ref()) == Some(&name);
        let mut machines: Vec<_> = machines.iter().filter(boots).map(row).collect();
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            revision: status.revision.clone().unwrap_or_default(),
            counts: [status.machines, status.up_to_date, status.updating, status.failed],
            updated: found(UPDATED).map(|one| (one.status == "True", one.message.clone())),
            progressing: found(PROGRESSING).map(|one| (one.status == "True", one.reason.clone(), one.message.clone())),
            machines,
            name,
        }
    }

    /// True once every machine runs the revision.
    pub fn is_complete(&self) -> bool {
        self.updated.as_ref().is_some_and(|(updated, _)| *updated)
    }

    /// True if somebody has to do something before it goes on.
    pub fn is_stopped(&self) -> bool {
        let waits = [reason::TOO_MANY_UNAVAILABLE, reason::CEILING, reason::WAITING];
        let stands = |(on, reason, _): &(bool, String, String)| !on && !waits.contains(&reason.as_str());
        !self.is_complete() && self.progressing.as_ref().is_some_and(stands)
    }

    /// For a person.
    pub fn text(&self, style: Style) -> String {
        let Self { name, revision, counts: [all, new, updating, failed], updated, progressing, machines } = self;
        let mut out = String::new();
        let head = format!("Profile {} at revision {}", plain(name), plain(revision));
        let counts = format!("{new} of {all} machines run it, {updating} being updated, {failed} failed");
        let _ = writeln!(out, "{}: {counts}", style.paint(Tone::Bold, head));
        match (progressing, updated) {
            (Some((on, reason, message)), _) => {
                let tone = if *on || self.is_complete() { Tone::Good } else { Tone::Bad };
                let _ = writeln!(out, "{}: {}", style.paint(tone, plain(reason)), plain(message));
            }
            (None, _) => out.push_str("The controller has said nothing about it yet.\n"),
        }
        for Row { name, runs, up_to_date, stage, message } in machines {
            let (tone, word) = match (up_to_date, stage) {
                (_, Some(UpdateStage::Failed)) if !up_to_date => (Tone::Bad, "Failed"),
                (_, Some(stage)) if stage.is_active() => (Tone::Bold, stage.as_str()),
                (true, _) => (Tone::Good, "UpToDate"),
                (false, _) => (Tone::Dim, "Old"),
            };
            let word = style.paint(tone, format_args!("{word:<11}"));
            let _ = writeln!(out, "  {:<24} {:<22} {word} {}", plain(name), plain(runs), plain(message));
        }
        out
    }
}

fn row(machine: &Machine) -> Row {
    let status = machine.status.clone().unwrap_or_default();
    let up_to_date = conditions::is_true(&status.conditions, UP_TO_DATE);
    let told = status.update.as_ref().filter(|update| update.stage.is_active() || !up_to_date);
    Row {
        name: machine.name_any(),
        runs: status.booted_revision.unwrap_or_else(|| "-".to_owned()),
        up_to_date,
        stage: status.update.as_ref().map(|update| update.stage),
        message: told.and_then(|update| update.message.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn profile(updated: &str, progressing: (&str, &str)) -> Profile {
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": "1 of 3", "lastTransitionTime": "2026-11-21T12:00:00Z",
            })
        };
        let conditions = [condition("Updated", updated, "x"), condition("Progressing", progressing.0, progressing.1)];
        serde_json::from_value(json!({
            "apiVersion": "magnetite.dev/v1alpha1", "kind": "Profile", "metadata": { "name": "p" }, "spec": { "boot": {} },
            "status": { "revision": "bbbbbbbbbb", "machines": 3, "upToDate": 1, "updating": 1, "failed": 1, "conditions": conditions },
        })).unwrap()
    }

    fn machine(name: &str, of: &str, update: Value) -> Machine {
        serde_json::from_value(json!({
            "apiVersion": "magnetite.dev/v1alpha1", "kind": "Machine", "metadata": { "name": name }, "spec": { "serial": "X" },
            "status": { "profile": of, "bootedRevision": "aaaaaaaaaa", "update": update },
        })).unwrap()
    }

    fn update(stage: &str, message: &str) -> Value {
        let at = "2026-11-21T12:00:00Z";
        json!({ "number": 1, "revision": "bbbbbbbbbb", "base": "created", "intent": "x", "stage": stage, "since": at, "startedAt": at, "message": message })
    }

    #[test]
    fn what_a_person_reads() {
        let machines = [
            machine("c", "p", Value::Null),
            machine("b", "p", update("Failed", "Booting did not\u{1b}[31m end")),
            machine("a", "p", update("Draining", "2 Pods have to leave")),
            machine("z", "another", Value::Null),
        ];
        let text = Rollout::of(&profile("False", ("False", "UpdateFailed")), &machines).text(Style::PLAIN);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Profile p at revision bbbbbbbbbb: 1 of 3 machines run it, 1 being updated, 1 failed");
        assert_eq!(lines[1], "UpdateFailed: 1 of 3");
        assert!(lines[2].starts_with("  a ") && lines[2].ends_with("Draining    2 Pods have to leave"), "{text}");
        assert!(lines[3].contains("Failed      Booting did not[31m end"), "{text}");
        assert!(lines[4].contains("Old") && lines.len() == 5, "{text}");
    }

    #[test]
    fn when_to_stop_waiting() {
        let of = |updated: &str, progressing| Rollout::of(&profile(updated, progressing), &[]);
        assert!(of("True", ("False", "Complete")).is_complete());
        assert!(!of("True", ("False", "Complete")).is_stopped());
        assert!(of("False", ("False", "UpdateFailed")).is_stopped());
        assert!(of("False", ("False", "Paused")).is_stopped());
        assert!(!of("False", ("True", "Updating")).is_stopped());
        assert!(!of("False", ("False", "TooManyUnavailable")).is_stopped());
    }
}
