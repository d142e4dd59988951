//! What to tell about a change of a Machine's status. Pure: the difference of two statuses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use magnetite_api::{
    Phase,
    conditions::{self, reason},
    install::{WipeState, WipeStatus, WipedDisk},
    machine::{HardwareChange, IntentState, IntentStatus, MachineStatus},
    update::{UpdateStage, UpdateStatus},
};

use crate::metrics::phase_name;

/// An Event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// True: somebody should look.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub text: String,
}

/// The Events of a change.
pub fn notes(before: Option<&MachineStatus>, after: &MachineStatus) -> Vec<Note> {
    let leaving =
        conditions::find(&after.conditions, conditions::WINDOW_OPEN).is_some_and(|c| c.reason == reason::DELETING);
    let window = window(before.and_then(|status| status.intent.as_ref()), after.intent.as_ref())
        // Somebody deletes the Machine: that closes its window, and is nothing to be warned of.
        .filter(|note| !(leaving && note.warning));
    let phase = phase(before.and_then(|status| status.phase), after);
    let update = update(before.and_then(|status| status.update.as_deref()), after.update.as_deref());
    let hardware = hardware(before.and_then(|status| status.hardware_change.as_ref()), after.hardware_change.as_ref());
    let bmc = bmc(before.map(|status| status.conditions.as_slice()).unwrap_or_default(), &after.conditions);
    let wiped = wiped(before.and_then(|status| status.wipe.as_deref()), after.wipe.as_deref());
    window.into_iter().chain(update).chain(hardware).chain(phase).chain(bmc).chain(wiped).collect()
}

fn update(before: Option<&UpdateStatus>, after: Option<&UpdateStatus>) -> Option<Note> {
    let after = after?;
    if before.is_some_and(|before| before.number == after.number && before.stage == after.stage) {
        return None;
    }
    let reason = match after.stage {
        UpdateStage::Draining => "UpdateDraining",
        UpdateStage::Restarting => "UpdateRestarting",
        UpdateStage::Booting => "UpdateBooting",
        UpdateStage::Settling => "UpdateSettling",
        UpdateStage::Done => "UpdateDone",
        UpdateStage::Failed => "UpdateFailed",
        UpdateStage::Superseded => "UpdateSuperseded",
    };
    let says = after.message.as_deref().map_or(String::new(), |message| format!(": {message}"));
    let text = format!("Update to revision {} ({}){says}", after.revision, after.stage.as_str());
    Some(Note { warning: after.stage == UpdateStage::Failed, reason, text })
}

/// The record of each disk: it outlives the Machine.
fn wiped(before: Option<&WipeStatus>, after: Option<&WipeStatus>) -> Vec<Note> {
    let is = |wipe: &&WipeStatus| wipe.state == WipeState::Wiped;
    match (before.filter(is), after.filter(is)) {
        (None, Some(wipe)) => {
            let note = |disk: &WipedDisk| Note { warning: false, reason: "DiskWiped", text: disk.words() };
            wipe.disks.iter().map(note).collect()
        }
        (Some(_), _) | (None, None) => Vec::new(),
    }
}

fn window(before: Option<&IntentStatus>, after: Option<&IntentStatus>) -> Option<Note> {
    let after = after?;
    let IntentStatus { id, state, opened_at: _, expires_at } = after;
    let same = before.is_some_and(|before| before.id == *id && before.state == *state);
    if same {
        return None;
    }
    let (warning, reason, text) = match state {
        IntentState::Open => {
            (false, "WindowOpened", format!("Boot window of intent {id} is open until {}", expires_at.0))
        }
        IntentState::Fulfilled => {
            (false, "WindowClosed", format!("Intent {id} is fulfilled; its boot window is closed"))
        }
        IntentState::Expired => (true, "WindowExpired", format!("Boot window of intent {id} is closed, unfulfilled")),
        // The claim that was refused has told already.
        IntentState::Frozen => return None,
    };
    Some(Note { warning, reason, text })
}

fn hardware(before: Option<&HardwareChange>, after: Option<&HardwareChange>) -> Option<Note> {
    let HardwareChange { at: _, changes } = after.filter(|after| before != Some(*after))?;
    Some(Note { warning: true, reason: reason::HARDWARE_CHANGED, text: changes.join("; ") })
}

/// A BMC that fails in another way than before, or does not any more.
fn bmc(before: &[Condition], after: &[Condition]) -> Option<Note> {
    let after = conditions::find(after, conditions::BMC_REACHABLE)?;
    let before = conditions::find(before, conditions::BMC_REACHABLE);
    let failed = before.is_some_and(|before| before.status == "False");
    match after.status.as_str() {
        "False" if !before.is_some_and(|before| failed && before.reason == after.reason) => Some(Note {
            warning: true,
            reason: conditions::BMC_TROUBLE,
            text: format!("{}: {}", after.reason, after.message),
        }),
        "True" if failed => {
            Some(Note { warning: false, reason: conditions::BMC_REACHABLE, text: after.message.clone() })
        }
        _ => None,
    }
}

fn phase(before: Option<Phase>, after: &MachineStatus) -> Option<Note> {
    let phase = after.phase.filter(|phase| before != Some(*phase))?;
    let word = after.reason.as_deref().unwrap_or_default();
    let text = match (phase, &after.message) {
        (Phase::Ready, _) => {
            let node = after.node_name.as_deref().map_or(String::new(), |node| format!(": Node {node} is Ready"));
            format!("Machine is Ready{node}")
        }
        (_, Some(message)) => format!("{word}: {message}"),
        (_, None) => word.to_owned(),
    };
    Some(Note { warning: phase == Phase::Failed, reason: phase_name(phase), text })
}
