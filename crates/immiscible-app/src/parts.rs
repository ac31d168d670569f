//! From a config to the parts that it names, with every check that needs no training.

use crate::config::{Config, expand_size, parse};
use crate::device;
use crate::draw::Draw;
use crate::latent::{LatentPlan, LatentSpace, PosteriorKind};
use crate::mask;
use anyhow::{Result, bail, ensure};
use burn::tensor::{DType, Device};
use immiscible_coupling::{Coupling, CouplingConfig, CouplingError, HostCoupling};
use immiscible_data::{Batch, Crop, LatentInfo, Source, Tolerant};
use immiscible_models::{Condition, Denoiser, Network, NetworkConfig, Precision};
use immiscible_random::{Key, Stream};
use immiscible_sample::{SampleError, Sampler};
use immiscible_schedule::{NoiseSchedule, Objective, ScheduleError, TimeSamplerConfig};
use immiscible_train::{
    ClassCondition, Diffusion, LatentStep, Latents, LossConfig, MethodParts, OnLatents, TrainError, TrainStep,
};
use ndarray::Array4;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::{Table, Value};

/// What a run must know of its data after training. It is kept beside the config, so that sampling needs no data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DataInfo {
    /// Name of the data set.
    pub(crate) name: String,
    /// Number of samples.
    pub(crate) samples: usize,
    /// `[C, H, W]` of every sample.
    pub(crate) shape: [usize; 3],
    /// Class names, if it is labelled.
    pub(crate) classes: Option<Vec<String>>,
    /// What is known of the autoencoder, if the samples are its latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latents: Option<LatentInfo>,
    /// SHA-256 of what `coupling.mask` says about the samples, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mask_sha256: Option<String>,
}

/// The parts of a run, checked against each other.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) data: DataInfo,
    pub(crate) device: Device,
    pub(crate) coupling: Arc<dyn Coupling>,
    pub(crate) classes: Option<ClassCondition>,
    /// `[C, H, W]` of what the network works on: the images, or their latents.
    pub(crate) shape: [usize; 3],
    pub(crate) latent: Option<LatentSpace>,
    /// Which values count when images and noises are compared, of all samples or of each.
    pub(crate) masks: Option<Array4<bool>>,
}

impl Parts {
    /// Reads the config, opens its data, and fills in what the data says about the network.
    ///
    /// # Errors
    /// One line that names the key, its value and the remedy.
    pub(crate) fn open(mut table: Table) -> Result<(Self, Arc<Tolerant>)> {
        expand_size(&mut table)?;
        let config = parse(table.clone())?;
        let options = config.data.options();
        let source: Arc<dyn Source> = immiscible_data::build(&options)?.into();
        let source = Arc::new(Tolerant::new(source.clone(), options.most_bad(source.len())?));
        if source.holds_real_numbers() {
            immiscible_data::read_all(&*source)?;
        }
        let data = DataInfo {
            name: source.name().into(),
            samples: source.len(),
            shape: source.shape(),
            classes: source.classes().map(<[String]>::to_vec),
            latents: source.latents().cloned(),
            mask_sha256: None,
        };
        let plan = plan(&config, &data)?;
        if let (Some(latent), Some(info)) = (&config.latent, &data.latents) {
            latent.check_weights(info)?;
        }
        let channels = plan.as_ref().map_or(data.shape, |plan| plan.shape)[0];
        fit_model_to_data(&mut table, &data, plan.as_ref(), out_channels(&config, channels))?;
        if let Some(latent) = &config.latent {
            table.insert("latent".into(), Value::try_from(latent.absolute()?)?);
        }
        fit_window_to_data(&mut table, &data)?;
        let data_is_latent = data.latents.is_some();
        let mut parts = Self::new(parse(table)?, data)?;
        // What a network has learnt in it may be sampled elsewhere.
        ensure!(
            config.train.precision == Precision::F32 || parts.device.supports_dtype(DType::BF16),
            "train.precision = \"bf16\": device = {:?} does not compute in it; train on one that does, or begin a run in \"f32\"",
            config.device
        );
        if let Some(path) = &config.coupling.mask {
            ensure!(
                config.data.crop != Some(Crop::Random),
                "coupling.mask = {path:?}: a mask does not know which part of an image is read; set data.crop = \"center\""
            );
            let masks = mask::open(path, parts.data.samples, parts.shape)?;
            parts.data.mask_sha256 = Some(mask::sha256(&masks));
            parts.masks = Some(masks);
        }
        match Arc::get_mut(&mut parts.coupling) {
            Some(coupling) if coupling.needs_data() => {
                ensure!(
                    config.latent.is_none() || data_is_latent,
                    "coupling.kind = {:?} learns from the data, and latents are encoded a batch at a time; encode them before \
                     with `immiscible data encode`, or write another",
                    config.coupling.kind
                );
                fit_coupling_to_data(coupling, &*source, &config)?;
            }
            _ => {}
        }
        Ok((parts, source))
    }

    /// Checks everything in a config that needs no training, against the data that it is for.
    ///
    /// # Errors
    /// As [`Parts::open`].
    pub(crate) fn new(config: Config, data: DataInfo) -> Result<Self> {
        check_scale(&config)?;
        config.train.validate()?;
        config.optimizer.validate()?;
        config.ema.validate()?;
        config.checkpoint.validate()?;
        let plan = plan(&config, &data)?;
        let shape = plan.as_ref().map_or(data.shape, |plan| plan.shape);
        let [channels, height, width] = shape;
        config.model.validate()?;
        config.model.accepts(channels, height, width)?;
        let (out, expected) = (config.model.out_channels(), out_channels(&config, channels));
        let what = if plan.is_some() { "latents" } else { "images" };
        let also = if expected == channels { "" } else { ", and loss.vlb_weight needs as many again" };
        ensure!(
            out == expected,
            "model.out_channels = {out}: the {what} have {channels} channels{also}; set it to {expected}"
        );
        if let Some(plan) = &plan {
            check_latents(&config, &data, plan)?;
        }
        let (schedule, objective) = (config.schedule.build()?, config.objective()?);
        config.time.build_for(&*schedule).map_err(|error| with_keys(error, &config))?;
        config.loss().build(&*schedule, &*objective).map_err(|error| with_keys(error, &config))?;
        check_sampler(&config)?;
        let sampler = Sampler::new(&config.sampling(), &*schedule, &*objective);
        let sampler = sampler.map_err(|error| with_keys(error, &config))?;
        ensure!(
            out == 2 * channels || !sampler.needs_variance(),
            "sample.variance: the network predicts no variance; write \"fixed_small\" or \"fixed_large\""
        );
        for (table, set) in [
            ("time", config.time != TimeSamplerConfig::default()),
            ("loss", config.loss != LossConfig::default()),
        ] {
            ensure!(
                !(set && config.method.jumps()),
                "method.kind = {:?} has its own times and loss; leave the table `{table}` out",
                config.method.kind
            );
        }
        let coupling = CouplingConfig { micro_batch: config.train.micro_batch, ..config.coupling.clone() };
        let coupling: Arc<dyn Coupling> = coupling.build()?.into();
        if config.coupling.class_wise && data.classes.is_none() {
            bail!(CouplingError::LabelsRequired);
        }
        check_window(&config, &data, &*coupling)?;
        let texts = plan.is_some_and(|plan| plan.text_channels.is_some());
        let mut classes = class_condition(&config, &data, texts)?;
        ensure!(config.sample.n > 0, "sample.n = 0: write at least 1");
        ensure!(config.sample.every > 0, "sample.every = 0: write at least 1");
        let device = device::by_name(&config.device)?;
        let latent = config.latent.as_ref().map(|latent| latent.open(&device)).transpose()?;
        if let (Some(config), Some(latent), Some(classes)) = (&config.latent, &latent, &mut classes) {
            classes.texts =
                latent.class_texts(config, data.classes.as_deref().unwrap_or_default(), &device)?;
        }
        Ok(Self { device, config, data, coupling, classes, shape, latent, masks: None })
    }

    /// Everything random hangs on this.
    pub(crate) fn key(&self) -> Key {
        Key::new(self.config.seed)
    }

    /// The number of classes, if the network takes any.
    pub(crate) fn class_count(&self) -> Option<u32> {
        let classes = self.data.classes.as_ref().map(|classes| classes.len() as u32);
        classes.filter(|_| self.classes.is_some())
    }

    /// What is trained.
    pub(crate) fn diffusion(&self) -> Result<Diffusion> {
        let (schedule, objective) = (self.config.schedule.build()?, self.config.objective()?);
        Ok(Diffusion {
            time: self.config.time.build_for(&*schedule)?,
            loss: self.config.loss().build(&*schedule, &*objective)?,
            schedule,
            objective,
            coupling: self.coupling.clone(),
            classes: self.classes.clone(),
            precision: self.config.train.precision,
        })
    }

    /// What takes the steps, from `network` on, and the coupling for the loader's pipeline.
    pub(crate) fn method(&self, network: Network) -> Result<(Box<dyn TrainStep>, Arc<dyn Coupling>)> {
        let config = &self.config;
        let method = config.method.build(MethodParts {
            diffusion: self.diffusion()?,
            network,
            optimizer: config.optimizer.clone(),
            ema: config.ema.clone(),
            steps: config.train.steps,
            micro_batch: config.train.micro_batch,
            key: self.key(),
            device: self.device.clone(),
        })?;
        let coupling = self.coupling.clone();
        let (Some(latent), Some(options), None) = (&self.latent, &config.latent, &self.data.latents) else {
            return Ok((method, coupling));
        };
        let (channels, sample) = (self.shape[0], options.posterior == PosteriorKind::Sample);
        let vae = latent.vae.network.clone();
        let latents = Latents::new(vae, channels, latent.factor(), sample, &self.device);
        let step = LatentStep::new(method, latents, coupling.clone(), self.key());
        Ok((Box::new(step), Arc::new(OnLatents(coupling))))
    }

    /// Draws `n` samples with the options of the config's `[sample]` table: sample i is the same for every `n`.
    ///
    /// A class-conditional network draws all classes in turn.
    pub(crate) fn sample(&self, network: &impl Denoiser, n: usize, seed: u64) -> Result<Array4<f32>> {
        let (schedule, objective) = (self.config.schedule.build()?, self.config.objective()?);
        Ok(self.draw(network, &*schedule, &*objective)?.seeded(n, seed)?.images)
    }

    /// What draws with the options of the config's `[sample]` table, on the config's schedule and objective; all classes
    /// in turn, if the network takes any.
    pub(crate) fn draw<'a>(
        &'a self,
        network: &'a dyn Denoiser,
        schedule: &'a dyn NoiseSchedule,
        objective: &'a dyn Objective,
    ) -> Result<Draw<'a>> {
        let config = self.config.sampling();
        let all: Vec<u32> = (0..self.class_count().unwrap_or_default()).collect();
        Ok(Draw {
            sampler: Sampler::new(&config, schedule, objective)?,
            network,
            condition: self.condition(&all),
            guidance: config.guidance,
            guidance_interval: config.guidance_interval,
            null: self.classes.as_ref().map(|classes| classes.of(&[classes.null], &self.device)),
            shape: self.shape,
            vae: self.latent.as_ref().map(|latent| (&latent.vae.network, latent.factor())),
            frames: 0,
            scale: self.config.data.scale(),
            device: &self.device,
        })
    }

    /// How many values an image has, which samples are compared with.
    pub(crate) fn image_values(&self) -> usize {
        let [channels, height, width] = self.data.shape;
        match (&self.latent, &self.data.latents) {
            (Some(latent), Some(_)) => {
                latent.vae.config.out_channels * height * width * latent.factor() * latent.factor()
            }
            _ => channels * height * width,
        }
    }

    /// The images that samples of the data stand for: themselves, or what the autoencoder makes of latents.
    pub(crate) fn images(&self, samples: Array4<f32>) -> Result<Array4<f32>> {
        match (&self.latent, &self.data.latents) {
            (Some(latent), Some(_)) => latent.decode(samples.view(), &self.device),
            _ => Ok(samples),
        }
    }

    /// What samples of these classes are drawn for, if the network takes any.
    pub(crate) fn condition(&self, classes: &[u32]) -> Condition {
        self.classes.as_ref().map(|condition| condition.of(classes, &self.device)).unwrap_or_default()
    }

    /// A network with the weights that the seed gives, on the autodiff side of the device.
    pub(crate) fn network(&self) -> Result<Network> {
        self.device.seed(self.key().stream(Stream::INIT).device_seed());
        Ok(self.config.model.init(&self.training_device())?)
    }

    /// The autodiff side of the device, with what the backward pass is to keep.
    pub(crate) fn training_device(&self) -> Device {
        let device = self.device.clone().autodiff();
        if self.config.train.gradient_checkpointing { device.gradient_checkpointing() } else { device }
    }
}

/// What the network works on, if that is latents: of images, or those that the data are.
fn plan(config: &Config, data: &DataInfo) -> Result<Option<LatentPlan>> {
    match (&config.latent, &data.latents) {
        (Some(latent), Some(info)) => {
            ensure!(!config.data.flip, "data.flip = true: mirrored latents are no latents; leave it out");
            latent.plan_cached(data.shape, info).map(Some)
        }
        (Some(latent), None) => latent.plan(data.shape).map(Some),
        (None, Some(_)) => bail!(
            "latent.vae is unset: data.name = {:?} is latents, and samples must be decoded; give the folder of the \
             autoencoder that made them",
            config.data.name
        ),
        (None, None) => Ok(None),
    }
}

/// The channels of the network's output for images with this many: twice as many where it also learns a variance.
pub(crate) fn out_channels(config: &Config, channels: usize) -> usize {
    if config.loss.vlb_weight.is_some() { 2 * channels } else { channels }
}

/// The image's shape and the number of classes, where the config leaves them open.
pub(crate) fn fit_model_to_data(
    table: &mut Table,
    data: &DataInfo,
    latent: Option<&LatentPlan>,
    out_channels: usize,
) -> Result<()> {
    let [channels, height, width] = latent.map_or(data.shape, |plan| plan.shape);
    let Some(Value::Table(model)) = table.get_mut("model") else {
        return Ok(());
    };
    let kind = model.get("kind").and_then(Value::as_str);
    let (dit, attends) = (kind == Some("dit"), kind == Some("unet-condition"));
    let mut open = vec![("in_channels", channels), ("out_channels", out_channels)];
    if height == width {
        open.push(("sample_size", height));
    }
    if dit {
        open.push(("num_embeds_ada_norm", data.classes.as_ref().map_or(1, Vec::len)));
    }
    if let Some(channels) = latent.and_then(|plan| plan.text_channels).filter(|_| attends) {
        open.push(("cross_attention_dim", channels));
    }
    if latent.is_some() && !dit {
        // A UNet takes any size; this is the one that the Python package makes by default.
        model.remove("sample_size");
    }
    for (key, value) in open {
        model.entry(key).or_insert(Value::Integer(i64::try_from(value)?));
    }
    Ok(())
}

/// What the coupling pairs, where the config leaves it open: as many of the next images as pay, in whole batches that the data
/// have; of each class by itself, if the network takes classes.
fn fit_window_to_data(table: &mut Table, data: &DataInfo) -> Result<()> {
    let config = parse(table.clone())?;
    let coupling = table.entry("coupling").or_insert_with(|| Value::Table(Table::new()));
    let Value::Table(coupling) = coupling else {
        return Ok(());
    };
    if !coupling.contains_key("kind") {
        let looks_ahead = config.latent.is_none() || data.latents.is_some();
        // By a table, or as the texts of their names.
        let takes_labels = config.model.class_rows().is_some() || config.model.text_channels().is_some();
        let takes_classes = takes_labels && data.classes.as_ref().is_some_and(|c| c.len() > 1);
        coupling
            .insert("kind".into(), Value::String(if looks_ahead { "window" } else { "assignment" }.into()));
        coupling.entry("class_wise").or_insert(Value::Boolean(takes_classes));
    }
    if coupling.get("kind").and_then(Value::as_str) == Some("window") && !coupling.contains_key("window") {
        let batch_size = config.train.batch_size.max(1);
        let rows = (config.coupling.window.min(data.samples) / batch_size).max(1) * batch_size;
        coupling.insert("window".into(), Value::Integer(i64::try_from(rows)?));
    }
    Ok(())
}

/// Whether the network fits what the autoencoder and the text encoder make.
fn check_latents(config: &Config, data: &DataInfo, plan: &LatentPlan) -> Result<()> {
    ensure!(!config.sample.clip, "sample.clip = true: latents have no fixed range; set sample.clip = false");
    match (config.model.text_channels(), plan.text_channels) {
        (Some(_), None) => bail!(
            "latent.text_encoder is unset: model.kind = \"unet-condition\" attends to a text; give the folder with \
             tokenizer/ and text_encoder/, or write model.kind = \"unet\""
        ),
        (None, Some(_)) => bail!(
            "latent.text_encoder: model.kind = {:?} attends to no text; leave it out, or write \"unet-condition\"",
            config.model.name()
        ),
        (Some(wanted), Some(made)) => {
            ensure!(
                wanted == made,
                "model.cross_attention_dim = {wanted}: the text encoder makes {made} channels; set it to that"
            );
            ensure!(data.classes.is_some(), "latent.text_encoder: the data has no classes to make texts of");
            ensure!(
                config.model.class_rows().is_none(),
                "model.num_class_embeds: the classes enter as texts of latent.text_encoder; leave it out"
            );
        }
        (None, None) => {}
    }
    Ok(())
}

/// What does not go together, after the keys of the config that say it.
fn with_keys(error: impl Into<anyhow::Error>, config: &Config) -> anyhow::Error {
    let error = error.into();
    let of_schedule = match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(error), _, _) | (_, Some(TrainError::Schedule(error)), _) => Some(error),
        (_, _, Some(SampleError::Schedule(error))) => Some(error),
        _ => None,
    };
    let keys = match of_schedule {
        Some(ScheduleError::PureNoise { .. }) if config.schedule.zero_terminal_snr => {
            "objective.name, schedule.zero_terminal_snr"
        }
        Some(ScheduleError::PureNoise { .. }) => "objective.name, schedule.name",
        Some(ScheduleError::TimeSampler { .. }) => "time.name, schedule.name",
        Some(ScheduleError::Weight { .. }) => "loss.weighting.name, objective.name",
        Some(ScheduleError::DiscreteTime { .. }) => "sample.sampler, schedule.name",
        _ => return error,
    };
    error.context(keys)
}

/// A consistency function and the sampler that jumps to the end go together, and no others do.
fn check_sampler(config: &Config) -> Result<()> {
    let (method, sampler) = (&config.method, &config.sampling().sampler);
    if sampler.build()?.jumps() == method.jumps() {
        return Ok(());
    }
    let remedy = match method.jumps() {
        true => {
            "the method trains a jump to the end of the trajectory; write sample.sampler = \"consistency\""
        }
        false => "the sampler needs a consistency function; write another, such as ddim",
    };
    bail!("sample.sampler = {:?} does not go with method.kind = {:?}: {remedy}", sampler.name, method.kind)
}

/// Images that are enough to know the mean and the covariance of a data set.
const ENOUGH: usize = 16_384;

/// Of a class of which there are as many, at least these are shown to a coupling that learns of each class.
const OF_A_CLASS: usize = 32;

/// Shows the data, or enough of it, to a coupling that learns from it.
fn fit_coupling_to_data(coupling: &mut dyn Coupling, source: &dyn Source, config: &Config) -> Result<()> {
    let class = |index| if config.coupling.class_wise { source.label(index) } else { None };
    let mut batch = Batch::read(source, shown(&(0..source.len()).map(class).collect::<Vec<_>>(), ENOUGH))?;
    batch.scale(config.data.scale());
    let rows = (batch.index.len(), source.shape().iter().product::<usize>());
    Ok(coupling.fit(batch.images.values().to_shape(rows)?.view(), batch.labels.as_deref())?)
}

/// About `enough` of the images with these classes, the same share of each, but for classes that are rare, of which it is more.
fn shown(classes: &[Option<u32>], enough: usize) -> Vec<u64> {
    let every = classes.len().div_ceil(enough).max(1);
    let mut images = BTreeMap::<Option<u32>, usize>::new();
    classes.iter().for_each(|class| *images.entry(*class).or_default() += 1);
    let mut seen = BTreeMap::<Option<u32>, usize>::new();
    let shown = |class: &Option<u32>| {
        let number = seen.entry(*class).or_default();
        *number += 1;
        (*number - 1).is_multiple_of(every.min(images[class] / OF_A_CLASS).max(1))
    };
    (0..).zip(classes.iter().map(shown)).filter(|(_, shown)| *shown).map(|(index, _)| index).collect()
}

/// Whether images can be multiplied before they are trained on.
fn check_scale(config: &Config) -> Result<()> {
    let Some(scale) = config.data.scale else {
        return Ok(());
    };
    ensure!(
        scale > 0.0 && scale.is_finite(),
        "data.scale = {scale}: write a value > 0; 2 and 4 are published"
    );
    ensure!(
        config.latent.is_none(),
        "data.scale = {scale}: latents have the scale of their autoencoder; leave it out"
    );
    ensure!(
        config.method.distance.as_deref() != Some("lpips"),
        "data.scale = {scale}: method.distance = \"lpips\" compares images in [-1, 1]; leave one of them out"
    );
    Ok(())
}

/// Whether a coupling that looks ahead has whole batches to look at.
fn check_window(config: &Config, data: &DataInfo, coupling: &dyn Coupling) -> Result<()> {
    let Some(ahead) = coupling.host().and_then(HostCoupling::lookahead) else {
        return Ok(());
    };
    ensure!(
        config.latent.is_none() || data.latents.is_some(),
        "coupling.kind = {:?} looks ahead, and latents are encoded a batch at a time; encode them before with `immiscible data \
         encode`, or write \"assignment\"",
        config.coupling.kind
    );
    let (rows, batch_size, samples) = (ahead.rows(), config.train.batch_size, data.samples);
    ensure!(
        rows.is_multiple_of(batch_size),
        "coupling.window = {rows}: write a multiple of train.batch_size = {batch_size}"
    );
    let most = samples / batch_size * batch_size;
    ensure!(rows <= samples, "coupling.window = {rows}: the data has {samples} images; write at most {most}");
    Ok(())
}

/// How labels enter the network, if it takes any; as the texts of their classes, if `texts`.
fn class_condition(config: &Config, data: &DataInfo, texts: bool) -> Result<Option<ClassCondition>> {
    let (dropout, guidance) = (config.train.class_dropout, config.sample.guidance);
    ensure!(guidance.is_finite(), "sample.guidance = {guidance}: write a finite number");
    if let (true, Some(classes)) = (texts, &data.classes) {
        return Ok(Some(ClassCondition::new(classes.len() as u32, dropout)));
    }
    let (rows, classes) = match (config.model.class_rows(), &data.classes) {
        (Some(rows), Some(classes)) => (rows, classes),
        (rows, classes) => {
            let unet = !matches!(config.model, NetworkConfig::DiTTransformer2DModel(_));
            if let (Some(rows), true) = (rows, unet) {
                bail!("model.num_class_embeds = {rows}: the data has no labels; leave it out");
            }
            let remedy = match classes {
                Some(_) => "set model.num_class_embeds, or leave it at",
                None => "the data has no labels; leave it at",
            };
            ensure!(
                dropout == 0.0,
                "train.class_dropout = {dropout}: the network takes no classes; {remedy} 0"
            );
            ensure!(
                guidance == 1.0,
                "sample.guidance = {guidance}: the network takes no classes; {remedy} 1"
            );
            return Ok(None);
        }
    };
    let classes = classes.len();
    if let NetworkConfig::DiTTransformer2DModel(config) = &config.model {
        ensure!(
            config.num_embeds_ada_norm >= classes,
            "model.num_embeds_ada_norm = {}: the data has {classes} classes; write that, or leave it out",
            config.num_embeds_ada_norm
        );
        return Ok(Some(ClassCondition::new(rows as u32 - 1, dropout)));
    }
    ensure!(
        rows == classes || rows == classes + 1,
        "model.num_class_embeds = {rows}: the data has {classes} classes; write {classes}, or {} for guidance",
        classes + 1
    );
    ensure!(
        rows == classes + 1 || (dropout == 0.0 && guidance == 1.0),
        "model.num_class_embeds = {rows}: class dropout and guidance need a null class; write {}",
        classes + 1
    );
    Ok(Some(ClassCondition::new(classes as u32, dropout)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_shown_to_a_coupling_that_learns_from_some_images() {
        // Class 1 has three images, class 2 a hundred, class 0 the others.
        let class = |i: usize| match i {
            101 | 5_001 | 9_999 => 1,
            i if i % 100 == 50 => 2,
            _ => 0,
        };
        let classes: Vec<Option<u32>> = (0..10_000).map(|i| Some(class(i))).collect();
        let mut images = [0; 3];
        let indices = shown(&classes, 1_000);
        indices.iter().for_each(|&i| images[class(i as usize) as usize] += 1);
        assert_eq!(images, [990, 3, 34]);
        assert!(indices.is_sorted());
        // Classes that are not looked at: every tenth image; few images: all of them.
        assert_eq!(shown(&[None; 10_000], 1_000), (0..10_000).step_by(10).collect::<Vec<u64>>());
        assert_eq!(shown(&classes[..900], 1_000), (0..900).collect::<Vec<u64>>());
    }
}
