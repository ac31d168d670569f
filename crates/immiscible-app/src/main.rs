//! The `immiscible` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    immiscible_app::immiscible()
}
