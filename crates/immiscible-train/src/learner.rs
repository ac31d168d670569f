use crate::{
    Ema, EmaConfig, Files, OptimizerConfig, TrainError,
    parameters::{clip_global_norm, number_parameters, sum_of_squares},
};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::store::burn_pack::{self, Reader, Writer};
use burn::tensor::{Bytes, Tensor};
use immiscible_coupling::download;
use immiscible_models::Network;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

/// File of a checkpoint with the weights of its last step.
pub const WEIGHTS: &str = "model.safetensors";
/// File of a checkpoint with the averaged weights, those to sample from.
pub const EMA_WEIGHTS: &str = "ema.safetensors";

/// File of a checkpoint with another average of the weights, by its name in [`EmaConfig::others`].
pub fn ema_weights_of(name: &str) -> String {
    format!("ema-{name}.safetensors")
}

const OPTIMIZER: &str = "optim.bpk";

/// A network that learns: its optimiser and the average of its weights go with it.
pub(crate) struct Learner {
    network: Network,
    optimizer: ModuleOptimizer,
    optimizer_config: OptimizerConfig,
    ema: Ema<Network>,
    /// With the name of each.
    other_emas: Vec<(String, Ema<Network>)>,
    ema_config: EmaConfig,
    /// Rows whose gradient is computed at once.
    micro_batch: Option<usize>,
}

impl Learner {
    /// Starts from `network`, which must live on the autodiff side of its device.
    pub(crate) fn new(
        network: Network,
        optimizer: &OptimizerConfig,
        ema: &EmaConfig,
    ) -> Result<Self, TrainError> {
        ema.validate()?;
        let network = number_parameters(network);
        let other_emas =
            ema.others.iter().map(|(name, other)| (name.clone(), Ema::new(&network, other.clone())));
        Ok(Self {
            other_emas: other_emas.collect(),
            optimizer: optimizer.build(&network)?,
            optimizer_config: optimizer.clone(),
            ema: Ema::new(&network, ema.clone()),
            ema_config: ema.clone(),
            micro_batch: None,
            network,
        })
    }

    /// The same with at most so many rows whose gradient is computed at once; all if absent.
    pub(crate) fn with_micro_batch(self, micro_batch: Option<usize>) -> Self {
        Self { micro_batch, ..self }
    }

    /// The network as it is trained, on the autodiff side.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The average, outside any autodiff graph.
    pub(crate) fn sampling_network(&self) -> &Network {
        self.ema.network()
    }

    pub(crate) fn learning_rate_at(&self, step: u64) -> f64 {
        self.optimizer_config.learning_rate_at(step)
    }

    /// Backward pass, clipping, optimiser, average: the loss and the gradient's norm before clipping. `loss_of` is the mean
    /// loss of some of the batch's rows.
    pub(crate) fn learn(
        &mut self,
        rows: usize,
        step: u64,
        loss_of: impl Fn(&Network, Range<usize>) -> Result<Tensor<1>, TrainError>,
    ) -> Result<(f32, f32), TrainError> {
        let size = self.micro_batch.unwrap_or(rows).clamp(1, rows.max(1));
        let mut accumulator = GradientsAccumulator::new();
        let mut loss: Option<Tensor<1>> = None;
        for first in (0..rows.max(1)).step_by(size) {
            let part = first..(first + size).min(rows);
            let share = part.len() as f64 / rows.max(1) as f64;
            let part = loss_of(&self.network, part)? * share;
            accumulator
                .accumulate(&self.network, GradientsParams::from_grads(part.backward(), &self.network));
            let part = part.inner();
            loss = Some(loss.map_or_else(|| part.clone(), |loss| loss + part.clone()));
        }
        let gradients = accumulator.grads();
        let clip_norm = self.optimizer_config.clip_norm;
        let (gradients, norm) = clip_global_norm(&self.network, gradients, clip_norm);

        // One read of the device: the finite check and the numbers of the log together.
        let loss = loss.expect("at least one part");
        let norm = norm.unwrap_or_else(|| loss.zeros_like());
        let not_returned = |reason: &dyn Display| TrainError::Device {
            what: "the loss and the gradient norm",
            reason: reason.to_string(),
        };
        let read = download(Tensor::cat(vec![loss, norm], 0)).map_err(|reason| not_returned(&reason))?;
        let [loss, gradient_norm] = read[..] else {
            return Err(not_returned(&format_args!("{} numbers and not 2", read.len())));
        };
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(TrainError::NonFinite { step, loss, gradient_norm });
        }

        let learning_rate = self.optimizer_config.learning_rate_at(step);
        // The weights are handed on and not shared, so that they may be changed where they are.
        let network = std::mem::replace(&mut self.network, self.ema.network().clone());
        self.network = self.optimizer.step(learning_rate, network, gradients);
        self.ema.update(&self.network, step);
        self.other_emas.iter_mut().for_each(|(_, ema)| ema.update(&self.network, step));
        Ok((loss, gradient_norm))
    }

    /// # Errors
    /// [`TrainError::NonFiniteWeights`] before anything is written, or when a file cannot be.
    pub(crate) fn save(&self, files: &mut Files) -> Result<(), TrainError> {
        let network = self.network.valid();
        // A finite gradient can still take a weight beyond what a number holds, and not every loss shows it.
        if let Some(sum) = sum_of_squares(&network) {
            let what = "the weights";
            let sum = sum.try_into_scalar::<f32>();
            let sum = sum.map_err(|reason| TrainError::Device { what, reason: reason.to_string() })?;
            if !sum.is_finite() {
                return Err(TrainError::NonFiniteWeights { kept: None });
            }
        }
        // One after the other: each is in memory a second time while it is written.
        files.write(WEIGHTS, &network.to_bytes()?)?;
        files.write(EMA_WEIGHTS, &self.ema.network().to_bytes()?)?;
        for (name, ema) in &self.other_emas {
            files.write(&ema_weights_of(name), &ema.network().to_bytes()?)?;
        }
        let unwritable = |reason: &dyn Display| TrainError::checkpoint(Path::new(OPTIMIZER), reason);
        let record = self.optimizer.into_bytes().map_err(|reason| unwritable(&reason))?;
        files.write(OPTIMIZER, &in_order(record).map_err(|reason| unwritable(&reason))?)
    }

    pub(crate) fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        // Loading keeps the parameters' numbers. The averages first go through the training network, whose structure
        // they have.
        self.network.load(&folder.join(EMA_WEIGHTS))?;
        self.ema = Ema::new(&self.network, self.ema_config.clone());
        for ((name, ema), config) in self.other_emas.iter_mut().zip(self.ema_config.others.values()) {
            self.network.load(&folder.join(ema_weights_of(name)))?;
            *ema = Ema::new(&self.network, config.clone());
        }
        self.network.load(&folder.join(WEIGHTS))?;
        let path = folder.join(OPTIMIZER);
        let optimizer = self.optimizer_config.build(&self.network)?;
        // Not by its path: a GPU would read the file when it gets to it, and the checkpoint may be pruned until then.
        let record = std::fs::read(&path).map_err(|e| TrainError::checkpoint(&path, e))?;
        let record = optimizer.from_bytes(Bytes::from_bytes_vec(record));
        self.optimizer = record.map_err(|e| TrainError::checkpoint(&path, e))?;
        Ok(())
    }
}

/// The same record with its tensors by name: the optimiser writes them in the order of a hash table, which is another in
/// every process.
fn in_order(record: Bytes) -> Result<Bytes, burn_pack::Error> {
    let record = Reader::from_bytes(record)?;
    let (scalars, metadata) = (record.scalars().clone(), record.metadata().clone());
    let mut tensors = record.into_tensors()?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let writer =
        scalars.iter().fold(Writer::new(tensors), |writer, (key, value)| writer.with_scalar(key, *value));
    metadata.iter().fold(writer, |writer, (key, value)| writer.with_metadata(key, value)).into_bytes()
}
