//! Keeping current: how a changed Profile reaches the machines that run an older revision of it.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Time;

/// How machines that run an older revision of a Profile get the current one.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateSpec {
    /// Who begins: a person, or the controller.
    #[serde(default)]
    pub strategy: UpdateStrategy,

    /// RollingUpdate: how many of the machines that run this Profile may be down at once, as a number or in percent of them
    /// (rounded down, at least 1). Default 1. A machine that is not Ready for whatever reason counts. Never more than the
    /// controller's own ceiling (`--update-ceiling`), whatever is written here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("string(self).matches('^([1-9][0-9]{0,3}|10000|([1-9][0-9]?|100)%)$')").message("maxUnavailable is a number from 1, or a percentage such as 10%"))]
    pub max_unavailable: Option<IntOrString>,

    /// RollingUpdate: no further machine begins while this is true. What has begun is finished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,

    /// RollingUpdate: how long an updated machine has to stay Ready, in seconds, before it counts as updated and the next one
    /// may begin. Default 60.
    #[serde(default = "default_min_ready")]
    #[schemars(range(min = 0, max = 86400))]
    pub min_ready_seconds: i32,

    /// RollingUpdate: how long the Pods of a machine may take to leave it, in seconds. They are evicted, and
    /// PodDisruptionBudgets are respected; when the time is over the update of this machine has failed and its Node takes Pods
    /// again. Nothing is ever forced. Default 1800 (30 minutes).
    #[serde(default = "default_drain_timeout")]
    #[schemars(range(min = 1, max = 86400))]
    pub drain_timeout_seconds: i32,

    /// RollingUpdate: after this many machines failed, no further one begins. Default 1.
    #[serde(default = "default_max_failures")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_failures: i32,

    /// RollingUpdate: any change has the machines tried again whose update failed. Free text, for example a date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub retry: Option<String>,
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self {
            strategy: UpdateStrategy::default(),
            max_unavailable: None,
            paused: false,
            min_ready_seconds: default_min_ready(),
            drain_timeout_seconds: default_drain_timeout(),
            max_failures: default_max_failures(),
            retry: None,
        }
    }
}

fn default_min_ready() -> i32 {
    60
}

fn default_drain_timeout() -> i32 {
    1800
}

fn default_max_failures() -> i32 {
    1
}

impl UpdateSpec {
    /// How many of so many machines may be down at once. At least one: otherwise nothing would ever move.
    pub fn most_unavailable(&self, machines: usize) -> usize {
        let wanted = match &self.max_unavailable {
            None => 1,
            Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
            Some(IntOrString::String(text)) => match text.strip_suffix('%') {
                Some(percent) => machines.saturating_mul(percent.parse::<usize>().unwrap_or(0).min(100)) / 100,
                // A number that somebody put into quotes.
                None => text.parse().unwrap_or(0),
            },
        };
        wanted.max(1)
    }
}

/// Who begins the update of a machine.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpdateStrategy {
    /// Nobody but a person, who gives the Machine another `spec.bootIntent`, or restarts a box whose system lives in memory
    /// (default).
    #[default]
    OnDelete,
    /// The controller, machine by machine: it empties the Node, restarts the box, and goes on once that is Ready again.
    RollingUpdate,
}

/// How far the update of a machine is.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStatus {
    /// Counts updates; the number under which the Profile let this one begin.
    pub number: i64,
    /// The revision that the machine shall run.
    pub revision: String,
    /// `spec.bootIntent` (or `created`) when the update began. Where the spec names another now, a person began anew and this
    /// update is void.
    pub base: String,
    /// The intent by which the box boots: that of before until its Pods have left, then one of this update.
    pub intent: String,
    /// How far it is.
    pub stage: UpdateStage,
    /// When this stage began.
    pub since: Time,
    /// When the update began.
    pub started_at: Time,
    /// `spec.update.retry` of the Profile when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// What it waits for, or why it failed, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it waits for, or why it failed and what to do, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The stages of an update, in their order.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpdateStage {
    /// The Node takes no new Pods, and those that it has are evicted.
    Draining,
    /// The boot window of the update is open, and the box is to restart.
    Restarting,
    /// The box has restarted and is on its way.
    Booting,
    /// The Node is Ready again, takes Pods, and has to stay so for a while.
    Settling,
    /// The machine runs the revision.
    Done,
    /// It stopped; the message says where, why, and what to do.
    Failed,
    /// A person set another `spec.bootIntent` meanwhile.
    Superseded,
}

impl UpdateStage {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "Draining",
            Self::Restarting => "Restarting",
            Self::Booting => "Booting",
            Self::Settling => "Settling",
            Self::Done => "Done",
            Self::Failed => "Failed",
            Self::Superseded => "Superseded",
        }
    }

    /// True while it is under way.
    pub fn is_active(self) -> bool {
        match self {
            Self::Draining | Self::Restarting | Self::Booting | Self::Settling => true,
            Self::Done | Self::Failed | Self::Superseded => false,
        }
    }
}

/// Which machines a Profile lets update itself now. Written before they begin: so two who decide at once, or one who decides on an
/// old picture, cannot let more begin than may.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The highest number that was given.
    pub number: i64,
    /// Who may update itself, and is not done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admitted: Vec<Admission>,
}

/// Leave for one machine to update itself, once.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// The Machine.
    pub machine: String,
    /// Its UID: one that is made anew under the name has no leave.
    pub uid: String,
    /// Higher than that of each update that the Machine has seen.
    pub number: i64,
}

/// The intent of an update: no two updates of a machine share one, so that no link and no claim of an earlier one counts.
pub fn intent(base: &str, revision: &str, number: i64) -> String {
    format!("{base}.{revision}.{number}")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, 50, 1)]
    #[case(Some(IntOrString::Int(3)), 50, 3)]
    #[case(Some(IntOrString::Int(0)), 50, 1)]
    #[case(Some(IntOrString::String("10%".into())), 50, 5)]
    #[case(Some(IntOrString::String("10%".into())), 9, 1)]
    #[case(Some(IntOrString::String("34%".into())), 3, 1)]
    #[case(Some(IntOrString::String("4".into())), 50, 4)]
    #[case(Some(IntOrString::String("nonsense".into())), 50, 1)]
    fn how_many_may_be_down(
        #[case] max_unavailable: Option<IntOrString>,
        #[case] machines: usize,
        #[case] most: usize,
    ) {
        assert_eq!(UpdateSpec { max_unavailable, ..UpdateSpec::default() }.most_unavailable(machines), most);
    }
}
