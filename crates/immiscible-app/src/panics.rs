//! Backends panic where a device fails or its memory runs out; here such an end gets a message that helps.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs `work`. A panic, in this thread, comes back as one line: what the first thread that panicked said, which is the
/// device's own where it has one.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    caught_and(work, |line| {
        crate::say(format_args!("warning: a thread beside the main one panicked: {line}"))
    })
}

/// The same for what cannot go on without the thread that panicked, so that the error is enough.
#[cfg(any(feature = "cuda-untuned", feature = "flex", feature = "wgpu-untuned"))]
pub(crate) fn caught_silently<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    caught_and(work, |_| ())
}

fn caught_and<T>(work: impl FnOnce() -> T, beside: fn(&str)) -> Result<T, String> {
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    let usual = Arc::new(take_hook());
    set_hook(Box::new({
        let (first, usual) = (first.clone(), usual.clone());
        move |panic| {
            let at =
                panic.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
            let message = panic.payload_as_str().unwrap_or("a panic without a message");
            let line = message.split_whitespace().collect::<Vec<_>>().join(" ") + &at;
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            // A backend may go on without one of its threads, and with wrong numbers.
            if first.is_none() && std::thread::current().name() != Some("main") {
                beside(&line);
            }
            first.get_or_insert(line);
            if std::env::var_os("RUST_BACKTRACE").is_some_and(|wanted| wanted != "0") {
                usual(panic);
            }
        }
    }));
    // What is left half done is not looked at again: the process ends, and goes on from a checkpoint.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    drop(take_hook());
    set_hook(Box::new(move |panic| usual(panic)));
    outcome.map_err(|_| {
        let line = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        line.unwrap_or_else(|| "a panic without a message".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line_of_the_thread_that_was_first() {
        assert_eq!(caught(|| 7), Ok(7));
        let line = caught(|| {
            let device = std::thread::spawn(|| panic!("out of\n  memory: {} bytes", 12));
            device.join().expect("the device answers");
        });
        let line = line.unwrap_err();
        assert!(line.starts_with("out of memory: 12 bytes (") && line.contains("panics.rs"), "{line}");
    }
}
