//! Burn's generator belongs to the process: tests that draw from it take turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Holds the generator until it is dropped: one test at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}
