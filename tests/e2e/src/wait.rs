//! Waiting for a condition: often enough to be quick, never for ever, and never through a Ctrl-C.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// Calls `look` until it returns `Ok(Some(value))`. An error from `look` ends the wait; what is
/// merely not there yet is `Ok(None)`.
pub fn until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        interrupt::check()?;
        if let Some(value) = look()? {
            return Ok(value);
        }
        if start.elapsed() > timeout {
            bail!("{what}: not within {} s", timeout.as_secs());
        }
        std::thread::sleep(pause);
        // A look is a process as a rule, and takes a processor from the machines that it waits for.
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
}
