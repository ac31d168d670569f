//! `cargo xtask test --diffusers`: networks and schedulers go to the Python package diffusers and back, and both sides draw
//! the same images. It installs torch and diffusers, several gigabytes; where they cannot be had, it says so and passes.

use crate::{Outcome, cargo, layers, python};
use std::{path::PathBuf, process::Command};

const PACKAGES: &[&str] = &["torch", "diffusers", "transformers", "safetensors", "numpy"];

/// The Python of the environment with the packages.
///
/// # Errors
/// One line: why it cannot be had.
pub(crate) fn environment() -> Result<PathBuf, String> {
    python::environment(&layers::target_folder().join("diffusers/venv"), PACKAGES)
}

pub(crate) fn check() -> Outcome {
    let Some(python) = python::or_skip(environment()) else {
        return Ok(());
    };
    crate::run(cargo().args(["build", "--package", "immiscible-app", "--bin", "immiscible"]))?;
    let script = layers::workspace_root().join("crates/immiscible-app/tests/diffusers/check.py");
    crate::run(Command::new(python).arg(script).arg(layers::target_folder().join("debug/immiscible")))
}
