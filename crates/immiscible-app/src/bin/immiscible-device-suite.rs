//! The `immiscible-device-suite` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    immiscible_app::device_suite()
}
