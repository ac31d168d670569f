#![doc = include_str!("../README.md")]

mod animation;
mod assign;
mod checkpoint;
mod cli;
mod config;
mod coupling;
mod curves;
mod data;
mod device;
mod device_check;
#[cfg(feature = "flex")]
mod device_suite;
mod draw;
mod eta;
mod export;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod grid;
mod large_pages;
mod latent;
mod list;
mod mask;
mod memory;
mod network_table;
mod panics;
mod parts;
mod presets;
mod progress;
mod provenance;
mod quality;
mod report;
mod sample;
mod screen;
mod signals;
mod step_bench;
mod tensorboard;
mod train;

use clap::Parser;
use immiscible_train::TrainError;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// The `immiscible` command: does what the arguments of this process ask for, and returns the exit status.
pub fn immiscible() -> ExitCode {
    large_pages::ask_for();
    signals::outlive_the_file_limit();
    device::read_records_on_the_cpu();
    let outcome = match cli::Cli::parse().command {
        cli::Command::Train(arguments) => on_device(|| train::run(&arguments)),
        cli::Command::Sample(arguments) => on_device(|| sample::run(&arguments)),
        cli::Command::Export(arguments) => on_device(|| export::run(&arguments)),
        cli::Command::Checkpoint(command) => printing(|| checkpoint::run(&command)),
        cli::Command::Report(arguments) => printing(|| report::run(&arguments)),
        cli::Command::Assign(arguments) => printing(|| assign::run(&arguments)),
        cli::Command::Coupling(command) => printing(|| coupling::run(&command)),
        cli::Command::BenchStep(arguments) => on_device(|| step_bench::run(&arguments)),
        #[cfg(feature = "flex")]
        cli::Command::DeviceSuite(arguments) => return suite_status(device_suite::run(&arguments)),
        cli::Command::Data(command) => on_device(|| data::run(&command)),
        cli::Command::Devices => printing(device::print),
        cli::Command::List => printing(|| {
            list::print();
            Ok(())
        }),
    };
    outcome.map_or_else(ended, |()| ExitCode::SUCCESS)
}

/// Runs a command that needs no device: one line says so where who reads the output goes away.
fn printing(command: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    panics::caught(command).unwrap_or_else(|reason| Err(Failure::run(anyhow::anyhow!(reason))))
}

/// Runs a command that works on a device: one that panics, as backends do where the device fails, ends it with its status.
fn on_device(command: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    panics::caught(command).unwrap_or_else(|reason| {
        // Who reads the output went away: that is no fault of the device.
        if reason.starts_with("failed printing to") {
            return Err(Failure::run(anyhow::anyhow!(reason)));
        }
        Err(Failure::device(anyhow::anyhow!(
            "the device failed: {reason}; if its memory is used up, try fewer images at once, or another device"
        )))
    })
}

/// The `immiscible-device-suite` command: whether every check passes on a device.
#[cfg(feature = "flex")]
pub fn device_suite() -> ExitCode {
    device::read_records_on_the_cpu();
    suite_status(device_suite::run(&device_suite::Alone::parse().arguments))
}

#[cfg(feature = "flex")]
fn suite_status(passed: Result<bool, Failure>) -> ExitCode {
    passed.map_or_else(ended, |passed| if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says why a command ended.
fn ended(failure: Failure) -> ExitCode {
    let what = if failure.code > 128 { "" } else { "error: " };
    say(format_args!("{what}{}", one_line(&failure.reason)));
    ExitCode::from(failure.code)
}

/// Prints a line for people. A terminal that is closed, or a full disk that the lines go to, must not end a run.
fn say(line: impl Display) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Why a command ended, and the exit status that says so: those of [`cli::EXIT_STATUS`].
struct Failure {
    reason: anyhow::Error,
    code: u8,
}

impl Failure {
    /// The exit status of a device that failed.
    const DEVICE: u8 = 4;

    /// The command cannot run as given.
    fn usage(reason: impl Into<anyhow::Error>) -> Self {
        Self { reason: reason.into(), code: 2 }
    }

    /// Something failed while it ran.
    fn run(reason: impl Into<anyhow::Error>) -> Self {
        Self { reason: reason.into(), code: 1 }
    }

    /// The device failed, or its memory is used up.
    fn device(reason: impl Into<anyhow::Error>) -> Self {
        Self { reason: reason.into(), code: Self::DEVICE }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Option { .. } | TrainError::Unknown { .. } => Self::usage(error),
            TrainError::Locked { .. } => Self { reason: error.into(), code: 3 },
            TrainError::Device { .. } => Self::device(error),
            _ => Self::run(error),
        }
    }
}

/// The context first, then its causes, each told once: many messages already end with their cause.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match &*line {
        "" => cause,
        line if line.contains(&cause) => line.into(),
        line => format!("{line}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_panics_anywhere_has_its_exit_status() {
        let failure = on_device(|| panic!("out of memory")).unwrap_err();
        assert_eq!(failure.code, Failure::DEVICE);
        let line = one_line(&failure.reason);
        assert!(line.contains("out of memory") && line.contains("fewer images"), "{line}");
        let failure = on_device(|| panic!("failed printing to stdout: Broken pipe")).unwrap_err();
        assert_eq!(failure.code, 1);
        let failure = on_device(|| Err(Failure::usage(anyhow::anyhow!("bad")))).unwrap_err();
        assert_eq!(failure.code, 2);
    }
}
