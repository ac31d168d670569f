//! `cargo xtask golden`: makes the goldens of `immiscible-models`, which are weights, outputs and gradients of the Python
//! packages that its networks are tested against. Where the packages cannot be had, it says so and passes.

use crate::{Outcome, diffusers, layers, python};
use std::process::Command;

/// One for each family of networks.
const SCRIPTS: &[&str] =
    &["autoencoder_kl.py", "clip_text.py", "dit.py", "lpips.py", "unet_2d.py", "unet_2d_condition.py"];

/// Makes the goldens in place. `check`: makes them in the target folder, and fails if the committed ones are others.
pub(crate) fn run(check: bool) -> Outcome {
    let python = match diffusers::environment() {
        Ok(python) => python,
        Err(reason) => {
            println!("skipped: {reason}");
            return Ok(());
        }
    };
    let golden = layers::workspace_root().join("crates/immiscible-models/tests/golden");
    let folder = if check { layers::target_folder().join("golden") } else { golden.clone() };
    if check {
        python::emptied(&folder).map_err(|error| python::failed(&folder, &error))?;
    }
    // Without a cache of compiled modules, which would lie among the goldens.
    let script = |name: &str| crate::run(Command::new(&python).arg("-B").arg(golden.join(name)).arg(&folder));
    for name in SCRIPTS {
        script(name)?;
    }
    if check { script("check.py") } else { Ok(()) }
}
