//! What to tell about a change of a Machine's status. Pure: the difference of two statuses.

use magnetite_api::{
    Phase,
    conditions::{self, reason},
    install::{WipeState, WipeStatus, WipedDisk},
    machine::{IntentState, IntentStatus, MachineStatus},
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
    let wiped = wiped(before.and_then(|status| status.wipe.as_deref()), after.wipe.as_deref());
    window.into_iter().chain(phase).chain(wiped).collect()
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
