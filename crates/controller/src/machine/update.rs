//! How one machine goes about its update, stage by stage, and what keeps Pods away from its Node. Pure.
//!
//! Each stage is written into the status before anything is done in it, and what is done follows from what is seen. So it goes on
//! where it was, whoever is killed when. Each wait has a deadline, and says what it waits for.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use magnetite_api::{
    conditions::{
        self, READY, Status,
        Status::{False, True, Unknown},
        reason,
    },
    install::WipeState,
    machine::{IntentState, IntentStatus},
    profile::JoinMode,
    report::BootStepName,
    time::seconds,
    update::{self, UpdateSpec, UpdateStage, UpdateStatus},
};

use super::{
    observe::Observed,
    plan::{Action, uncordon},
};
use crate::node::{NodeSeen, Readiness, SKEW};

/// From the moment that a box is told to restart to its firmware's first word: shutting down takes minutes, and so does what a
/// server's firmware does before it asks the network.
pub const RESTART_LIMIT: SignedDuration = SignedDuration::from_mins(20);
/// A machine that was Ready and is not any more gets so long to be so again, beside the time for which it has to stay so.
pub const SETTLE_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// How often is looked whether Pods have left.
pub const DRAIN_PAUSE: Duration = Duration::from_secs(5);

/// What comes of an update in this pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// What the status should say.
    pub update: Option<Box<UpdateStatus>>,
    /// When time alone changes it.
    pub until: Option<Timestamp>,
}

impl Observed {
    /// The update, as it was written last.
    pub fn update(&self) -> Option<&UpdateStatus> {
        self.before().and_then(|status| status.update.as_deref())
    }

    /// True if the Pods of its Node have to be looked at: they are to leave it, and no new ones come.
    pub fn drains(&self) -> bool {
        let wanted = self.machine.spec.maintenance.is_some()
            || self.update().is_some_and(|update| update.stage == UpdateStage::Draining)
            || self.machine.wanted_wipe().is_some_and(|wipe| wipe.state == WipeState::Draining);
        wanted && self.own_node().is_some_and(|node| node.unschedulable && node.readiness != Readiness::Silent)
    }
}

/// The revision that the machine runs, for the intent as it will be.
pub fn booted_revision(seen: &Observed, intent: &IntentStatus) -> Option<String> {
    let before = seen.before().and_then(|status| status.booted_revision.clone());
    let Some(boot) = &seen.boot else { return before };
    let up = |step: BootStepName| boot.step(step).map(|step| step.last_at.0);
    let came_up = match seen.join() {
        None => false,
        Some(JoinMode::None) => up(BootStepName::SystemBooted).is_some(),
        Some(JoinMode::Certificate) => up(BootStepName::AgentStarted).is_some_and(|started| {
            seen.own_node().is_some_and(|node| node.readiness == Readiness::Ready && node.heard_since(started))
        }),
    };
    if boot.revision.is_some() {
        return if came_up { boot.revision.clone() } else { before };
    }
    // Installed: the boot from the network is over, and the box started again from its disk.
    let opened =
        seen.before().and_then(|status| status.intent.as_ref()).is_some_and(|known| known.state == IntentState::Open);
    let fulfilled = opened && intent.state == IntentState::Fulfilled;
    let of_this_window =
        |earlier: &&magnetite_api::report::EarlierBoot| earlier.started_at.0 + SKEW >= intent.opened_at.0;
    let installed = boot.previous.iter().filter(of_this_window).find_map(|earlier| earlier.revision.clone());
    if fulfilled { installed.or(before) } else { before }
}

/// Decides. `intent` is the intent by which the box boots now, `booted` the revision that it runs.
pub fn next(seen: &Observed, intent: &IntentStatus, booted: Option<&str>, now: Timestamp) -> Next {
    let rests = |update: Option<UpdateStatus>| Next { update: update.map(Box::new), until: None };
    let declared = seen.machine.declared_intent();
    match seen.update() {
        Some(update) if update.base != declared => rests(Some(superseded(update, declared, now))),
        Some(update) if update.stage.is_active() => Pass { seen, intent, booted, update, now }.advance(),
        before => match begin(seen, intent, before, booted, now) {
            Some(begun) => rests(Some(begun)),
            None => rests(before.map(|update| healed(seen, update, booted, now))),
        },
    }
}

fn superseded(update: &UpdateStatus, declared: &str, now: Timestamp) -> UpdateStatus {
    UpdateStatus {
        base: declared.to_owned(),
        intent: declared.to_owned(),
        stage: UpdateStage::Superseded,
        since: seconds(now),
        reason: None,
        message: Some(format!("spec.bootIntent was set to {declared}, which begins anew")),
        ..update.clone()
    }
}

/// An update that the Profile lets this machine begin. While a window is open the box is on its way already: first it ends.
fn begin(
    seen: &Observed,
    intent: &IntentStatus,
    before: Option<&UpdateStatus>,
    booted: Option<&str>,
    now: Timestamp,
) -> Option<UpdateStatus> {
    let profile = seen.profile.as_ref().ok()?;
    let number = profile.admission.filter(|number| before.is_none_or(|before| *number > before.number))?;
    if intent.state == IntentState::Open {
        return None;
    }
    let done = booted == Some(profile.revision.as_str());
    let now = seconds(now);
    Some(UpdateStatus {
        number,
        revision: profile.revision.clone(),
        base: seen.machine.declared_intent().to_owned(),
        intent: intent.id.clone(),
        stage: if done { UpdateStage::Done } else { UpdateStage::Draining },
        since: now.clone(),
        started_at: now,
        retry: profile.update.retry.clone(),
        reason: (!done).then(|| reason::DRAINING.to_owned()),
        message: (!done).then(|| "the Node is being emptied".to_owned()),
    })
}

/// A machine that came up after all has not failed.
fn healed(seen: &Observed, update: &UpdateStatus, booted: Option<&str>, now: Timestamp) -> UpdateStatus {
    let current = seen.profile.as_ref().is_ok_and(|profile| booted == Some(profile.revision.as_str()));
    match update.stage {
        UpdateStage::Failed if current && is_up(seen) => UpdateStatus {
            stage: UpdateStage::Done,
            since: seconds(now),
            reason: None,
            message: None,
            ..update.clone()
        },
        _ => update.clone(),
    }
}

/// True if it serves.
fn is_up(seen: &Observed) -> bool {
    let conditions = seen.before().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match seen.join() {
        None => false,
        Some(JoinMode::Certificate) => seen.own_node().is_some_and(|node| node.readiness == Readiness::Ready),
        Some(JoinMode::None) => conditions::is_true(conditions, READY),
    }
}

/// One pass over an update that is under way.
struct Pass<'a> {
    seen: &'a Observed,
    intent: &'a IntentStatus,
    booted: Option<&'a str>,
    update: &'a UpdateStatus,
    now: Timestamp,
}

impl Pass<'_> {
    fn advance(&self) -> Next {
        match self.update.stage {
            UpdateStage::Draining => self.draining(),
            UpdateStage::Restarting => self.restarting(),
            UpdateStage::Booting => self.booting(),
            UpdateStage::Settling => self.settling(),
            UpdateStage::Done | UpdateStage::Failed | UpdateStage::Superseded => self.waits(None, "", None),
        }
    }

    fn draining(&self) -> Next {
        let spec = self.spec();
        let limit = SignedDuration::from_secs(spec.drain_timeout_seconds.into());
        let deadline = self.update.since.0 + limit;
        let Some((why, message)) = waits_for(self.seen) else {
            return self.to_restarting();
        };
        if self.now >= deadline {
            let advice = "the machine goes on as it was, and its Node takes Pods again";
            let text = format!("Draining did not end within {} s: {message}; {advice}", limit.as_secs());
            return self.failed(reason::DRAIN_TIMEOUT, text);
        }
        self.waits(Some(why), &message, Some(deadline))
    }

    /// From here on the box boots by an intent of this update's own.
    fn to_restarting(&self) -> Next {
        let revision = self.seen.profile.as_ref().map_or(&self.update.revision, |profile| &profile.revision);
        let intent = update::intent(&self.update.base, revision, self.update.number);
        let update = UpdateStatus { intent, revision: revision.clone(), ..self.update.clone() };
        Pass { update: &update, ..*self }.enter(
            UpdateStage::Restarting,
            Some(reason::RESTARTING),
            "the box is to restart",
        )
    }

    fn restarting(&self) -> Next {
        let since = self.update.since.0;
        let asked = self.seen.own_node().and_then(|node| Some((node, asked_boot(node, &self.update.intent)?)));
        let other_boot = asked.is_some_and(|(node, boot)| !node.boot_id.is_empty() && node.boot_id != boot);
        let seen_again = self.seen.boot.as_ref().is_some_and(|boot| boot.started_at.0 + SKEW >= since);
        if other_boot || seen_again || self.seen.is_claimed(self.intent) || self.intent.state == IntentState::Fulfilled
        {
            return self.enter(UpdateStage::Booting, Some(reason::UPDATING), "the box has restarted and is on its way");
        }
        let deadline = (since + RESTART_LIMIT).min(self.intent.expires_at.0);
        let message = match self.seen.own_node() {
            _ if self.seen.machine.power_is_kept() => {
                "its BMC is told to restart the box: status.power says how far that is"
            }
            Some(_) => "its agent was asked to restart the box",
            None => "restart the box: it has no Node through which its agent could be asked",
        };
        if self.now >= deadline {
            let text = format!(
                "Restarting did not end by {deadline}: {message}, and it was not seen to. Restart it by hand, and set \
                 spec.update.retry of the Profile if the window of intent {} is over by then",
                self.intent.id
            );
            return self.failed(reason::NOT_RESTARTED, text);
        }
        self.waits(Some(reason::RESTARTING), message, Some(deadline))
    }

    fn booting(&self) -> Next {
        let status = self.seen.before();
        let (why, message) =
            (status.and_then(|status| status.reason.as_deref()), status.and_then(|status| status.message.as_deref()));
        let last = format!("{}: {}", why.unwrap_or("Waiting"), message.unwrap_or("the box says nothing"));
        match self.intent.state {
            IntentState::Open => self.waits(
                Some(reason::UPDATING),
                "the box has restarted and is on its way",
                Some(self.intent.expires_at.0),
            ),
            IntentState::Fulfilled if self.booted_right() => self.enter(
                UpdateStage::Settling,
                Some(reason::SETTLING),
                "the machine is Ready again and has to stay so",
            ),
            IntentState::Fulfilled => {
                let text = format!(
                    "Booting ended with revision {} in place of {}: do all boot servers see the Profile as it is?",
                    self.booted.unwrap_or("unknown"),
                    self.update.revision
                );
                self.failed(reason::WRONG_REVISION, text)
            }
            IntentState::Frozen => {
                let text =
                    format!("Booting stopped: two keys claimed the machine in intent {}. {last}", self.intent.id);
                self.failed(reason::CLAIM_CONFLICT, text)
            }
            IntentState::Expired => {
                let text = format!("Booting did not end in the window of intent {}. {last}", self.intent.id);
                self.failed(reason::BOOT_FAILED, text)
            }
        }
    }

    /// Right is what the update is for, or what the Profile has become since.
    fn booted_right(&self) -> bool {
        let current = self.seen.profile.as_ref().ok().map(|profile| profile.revision.as_str());
        self.booted.is_some() && (self.booted == Some(self.update.revision.as_str()) || self.booted == current)
    }

    fn settling(&self) -> Next {
        let gate = SignedDuration::from_secs(self.spec().min_ready_seconds.into());
        let since = self.update.since.0;
        let deadline = since + gate + SETTLE_LIMIT;
        let conditions = self.seen.before().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let ready = conditions::find(conditions, READY).filter(|ready| ready.status == "True");
        let ready = ready.filter(|_| is_up(self.seen)).map(|ready| ready.last_transition_time.0.max(since) + gate);
        match ready {
            Some(settled) if self.now >= settled => self.enter(UpdateStage::Done, None, ""),
            Some(settled) => {
                let message = format!("the machine is Ready and has to stay so until {settled}");
                self.waits(Some(reason::SETTLING), &message, Some(settled))
            }
            None if self.now >= deadline => {
                let text = format!(
                    "Settling did not end by {deadline}: the machine booted, and did not stay Ready for {} s",
                    gate.as_secs()
                );
                self.failed(reason::NOT_SETTLED, text)
            }
            None => self.waits(Some(reason::SETTLING), "the machine is not Ready at the moment", Some(deadline)),
        }
    }

    fn spec(&self) -> UpdateSpec {
        self.seen.profile.as_ref().map(|profile| profile.update.clone()).unwrap_or_default()
    }

    fn enter(&self, stage: UpdateStage, why: Option<&str>, message: &str) -> Next {
        let message = (!message.is_empty()).then(|| message.to_owned());
        let since = seconds(self.now);
        let update = UpdateStatus { stage, since, reason: why.map(str::to_owned), message, ..self.update.clone() };
        Next { update: Some(Box::new(update)), until: None }
    }

    fn failed(&self, why: &str, message: String) -> Next {
        self.enter(UpdateStage::Failed, Some(why), &message)
    }

    fn waits(&self, why: Option<&str>, message: &str, until: Option<Timestamp>) -> Next {
        let message = (!message.is_empty()).then(|| message.to_owned());
        let update = UpdateStatus { reason: why.map(str::to_owned), message, ..self.update.clone() };
        Next { update: Some(Box::new(update)), until }
    }
}

/// What keeps the Node from being empty; nothing if it is, or if there is none. A Node whose kubelet is silent serves nobody, and
/// nothing would carry an eviction out.
pub(super) fn waits_for(seen: &Observed) -> Option<(&'static str, String)> {
    let node = seen.own_node()?;
    // One that is not Ready may be so for a moment, and its kubelet ends Pods all the same.
    if node.readiness == Readiness::Silent {
        return None;
    }
    let about = |message: &str| Some((reason::DRAINING, message.to_owned()));
    match &seen.pods {
        _ if !node.unschedulable => about("the Node is being kept from new Pods"),
        None => about("its Pods are being looked at"),
        Some(drain) => drain.waits().map(|waits| (waits.reason, waits.message)),
    }
}

/// The boot that the agent was asked to end for this intent.
fn asked_boot<'a>(node: &'a NodeSeen, intent: &str) -> Option<&'a str> {
    let (id, boot) = node.restart.as_deref()?.rsplit_once('@')?;
    (id == intent).then_some(boot)
}

/// What has to be done at the Node, for the update as it will be: keep Pods away or let them come, ask them to leave, ask the agent for
/// a restart or take that back. `written`: the update as it is in the status already; nothing is done for what nobody could go on with.
pub fn at_the_node(seen: &Observed, next: Option<&UpdateStatus>) -> Vec<Action> {
    let Some(node) = seen.own_node() else { return Vec::new() };
    let written = seen
        .update()
        .filter(|update| next.is_some_and(|next| next.number == update.number && next.base == update.base));
    let stage = |update: Option<&UpdateStatus>| update.map(|update| update.stage).filter(|stage| stage.is_active());
    let away = |stage: Option<UpdateStage>| {
        matches!(stage, Some(UpdateStage::Draining | UpdateStage::Restarting | UpdateStage::Booting))
    };
    let maintenance = seen.machine.spec.maintenance.is_some();
    let mut actions = Vec::new();
    if maintenance || away(stage(written)) && away(stage(next)) {
        let leave = maintenance || stage(next) == Some(UpdateStage::Draining);
        actions.extend(cordon(node).or_else(|| evict(seen).filter(|_| leave)));
    } else if !away(stage(next)) {
        actions.extend(uncordon(seen));
    }
    let asks = stage(written) == Some(UpdateStage::Restarting) && stage(next) == Some(UpdateStage::Restarting);
    actions.extend(by_agent(seen, node, written.filter(|_| asks).map(|update| update.intent.as_str())));
    actions
}

/// Asks the agent to restart the box for what has this name, once, or takes back what it was asked for. Where a BMC restarts the box the agent
/// is not asked: of two that do, the second would end the boot that the first began.
pub(super) fn by_agent(seen: &Observed, node: &NodeSeen, name: Option<&str>) -> Option<Action> {
    let wanted = name.filter(|_| !seen.machine.power_is_kept()).and_then(|name| match asked_boot(node, name) {
        // Asked already. That the boot is another now means that it was done.
        Some(_) => node.restart.clone(),
        None => (!node.boot_id.is_empty()).then(|| format!("{name}@{}", node.boot_id)),
    });
    let (uid, restart) = (node.uid.clone(), node.restart != wanted);
    restart.then(|| Action::Restart { node: node.name.clone(), uid, id: wanted })
}

/// Keeps new Pods away from a Node that still takes them: that comes before any has to leave.
pub(super) fn cordon(node: &NodeSeen) -> Option<Action> {
    (!node.unschedulable).then(|| Action::Cordon { node: node.name.clone(), uid: node.uid.clone() })
}

/// Asks the Pods to leave that may be asked now.
pub(super) fn evict(seen: &Observed) -> Option<Action> {
    let pods = seen.pods.as_ref()?.waits()?.evict;
    (!pods.is_empty()).then_some(Action::Evict { pods })
}

/// What the condition `UpToDate` says.
pub fn up_to_date(
    seen: &Observed,
    booted: Option<&str>,
    update: Option<&UpdateStatus>,
) -> (Status, &'static str, String) {
    let Ok(profile) = &seen.profile else {
        return (Unknown, reason::WAITING, "the machine has no Profile".to_owned());
    };
    let Some(booted) = booted else {
        return (Unknown, reason::NOT_SEEN, "the machine has not come up from a boot that was seen here".to_owned());
    };
    let (name, revision) = (&profile.name, &profile.revision);
    if booted == revision {
        return (True, reason::AS_DECLARED, format!("the machine runs revision {revision} of the Profile {name}"));
    }
    let old = format!("the machine runs revision {booted}, and that of the Profile {name} is {revision}");
    let says = |update: &UpdateStatus| update.message.clone().unwrap_or_default();
    match update {
        Some(update) if update.stage.is_active() => {
            (False, reason::UPDATING, format!("{old}; {}: {}", update.stage.as_str(), says(update)))
        }
        Some(update) if update.stage == UpdateStage::Failed && update.revision == *revision => {
            (False, reason::UPDATE_FAILED, format!("{old}; {}", says(update)))
        }
        _ => (False, reason::OLD_REVISION, old),
    }
}
