//! `immiscible data`.

mod check;
mod encode;
#[cfg(feature = "fetch")]
mod fetch;

use crate::config::{self, did_you_mean};
use crate::{Failure, cli};
use anyhow::{Result, anyhow};
use immiscible_data::DataOptions;
use std::path::Path;
use toml::{Table, Value};

pub(crate) fn run(command: &cli::Data) -> Result<(), Failure> {
    match command {
        cli::Data::Check(arguments) => check::run(arguments),
        cli::Data::Encode(arguments) => encode::run(arguments),
        #[cfg(feature = "fetch")]
        cli::Data::Fetch(arguments) => fetch::run(arguments),
        #[cfg(not(feature = "fetch"))]
        cli::Data::Fetch(arguments) => Err(Failure::usage(anyhow!(
            "data fetch {}: this build has no network; build with --features fetch",
            arguments.name
        ))),
    }
}

/// The options of a data set, of which keys are set on the command line.
fn options(name: &str, path: Option<&Path>, set: &[String]) -> Result<DataOptions> {
    let mut table = Table::new();
    table.insert("name".into(), name.into());
    if let Some(path) = path {
        table.insert("path".into(), Value::try_from(path)?);
    }
    set.iter().try_for_each(|assignment| config::set(&mut table, assignment))?;
    table.try_into().map_err(|error: toml::de::Error| {
        let line = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let hint = match (line.starts_with("unknown field"), &quoted[..]) {
            (true, [unknown, known @ ..]) => did_you_mean(unknown, known.iter().copied()),
            _ => String::new(),
        };
        anyhow!("--set: {line}{hint}")
    })
}
