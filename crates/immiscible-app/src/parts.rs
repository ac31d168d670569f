//! From a config to the parts that it names, with every check that needs no training.

use crate::config::{Config, expand_size, insert, parse};
use crate::device;
use crate::draw::Draw;
use anyhow::{Result, bail, ensure};
use burn::tensor::Device;
use immiscible_coupling::{Coupling, CouplingError, HostCoupling};
use immiscible_data::{Batch, Source};
use immiscible_models::{Condition, Denoiser, Network, NetworkConfig};
use immiscible_random::{Key, Stream};
use immiscible_sample::Sampler;
use immiscible_schedule::{NoiseSchedule, Objective};
use immiscible_train::{ClassCondition, Diffusion};
use ndarray::Array4;
use serde::{Deserialize, Serialize};
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
}

/// The parts of a run, checked against each other.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) data: DataInfo,
    pub(crate) device: Device,
    pub(crate) coupling: Arc<dyn Coupling>,
    pub(crate) classes: Option<ClassCondition>,
}

impl Parts {
    /// Reads the config, opens its data, and fills in what the data says about the network.
    ///
    /// # Errors
    /// One line that names the key, its value and the remedy.
    pub(crate) fn open(mut table: Table) -> Result<(Self, Arc<dyn Source>)> {
        expand_size(&mut table)?;
        let config = parse(table.clone())?;
        let source: Arc<dyn Source> = immiscible_data::build(&config.data.options())?.into();
        let data = DataInfo {
            name: source.name().into(),
            samples: source.len(),
            shape: source.shape(),
            classes: source.classes().map(<[String]>::to_vec),
        };
        fit_model_to_data(&mut table, &data)?;
        let mut parts = Self::new(parse(table)?, data)?;
        match Arc::get_mut(&mut parts.coupling) {
            Some(coupling) if coupling.needs_data() => fit_coupling_to_data(coupling, &*source)?,
            _ => {}
        }
        Ok((parts, source))
    }

    /// Checks everything in a config that needs no training, against the data that it is for.
    ///
    /// # Errors
    /// As [`Parts::open`].
    pub(crate) fn new(config: Config, data: DataInfo) -> Result<Self> {
        config.train.validate()?;
        config.optimizer.build()?;
        config.ema.validate()?;
        config.checkpoint.validate()?;
        let [channels, height, width] = data.shape;
        config.model.validate()?;
        config.model.accepts(channels, height, width)?;
        let out = config.model.out_channels();
        ensure!(
            out == channels,
            "model.out_channels = {out}: the images have {channels} channels; set it to that"
        );
        let (schedule, objective) = (config.schedule.build()?, config.objective.build()?);
        Sampler::new(&config.sample.sampling(), &*schedule, &*objective)?;
        let coupling: Arc<dyn Coupling> = config.coupling.build()?.into();
        if config.coupling.class_wise && data.classes.is_none() {
            bail!(CouplingError::LabelsRequired);
        }
        check_window(&config, &data, &*coupling)?;
        let classes = class_condition(&config, &data)?;
        ensure!(config.sample.n > 0, "sample.n = 0: write at least 1");
        ensure!(config.sample.every > 0, "sample.every = 0: write at least 1");
        Ok(Self { device: device::by_name(&config.device)?, config, data, coupling, classes })
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
        Ok(Diffusion {
            schedule: self.config.schedule.build()?,
            objective: self.config.objective.build()?,
            coupling: self.coupling.clone(),
            classes: self.classes,
        })
    }

    /// Draws `n` samples with the options of the config's `[sample]` table: sample i is the same for every `n`.
    ///
    /// A class-conditional network draws all classes in turn.
    pub(crate) fn sample(&self, network: &impl Denoiser, n: usize, seed: u64) -> Result<Array4<f32>> {
        let (schedule, objective) = (self.config.schedule.build()?, self.config.objective.build()?);
        self.draw(network, &*schedule, &*objective)?.seeded(n, seed)
    }

    /// What draws with the options of the config's `[sample]` table, on the config's schedule and objective; all classes
    /// in turn, if the network takes any.
    pub(crate) fn draw<'a>(
        &'a self,
        network: &'a dyn Denoiser,
        schedule: &'a dyn NoiseSchedule,
        objective: &'a dyn Objective,
    ) -> Result<Draw<'a>> {
        let config = self.config.sample.sampling();
        let condition = self.class_count().map(|n| Condition::classes(&Vec::from_iter(0..n), &self.device));
        Ok(Draw {
            sampler: Sampler::new(&config, schedule, objective)?,
            network,
            condition: condition.unwrap_or_default(),
            guidance: config.guidance,
            null: self.classes.map(|classes| Condition::classes(&[classes.null], &self.device)),
            shape: self.data.shape,
            vae: None,
            device: &self.device,
        })
    }

    /// A network with the weights that the seed gives, on the autodiff side of the device.
    pub(crate) fn network(&self) -> Result<Network> {
        self.device.seed(self.key().stream(Stream::INIT).device_seed());
        Ok(self.config.model.init(&self.device.clone().autodiff())?)
    }
}

/// The image's shape and the number of classes, where the config leaves them open.
fn fit_model_to_data(table: &mut Table, data: &DataInfo) -> Result<()> {
    let [channels, height, width] = data.shape;
    let Some(Value::Table(model)) = table.get("model") else {
        return Ok(());
    };
    let dit = model.get("kind").and_then(Value::as_str) == Some("dit");
    let mut open = vec![("in_channels", channels), ("out_channels", channels)];
    if height == width {
        open.push(("sample_size", height));
    }
    if dit {
        open.push(("num_embeds_ada_norm", data.classes.as_ref().map_or(1, Vec::len)));
    }
    let missing: Vec<_> = open.into_iter().filter(|(key, _)| !model.contains_key(*key)).collect();
    for (key, value) in missing {
        insert(table, &format!("model.{key}"), Value::Integer(value as i64))?;
    }
    Ok(())
}

/// Images that are enough to know the mean and the covariance of a data set.
const ENOUGH: usize = 16_384;

/// Shows the data, or enough of it, to a coupling that learns from it.
fn fit_coupling_to_data(coupling: &mut dyn Coupling, source: &dyn Source) -> Result<()> {
    let every = source.len().div_ceil(ENOUGH);
    let batch = Batch::read(source, (0..source.len() as u64).step_by(every).collect())?;
    let rows = (batch.index.len(), source.shape().iter().product::<usize>());
    Ok(coupling.fit(batch.images.to_shape(rows)?.view(), batch.labels.as_deref())?)
}

/// Whether a coupling that looks ahead has whole batches to look at.
fn check_window(config: &Config, data: &DataInfo, coupling: &dyn Coupling) -> Result<()> {
    let Some(ahead) = coupling.host().and_then(HostCoupling::lookahead) else {
        return Ok(());
    };
    let (rows, batch_size, samples) = (ahead.rows(), config.train.batch_size, data.samples);
    ensure!(
        rows.is_multiple_of(batch_size),
        "coupling.window = {rows}: write a multiple of train.batch_size = {batch_size}"
    );
    let most = samples / batch_size * batch_size;
    ensure!(rows <= samples, "coupling.window = {rows}: the data has {samples} images; write at most {most}");
    Ok(())
}

/// How labels enter the network, if it takes any.
fn class_condition(config: &Config, data: &DataInfo) -> Result<Option<ClassCondition>> {
    let (dropout, guidance) = (config.train.class_dropout, config.sample.guidance);
    ensure!(guidance.is_finite(), "sample.guidance = {guidance}: write a finite number");
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
        return Ok(Some(ClassCondition { null: rows as u32 - 1, dropout }));
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
    Ok(Some(ClassCondition { null: classes as u32, dropout }))
}
