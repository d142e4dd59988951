//! What to do about a box's power: from what its BMC says and what was written down to one step and the next record. No await, no
//! client, no clock.
//!
//! How often a box is switched for one restart: a step is written down before it is done. Whether a power cut or a switch-on was done
//! can be seen, so a controller that ended in between finds the box as it is and goes on from there, and one restart is one cycle: never
//! two, and not half of one. A press of the reset button cannot be seen. It is done at most once: where the controller or the
//! connection ended at that moment, the record says `Unknown`, and a person decides.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use magnetite_api::{
    Machine,
    conditions::reason,
    machine::IntentState,
    names::ANNOTATION_DISCOVERED_BY,
    power::{
        PowerAct, PowerState, PowerStatus, PowerTold, PowerWanted, RestartHow, RestartStage, RestartStatus,
        WantedRestart,
    },
    time::seconds,
};
use magnetite_bmc::{Act, Error, Happened, Power};

use super::{REST, observe::Network, reason_of};

/// How long a BMC has until it is told the same again: this long first, twice as long each time, at last `PATIENCE`.
const SETTLE: SignedDuration = SignedDuration::from_secs(20);
const PATIENCE: SignedDuration = SignedDuration::from_secs(300);
/// So long a box that was found may take to switch itself off.
const GOES_OFF: SignedDuration = SignedDuration::from_mins(5);
/// As often may a BMC be told the same until that it has no effect is a trouble.
const PATIENT: i32 = 3;

/// One thing to tell the BMC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub act: Act,
    /// The next boot is to come from the network: that is said before.
    pub network: bool,
}

/// The record as it should be before the step, the step, and when to look again.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is written down.
    pub status: PowerStatus,
    /// What is done then.
    pub step: Option<Step>,
    /// When to look again.
    pub again: Duration,
}

/// Decides, of a Machine whose BMC said something.
pub fn plan(machine: &Machine, power: Power, network: Network, now: Timestamp) -> Plan {
    let before = machine.status.as_ref().and_then(|status| status.power.as_deref()).cloned();
    let mut status = before.clone().unwrap_or_default();
    status.state = Some(state(power));
    status.checked_at = Some(seconds(now));
    if before.is_none() {
        skip_what_was_there(machine, &mut status, now);
    }
    let mut desk = Desk { machine, power, network, now, status, step: None, waits: false };
    // Of a Machine that is being deleted the box is touched only to be wiped. Once it is, it stays off.
    let wiping = machine.wanted_wipe().is_some_and(|wipe| wipe.state.is_under_way());
    if machine.metadata.deletion_timestamp.is_none() || wiping {
        desk.decide();
    } else {
        desk.status.told = None;
    }
    desk.settle(before.as_ref())
}

/// The record of a Machine whose BMC said nothing of use. What it said before stays, with its time.
pub fn troubled(machine: &Machine, reason: &str, message: &str, now: Timestamp) -> PowerStatus {
    let before = machine.status.as_ref().and_then(|status| status.power.as_deref()).cloned();
    let mut status = before.clone().unwrap_or_default();
    if before.is_none() {
        skip_what_was_there(machine, &mut status, now);
    }
    status.reason = Some(reason.to_owned());
    status.message = Some(message.to_owned());
    status
}

/// The record after a step. `before`: the one before the pass; `written`: the one before the step.
pub fn after(
    before: Option<&PowerStatus>,
    written: &PowerStatus,
    step: Step,
    result: &Result<(), Error>,
    now: Timestamp,
) -> PowerStatus {
    let mut status = written.clone();
    if let Err(error) = result {
        status.reason = Some(reason_of(error).to_owned());
        status.message = Some(error.in_full());
    }
    if step.act == Act::Reset {
        let happened = match result {
            Ok(()) => Some(RestartStage::Done),
            Err(error) if error.happened() == Happened::Perhaps => Some(RestartStage::Unknown),
            Err(_) => None,
        };
        match happened {
            Some(stage) => over(&mut status, stage, now),
            // It was surely not done, so it was not begun either: it is tried again, after a pause.
            None => status.restarts = before.map(|before| before.restarts.clone()).unwrap_or_default(),
        }
    }
    status
}

/// A restart that was asked for before anybody looked is nobody's wish of now: a Machine that was restored from a backup, or moved
/// to another cluster, must not restart its box.
fn skip_what_was_there(machine: &Machine, status: &mut PowerStatus, now: Timestamp) {
    if let Some(wanted) = machine.wanted_restart() {
        put(status, record(&wanted, RestartStage::Skipped, now));
    }
}

fn record(wanted: &WantedRestart, stage: RestartStage, now: Timestamp) -> RestartStatus {
    let WantedRestart { source, id, how } = wanted;
    RestartStatus { source: *source, id: id.clone(), how: *how, stage, since: seconds(now), told: None }
}

fn put(status: &mut PowerStatus, record: RestartStatus) {
    status.restarts.retain(|other| other.source != record.source);
    status.restarts.push(record);
}

/// Ends the restart that is under way.
fn over(status: &mut PowerStatus, stage: RestartStage, now: Timestamp) {
    if let Some(restart) = status.restarts.iter_mut().find(|restart| !restart.stage.is_over()) {
        (restart.stage, restart.since, restart.told) = (stage, seconds(now), None);
    }
}

fn state(power: Power) -> PowerState {
    match power {
        Power::On => PowerState::On,
        Power::Off => PowerState::Off,
        Power::PoweringOn => PowerState::PoweringOn,
        Power::PoweringOff => PowerState::PoweringOff,
    }
}

struct Desk<'a> {
    machine: &'a Machine,
    power: Power,
    network: Network,
    now: Timestamp,
    status: PowerStatus,
    step: Option<Step>,
    /// Something is not yet as it should be.
    waits: bool,
}

impl Desk<'_> {
    fn decide(&mut self) {
        let off = self.machine.spec.power == Some(PowerWanted::Off);
        self.interrupted();
        self.begin(off);
        if off {
            over(&mut self.status, RestartStage::Skipped, self.now);
        }
        if let Some(index) = self.status.restarts.iter().position(|restart| !restart.stage.is_over()) {
            self.restart(index);
            if self.status.restarts.get(index).is_some_and(|restart| !restart.stage.is_over()) {
                // One thing at a time: what the spec wants besides is the restart's own end.
                self.status.told = None;
                self.waits = true;
                return;
            }
        }
        match self.machine.spec.power {
            None => self.status.told = None,
            Some(PowerWanted::On) => self.on(),
            Some(PowerWanted::Off) => self.off(),
        }
    }

    /// A reset that is still on the record was written down by somebody who did not live to say what became of it.
    fn interrupted(&mut self) {
        let resetting = |restart: &RestartStatus| restart.stage == RestartStage::Resetting;
        if self.status.restarts.iter().any(resetting) {
            over(&mut self.status, RestartStage::Unknown, self.now);
        }
    }

    fn begin(&mut self, off: bool) {
        let Some(wanted) = self.machine.wanted_restart() else { return };
        let known = self.status.restart(wanted.source);
        if known.is_some_and(|known| known.id == wanted.id) {
            return;
        }
        if let Some(under_way) = self.status.restarts.iter_mut().find(|restart| !restart.stage.is_over()) {
            // Another name for what is being done already. Another source's waits for its turn.
            if under_way.source == wanted.source {
                under_way.id.clone_from(&wanted.id);
                under_way.how = wanted.how;
            }
            return;
        }
        let stage = match (off, self.power, wanted.how) {
            (true, _, _) => RestartStage::Skipped,
            // A box that is off is restarted by switching it on.
            (false, Power::Off, _) => RestartStage::SwitchingOn,
            (false, Power::On, RestartHow::Reset) => match self.network {
                Network::NotYet => return self.wait(),
                Network::Yes | Network::No => RestartStage::Resetting,
            },
            (false, Power::PoweringOn | Power::PoweringOff, RestartHow::Reset) => return self.wait(),
            (false, _, RestartHow::Cycle | RestartHow::Graceful) => RestartStage::SwitchingOff,
        };
        put(&mut self.status, record(&wanted, stage, self.now));
        if stage == RestartStage::Resetting {
            self.step = Some(Step { act: Act::Reset, network: self.network == Network::Yes });
        }
    }

    fn wait(&mut self) {
        self.waits = true;
    }

    fn restart(&mut self, index: usize) {
        let Some(mut restart) = self.status.restarts.get(index).cloned() else { return };
        let now = self.now;
        if restart.stage == RestartStage::SwitchingOff {
            if self.power == Power::Off {
                (restart.stage, restart.since, restart.told) = (RestartStage::SwitchingOn, seconds(now), None);
            } else if self.power != Power::PoweringOff {
                let patience = match restart.how {
                    RestartHow::Graceful => self.shutdown(),
                    RestartHow::Cycle | RestartHow::Reset => SignedDuration::ZERO,
                };
                self.switch_off(&mut restart.told, patience);
            }
        }
        if restart.stage == RestartStage::SwitchingOn {
            match self.power {
                Power::On | Power::PoweringOn => {
                    (restart.stage, restart.since, restart.told) = (RestartStage::Done, seconds(now), None);
                }
                Power::Off => self.switch_on(&mut restart.told),
                Power::PoweringOff => {}
            }
        }
        if let Some(place) = self.status.restarts.get_mut(index) {
            *place = restart;
        }
    }

    fn on(&mut self) {
        let mut told = self.status.told.take();
        match self.power {
            Power::On => told = None,
            Power::PoweringOn | Power::PoweringOff => self.wait(),
            Power::Off => {
                self.wait();
                self.switch_on(&mut told);
            }
        }
        self.status.told = told;
    }

    fn off(&mut self) {
        let mut told = self.status.told.take();
        match self.power {
            Power::Off => told = None,
            Power::PoweringOff => self.wait(),
            Power::On | Power::PoweringOn => {
                self.wait();
                let patience = self.shutdown();
                self.switch_off(&mut told, patience);
            }
        }
        self.status.told = told;
    }

    fn shutdown(&self) -> SignedDuration {
        let seconds = self.machine.spec.bmc.as_ref().map_or(0, |bmc| bmc.shutdown_seconds);
        SignedDuration::from_secs(seconds.into())
    }

    fn switch_on(&mut self, told: &mut Option<PowerTold>) {
        match self.network {
            Network::NotYet => {}
            Network::Yes => self.tell(told, PowerAct::On, true),
            Network::No => self.tell(told, PowerAct::On, false),
        }
    }

    /// Asks the system first, and cuts the power once its time is over.
    fn switch_off(&mut self, told: &mut Option<PowerTold>, patience: SignedDuration) {
        let act = match told.as_ref() {
            Some(told) if told.act == PowerAct::Off => PowerAct::Off,
            Some(told) if told.act == PowerAct::Shutdown && self.now >= told.since.0 + patience => PowerAct::Off,
            Some(_) | None if patience.is_zero() => PowerAct::Off,
            Some(_) | None => PowerAct::Shutdown,
        };
        self.tell(told, act, false);
    }

    fn tell(&mut self, told: &mut Option<PowerTold>, act: PowerAct, network: bool) {
        let now = seconds(self.now);
        let known = told.take().filter(|told| told.act == act);
        let (next, due) = match known {
            None => (PowerTold { act, since: now.clone(), at: now, times: 1 }, true),
            Some(known) => {
                let doubled = u32::try_from(known.times.clamp(1, 8) - 1).map_or(1, |times| 1 << times);
                let due = self.now >= known.at.0 + (SETTLE * doubled).min(PATIENCE);
                let next = PowerTold { at: now, times: known.times.saturating_add(1), ..known.clone() };
                if due { (next, true) } else { (known, false) }
            }
        };
        if due {
            let act = match act {
                PowerAct::On => Act::On,
                PowerAct::Shutdown => Act::Shutdown,
                PowerAct::Off => Act::Off,
            };
            self.step = Some(Step { act, network });
        }
        *told = Some(next);
    }

    /// What is outstanding: who was told what.
    fn outstanding(&self) -> Option<&PowerTold> {
        let restart = self.status.restarts.iter().find(|restart| !restart.stage.is_over());
        restart.and_then(|restart| restart.told.as_ref()).or(self.status.told.as_ref())
    }

    fn settle(mut self, before: Option<&PowerStatus>) -> Plan {
        let told = self.outstanding().cloned();
        // A BMC that refuses to switch the box still says whether it is on: that must not hide the refusal until the next try.
        let lasting = [reason::BMC_REFUSED, reason::BMC_UNAUTHORIZED, reason::BMC_NO_EFFECT];
        let was = before.and_then(|before| before.reason.as_deref());
        let stays = (told.is_some() || self.step.is_some()) && was.is_some_and(|was| lasting.contains(&was));
        if !stays {
            (self.status.reason, self.status.message) = (None, None);
        }
        if let Some(told) = told.as_ref().filter(|told| told.times > PATIENT && told.act != PowerAct::Shutdown) {
            let word = match told.act {
                PowerAct::On => "switch the box on",
                PowerAct::Shutdown | PowerAct::Off => "cut the box's power",
            };
            self.status.reason = Some(reason::BMC_NO_EFFECT.to_owned());
            self.status.message = Some(format!(
                "the BMC was told to {word} again and again since {}, and still says {}: look at its own log, and at the box's power supply",
                told.since.0,
                state(self.power).as_str()
            ));
        }
        let again = match told {
            Some(told) => soon(self.now.duration_since(told.since.0)),
            None if self.waits || goes_off(self.machine, self.now) => Duration::from_secs(5),
            None => REST,
        };
        Plan { status: self.status, step: self.step, again }
    }
}

/// True of a box that was found and is to be something now: its agent is told to switch it off, so that its BMC can switch it on and thereby show that
/// it is this box's. What it runs began before its window opened. A box that does not do so is looked at as others are, after a while.
fn goes_off(machine: &Machine, now: Timestamp) -> bool {
    let found = machine.annotations().contains_key(ANNOTATION_DISCOVERED_BY) && machine.power_is_kept();
    let status = machine.status.as_ref().filter(|_| found && !machine.spec.hold);
    let seen = status.and_then(|status| status.intent.as_ref().zip(status.boot.as_ref()));
    seen.is_some_and(|(intent, boot)| {
        let lately = now.duration_since(intent.opened_at.0.max(boot.last_seen.0)) < GOES_OFF;
        intent.state == IntentState::Open && boot.started_at.0 <= intent.opened_at.0 && lately
    })
}

/// What was told a moment ago is looked at often, and what nobody believes in any more seldom.
fn soon(age: SignedDuration) -> Duration {
    Duration::from_secs(match age.as_secs() {
        ..30 => 2,
        30..180 => 10,
        180..600 => 30,
        _ => 60,
    })
}
