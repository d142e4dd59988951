//! A machine's last boots, and what is to be said of them: one value, from whatever is known.

mod text;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Event,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::ResourceExt;
use magnetite_api::{
    Machine, Phase,
    machine::IntentStatus,
    report::{BootRecord, BootStepName},
};
use magnetite_boot::{
    diagnose::{self, Progress, diagnose_machine},
    history,
};
use serde::Serialize;

use crate::{cluster::Known, records::Remembered};

/// How many Events are shown without `--all`.
const FEW: usize = 8;

/// The answer. Its fields are what `-o json` and `-o yaml` print.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// Name of the Machine.
    pub machine: String,
    /// What its status says; nothing without a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Its newest boot; `previous` holds those before it, newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootRecord>,
    /// With `--all`: what each boot server saw, by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<BootRecord>,
    /// The Machine's Events, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Told>,
    /// Where it is, and why.
    pub diagnosis: Diagnosis,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// What matters of a Machine's status.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The Profile that it boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Its Node, once that is registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The intent and its window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentStatus>,
    /// With `--all`: the conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// An Event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// When it was last told.
    pub at: Option<Time>,
    /// Whether somebody should look.
    pub warning: bool,
    /// How often it was told.
    pub count: i32,
    /// In a word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// Where it is, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// `UnderWay`, `Stopped` or `Done`.
    pub progress: &'static str,
    /// The furthest step that was reached, or the one that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<BootStepName>,
    /// Why, in a word of a closed set.
    pub reason: &'static str,
    /// What is so.
    pub message: String,
    /// What to look at first.
    pub hint: &'static str,
    /// Where the documentation says more.
    pub doc: String,
    /// When it will be judged anew without another word of the box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

impl From<diagnose::Diagnosis> for Diagnosis {
    fn from(found: diagnose::Diagnosis) -> Self {
        let (hint, doc) = (found.hint(), found.doc());
        let diagnose::Diagnosis { progress, stopped_at, reason, message, until } = found;
        Self {
            progress: progress.as_str(),
            stopped_at,
            reason: reason.as_str(),
            message,
            hint,
            doc,
            until: until.map(magnetite_api::time::seconds),
        }
    }
}

impl Timeline {
    /// From what a cluster knows.
    pub fn of_cluster(known: Known, all: bool, now: Timestamp) -> Self {
        let Known { machine, reports, events, missing } = known;
        let mut servers: Vec<_> = reports.into_iter().filter_map(|report| report.spec.boot).collect();
        servers.sort_by_key(|boot| std::cmp::Reverse(boot.started_at.0));
        let kept = machine.status.as_ref().and_then(|status| status.boot.clone());
        let boot = history::newest(kept.map(|kept| *kept), servers.clone());
        let diagnosis = diagnose_machine(&machine, boot.as_ref(), now).into();
        let mut events: Vec<_> = events.into_iter().map(told).collect();
        events.sort_by_key(|event| event.at.as_ref().map(|at| at.0));
        if !all {
            events.drain(..events.len().saturating_sub(FEW));
            servers.clear();
        }
        Self { machine: machine.name_any(), status: status(&machine, all), boot, servers, events, diagnosis, missing }
    }

    /// From what a boot server without a cluster remembers.
    pub fn of_record(machine: &str, known: Remembered, now: Timestamp) -> Self {
        let Remembered { boot } = known;
        let diagnosis = diagnose::diagnose(&boot, now).into();
        let (servers, events, missing) = (Vec::new(), Vec::new(), Vec::new());
        Self { machine: machine.to_owned(), status: None, boot: Some(boot), servers, events, diagnosis, missing }
    }

    /// True if somebody must do something.
    pub fn is_stopped(&self) -> bool {
        self.diagnosis.progress == Progress::Stopped.as_str()
    }
}

fn status(machine: &Machine, all: bool) -> Option<Status> {
    let status = machine.status.as_ref()?;
    Some(Status {
        phase: status.phase,
        reason: status.reason.clone(),
        profile: status.profile.clone(),
        node: status.node_name.clone(),
        intent: status.intent.clone(),
        conditions: if all { status.conditions.clone() } else { Vec::new() },
    })
}

fn told(event: Event) -> Told {
    // Those of events.k8s.io have other times than those of v1, and both are listed here.
    let series = event.series.as_ref();
    let at = series.and_then(|series| series.last_observed_time.as_ref()).or(event.event_time.as_ref());
    let at = at.map(|at| at.0).or(event.last_timestamp.map(|at| at.0)).or(event.first_timestamp.map(|at| at.0));
    Told {
        at: at.map(magnetite_api::time::seconds),
        warning: event.type_.as_deref() == Some("Warning"),
        count: series.and_then(|series| series.count).or(event.count).unwrap_or(1),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    }
}
