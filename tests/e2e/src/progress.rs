//! What a person sees while the lab works: one line a step, and what is waited for while it takes long.
#![allow(clippy::print_stdout, reason = "this is the terminal program's own output, not a log")]

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a step may be silent at first, where its line is not written anew each second: a log is read from its end, and what went wrong
/// must not be buried under what took long.
const FIRST: Duration = Duration::from_secs(8);
/// How long it may be silent at all: each silence is as long as all before it, up to this.
const LONGEST: Duration = Duration::from_secs(60);

/// Prints steps with the time since the start. Cheap to clone; all clones share one clock.
#[derive(Clone)]
pub struct Progress {
    shared: Arc<Shared>,
    /// Stands before each line: whose it is, where several work at once.
    whose: String,
}

struct Shared {
    start: Instant,
    quiet: bool,
    terminal: bool,
    /// Serialises lines, and remembers whether a transient line is on the screen.
    screen: Mutex<bool>,
}

impl Progress {
    /// Prints to standard output.
    #[must_use]
    pub fn new() -> Self {
        Self::with(false)
    }

    /// Prints nothing, for tests that only want the outcome.
    #[must_use]
    pub fn quiet() -> Self {
        Self::with(true)
    }

    fn with(quiet: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                start: Instant::now(),
                quiet,
                terminal: std::io::stdout().is_terminal(),
                screen: Mutex::new(false),
            }),
            whose: String::new(),
        }
    }

    /// The same clock and the same screen, for one of several that work at once: each of its lines begins with its name.
    #[must_use]
    pub fn of(&self, name: &str) -> Self {
        Self { shared: Arc::clone(&self.shared), whose: format!("{name}: ") }
    }

    /// Time since this reporter was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// One line, now.
    pub fn line(&self, text: impl AsRef<str>) {
        self.shared.print(&format!("{}{}", self.whose, text.as_ref()), false);
    }

    /// Announces something that takes time. Ends with [`Step::done`]; a step that is dropped
    /// otherwise (an error on its way up) says that it did not end well.
    #[must_use]
    pub fn step(&self, title: impl Into<String>) -> Step {
        let title = title.into();
        self.line(format!("{title} …"));
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let beat = {
            let (shared, state) = (Arc::clone(&self.shared), Arc::clone(&state));
            let title = format!("{}{title}", self.whose);
            std::thread::spawn(move || heartbeat(&shared, &state, &title))
        };
        Step { progress: self.clone(), title, start: Instant::now(), state, beat: Some(beat) }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn print(&self, text: &str, transient: bool) {
        if self.quiet || (transient && !self.terminal) {
            return;
        }
        let mut on_screen = lock(&self.screen);
        let seconds = self.start.elapsed().as_secs_f64();
        let clear = if *on_screen { "\r\x1b[K" } else { "" };
        let end = if transient { "" } else { "\n" };
        let text = if transient { text.chars().take(100).collect() } else { text.to_owned() };
        print!("{clear}[{seconds:7.1} s] {text}{end}");
        // Nobody is there to read a closed pipe's error.
        drop(std::io::stdout().flush());
        *on_screen = transient;
    }
}

#[derive(Default)]
struct State {
    note: String,
    over: bool,
}

fn heartbeat(shared: &Shared, state: &(Mutex<State>, Condvar), title: &str) {
    let start = Instant::now();
    let mut guard = lock(&state.0);
    loop {
        let period = if shared.terminal { Duration::from_secs(1) } else { start.elapsed().clamp(FIRST, LONGEST) };
        let (woken, timeout) =
            state.1.wait_timeout_while(guard, period, |state| !state.over).unwrap_or_else(PoisonError::into_inner);
        guard = woken;
        if !timeout.timed_out() {
            break;
        }
        let seconds = start.elapsed().as_secs();
        let note = if guard.note.is_empty() { String::new() } else { format!(": {}", guard.note) };
        if shared.terminal {
            shared.print(&format!("  … {title} ({seconds} s){note}"), true);
        } else {
            shared.print(&format!("  … still: {title} ({seconds} s){note}"), false);
        }
    }
}

/// A step that is under way.
pub struct Step {
    progress: Progress,
    title: String,
    start: Instant,
    state: Arc<(Mutex<State>, Condvar)>,
    beat: Option<std::thread::JoinHandle<()>>,
}

impl Step {
    /// What is happening inside the step; shown by the next heartbeat.
    pub fn note(&self, note: impl Into<String>) {
        lock(&self.state.0).note = note.into();
    }

    /// Ends the step, with what came of it.
    pub fn done(mut self, outcome: impl AsRef<str>) -> Duration {
        self.stop();
        let took = self.start.elapsed();
        let outcome = outcome.as_ref();
        let dash = if outcome.is_empty() { "" } else { ": " };
        self.progress.line(format!("{} ✓ ({:.1} s){dash}{outcome}", self.title, took.as_secs_f64()));
        took
    }

    fn stop(&mut self) {
        lock(&self.state.0).over = true;
        self.state.1.notify_all();
        if let Some(beat) = self.beat.take() {
            drop(beat.join());
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.beat.is_some() {
            self.stop();
            self.progress.line(format!("{} ✗ after {:.1} s", self.title, self.start.elapsed().as_secs_f64()));
        }
    }
}

/// A poisoned lock here guards nothing that a panic could have left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
