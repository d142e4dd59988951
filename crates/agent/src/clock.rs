//! The box's clock, put right by the boot server's.
//!
//! A box may wake up in 1970, or years ahead. The boot server is known by its key and not by dates, so it is the one
//! that can say what time it is, before anything looks at a certificate's dates.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use magnetite_daemon::{clock, log::chain};
use nix::{sys::time::TimeSpec, time::ClockId};

/// A difference that is no harm: certificates are dated back by five minutes.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(30);

/// The time as far as the box knows it.
#[derive(Debug)]
pub struct BoxClock {
    settable: bool,
    ahead: SignedDuration,
}

impl BoxClock {
    /// `settable` is false where the clock is not the agent's: in a test.
    pub fn new(settable: bool) -> Self {
        Self { settable, ahead: SignedDuration::ZERO }
    }

    /// The time: the box's own, put right if the box's own could not be.
    pub fn now(&self) -> Timestamp {
        clock::now().saturating_add(self.ahead).unwrap_or(Timestamp::MAX)
    }

    /// Takes over the server's time where the box's is far from it.
    pub fn agree(&mut self, server_time: Timestamp) {
        let ahead = server_time.duration_since(clock::now());
        if ahead.abs() <= TOLERANCE {
            self.ahead = SignedDuration::ZERO;
            return;
        }
        // What cannot be set is remembered, so that at least the agent itself is not misled.
        self.ahead = if self.settable && set(server_time) { SignedDuration::ZERO } else { ahead };
    }
}

fn set(time: Timestamp) -> bool {
    let since_1970 = Duration::try_from(time.as_duration()).unwrap_or_default();
    let before = clock::now();
    match nix::time::clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(since_1970)) {
        Ok(()) => {
            tracing::info!(before = before.to_string(), after = time.to_string(), "clock set by the boot server's");
            true
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "clock is wrong and could not be set");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_cannot_be_set_is_put_right_in_mind() {
        let mut clock = BoxClock::new(false);
        let far = clock::now() + SignedDuration::from_hours(24 * 365);
        clock.agree(far);
        assert!(clock.now().duration_since(far).abs() < SignedDuration::from_secs(5));
        clock.agree(clock::now() + SignedDuration::from_secs(20));
        assert!(clock.now().duration_since(clock::now()).abs() < SignedDuration::from_secs(1), "close enough");
    }
}
