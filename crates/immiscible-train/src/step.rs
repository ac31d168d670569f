use crate::{Diffusion, EmaConfig, Files, OptimizerConfig, Parts, Prepared, TrainError, learner::Learner};
use burn::tensor::Device;
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
    /// What latents and their coupling took, where the step is on latents.
    pub latents: Option<Parts>,
}

/// One way to train: owns its networks and optimisers, takes steps, and can be put away and taken up again.
pub trait TrainStep {
    /// Takes the optimiser step number `step`, counted from 0.
    ///
    /// # Errors
    /// When the batch cannot be used; with [`TrainError::NonFinite`] when the loss or its gradient is not finite, and then
    /// nothing has changed, so that the caller may go on with the next step.
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError>;

    /// Whether [`look_ahead`](Self::look_ahead) does anything, so that the batch of the step after is worth waiting for.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Begins with what the step number `step` needs that does not depend on the weights, before the step ahead of it is taken.
    /// `next` is what that step will be given. Whether this is called changes no bit of what is learnt; what is wrong with the
    /// batch is told by the step.
    fn look_ahead(&mut self, next: &Prepared, step: u64) {
        let _ = (next, step);
    }

    /// The network that samples are drawn from, outside any autodiff graph.
    fn sampling_network(&self) -> &Network;

    /// Learning rate of `step`.
    fn learning_rate_at(&self, step: u64) -> f64;

    /// Hands out everything that a later `load` needs, as files.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn save(&self, files: &mut Files) -> Result<(), TrainError>;

    /// Takes up what `save` wrote, bit for bit.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    fn load(&mut self, folder: &Path) -> Result<(), TrainError>;
}

/// Diffusion training of one network: the mean squared error of what the objective regresses.
pub struct DiffusionStep {
    diffusion: Diffusion,
    learner: Learner,
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
        let learner = Learner::new(network, optimizer, ema)?;
        Ok(Self { diffusion, learner, key, device: device.clone() })
    }

    /// The same with at most so many images whose gradient is computed at once; all if absent.
    pub fn with_micro_batch(self, micro_batch: Option<usize>) -> Self {
        Self { learner: self.learner.with_micro_batch(micro_batch), ..self }
    }
}

impl TrainStep for DiffusionStep {
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError> {
        let Self { diffusion, device, .. } = self;
        let key = self.key.step(step);
        let example = diffusion.example(prepared, key, step, device)?;
        let times = diffusion.times(example.rows(), key)?;
        let loss_of =
            |network: &Network, rows| diffusion.loss_of(network, &example, &times, rows, key, device);
        let (loss, gradient_norm) = self.learner.learn(example.rows(), step, loss_of)?;
        Ok(StepReport { loss, gradient_norm, coupling: example.statistics, latents: None })
    }

    fn sampling_network(&self) -> &Network {
        self.learner.sampling_network()
    }

    fn learning_rate_at(&self, step: u64) -> f64 {
        self.learner.learning_rate_at(step)
    }

    fn save(&self, files: &mut Files) -> Result<(), TrainError> {
        self.learner.save(files)
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.learner.load(folder)
    }
}
