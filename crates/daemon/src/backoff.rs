//! How long to wait before the next try: longer each time, and never the same for two that failed together.
//!
//! A site that powers on at once fails at once too. Without jitter it would come back at once as well.

use std::time::Duration;

/// Delays that double from `first` until `ceiling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest that the first delay may be.
    pub first: Duration,
    /// The longest that any delay may be.
    pub ceiling: Duration,
}

impl Backoff {
    /// The delay after so many failures (the first is 0); `unit` is a random number from 0 to 1, and the delay
    /// lies between half and all of what the doubling says.
    pub fn delay(&self, failures: u32, unit: f64) -> Duration {
        let doubled = 2_u32.checked_pow(failures).and_then(|factor| self.first.checked_mul(factor));
        let most = doubled.map_or(self.ceiling, |delay| delay.min(self.ceiling));
        most.mul_f64(0.5 + unit.clamp(0.0, 1.0) / 2.0)
    }

    /// A row of tries that fail.
    pub fn start(self) -> Retries {
        Retries { backoff: self, failures: 0 }
    }
}

/// A row of tries that fail: remembers how many did.
#[derive(Debug, Clone)]
pub struct Retries {
    backoff: Backoff,
    failures: u32,
}

impl Retries {
    /// Counts a failure and says how long to wait now.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.backoff.delay(self.failures, rand::random());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// How many failures were counted since the start or the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Forgets the failures after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// At least `delay`, at most half as much again: for a wait that the other side asked for (Retry-After).
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), ceiling: Duration::from_secs(30) };

    #[test]
    fn doubles_to_the_ceiling_and_stays_there() {
        let most: Vec<_> = (0..8).map(|failures| BACKOFF.delay(failures, 1.0).as_secs()).collect();
        assert_eq!(most, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0), BACKOFF.ceiling);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        assert_eq!(BACKOFF.delay(0, 0.0), Duration::from_millis(500));
        assert_eq!(BACKOFF.delay(3, 0.5), Duration::from_secs(6));
        let delay = jittered(Duration::from_secs(10));
        assert!((10.0..=15.0).contains(&delay.as_secs_f64()));
    }

    #[test]
    fn a_success_starts_over() {
        let mut retries = BACKOFF.start();
        (0..9).for_each(|_| assert!(retries.next_delay() <= BACKOFF.ceiling));
        retries.reset();
        assert!(retries.next_delay() <= BACKOFF.first);
    }
}
