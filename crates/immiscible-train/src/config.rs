use crate::{
    AVERAGES, TrainError,
    ema::{EXPONENTIAL, POWER},
    learning_rate::CONSTANT,
    optimizer::{LION, MUON},
};
use immiscible_models::Precision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// Whether the backward pass computes cheap intermediate values again and does not keep them, for less memory; weights
    /// and losses are the same, bit for bit on the CPU.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// What the network computes in: `f32`, or `bf16` on devices that have it. Weights, gradients, optimiser, norms and the loss are
    /// of single precision in both.
    #[serde(skip_serializing_if = "is_single")]
    pub precision: Precision,
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

fn is_single(precision: &Precision) -> bool {
    *precision == Precision::F32
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch_size: 128,
            micro_batch: None,
            gradient_checkpointing: false,
            precision: Precision::F32,
            log_every: 50,
            max_skipped: 10,
            prefetch: 2,
            class_dropout: 0.0,
        }
    }
}

/// The `[optimizer]` table of a config. Options that the chosen schedule or optimiser does not have are refused, where they
/// have no default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// `adam`, `adamw`, `lion`, `muon` or `radam`: a name in [`OPTIMIZERS`](crate::OPTIMIZERS).
    pub kind: String,
    /// Learning rate after the warm-up, > 0.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly from 0.
    pub warmup_steps: u64,
    /// How it goes on: a name in [`LEARNING_RATE_SCHEDULES`](crate::LEARNING_RATE_SCHEDULES).
    #[serde(skip_serializing_if = "is_constant")]
    pub schedule: String,
    /// Of `cosine` and `linear`: the step at which the learning rate has come to its end, where it stays; `train.steps` if
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_steps: Option<u64>,
    /// Of both: what is left of the learning rate then, in [0, 1]; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_share: Option<f64>,
    /// Of `inverse_sqrt`: the step, at least 1, from which the learning rate falls as 1/√step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_start: Option<u64>,
    /// Decay of the first moment, in [0, 1); of `lion`: the share of the momentum in the direction of a step.
    pub beta1: f32,
    /// Decay of the second moment, in [0, 1); of `lion`: that of the momentum. 0.999 if absent, 0.99 for `lion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f32>,
    /// Added to the denominator, > 0; `lion` has none.
    pub epsilon: f32,
    /// Decoupled weight decay of `adamw`, `lion` and `muon`, ≥ 0; the others have none.
    pub weight_decay: f32,
    /// Of `muon`: decay of its momentum, in [0, 1); 0.95 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f32>,
    /// Largest global L2 norm of the gradient; 0 switches clipping off.
    pub clip_norm: f64,
}

fn is_constant(schedule: &str) -> bool {
    schedule == CONSTANT
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: "adamw".into(),
            learning_rate: 2e-4,
            warmup_steps: 0,
            schedule: CONSTANT.into(),
            schedule_steps: None,
            final_share: None,
            decay_start: None,
            beta1: 0.9,
            beta2: None,
            epsilon: 1e-8,
            weight_decay: 0.01,
            momentum: None,
            clip_norm: 1.0,
        }
    }
}

/// The `[ema]` table of a config: the average of the weights that samples are drawn from, and others that are kept beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaConfig {
    /// `exponential` or `power`: a name in [`AVERAGES`](crate::AVERAGES).
    #[serde(skip_serializing_if = "is_exponential")]
    pub kind: String,
    /// Of `exponential`: decay per optimiser step, in [0, 1).
    pub decay: f64,
    /// Of `exponential`: whether the decay starts as (1 + n) / (10 + n), so that a short run forgets its initial weights.
    pub warmup: bool,
    /// Of `power`: standard deviation of the average's weights, as a share of the run so far, in (0, 0.28].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_rel: Option<f64>,
    /// Further averages by name, which are part of every checkpoint. Samples are drawn from them, and they are exported, only
    /// where their name is asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, EmaConfig>,
}

fn is_exponential(kind: &str) -> bool {
    kind == EXPONENTIAL
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self {
            kind: EXPONENTIAL.into(),
            decay: 0.9999,
            warmup: true,
            sigma_rel: None,
            others: BTreeMap::new(),
        }
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
    /// Decay of the second moment, or of Lion's momentum: what the config says, or what is usual for its kind.
    pub fn beta2(&self) -> f32 {
        // Chen et al. 2023, arXiv 2302.06675, algorithm 2; Kingma & Ba 2015, arXiv 1412.6980, algorithm 1.
        self.beta2.unwrap_or(if self.kind == LION { 0.99 } else { 0.999 })
    }

    /// # Errors
    /// When a name is unknown, an option belongs to another one, or a value is outside its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.registered()?;
        let schedule = self.schedule()?;
        for (key, option, given) in [
            ("schedule_steps", "optimizer.schedule_steps", self.schedule_steps.is_some()),
            ("final_share", "optimizer.final_share", self.final_share.is_some()),
            ("decay_start", "optimizer.decay_start", self.decay_start.is_some()),
        ] {
            if given && !schedule.options.contains(&key) {
                let name = self.schedule.clone();
                return Err(TrainError::UnusedOption { key: "optimizer.schedule", name, option });
            }
        }
        if self.momentum.is_some() && self.kind != MUON {
            let (name, option) = (self.kind.clone(), "optimizer.momentum");
            return Err(TrainError::UnusedOption { key: "optimizer.kind", name, option });
        }
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let rate = self.learning_rate;
        check(positive(rate), "optimizer.learning_rate", rate, "write a value > 0")?;
        if let Some(steps) = self.schedule_steps {
            check(steps > 0, "optimizer.schedule_steps", steps, "write at least 1")?;
        }
        if let Some(share) = self.final_share {
            check((0.0..=1.0).contains(&share), "optimizer.final_share", share, "write a value in [0, 1]")?;
        }
        if schedule.options.contains(&"decay_start") {
            let start = self.decay_start.map_or_else(|| "unset".into(), |start| start.to_string());
            let given = self.decay_start.is_some_and(|start| start > 0);
            check(
                given,
                "optimizer.decay_start",
                start,
                "write the step from which the rate falls, at least 1",
            )?;
        }
        let beta2 = self.beta2();
        check((0.0..1.0).contains(&self.beta1), "optimizer.beta1", self.beta1, "write a value in [0, 1)")?;
        check((0.0..1.0).contains(&beta2), "optimizer.beta2", beta2, "write a value in [0, 1)")?;
        if let Some(momentum) = self.momentum {
            check((0.0..1.0).contains(&momentum), "optimizer.momentum", momentum, "write a value in [0, 1)")?;
        }
        check(positive(self.epsilon.into()), "optimizer.epsilon", self.epsilon, "write a value > 0")?;
        let at_least_0 = |x: f64| x >= 0.0 && x.is_finite();
        let decay = self.weight_decay;
        check(at_least_0(decay.into()), "optimizer.weight_decay", decay, "write a value >= 0")?;
        check(at_least_0(self.clip_norm), "optimizer.clip_norm", self.clip_norm, "write a value >= 0")
    }
}

impl EmaConfig {
    /// # Errors
    /// When a kind is unknown, an option belongs to another one, or a value is outside its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        if !AVERAGES.iter().any(|(name, _)| *name == self.kind) {
            return Err(TrainError::unknown("ema.kind", &self.kind, AVERAGES));
        }
        if self.kind == POWER {
            let width = self.sigma_rel.unwrap_or(f64::NAN);
            let value = self.sigma_rel.map_or_else(|| "unset".into(), |width| width.to_string());
            let fits = width > 0.0 && width <= 0.28;
            check(fits, "ema.sigma_rel", value, "write a value in (0, 0.28], such as 0.05 or 0.1")?;
        } else if self.sigma_rel.is_some() {
            let (name, option) = (self.kind.clone(), "ema.sigma_rel");
            return Err(TrainError::UnusedOption { key: "ema.kind", name, option });
        }
        check((0.0..1.0).contains(&self.decay), "ema.decay", self.decay, "write a value in [0, 1)")?;
        for (name, other) in &self.others {
            let letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            let plain =
                name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.chars().all(letter);
            check(plain && name.len() <= 64, "ema.others", name, NAME_OF_AN_AVERAGE)?;
            check(
                other.others.is_empty(),
                "ema.others",
                name,
                "it has `others` of its own; write them beside it",
            )?;
            other.validate()?;
        }
        Ok(())
    }
}

/// It becomes part of a file's name.
const NAME_OF_AN_AVERAGE: &str =
    "name it with letters, digits, `-`, `_` and `.`, a letter or digit first, at most 64";

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
