//! The command, run as a user runs it.

use std::path::Path;
use std::process::{Command, Output};

pub(crate) fn immiscible(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_immiscible")).current_dir(folder).args(arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = immiscible(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that the user got wrong: one line, exit status 2, nothing left behind.
pub(crate) fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = immiscible(folder, arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    assert!(message.starts_with("error: "), "{message}");
    assert!(!folder.join("runs").exists(), "{arguments:?} left a run directory");
    message
}
