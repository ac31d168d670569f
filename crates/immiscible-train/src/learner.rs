use crate::{
    Ema, EmaConfig, OptimizerConfig, TrainError,
    parameters::{clip_global_norm, number_parameters},
};
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use immiscible_models::Network;
use std::path::Path;

/// File of a checkpoint with the weights of its last step.
pub const WEIGHTS: &str = "model.safetensors";
/// File of a checkpoint with the averaged weights, those to sample from.
pub const EMA_WEIGHTS: &str = "ema.safetensors";
const OPTIMIZER: &str = "optim.bpk";

/// A network that learns: its optimiser and the average of its weights go with it.
pub(crate) struct Learner {
    network: Network,
    optimizer: ModuleOptimizer,
    optimizer_config: OptimizerConfig,
    ema: Ema<Network>,
    ema_config: EmaConfig,
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
        Ok(Self {
            optimizer: optimizer.build()?,
            optimizer_config: optimizer.clone(),
            ema: Ema::new(&network, ema.clone()),
            ema_config: ema.clone(),
            network,
        })
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

    /// Backward pass, clipping, optimiser, average: the loss and the gradient's norm before clipping.
    pub(crate) fn learn(&mut self, loss: Tensor<1>, step: u64) -> Result<(f32, f32), TrainError> {
        let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        let clip_norm = self.optimizer_config.clip_norm;
        let (gradients, norm) = clip_global_norm(&self.network, gradients, clip_norm);

        // One read of the device: the finite check and the numbers of the log together.
        let loss = loss.inner();
        let norm = norm.unwrap_or_else(|| loss.zeros_like());
        let read = Tensor::cat(vec![loss, norm], 0).into_data().try_into_vec_as::<f32>();
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
        Ok((loss, gradient_norm))
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), TrainError> {
        self.network.valid().save(&folder.join(WEIGHTS))?;
        self.ema.network().save(&folder.join(EMA_WEIGHTS))?;
        let path = folder.join(OPTIMIZER);
        self.optimizer.save(&path).map_err(|e| TrainError::checkpoint(&path, e))
    }

    pub(crate) fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
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
