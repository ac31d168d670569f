//! The stage `seeing` of `cargo xtask test --python`: TensorBoard's own reader and Chromium read what a run writes for them.
//! Where they cannot be had, it says so and passes.

use crate::{Outcome, cargo, layers, python};
use std::process::Command;

/// `features` are arguments of cargo.
pub(crate) fn check(features: &[&str]) -> Outcome {
    let target = layers::target_folder();
    let Some(python) =
        python::or_skip(python::environment(&target.join("seeing/venv"), &["tensorboard", "pillow"]))
    else {
        return Ok(());
    };
    let build = ["build", "--package", "immiscible-app", "--bin", "immiscible"];
    crate::run(cargo().args(build).args(features))?;
    let script = layers::workspace_root().join("crates/immiscible-app/tests/seeing/check.py");
    crate::run(Command::new(python).arg("-B").arg(script).arg(target.join("debug/immiscible")))
}
