//! The device suite on one kind of device.

use crate::{Outcome, backend_feature, cargo, layers};

/// Builds the device suite with the feature of a device, and runs it there.
pub(crate) fn suite(device: &str) -> Outcome {
    let arguments = ["--device".to_owned(), device.to_owned()];
    let mut suite = cargo();
    suite.current_dir(layers::workspace_root());
    suite.args(["run", "--package", "immiscible-app", "--bin", "immiscible-device-suite"]);
    if let Some(feature) = backend_feature(&arguments) {
        suite.args(["--features", feature]);
        // Its networks are so small that to look longer for the fastest kernels takes more time than they do.
        if std::env::var_os(AUTOTUNE_LEVEL).is_none() {
            suite.env(AUTOTUNE_LEVEL, "minimal");
        }
    }
    crate::run(suite.arg("--").args(arguments))
}

const AUTOTUNE_LEVEL: &str = "CUBECL_AUTOTUNE_LEVEL";
