//! `immiscible sample`.

use crate::draw::{Draw, Drawn};
use crate::parts::{DataInfo, Parts};
use crate::train::{CONFIG, DATA};
use crate::{Failure, animation, cli, config, device, grid};
use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::module::Module;
use immiscible_data::npy;
use immiscible_models::{Condition, Network, NetworkConfig};
use immiscible_sample::Pipeline;
use immiscible_schedule::SamplerConfig;
use immiscible_train::{CheckpointStore, EmaConfig, ema_weights_of};
use ndarray::Array4;
use std::path::Path;
use toml::{Table, Value};

/// Samples if --n does not tell.
const SAMPLES: usize = 64;
/// Frames if --frames does not tell, and more than anybody looks at.
const FRAMES: usize = 24;
const MOST_FRAMES: usize = 1_000;
/// More samples than anybody looks at.
const MOST: usize = 1 << 24;

/// Draws samples from a run's newest checkpoint, or from a folder that `diffusers` can open.
pub(crate) fn run(arguments: &cli::Sample) -> Result<(), Failure> {
    let (Drawn { images, evaluations, frames }, what) = match (&arguments.checkpoint, &arguments.model) {
        (Some(run), _) => from_run(arguments, run)?,
        (None, Some(folder)) => from_folder(arguments, folder)?,
        (None, None) => {
            return Err(Failure::usage(anyhow!("write --checkpoint RUN, or --model FOLDER")));
        }
    };
    write(&images, &arguments.out).map_err(Failure::run)?;
    let (n, out) = (images.dim().0, arguments.out.display());
    println!("{n} samples of {what}, {evaluations} evaluations of the network each: {out}");
    if let Some(gif) = &arguments.gif {
        animation::save(&frames, gif).map_err(Failure::run)?;
        println!("their way from the noise in {} frames: {}", frames.len(), gif.display());
    }
    Ok(())
}

fn from_run(arguments: &cli::Sample, run: &Path) -> Result<(Drawn, String), Failure> {
    let open = || {
        let given = Given::read(arguments)?;
        let weights = Weights::asked(arguments.ema.as_deref(), false);
        let (parts, step, network) = open_run(run, |table| change(table, arguments), weights)?;
        let labels = given.labels(arguments, parts.class_count(), true)?;
        let text = parts.latent.as_ref().and_then(|latent| latent.text.as_ref());
        let texts = match (&arguments.prompt[..], text) {
            ([], _) => None,
            ([prompt, ..], None) => bail!("--prompt {prompt:?}: the run has no text encoder; leave it out"),
            (prompts, Some(text)) => {
                let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
                Some(text.encode(&prompts, &parts.device)?)
            }
        };
        anyhow::Ok((given, parts, step, network, labels, texts))
    };
    let (given, parts, step, network, labels, texts) = open().map_err(Failure::usage)?;
    let draw = || {
        let (schedule, objective) = (parts.config.schedule.build()?, parts.config.objective()?);
        let mut draw = parts.draw(&network, &*schedule, &*objective)?;
        draw.frames = given.frames;
        if let Some(labels) = labels {
            draw.condition = parts.condition(&labels);
        }
        if let Some(texts) = texts {
            draw.condition = Condition::Text(texts);
        }
        given.draw(&draw, arguments.seed)
    };
    let samples = draw().map_err(Failure::run)?;
    let config = &parts.config.sample;
    let what =
        format!("step {step}, {} with {} steps, seed {}", config.sampler, config.steps, arguments.seed);
    Ok((samples, what))
}

fn from_folder(arguments: &cli::Sample, folder: &Path) -> Result<(Drawn, String), Failure> {
    let device = device::by_name(arguments.device.as_deref().unwrap_or("flex")).map_err(Failure::usage)?;
    let sampler = arguments.sampler.as_deref().map(SamplerConfig::new);
    let guidance = arguments.guidance.unwrap_or(1.0);
    let open = || {
        let given = Given::read(arguments)?;
        // Whatever the settings tell is checked before weights are read, which can be gigabytes.
        let config = Pipeline::config(folder)?;
        let scheduler = Pipeline::scheduler(folder)?;
        let steps = arguments.steps.unwrap_or(scheduler.steps());
        let needs_variance = scheduler.sampler(sampler.as_ref(), steps)?.needs_variance();
        let labels = folder_labels(arguments, &given, &config)?;
        let null = null_class(arguments, &config, labels.is_some())?;
        ensure!(
            guidance == 1.0 || labels.is_none() || null.is_some(),
            "--guidance {guidance}: the folder does not tell which class stands for none; say it with --null-class"
        );
        let shape = match (config.sample_size(), &given.noise) {
            (_, Some(noise)) => [noise.dim().1, noise.dim().2, noise.dim().3],
            (Some(size), None) => [config.in_channels(), size, size],
            (None, None) => bail!("the model has no sample_size; give the start of every image with --noise"),
        };
        config.accepts(shape[0], shape[1], shape[2])?;
        let out = config.out_channels();
        ensure!(
            out == shape[0] || out == 2 * shape[0],
            "{}: the network predicts {out} channels for images of {}; the same number, or twice that for a learned \
             variance, can be sampled",
            folder.display(),
            shape[0]
        );
        ensure!(
            out == 2 * shape[0] || !needs_variance,
            "{}: the scheduler takes a variance from the network, which predicts none; write --sampler ddim",
            folder.display()
        );

        let pipeline = Pipeline::from_pretrained(folder, &device)?;
        let (condition, null) = match (&pipeline.text, &arguments.prompt[..]) {
            (None, []) => (
                labels.map(|labels| Condition::classes(&labels, &device)),
                null.map(|null| Condition::classes(&[null], &device)),
            ),
            (None, [prompt, ..]) => {
                bail!("--prompt {prompt:?}: the folder has no text encoder; leave it out")
            }
            (Some(_), []) => {
                bail!("{}: the network draws what a text says; write --prompt", folder.display())
            }
            (Some(_), _) if labels.is_some() => {
                bail!("{}: the network takes a text and a class, which is not supported", folder.display())
            }
            (Some(text), prompts) => {
                let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
                let encode = |texts: &[&str]| anyhow::Ok(Condition::Text(text.encode(texts, &device)?));
                (Some(encode(&prompts)?), Some(encode(&[""])?))
            }
        };
        anyhow::Ok((given, pipeline, steps, condition.unwrap_or_default(), null, shape))
    };
    let (given, pipeline, steps, condition, null, shape) = open().map_err(Failure::usage)?;
    let draw = Draw {
        sampler: pipeline.scheduler.sampler(sampler.as_ref(), steps).map_err(Failure::usage)?,
        network: &pipeline.model.network,
        condition,
        guidance,
        guidance_interval: None,
        null,
        shape,
        vae: pipeline.vae.as_ref().map(|vae| (&vae.network, vae.config.downsampling())),
        frames: given.frames,
        scale: 1.0,
        device: &device,
    };
    let samples = given.draw(&draw, arguments.seed).map_err(Failure::run)?;
    let name = arguments.sampler.as_deref().unwrap_or(pipeline.scheduler.class_name());
    Ok((samples, format!("{}, {name} with {steps} steps, seed {}", folder.display(), arguments.seed)))
}

/// The classes of the samples of a folder's network, if they have any.
fn folder_labels(arguments: &cli::Sample, given: &Given, config: &NetworkConfig) -> Result<Option<Vec<u32>>> {
    // The last row of a transformer's classes stands for none; a UNet does not tell.
    let transformer = matches!(config, NetworkConfig::DiTTransformer2DModel(_));
    let rows = config.class_rows().map(|rows| rows as u32);
    if let (None, Some(kind)) = (rows, config.class_embed_type()) {
        bail!(
            "class_embed_type = {kind:?} without num_class_embeds: the folder does not tell how many classes there are; \
             write their number into its config.json"
        );
    }
    let asked = arguments.class.is_some() || given.labels.is_some();
    match rows {
        // A transformer with a single class was trained without any.
        Some(2) if transformer && !asked => Ok(None),
        rows => given.labels(arguments, rows.map(|rows| rows - u32::from(transformer)), transformer),
    }
}

/// The class that stands for none in a folder's network.
fn null_class(arguments: &cli::Sample, config: &NetworkConfig, classes: bool) -> Result<Option<u32>> {
    let rows = config.class_rows().filter(|_| classes).map(|rows| rows as u32);
    let Some(null) = arguments.null_class else {
        let last = rows.map(|rows| rows - 1);
        return Ok(last.filter(|_| matches!(config, NetworkConfig::DiTTransformer2DModel(_))));
    };
    let rows = rows.with_context(|| format!("--null-class {null}: no classes are drawn; leave it out"))?;
    ensure!(null < rows, "--null-class {null}: the classes are 0 to {}", rows - 1);
    Ok(Some(null))
}

/// What the samples start from.
struct Given {
    n: usize,
    /// Frames of the way; 0 for none.
    frames: usize,
    noise: Option<Array4<f32>>,
    labels: Option<Vec<u32>>,
}

impl Given {
    fn read(arguments: &cli::Sample) -> Result<Self> {
        if let Some(extension) = arguments.out.extension() {
            let out = arguments.out.display();
            ensure!(
                extension == "png" || extension == "npy",
                "--out {out}: write a name that ends in .png or .npy, or a folder without a dot"
            );
        }
        if let Some(gif) = &arguments.gif {
            let named = gif.extension().is_some_and(|extension| extension == "gif");
            ensure!(named, "--gif {}: write a name that ends in .gif", gif.display());
        }
        if let Some(frames) = arguments.frames {
            ensure!((2..=MOST_FRAMES).contains(&frames), "--frames {frames}: write 2 to {MOST_FRAMES}");
        }
        let frames = arguments.gif.as_ref().map_or(0, |_| arguments.frames.unwrap_or(FRAMES));
        let noise = match &arguments.noise {
            Some(path) => {
                let file = npy::read::<f32>(path)?;
                let [n, c, h, w] = file.shape[..] else {
                    bail!("--noise {}: its shape is {:?}; write [N, C, H, W]", path.display(), file.shape);
                };
                ensure!(
                    n * c * h * w > 0,
                    "--noise {}: its shape is {:?}; write at least one image",
                    path.display(),
                    file.shape
                );
                ensure!(
                    file.values.iter().all(|value| value.is_finite()),
                    "--noise {}: it has values that are not finite; write finite ones",
                    path.display()
                );
                Some(Array4::from_shape_vec((n, c, h, w), file.values)?)
            }
            None => None,
        };
        let labels = arguments.labels.as_deref().map(npy::read_labels).transpose()?;
        let given = noise.as_ref().map(|noise| noise.dim().0).or(labels.as_ref().map(Vec::len));
        let n = arguments.n.or(given).unwrap_or(SAMPLES);
        ensure!((1..=MOST).contains(&n), "--n {n}: write 1 to {MOST}");
        if let Some(guidance) = arguments.guidance {
            ensure!(guidance.is_finite(), "--guidance {guidance}: write a number, 1 for none");
        }
        for (flag, rows) in
            [("noise", noise.as_ref().map(|noise| noise.dim().0)), ("labels", labels.as_ref().map(Vec::len))]
        {
            if let Some(rows) = rows {
                ensure!(rows == n, "--{flag}: it has {rows} rows for {n} samples; give one row for each");
            }
        }
        Ok(Self { n, frames, noise, labels })
    }

    /// The classes that the samples have in turn: those that are told, or else, if `in_turn`, all of them.
    fn labels(
        &self,
        arguments: &cli::Sample,
        classes: Option<u32>,
        in_turn: bool,
    ) -> Result<Option<Vec<u32>>> {
        let Some(classes) = classes else {
            if let Some(class) = arguments.class {
                bail!("--class {class}: the network takes no classes; leave it out");
            }
            ensure!(self.labels.is_none(), "--labels: the network takes no classes; leave it out");
            return Ok(None);
        };
        let labels: Vec<u32> = match (&self.labels, arguments.class) {
            (Some(labels), _) => labels.clone(),
            (None, Some(class)) => vec![class],
            (None, None) if in_turn => (0..classes).collect(),
            (None, None) => {
                bail!("the network takes one of {classes} classes; say which with --class or --labels")
            }
        };
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            let flag = if self.labels.is_some() { "labels" } else { "class" };
            bail!("--{flag} {label}: the classes are 0 to {}", classes - 1);
        }
        Ok(Some(labels))
    }

    fn draw(&self, draw: &Draw<'_>, seed: u64) -> Result<Drawn> {
        match &self.noise {
            Some(noise) => draw.from(noise.view(), seed),
            None => draw.seeded(self.n, seed),
        }
    }
}

fn write(samples: &Array4<f32>, out: &Path) -> Result<()> {
    match out.extension() {
        Some(extension) if extension == "npy" => Ok(npy::write(out, samples.view())?),
        Some(_) => grid::save(samples.view(), out),
        None => samples
            .outer_iter()
            .enumerate()
            .try_for_each(|(i, image)| grid::save_one(image, &out.join(format!("{i:06}.png")))),
    }
}

/// The command line's changes to a run's config.
fn change(table: &mut Table, arguments: &cli::Sample) -> Result<()> {
    let mut changes = Vec::new();
    if let Some(steps) = arguments.steps {
        changes.push(("sample.steps", Value::Integer(i64::try_from(steps).context("--steps")?)));
    }
    if let Some(sampler) = &arguments.sampler {
        config::set_sampler(table, sampler)?;
    }
    if let Some(guidance) = arguments.guidance {
        changes.push(("sample.guidance", Value::Float(guidance)));
    }
    if let Some(device) = &arguments.device {
        changes.push(("device", Value::String(device.clone())));
    }
    changes.into_iter().try_for_each(|(key, value)| config::insert(table, key, value))
}

/// Which weights of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights<'a> {
    /// Those that samples are drawn from.
    Average,
    /// Another average, by its name.
    Other(&'a str),
    /// Those of the last step.
    Last,
}

impl<'a> Weights<'a> {
    /// What --ema and --last ask for.
    pub(crate) fn asked(ema: Option<&'a str>, last: bool) -> Self {
        if last { Self::Last } else { ema.map_or(Self::Average, Self::Other) }
    }

    fn file(self, config: &EmaConfig) -> Result<String> {
        match self {
            Self::Average => Ok(immiscible_train::EMA_WEIGHTS.into()),
            Self::Last => Ok(immiscible_train::WEIGHTS.into()),
            Self::Other(name) if config.others.contains_key(name) => Ok(ema_weights_of(name)),
            Self::Other(name) if config.others.is_empty() => {
                bail!("--ema {name}: the run has one average only; leave it out")
            }
            Self::Other(name) => {
                let names = || config.others.keys().map(String::as_str);
                let known = names().collect::<Vec<_>>().join(", ");
                bail!("--ema {name}: the run has {known}{}", config::did_you_mean(name, names()))
            }
        }
    }
}

/// The parts of a run with a changed config, and the network of its newest checkpoint with these weights.
pub(crate) fn open_run(
    run: &Path,
    change: impl FnOnce(&mut Table) -> Result<()>,
    weights: Weights<'_>,
) -> Result<(Parts, u64, Network)> {
    let path = run.join(CONFIG);
    ensure!(
        path.exists(),
        "{}: no {CONFIG} in it; give the directory of a run, such as runs/digits",
        run.display()
    );
    let mut table = config::file(&path)?;
    change(&mut table)?;
    let data: DataInfo = config::file(&run.join(DATA))?.try_into()?;
    let parts = Parts::new(config::parse(table)?, data)?;
    let file = weights.file(&parts.config.ema)?;
    let (newest, skipped) = CheckpointStore::new(run.join("checkpoints")).newest()?;
    for error in skipped {
        eprintln!("warning: {error}");
    }
    let checkpoint = newest.ok_or_else(|| anyhow!("{}: no checkpoint yet", run.display()))?;
    let mut network = parts.network()?.valid();
    network.load(&checkpoint.path.join(file))?;
    Ok((parts, checkpoint.step, network))
}
