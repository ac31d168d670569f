use crate::{OptimizerConfig, TrainError, radam::RAdam};
use burn::optim::{AdamConfig, AdamWConfig, ModuleOptimizer};

type Build = fn(&OptimizerConfig) -> ModuleOptimizer;

/// Every optimiser by name, sorted.
pub const OPTIMIZERS: &[(&str, Build)] = &[
    ("adam", |c| AdamConfig::new().with_beta_1(c.beta1).with_beta_2(c.beta2).with_epsilon(c.epsilon).init()),
    ("adamw", |c| {
        AdamWConfig::new()
            .with_beta_1(c.beta1)
            .with_beta_2(c.beta2)
            .with_epsilon(c.epsilon)
            .with_weight_decay(c.weight_decay)
            .init()
    }),
    ("radam", |c| RAdam::new(c.beta1, c.beta2, c.epsilon).into()),
];

impl OptimizerConfig {
    /// Builds the optimiser that the config names.
    ///
    /// # Errors
    /// When the kind is unknown or a value is outside its range.
    pub fn build(&self) -> Result<ModuleOptimizer, TrainError> {
        self.validate()?;
        match OPTIMIZERS.iter().find(|(name, _)| *name == self.kind) {
            Some((_, build)) => Ok(build(self)),
            None => Err(TrainError::Unknown {
                key: "optimizer.kind",
                name: self.kind.clone(),
                known: OPTIMIZERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Learning rate of `step`, counted from 0: a linear warm-up, then constant.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64
        } else {
            self.learning_rate
        }
    }
}
