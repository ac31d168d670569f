//! `cargo xtask golden`: makes the goldens, which are what the Python packages compute where this project must compute the same:
//! networks with their weights and gradients, tables of schedules, trajectories of samplers. Where the packages cannot be had,
//! it says so and passes.

use crate::{Outcome, diffusers, layers, python};
use std::process::Command;

/// Crates and the scripts in their `tests/golden`.
const SCRIPTS: &[(&str, &[&str])] = &[
    (
        "immiscible-models",
        &["autoencoder_kl.py", "clip_text.py", "dit.py", "lpips.py", "unet_2d.py", "unet_2d_condition.py"],
    ),
    ("immiscible-sample", &["samplers.py"]),
    ("immiscible-schedule", &["learned_variance.py", "schedules.py"]),
];

/// Makes the goldens in place. `check`: makes them in the target folder, and fails if the committed ones are others.
pub(crate) fn run(check: bool) -> Outcome {
    let Some(python) = python::or_skip(diffusers::environment()) else {
        return Ok(());
    };
    // Without a cache of compiled modules, which would lie among the goldens.
    let python = || {
        let mut command = Command::new(&python);
        command.arg("-B");
        command
    };
    let crates = layers::workspace_root().join("crates");
    let made = layers::target_folder().join("golden");
    let mut outcome = Ok(());
    for (of, scripts) in SCRIPTS {
        let golden = crates.join(of).join("tests/golden");
        let folder = if check { made.join(of) } else { golden.clone() };
        if check {
            python::emptied(&folder).map_err(|error| python::failed(&folder, &error))?;
        }
        for script in *scripts {
            crate::run(python().arg(golden.join(script)).arg(&folder))?;
        }
        if check {
            let script = crates.join("immiscible-models/tests/golden/check.py");
            // Of all crates, before it fails.
            outcome = crate::run(python().arg(script).args([&golden, &folder])).and(outcome);
        }
    }
    outcome
}
