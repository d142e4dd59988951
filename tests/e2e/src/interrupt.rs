//! Ctrl-C. The first one asks every wait in the lab to end with an error, so that the values that
//! own processes and namespaces are dropped in the ordinary way; the second one ends the process at
//! once (children die with it, see [`crate::proc`]; namespaces are swept by the next lab).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static FLAG: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: the shutdown looks at the flag *before* this signal has set it.
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)));
        // A lab that cannot be told to stop still stops when its work is done.
        drop(armed);
    }
    flag
});

/// Starts to listen for signals. Idempotent; every wait in the lab calls it as well.
pub fn install() {
    LazyLock::force(&FLAG);
}

/// Whether somebody asked the lab to stop.
#[must_use]
pub fn requested() -> bool {
    FLAG.load(Ordering::SeqCst)
}

/// An error if somebody asked the lab to stop. For loops.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}
