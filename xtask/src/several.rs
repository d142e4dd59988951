//! Work of which several pieces are done at once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Error, Result, anyhow};
use magnetite_e2e::interrupt;

/// How many pieces that take a processor each are done at once.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does each, so many at once, and gives those that failed, and why. One that fails, or panics, keeps no other from being done: it is told of
/// when it does.
pub fn each<T: Send>(
    all: Vec<T>,
    at_once: usize,
    work: impl Fn(&T) -> Result<()> + Sync,
    tell: impl Fn(&T, &Error) + Sync,
) -> Result<Vec<(T, Error)>> {
    let workers = at_once.min(all.len());
    let (queue, failed) = (Mutex::new(all.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let next = || locked(&queue).next();
                while let (false, Some(one)) = (interrupt::requested(), next()) {
                    let done = catch_unwind(AssertUnwindSafe(|| work(&one)));
                    if let Err(error) = done.unwrap_or_else(|_| Err(anyhow!("it panicked; what it said stands above")))
                    {
                        tell(&one, &error);
                        locked(&failed).push((one, error));
                    }
                }
            });
        }
    });
    interrupt::check()?;
    Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A panic of another thread is told by that thread, and leaves nothing half done in these lists.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
