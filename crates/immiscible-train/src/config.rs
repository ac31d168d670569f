use crate::TrainError;
use serde::{Deserialize, Serialize};

/// The `[train]` table of a config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Images per step; also the pool that an assignment chooses from.
    pub batch_size: usize,
    /// Images of a batch whose gradient is computed at once, for less memory: gradients are added up, and the coupling, the
    /// loss and the step are still those of the whole batch, up to rounding and to the masks of dropout. All if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Steps between two lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps in a row, at least 1, with a loss or gradient that is not finite that end the run. Fewer are skipped: they leave
    /// weights, optimiser and average as they were.
    pub max_skipped: u64,
    /// Batches that the loader prepares ahead, their coupling included; 0 lets each step wait for its own. All give the same
    /// batches and noises.
    pub prefetch: usize,
    /// Probability in [0, 1) with which a class label is replaced by the null class, for classifier-free guidance
    /// (Ho & Salimans, arXiv 2207.12598). 0 for unlabelled training.
    pub class_dropout: f64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch_size: 128,
            micro_batch: None,
            log_every: 50,
            max_skipped: 10,
            prefetch: 2,
            class_dropout: 0.0,
        }
    }
}

/// The `[optimizer]` table of a config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// `adam`, `adamw` or `radam`: a name in [`OPTIMIZERS`](crate::OPTIMIZERS).
    pub kind: String,
    /// Learning rate after the warm-up, > 0.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly from 0.
    pub warmup_steps: u64,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Decoupled weight decay of `adamw`; the others have none.
    pub weight_decay: f32,
    /// Largest global L2 norm of the gradient; 0 switches clipping off.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: "adamw".into(),
            learning_rate: 2e-4,
            warmup_steps: 0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip_norm: 1.0,
        }
    }
}

/// The `[ema]` table of a config: the average of the weights that samples are drawn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaConfig {
    /// Decay per optimiser step, in [0, 1).
    pub decay: f64,
    /// Whether the decay starts as (1 + n) / (10 + n), so that a short run forgets its initial weights.
    pub warmup: bool,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self { decay: 0.9999, warmup: true }
    }
}

/// The `[checkpoint]` table of a config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints; the last step always makes one.
    pub every: u64,
    /// How many of the newest checkpoints are kept, at least 2.
    pub keep: usize,
    /// Failures in a row to save one, at least 1, that end the run. After fewer training goes on.
    pub max_failures: u64,
    /// Seconds from the first failure to the next try, at most 86,400; after every further one twice as many.
    pub retry_seconds: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 1_000, keep: 2, max_failures: 5, retry_seconds: 30 }
    }
}

fn check(
    holds: bool,
    key: &'static str,
    value: impl ToString,
    remedy: &'static str,
) -> Result<(), TrainError> {
    if holds { Ok(()) } else { Err(TrainError::Option { key, value: value.to_string(), remedy }) }
}

impl TrainConfig {
    /// # Errors
    /// When a value is outside its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        check(self.steps > 0, "train.steps", self.steps, "write at least 1")?;
        check(self.batch_size > 0, "train.batch_size", self.batch_size, "write at least 1")?;
        if let Some(rows) = self.micro_batch {
            let fits = (1..=self.batch_size).contains(&rows);
            check(fits, "train.micro_batch", rows, "write at least 1, and at most train.batch_size")?;
        }
        check(self.log_every > 0, "train.log_every", self.log_every, "write at least 1")?;
        check(self.max_skipped > 0, "train.max_skipped", self.max_skipped, "write at least 1; 10 is usual")?;
        check(self.prefetch <= 1_024, "train.prefetch", self.prefetch, "write 0 to 1024")?;
        let dropout = self.class_dropout;
        check((0.0..1.0).contains(&dropout), "train.class_dropout", dropout, "write a value in [0, 1)")
    }
}

impl OptimizerConfig {
    /// # Errors
    /// When a value is outside its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        check(
            positive(self.learning_rate),
            "optimizer.learning_rate",
            self.learning_rate,
            "write a value > 0",
        )?;
        check((0.0..1.0).contains(&self.beta1), "optimizer.beta1", self.beta1, "write a value in [0, 1)")?;
        check((0.0..1.0).contains(&self.beta2), "optimizer.beta2", self.beta2, "write a value in [0, 1)")?;
        check(positive(self.epsilon.into()), "optimizer.epsilon", self.epsilon, "write a value > 0")?;
        let at_least_0 = |x: f64| x >= 0.0 && x.is_finite();
        let decay = self.weight_decay;
        check(at_least_0(decay.into()), "optimizer.weight_decay", decay, "write a value >= 0")?;
        check(at_least_0(self.clip_norm), "optimizer.clip_norm", self.clip_norm, "write a value >= 0")
    }
}

impl EmaConfig {
    /// # Errors
    /// When the decay is outside [0, 1).
    pub fn validate(&self) -> Result<(), TrainError> {
        check((0.0..1.0).contains(&self.decay), "ema.decay", self.decay, "write a value in [0, 1)")
    }
}

impl CheckpointConfig {
    /// # Errors
    /// When a value is outside its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        check(self.every > 0, "checkpoint.every", self.every, "write at least 1")?;
        check(
            self.keep >= 2,
            "checkpoint.keep",
            self.keep,
            "write at least 2, so that one bad checkpoint costs no run",
        )?;
        let failures = self.max_failures;
        check(failures > 0, "checkpoint.max_failures", failures, "write at least 1; 5 is usual")?;
        let seconds = self.retry_seconds;
        check(seconds <= 86_400, "checkpoint.retry_seconds", seconds, "write at most 86400; 30 is usual")
    }
}
