//! The only place where the wall clock is read. Whatever decides gets the time as an argument, so that a test can
//! say what time it is. (Timers are tokio's, and a test can pause those.)

/// The time, now.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
