use crate::{
    Diffusion, Ema, EmaConfig, OptimizerConfig, Prepared, TrainError,
    parameters::{clip_global_norm, number_parameters},
};
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use immiscible_coupling::Statistics;
use immiscible_models::Network;
use immiscible_random::Key;
use std::path::Path;

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// The loss.
    pub loss: f32,
    /// Global L2 norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// What the coupling did.
    pub coupling: Statistics,
}

/// One way to train: owns its networks and optimisers, takes steps, and can be put away and taken up again.
pub trait TrainStep {
    /// Takes the optimiser step number `step`, counted from 0.
    ///
    /// # Errors
    /// When the batch cannot be used; with [`TrainError::NonFinite`] when the loss or its gradient is not finite, and then
    /// nothing has changed, so that the caller may go on with the next step.
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError>;

    /// The network that samples are drawn from, outside any autodiff graph.
    fn sampling_network(&self) -> &Network;

    /// Learning rate of `step`.
    fn learning_rate_at(&self, step: u64) -> f64;

    /// Writes everything that a later `load` needs into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn save(&self, folder: &Path) -> Result<(), TrainError>;

    /// Takes up what `save` wrote, bit for bit.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    fn load(&mut self, folder: &Path) -> Result<(), TrainError>;
}

/// File of a checkpoint with the weights of its last step.
pub const WEIGHTS: &str = "model.safetensors";
/// File of a checkpoint with the averaged weights, those to sample from.
pub const EMA_WEIGHTS: &str = "ema.safetensors";
const OPTIMIZER: &str = "optim.bpk";

/// Diffusion training of one network: loss, backward pass, clipping, optimiser, average.
pub struct DiffusionStep {
    diffusion: Diffusion,
    network: Network,
    optimizer: ModuleOptimizer,
    optimizer_config: OptimizerConfig,
    ema: Ema<Network>,
    ema_config: EmaConfig,
    key: Key,
    device: Device,
}

impl DiffusionStep {
    /// Starts from `network`, which must live on the autodiff side of `device`.
    ///
    /// # Errors
    /// When an option is outside its range.
    pub fn new(
        diffusion: Diffusion,
        network: Network,
        optimizer: &OptimizerConfig,
        ema: &EmaConfig,
        key: Key,
        device: &Device,
    ) -> Result<Self, TrainError> {
        ema.validate()?;
        let network = number_parameters(network);
        Ok(Self {
            diffusion,
            optimizer: optimizer.build()?,
            optimizer_config: optimizer.clone(),
            ema: Ema::new(&network, ema.clone()),
            ema_config: ema.clone(),
            network,
            key,
            device: device.clone(),
        })
    }
}

impl TrainStep for DiffusionStep {
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError> {
        let (loss, coupling) = self.diffusion.loss(&self.network, prepared, self.key, step, &self.device)?;
        let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        let clip_norm = self.optimizer_config.clip_norm;
        let (gradients, norm) = clip_global_norm(&self.network, gradients, clip_norm);

        // One read of the device: the finite check and the numbers of the log together.
        let norm = norm.unwrap_or_else(|| Tensor::zeros([1], &self.device));
        let read = Tensor::cat(vec![loss.inner(), norm], 0).into_data().try_into_vec_as::<f32>();
        let (loss, gradient_norm) = match read.as_deref() {
            Ok(&[loss, norm]) => (loss, norm),
            _ => (f32::NAN, f32::NAN),
        };
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(TrainError::NonFinite { step, loss, gradient_norm });
        }

        let learning_rate = self.optimizer_config.learning_rate_at(step);
        self.network = self.optimizer.step(learning_rate, self.network.clone(), gradients);
        self.ema.update(&self.network, step);
        Ok(StepReport { loss, gradient_norm, coupling })
    }

    fn sampling_network(&self) -> &Network {
        self.ema.network()
    }

    fn learning_rate_at(&self, step: u64) -> f64 {
        self.optimizer_config.learning_rate_at(step)
    }

    fn save(&self, folder: &Path) -> Result<(), TrainError> {
        self.network.valid().save(&folder.join(WEIGHTS))?;
        self.ema.network().save(&folder.join(EMA_WEIGHTS))?;
        let path = folder.join(OPTIMIZER);
        self.optimizer.save(&path).map_err(|e| TrainError::checkpoint(&path, e))
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        // Loading keeps the parameters' numbers. The average first goes through the training network, whose structure
        // it has.
        self.network.load(&folder.join(EMA_WEIGHTS))?;
        self.ema = Ema::new(&self.network, self.ema_config.clone());
        self.network.load(&folder.join(WEIGHTS))?;
        let path = folder.join(OPTIMIZER);
        let optimizer = self.optimizer_config.build()?;
        self.optimizer = optimizer.load(&path).map_err(|e| TrainError::checkpoint(&path, e))?;
        Ok(())
    }
}
