//! Threads after a fork: the workers of PyTorch's `DataLoader` are forked from a process that may have solved before.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::{
    process,
    sync::{Mutex, OnceLock, PoisonError},
};

/// The process that asked first: rayon's own threads are its.
static FIRST: OnceLock<u32> = OnceLock::new();

/// The threads of this process, if it was forked from that one, or those of the one it was forked from.
static FORKED: Mutex<Option<(u32, &ThreadPool)>> = Mutex::new(None);

/// To be called when the module is imported.
pub(crate) fn remember_process() {
    FIRST.get_or_init(process::id);
}

/// Does the work where it finds threads to share it with. A forked process inherits what rayon knows of its threads, but
/// not the threads, and would wait for them for ever: it gets threads of its own.
///
/// # Errors
/// If the system has no more threads to give.
pub(crate) fn with_threads<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, ThreadPoolBuildError> {
    let process = process::id();
    if FIRST.get() == Some(&process) {
        return Ok(work());
    }
    let mut forked = FORKED.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = match *forked {
        Some((owner, threads)) if owner == process => threads,
        // Kept for ever: to drop the threads of another process is to wait for them as well.
        _ => Box::leak(Box::new(ThreadPoolBuilder::new().build()?)),
    };
    *forked = Some((process, threads));
    drop(forked);
    Ok(threads.install(work))
}
