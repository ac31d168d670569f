//! `immiscible sample`.

use crate::parts::{DataInfo, Parts};
use crate::train::{CONFIG, DATA};
use crate::{Failure, cli, config, grid};
use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::module::Module;
use immiscible_train::CheckpointStore;
use toml::Value;

/// Draws samples with the averaged weights of a run's newest checkpoint.
pub(crate) fn run(arguments: &cli::Sample) -> Result<(), Failure> {
    let (parts, step, network) = open(arguments).map_err(Failure::usage)?;
    let samples =
        parts.sample(&network, arguments.n, arguments.seed, arguments.class).map_err(Failure::run)?;
    let out = &arguments.out;
    if out.extension().is_some() {
        grid::save(samples.view(), out).map_err(Failure::run)?;
    } else {
        for (i, image) in samples.outer_iter().enumerate() {
            grid::save_one(image, &out.join(format!("{i:06}.png"))).map_err(Failure::run)?;
        }
    }
    let config = &parts.config.sample;
    println!(
        "{} samples of step {step}, {} with {} steps, seed {}: {}",
        arguments.n,
        config.sampler,
        config.steps,
        arguments.seed,
        out.display()
    );
    Ok(())
}

fn open(arguments: &cli::Sample) -> Result<(Parts, u64, immiscible_models::Network)> {
    let run = &arguments.checkpoint;
    ensure!(arguments.n > 0, "--n 0: write at least 1");
    if let Some(extension) = arguments.out.extension() {
        let out = arguments.out.display();
        ensure!(extension == "png", "--out {out}: write a name that ends in .png, or a folder without a dot");
    }
    let path = run.join(CONFIG);
    ensure!(
        path.exists(),
        "{}: no {CONFIG} in it; give the directory of a run, such as runs/digits",
        run.display()
    );
    let mut table = config::file(&path)?;
    let integer = |value: usize| i64::try_from(value).map(Value::Integer).context("--steps");
    let mut changes = Vec::new();
    if let Some(steps) = arguments.steps {
        changes.push(("sample.steps", integer(steps)?));
    }
    if let Some(sampler) = &arguments.sampler {
        changes.push(("sample.sampler", Value::String(sampler.clone())));
        // The config's options belong to the config's sampler.
        if let Some(Value::Table(sample)) = table.get_mut("sample") {
            sample.remove("eta");
            sample.remove("variance");
        }
    }
    if let Some(guidance) = arguments.guidance {
        changes.push(("sample.guidance", Value::Float(guidance)));
    }
    if let Some(device) = &arguments.device {
        changes.push(("device", Value::String(device.clone())));
    }
    for (key, value) in changes {
        config::insert(&mut table, key, value)?;
    }
    let data: DataInfo = config::file(&run.join(DATA))?.try_into()?;
    let parts = Parts::new(config::parse(table)?, data)?;
    match (arguments.class, parts.classes) {
        (Some(class), None) => bail!("--class {class}: the network takes no classes; leave it out"),
        (Some(class), Some(classes)) if class >= classes.null => {
            bail!("--class {class}: the classes are 0 to {}", classes.null - 1)
        }
        _ => {}
    }

    let (newest, skipped) = CheckpointStore::new(run.join("checkpoints")).newest()?;
    for error in skipped {
        eprintln!("warning: {error}");
    }
    let checkpoint = newest.ok_or_else(|| anyhow!("{}: no checkpoint yet", run.display()))?;
    let mut network = parts.network()?.valid();
    network.load(&checkpoint.path.join(immiscible_train::EMA_WEIGHTS))?;
    Ok((parts, checkpoint.step, network))
}
