//! The `immiscible` command: reads a config, builds the parts by name, runs.

mod assign;
mod cli;
mod config;
mod coupling;
mod data;
mod device;
mod draw;
mod export;
mod grid;
mod latent;
mod list;
mod parts;
mod presets;
mod progress;
mod quality;
mod sample;
mod train;

use clap::Parser;
use immiscible_train::TrainError;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match cli::Cli::parse().command {
        cli::Command::Train(arguments) => train::run(&arguments),
        cli::Command::Sample(arguments) => sample::run(&arguments),
        cli::Command::Export(arguments) => export::run(&arguments),
        cli::Command::Assign(arguments) => assign::run(&arguments),
        cli::Command::Coupling(command) => coupling::run(&command),
        cli::Command::Data(command) => data::run(&command),
        cli::Command::List => {
            list::print();
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", one_line(&failure.reason));
            ExitCode::from(failure.code)
        }
    }
}

/// Why a command ended, and the exit status that says so: 2 for input that the user can mend, 1 for anything that
/// went wrong later.
struct Failure {
    reason: anyhow::Error,
    code: u8,
}

impl Failure {
    /// The command cannot run as given.
    fn usage(reason: impl Into<anyhow::Error>) -> Self {
        Self { reason: reason.into(), code: 2 }
    }

    /// Something failed while it ran.
    fn run(reason: impl Into<anyhow::Error>) -> Self {
        Self { reason: reason.into(), code: 1 }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Option { .. } | TrainError::Unknown { .. } => Self::usage(error),
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
