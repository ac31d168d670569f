//! `immiscible export`.

use crate::config::{insert, set_sampler};
use crate::sample::{Weights, open_run};
use crate::{Failure, cli, device};
use anyhow::{Context, Result, bail, ensure};
use immiscible_models::{AutoencoderKLConfig, Pretrained};
use immiscible_sample::{Pipeline, Scheduler};
use std::path::Path;
use toml::{Table, Value};

/// Writes a run's averaged weights as a folder that the Python package `diffusers` opens, or such a folder anew.
pub(crate) fn run(arguments: &cli::Export) -> Result<(), Failure> {
    let (pipeline, of) = open(arguments).map_err(Failure::usage)?;
    let to = &arguments.to;
    pipeline.save_pretrained(to).map_err(Failure::run)?;
    let what = pipeline.class_name().unwrap_or(pipeline.model.config.class_name());
    println!("{what} with the weights of {of}: {}", to.display());
    Ok(())
}

/// What is written, and where its weights are from.
fn open(arguments: &cli::Export) -> Result<(Pipeline, String)> {
    let (run, to) = (&arguments.run, &arguments.to);
    if to.exists() {
        let mut entries = std::fs::read_dir(to).with_context(|| to.display().to_string())?;
        ensure!(entries.next().is_none(), "--to {}: the folder is not empty; name another", to.display());
    }
    let (mut pipeline, of) = if is_folder_of_models(run) {
        ensure!(!arguments.last, "--last: {} is no run; leave it out", run.display());
        if let Some(name) = &arguments.ema {
            bail!("--ema {name}: {} is no run; leave it out", run.display());
        }
        ensure!(arguments.sampler.is_none(), "--sampler: {} is no run; leave it out", run.display());
        (Pipeline::from_pretrained(run, &device::by_name("flex")?)?, run.display().to_string())
    } else {
        let (pipeline, step) = of_run(arguments)?;
        (pipeline, format!("step {step}"))
    };
    if let Some(folder) = &arguments.vae {
        ensure!(
            pipeline.vae.is_none(),
            "--vae {}: there is an autoencoder already; leave it out",
            folder.display()
        );
        let vae = Pretrained::<AutoencoderKLConfig>::from_pretrained(folder, &device::by_name("flex")?)
            .with_context(|| format!("--vae {}", folder.display()))?;
        let (latents, channels) = (vae.config.latent_channels, pipeline.model.config.in_channels());
        ensure!(
            latents == channels,
            "--vae {}: it makes {latents} channels, and the network takes {channels}",
            folder.display()
        );
        pipeline.vae = Some(vae);
    }
    ensure!(
        pipeline.text.is_none() || pipeline.class_name().is_some(),
        "the package has no pipeline with a text encoder for this network and {}: write --sampler, or for a learned variance \
         sample.sampler = \"ddpm\" with sample.variance = \"learned_range\"",
        pipeline.scheduler.class_name()
    );
    Ok((pipeline, of))
}

/// A run's network with its scheduler, and the step that its weights are from.
fn of_run(arguments: &cli::Export) -> Result<(Pipeline, u64)> {
    let change = |config: &mut Table| {
        if let Some(sampler) = &arguments.sampler {
            set_sampler(config, sampler)?;
        }
        // A run from any device is exported without it.
        insert(config, "device", Value::String("flex".into()))
    };
    let weights = Weights::asked(arguments.ema.as_deref(), arguments.last);
    let (parts, step, network) = open_run(&arguments.run, change, weights)?;
    let config = &parts.config;
    let scheduler = match &config.objective {
        Some(objective) => Scheduler::of_run(&config.schedule, objective, &config.sampling())?,
        None => {
            let [_, s1] = config.method.fineness();
            let levels = usize::try_from(s1)? + 1;
            let sigma_data = config.method.sigma_data();
            Scheduler::of_consistency(&config.schedule, sigma_data, levels, &config.sampling())?
        }
    };
    let mut pipeline = Pipeline::new(Pretrained { config: config.model.clone(), network }, scheduler);
    let classes = parts.data.classes.iter().flatten();
    pipeline.labels = (0..).zip(classes.cloned()).collect();
    if let Some(latent) = parts.latent {
        (pipeline.vae, pipeline.text) = (Some(latent.vae), latent.text);
    }
    Ok((pipeline, step))
}

/// Whether a folder has diffusers' layout, and is not that of a run.
fn is_folder_of_models(folder: &Path) -> bool {
    ["model_index.json", "config.json"].iter().any(|file| folder.join(file).is_file())
}
