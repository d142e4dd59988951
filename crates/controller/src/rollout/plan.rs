//! Who may update itself now. Pure: no clock, no client, no log.
//!
//! Leave is given in the Profile's own status, and given back only when the Machine shows that it is done with it. What a Machine
//! shows late makes fewer begin, never more; and of two who decide on one picture of the Profile, the second one's write is refused.

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{
    conditions::{Status, reason},
    update::{Admission, RolloutStatus, UpdateSpec, UpdateStage, UpdateStrategy},
};

use super::version::Minor;

/// A machine that is down for this long is not about to come back by itself: Kubernetes too gives its Pods up after five minutes.
const LOST: SignedDuration = SignedDuration::from_mins(5);
/// R9: not more at once than the larger of a number and a share of all Machines, whatever a Profile says.
const CEILING: (usize, usize) = (10, 5);
/// How many machines are named in a message.
const NAMED: usize = 3;

/// A machine of the Profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// True if it ever ran: one that has not boots the current revision when it comes, and nobody misses it until then.
    pub ran: bool,
    /// True if it serves.
    pub ready: bool,
    /// Since when it does not, if that is known.
    pub down_since: Option<Timestamp>,
    /// True if its spec takes it out of service.
    pub maintenance: bool,
    /// True if it is being deleted.
    pub leaving: bool,
    /// The revision that it runs.
    pub booted: Option<String>,
    /// The number of its newest update; 0 if it has none.
    pub number: i64,
    /// Where its update is, while one is under way.
    pub active: Option<UpdateStage>,
    /// Its newest update, if that failed.
    pub ended: Option<Ended>,
    /// Its kubelet's version.
    pub kubelet: Option<Minor>,
}

/// An update that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// To which revision.
    pub revision: String,
    /// `spec.update.retry` at that time.
    pub retry: Option<String>,
    /// Why.
    pub message: String,
}

/// Everything that the plan may know.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<'a> {
    /// The Profile's current revision.
    pub revision: &'a str,
    /// What the Profile asks for.
    pub spec: &'a UpdateSpec,
    /// What was decided so far.
    pub before: RolloutStatus,
    /// Its machines, by name.
    pub members: &'a [Member],
    /// Why the Profile cannot be booted now, if it cannot.
    pub trouble: Option<String>,
    /// How many may be updated at once in the whole cluster.
    pub ceiling: usize,
    /// How many of other Profiles' are.
    pub elsewhere: usize,
    /// The API server's version.
    pub api_server: Option<Minor>,
}

/// What a condition says.
pub type Says = (Status, &'static str, String);

/// The decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Who may update itself.
    pub status: RolloutStatus,
    /// How many run the revision.
    pub up_to_date: usize,
    /// How many are being updated.
    pub updating: usize,
    /// How many failed.
    pub failed: usize,
    /// Whether every machine that ever ran runs the revision.
    pub updated: Says,
    /// Whether machines are being updated, or why not.
    pub progressing: Says,
    /// When time alone changes something.
    pub until: Option<Timestamp>,
}

/// How many machines may be updated at once in a cluster with so many Machines; a flag may say another number, and none takes it
/// away.
pub fn ceiling(flag: Option<u32>, machines: usize) -> usize {
    let (number, percent) = CEILING;
    let default = number.max(machines.saturating_mul(percent) / 100);
    flag.map_or(default, |flag| usize::try_from(flag).unwrap_or(default)).max(1)
}

impl Member {
    fn runs(&self, revision: &str) -> bool {
        self.booted.as_deref() == Some(revision)
    }

    fn failed(&self, seen: &Seen<'_>) -> bool {
        let stands = |ended: &Ended| ended.revision == seen.revision && ended.retry == seen.spec.retry;
        !self.runs(seen.revision) && self.ended.as_ref().is_some_and(stands)
    }

    /// True if it has leave that it has not used up.
    fn holds(&self, admitted: &[Admission]) -> bool {
        self.active.is_some() || admitted.iter().any(|admission| admission.is_open(self))
    }

    /// Down for good, as far as one can tell: to update it costs nothing, and may be what mends it.
    fn is_lost(&self, now: Timestamp) -> bool {
        !self.ready && (self.ended.is_some() || self.down_since.is_some_and(|since| now.duration_since(since) >= LOST))
    }
}

trait Open {
    fn is_open(&self, member: &Member) -> bool;
}

impl Open for Admission {
    /// Until the Machine shows an update of this number, or a later one, that is over.
    fn is_open(&self, member: &Member) -> bool {
        let Self { machine, uid, number } = self;
        *machine == member.name
            && *uid == member.uid
            && (member.number < *number || (member.number == *number && member.active.is_some()))
    }
}

/// Decides.
pub fn plan(seen: &Seen<'_>, now: Timestamp) -> Rollout {
    let ran: Vec<&Member> = seen.members.iter().filter(|member| member.ran && !member.leaving).collect();
    let mut admitted = seen.before.admitted.clone();
    admitted.retain(|admission| seen.members.iter().any(|member| !member.leaving && admission.is_open(member)));
    let limit = seen.spec.most_unavailable(ran.len());
    let failed: Vec<&&Member> = ran.iter().filter(|member| member.failed(seen)).collect();
    let old: Vec<&&Member> = ran.iter().filter(|member| !member.runs(seen.revision)).collect();
    let up_to_date = ran.len() - old.len();

    let mut down = ran.iter().filter(|member| member.holds(&admitted) || !member.ready || member.maintenance).count();
    let mut held = ran.iter().filter(|member| member.holds(&admitted)).count();
    let mut number = ran.iter().map(|member| member.number).fold(seen.before.number, i64::max);
    let mut why = stopped(seen, &ran, &failed);
    if why.is_none() {
        let free = |member: &&&&Member| !member.holds(&admitted) && !member.maintenance && !member.failed(seen);
        let mut next: Vec<&&&Member> = old.iter().filter(free).collect();
        // Those first that serve nobody: they cost nothing, and a revision that broke them is mended by the next. Then by name:
        // a person can tell who is next.
        next.sort_by_key(|member| (!member.is_lost(now), member.name.as_str()));
        let before = admitted.clone();
        for member in next {
            // One that is down counts already.
            let costs = usize::from(member.ready);
            if !member.ready && !member.is_lost(now) {
                continue;
            }
            if held >= limit || down + costs > limit {
                why.get_or_insert((reason::TOO_MANY_UNAVAILABLE, unavailable(&ran, &before, limit)));
                continue;
            }
            if held + seen.elsewhere >= seen.ceiling {
                let message = format!(
                    "{} machines are being updated in the cluster, and more than {} never are",
                    held + seen.elsewhere,
                    seen.ceiling
                );
                why.get_or_insert((reason::CEILING, message));
                continue;
            }
            number += 1;
            admitted.push(Admission { machine: member.name.clone(), uid: member.uid.clone(), number });
            (held, down) = (held + 1, down + costs);
        }
    }
    let updating = held;
    let counts = format!("{up_to_date} of {} machines run revision {}", ran.len(), seen.revision);
    let updated = match (old.is_empty(), failed.first()) {
        (true, _) => (Status::True, reason::COMPLETE, counts.clone()),
        (false, Some(member)) => (
            Status::False,
            reason::UPDATE_FAILED,
            format!("{counts}; {} failed, such as {}", failed.len(), member.name),
        ),
        (false, None) => (Status::False, reason::OLD_REVISION, counts.clone()),
    };
    let waits = matches!(why, Some((reason::TOO_MANY_UNAVAILABLE | reason::CEILING, _)));
    let progressing = match (old.is_empty() && updating == 0, why) {
        (true, _) => (Status::False, reason::COMPLETE, counts),
        (false, Some((reason, message))) if !waits => (Status::False, reason, format!("{counts}; {message}")),
        (false, why) if updating > 0 => {
            let named: Vec<_> = ran
                .iter()
                .filter(|member| member.holds(&admitted))
                .map(|member| member.name.as_str())
                .take(NAMED)
                .collect();
            let message = why.map_or(String::new(), |(_, message)| format!("; {message}"));
            (
                Status::True,
                reason::UPDATING,
                format!("{counts}; {updating} being updated: {}{message}", named.join(", ")),
            )
        }
        (false, Some((reason, message))) => (Status::False, reason, format!("{counts}; {message}")),
        (false, None) => {
            (Status::False, reason::WAITING, format!("{counts}; the others are not Ready, or out of service"))
        }
    };
    let lost = ran.iter().filter(|member| !member.ready && !member.runs(seen.revision));
    let until = lost.filter_map(|member| Some(member.down_since? + LOST)).filter(|at| *at > now).min();
    Rollout {
        status: RolloutStatus { number, admitted },
        up_to_date,
        updating,
        failed: failed.len(),
        updated,
        progressing,
        until,
    }
}

/// Why nobody begins, whoever is down.
fn stopped(seen: &Seen<'_>, ran: &[&Member], failed: &[&&Member]) -> Option<(&'static str, String)> {
    if seen.spec.strategy == UpdateStrategy::OnDelete {
        let how = "spec.update.strategy is OnDelete: each is updated by another spec.bootIntent (kubectl magnetite reprovision), or by a restart where it boots over the network each time and keeps its keys on a disk";
        return Some((reason::ON_DELETE, how.to_owned()));
    }
    if let Some(message) = skew(seen, ran) {
        return Some((reason::VERSION_SKEW, message));
    }
    let most = usize::try_from(seen.spec.max_failures).unwrap_or(1).max(1);
    if failed.len() >= most {
        let each: Vec<_> = failed
            .iter()
            .take(NAMED)
            .map(|member| {
                let why = member.ended.as_ref().map(|ended| ended.message.as_str()).unwrap_or_default();
                format!("{}: {why}", member.name)
            })
            .collect();
        let message = format!(
            "stopped, since {} machines failed: {}. Change the Profile, or set spec.update.retry to try them again",
            failed.len(),
            each.join("; ")
        );
        return Some((reason::UPDATE_FAILED, message));
    }
    if seen.spec.paused {
        return Some((reason::PAUSED, "paused by spec.update.paused".to_owned()));
    }
    let trouble = seen.trouble.as_ref()?;
    Some((reason::WAITING, format!("the Profile cannot be booted now: {trouble}")))
}

/// What of a revision can be known beforehand: whether a machine that runs it already has a kubelet that is too new.
fn skew(seen: &Seen<'_>, ran: &[&Member]) -> Option<String> {
    let server = seen.api_server?;
    let newer =
        |member: &&&Member| member.runs(seen.revision) && member.kubelet.is_some_and(|kubelet| kubelet > server);
    let member = ran.iter().find(newer)?;
    let kubelet = member.kubelet?;
    Some(format!(
        "the kubelet of {} has version {}.{}, and the API server {}.{}: a kubelet may not be newer. Upgrade the API server first, \
         or take an older kubelet into the Profile",
        member.name, kubelet.0, kubelet.1, server.0, server.1
    ))
}

fn unavailable(ran: &[&Member], admitted: &[Admission], limit: usize) -> String {
    let down = |member: &&&Member| member.holds(admitted) || !member.ready || member.maintenance;
    let says = |member: &&Member| match (member.active, member.ready) {
        (Some(stage), _) => format!("{} ({})", member.name, stage.as_str()),
        (None, false) => format!("{} (not Ready)", member.name),
        (None, true) if member.maintenance => format!("{} (maintenance)", member.name),
        (None, true) => format!("{} (about to begin)", member.name),
    };
    let all: Vec<_> = ran.iter().filter(down).map(says).collect();
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    format!("{limit} may be down at once, and {} are: {named}", all.len())
}
