//! A rack: boxes whose power is switched by whoever speaks to its socket, as BMCs do. The lab itself only looks.
//!
//! A line is asked and a line is answered: `names`, `state NAME` (`on` or `off`), `boot NAME` (`pxe` or `disk`), and the changes `on`,
//! `off`, `shutdown`, `reset` and `boot NAME pxe|disk`, which are kept, in their order.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lan::Lan;
use crate::net::SOCKETS;
use crate::vm::Vm;

/// Boxes, and a thread that switches them. All of it ends with the value.
pub struct Rack {
    inside: Arc<Inside>,
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
}

struct Inside {
    boxes: Mutex<Vec<Vm>>,
    acts: Mutex<Vec<String>>,
    ends: AtomicBool,
}

impl Rack {
    /// Puts boxes into a rack, and opens its socket.
    pub fn new(lan: &Lan, boxes: Vec<Vm>) -> Result<Self> {
        let socket = Path::new(SOCKETS).join(format!("{}-rack", lan.network().switch()));
        drop(std::fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).context("open the rack's socket")?;
        let inside =
            Arc::new(Inside { boxes: Mutex::new(boxes), acts: Mutex::default(), ends: AtomicBool::new(false) });
        let mine = Arc::clone(&inside);
        let thread = std::thread::Builder::new().name("rack".into()).spawn(move || mine.serve(&listener))?;
        Ok(Self { inside, socket, thread: Some(thread) })
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The boxes, while nobody switches them.
    pub fn boxes(&self) -> MutexGuard<'_, Vec<Vm>> {
        self.inside.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a box is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.boxes().iter_mut().any(|machine| machine.spec().name == name && machine.is_on())
    }

    /// All that a box has written to its console.
    #[must_use]
    pub fn console(&self, name: &str) -> String {
        self.boxes().iter().find(|machine| machine.spec().name == name).map(Vm::console_text).unwrap_or_default()
    }

    /// What was done to a box by its BMC, in its order, such as `boot pxe`, `on`. What was already so is no deed: who hears no answer at once
    /// says it again.
    #[must_use]
    pub fn acts(&self, name: &str) -> Vec<String> {
        let acts = self.inside.acts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut acts: Vec<_> =
            acts.iter().filter_map(|act| act.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned)).collect();
        acts.dedup();
        acts
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        self.inside.ends.store(true, Ordering::Release);
        // Whoever waits for a connection gets one.
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        drop(std::fs::remove_file(&self.socket));
    }
}

impl Inside {
    fn serve(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            if self.ends.load(Ordering::Acquire) {
                return;
            }
            if let Ok(stream) = stream {
                // Who hangs up before the answer does not need it.
                drop(self.answer(stream));
            }
        }
    }

    fn answer(&self, mut stream: UnixStream) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut line)?;
        let words: Vec<_> = line.split_whitespace().collect();
        let answer = self.carry_out(&words).unwrap_or_else(|error| format!("error {error:#}"));
        writeln!(stream, "{answer}").context("answer")
    }

    fn carry_out(&self, words: &[&str]) -> Result<String> {
        let mut boxes = self.boxes.lock().unwrap_or_else(PoisonError::into_inner);
        if words == ["names"] {
            let names: Vec<_> = boxes.iter().map(|machine| machine.spec().name.clone()).collect();
            return Ok(names.join(" "));
        }
        let (verb, name, rest) = match words {
            [verb, name, rest @ ..] => (*verb, *name, rest),
            _ => bail!("{words:?} is no question"),
        };
        let machine = boxes.iter_mut().find(|machine| machine.spec().name == name).context("no such box")?;
        match (verb, rest) {
            ("state", []) => return Ok(if machine.is_on() { "on" } else { "off" }.to_owned()),
            ("boot", []) => return Ok(if machine.boots_network_next() { "pxe" } else { "disk" }.to_owned()),
            ("boot", [from]) => machine.boot_network_once(*from == "pxe"),
            ("on", []) if machine.is_on() => return Ok("ok".to_owned()),
            ("on", []) => machine.power_on()?,
            ("off", []) if !machine.is_on() => return Ok("ok".to_owned()),
            ("off", []) => machine.power_off(),
            ("shutdown", []) if machine.is_on() => machine.press_power_button()?,
            ("shutdown", []) => {}
            ("reset", []) if machine.is_on() => machine.reset()?,
            _ => bail!("{words:?} is no question, or {name} is off"),
        }
        let mut act = vec![name, verb];
        act.extend(rest);
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).push(act.join(" "));
        Ok("ok".to_owned())
    }
}
