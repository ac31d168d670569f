//! `immiscible export`.

use crate::config::insert;
use crate::sample::open_run;
use crate::{Failure, cli};
use anyhow::{Context, Result, ensure};
use immiscible_models::{AutoencoderKLConfig, Pretrained};
use immiscible_sample::{Pipeline, Scheduler};
use toml::{Table, Value};

/// Writes a run's averaged weights as a folder that the Python package `diffusers` opens.
pub(crate) fn run(arguments: &cli::Export) -> Result<(), Failure> {
    let (pipeline, step) = open(arguments).map_err(Failure::usage)?;
    let to = &arguments.to;
    pipeline.save_pretrained(to).map_err(Failure::run)?;
    let what = pipeline.class_name().unwrap_or(pipeline.model.config.class_name());
    println!("{what} with the weights of step {step}: {}", to.display());
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
    let scheduler = Scheduler::of_run(&config.schedule, &config.objective, &config.sample.sampling())?;
    let mut pipeline = Pipeline::new(Pretrained { config: config.model.clone(), network }, scheduler);
    let classes = parts.data.classes.iter().flatten();
    pipeline.labels = (0..).zip(classes.cloned()).collect();
    if let Some(folder) = &arguments.vae {
        let vae = Pretrained::<AutoencoderKLConfig>::from_pretrained(folder, &parts.device)
            .with_context(|| format!("--vae {}", folder.display()))?;
        let (latents, channels) = (vae.config.latent_channels, config.model.in_channels());
        ensure!(
            latents == channels,
            "--vae {}: it makes {latents} channels, and the network takes {channels}",
            folder.display()
        );
        pipeline.vae = Some(vae);
    }
    Ok((pipeline, step))
}
