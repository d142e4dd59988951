//! Time in a run: milliseconds that only the run itself moves. One for each thread, because a `Context` takes a plain function.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};

use crate::fixtures::t0;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// Moves the clock.
pub fn set(millis: i64) {
    NOW.set(millis);
}

/// The moment, as everything that is under test is told it.
pub fn now() -> Timestamp {
    at(NOW.get())
}

/// So many milliseconds after the beginning of the run.
pub fn at(millis: i64) -> Timestamp {
    t0() + SignedDuration::from_millis(millis)
}

pub const SECOND: i64 = 1000;
pub const MINUTE: i64 = 60 * SECOND;
