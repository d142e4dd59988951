//! What a Profile's status should say. Pure.

use jiff::Timestamp;
use magnetite_api::{
    Profile, ProfileStatus,
    conditions::{self, ARTIFACTS_READY, PROGRESSING, READY, RENDERED, Status, UPDATED, reason},
    time::seconds,
    update::RolloutStatus,
};

use super::{artifacts::Files, renders::Trouble};
use crate::{
    preflight::Says,
    rollout::{
        Minor,
        plan::{self as rollout, Member, Rollout},
    },
};

/// How many Machines are named in a message.
const NAMED: usize = 3;

/// Everything that the plan may know.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The Profile.
    pub profile: Profile,
    /// What is wrong with its templates, whatever the Machine.
    pub template: Option<Trouble>,
    /// How many Machines boot it.
    pub machines: usize,
    /// For which of them it does not render, by name.
    pub failing: Vec<(String, Trouble)>,
    /// What the boot servers say about its files.
    pub files: Files,
    /// What may pass beside us, where its machines join.
    pub bypasses: Option<[Says; 2]>,
    /// Its machines, as a rollout sees them.
    pub members: Vec<Member>,
    /// The API server's version, where it matters and is known.
    pub api_server: Option<Minor>,
    /// How many machines may be updated at once in the whole cluster.
    pub ceiling: usize,
}

/// The status that it should have, and when time alone changes it. `elsewhere`: how many machines of other Profiles are being updated.
pub fn plan(seen: &Observed, elsewhere: usize, now: Timestamp) -> (ProfileStatus, Option<Timestamp>) {
    let before = seen.profile.status.clone().unwrap_or_default();
    let generation = seen.profile.metadata.generation;
    let (at, now) = (now, seconds(now));
    let condition = |kind, (status, reason, message): (Status, &str, String)| {
        conditions::condition(&before.conditions, kind, status, reason, message, generation, &now)
    };
    let (rendered, files) = (rendered(seen), files(&seen.files));
    // The first that does not hold speaks for all.
    let ready = [&rendered, &files].into_iter().find(|(status, ..)| *status != Status::True).cloned();
    let ready = ready.unwrap_or((Status::True, reason::AS_DECLARED, "its machines can boot".to_owned()));
    let (revision, spec) = (seen.profile.spec.revision(), seen.profile.spec.update());
    let Rollout { status: rollout, up_to_date, updating, failed, updated, progressing, until } = rollout::plan(
        &rollout::Seen {
            revision: &revision,
            spec: &spec,
            before: before.rollout.clone().unwrap_or_default(),
            members: &seen.members,
            trouble: (ready.0 == Status::False).then(|| ready.2.clone()),
            ceiling: seen.ceiling,
            elsewhere,
            api_server: seen.api_server,
        },
        at,
    );
    // They say something of the cluster, not of whether its machines can boot.
    let bypasses = seen.bypasses.iter().flatten().map(|(kind, says)| condition(kind, says.clone()));
    let conditions = [
        condition(RENDERED, rendered),
        condition(ARTIFACTS_READY, files),
        condition(UPDATED, updated),
        condition(PROGRESSING, progressing),
    ];
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let status = ProfileStatus {
        observed_generation: generation,
        revision: Some(revision),
        machines: count(seen.machines),
        up_to_date: count(up_to_date),
        updating: count(updating),
        failed: count(failed),
        rollout: (rollout != RolloutStatus::default()).then_some(rollout),
        reason: (ready.0 != Status::True).then(|| ready.1.to_owned()),
        conditions: conditions.into_iter().chain(bypasses).chain([condition(READY, ready)]).collect(),
    };
    (status, until)
}

fn rendered(seen: &Observed) -> (Status, &'static str, String) {
    if let Some(Trouble { reason, message }) = &seen.template {
        return (Status::False, reason, message.clone());
    }
    let Some((_, Trouble { reason, message: _ })) = seen.failing.first() else {
        let message = format!("every template renders for all {} Machines", seen.machines);
        return (Status::True, reason::AS_DECLARED, message);
    };
    let each = seen.failing.iter().take(NAMED);
    let mut message: Vec<_> = each.map(|(name, trouble)| format!("Machine {name}: {}", trouble.message)).collect();
    if seen.failing.len() > NAMED {
        message.push(format!("and {} more", seen.failing.len() - NAMED));
    }
    (Status::False, reason, message.join("; "))
}

fn files(files: &Files) -> (Status, &'static str, String) {
    match files {
        Files::Ready => (Status::True, reason::AS_DECLARED, "every file is at hand".to_owned()),
        Files::Unknown => {
            (Status::Unknown, reason::NOT_REPORTED, "no boot server reported on every file yet".to_owned())
        }
        Files::Fetching { missing: _, message } => (Status::False, reason::ARTIFACT_FETCHING, message.clone()),
        Files::Failed(message) => (Status::False, reason::ARTIFACT_FAILED, message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use magnetite_api::ProfileSpec;

    use super::*;

    fn seen() -> Observed {
        let profile = Profile::new("p", ProfileSpec::default());
        Observed {
            profile,
            template: None,
            machines: 2,
            failing: vec![],
            files: Files::Ready,
            bypasses: None,
            members: vec![],
            api_server: None,
            ceiling: 10,
        }
    }

    fn plan(seen: &Observed, now: Timestamp) -> ProfileStatus {
        super::plan(seen, 0, now).0
    }

    fn says(status: &ProfileStatus, kind: &str) -> (String, String) {
        let condition = conditions::find(&status.conditions, kind).unwrap();
        (condition.status.clone(), condition.reason.clone())
    }

    #[test]
    fn ready_is_the_first_that_does_not_hold() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(says(&plan(&seen(), now), READY), ("True".into(), reason::AS_DECLARED.into()));
        let silent = Observed { files: Files::Unknown, ..seen() };
        assert_eq!(says(&plan(&silent, now), READY), ("Unknown".into(), reason::NOT_REPORTED.into()));
        let trouble = Trouble { reason: reason::RENDER_FAILED, message: "spec.x: undefined value".into() };
        let failing = (1..=5).map(|i| (format!("m{i}"), trouble.clone())).collect();
        let failing = plan(&Observed { failing, ..silent }, now);
        assert_eq!(says(&failing, READY), ("False".into(), reason::RENDER_FAILED.into()));
        assert_eq!(failing.reason.as_deref(), Some(reason::RENDER_FAILED));
        let message = &conditions::find(&failing.conditions, RENDERED).unwrap().message;
        assert!(message.starts_with("Machine m1: spec.x") && message.ends_with("and 2 more"), "{message}");
    }

    #[test]
    fn a_second_plan_changes_nothing() {
        let mut seen = seen();
        let first = plan(&seen, Timestamp::UNIX_EPOCH);
        seen.profile.status = Some(first.clone());
        assert_eq!(plan(&seen, Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(9)), first);
    }
}
