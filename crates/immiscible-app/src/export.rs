//! `immiscible export`.

use crate::config::insert;
use crate::sample::open_run;
use crate::{Failure, cli};
use anyhow::{Context, Result, ensure};
use immiscible_models::Pretrained;
use immiscible_sample::{Pipeline, Scheduler};
use toml::{Table, Value};

/// Writes a run's averaged weights as a folder that the Python package `diffusers` opens.
pub(crate) fn run(arguments: &cli::Export) -> Result<(), Failure> {
    let (pipeline, step) = open(arguments).map_err(Failure::usage)?;
    let to = &arguments.to;
    pipeline.save_pretrained(to).map_err(Failure::run)?;
    println!("{} with the weights of step {step}: {}", pipeline.model.config.class_name(), to.display());
    Ok(())
}

/// A run from any device is exported without it.
fn on_the_cpu(config: &mut Table) -> Result<()> {
    insert(config, "device", Value::String("flex".into()))
}

fn open(arguments: &cli::Export) -> Result<(Pipeline, u64)> {
    let to = &arguments.to;
    if to.exists() {
        let mut entries = std::fs::read_dir(to).with_context(|| to.display().to_string())?;
        ensure!(entries.next().is_none(), "--to {}: the folder is not empty; name another", to.display());
    }
    let (parts, step, network) = open_run(&arguments.run, on_the_cpu, arguments.last)?;
    let config = &parts.config;
    let sample = config.sample.sampling();
    let scheduler = Scheduler::of_run(&config.schedule, &config.objective, &sample.sampler, sample.clip)?;
    Ok((Pipeline { model: Pretrained { config: config.model.clone(), network }, scheduler }, step))
}
