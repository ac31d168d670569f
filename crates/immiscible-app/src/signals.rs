//! The first SIGINT or SIGTERM ends training after its step and a checkpoint, a second one at once.

use crate::Failure;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register_conditional_shutdown, register_usize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What has been asked for since [`Signals::listen`].
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// The signal, 0 before there is one.
    received: Arc<AtomicUsize>,
    /// Whether the next one ends the process.
    at_once: Arc<AtomicBool>,
}

impl Signals {
    /// Takes the signals over. Before this they end the process, as they do by default.
    pub(crate) fn listen() -> Result<Self> {
        let signals = Self { received: Arc::default(), at_once: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            let listen = || {
                leave_the_screen(signal, signals.at_once.clone())?;
                // In this order: the first signal finds the flag down.
                register_conditional_shutdown(signal, status(signal).into(), signals.at_once.clone())?;
                signal_hook::flag::register(signal, signals.at_once.clone())?;
                register_usize(signal, signals.received.clone(), signal as usize)
            };
            listen().context("the signals cannot be taken over")?;
        }
        // What an allocation that fails ends with, after it has said its size.
        #[cfg(unix)]
        leave_the_screen(signal_hook::consts::SIGABRT, Arc::new(AtomicBool::new(true)))
            .and_then(|()| {
                let always = Arc::new(AtomicBool::new(true));
                register_conditional_shutdown(signal_hook::consts::SIGABRT, Failure::DEVICE.into(), always)
            })
            .context("the signals cannot be taken over")?;
        Ok(signals)
    }

    /// Whether training is to stop.
    pub(crate) fn received(&self) -> bool {
        self.status().is_some()
    }

    /// The exit status that says which signal it was.
    pub(crate) fn status(&self) -> Option<u8> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(status(signal as i32)),
        }
    }

    /// From here on the first signal ends the process: there is nothing to save.
    pub(crate) fn end_at_once(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}

/// Gives the terminal back at a signal that ends the process at once.
#[cfg(unix)]
fn leave_the_screen(signal: i32, at_once: Arc<AtomicBool>) -> std::io::Result<()> {
    let leave = move || {
        if at_once.load(Ordering::Relaxed) {
            crate::screen::leave_at_once();
        }
    };
    // SAFETY: it reads two atomics and writes to a descriptor; nothing of that allocates, locks or panics.
    #[expect(unsafe_code, reason = "a handler must keep to what handlers may do")]
    unsafe { signal_hook::low_level::register(signal, leave) }.map(drop)
}

/// Elsewhere the terminal stays as it is.
#[cfg(not(unix))]
fn leave_the_screen(_: i32, _: Arc<AtomicBool>) -> std::io::Result<()> {
    Ok(())
}

/// As shells report it.
fn status(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// Makes a file beyond the limit of `ulimit -f` an error like that of a full disk, and not the end of the process.
#[cfg(unix)]
pub(crate) fn outlive_the_file_limit() {
    // Where it cannot be had, the limit is what it always is.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub(crate) fn outlive_the_file_limit() {}
