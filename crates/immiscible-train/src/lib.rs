#![doc = include_str!("../README.md")]

mod checkpoint;
mod config;
mod diffusion;
mod ema;
mod error;
mod loss;
mod optimizer;
mod parameters;
mod record;
mod step;
mod trainer;
mod window;

pub use checkpoint::{Checkpoint, CheckpointStore, sha256_hex};
pub use config::{CheckpointConfig, EmaConfig, OptimizerConfig, TrainConfig};
pub use diffusion::{ClassCondition, Diffusion, Prepared, prepare};
pub use ema::Ema;
pub use error::TrainError;
pub use loss::{Loss, LossConfig};
pub use optimizer::OPTIMIZERS;
pub use record::{Average, Record};
pub use step::{DiffusionStep, EMA_WEIGHTS, StepReport, TrainStep, WEIGHTS};
pub use trainer::{Observer, Trainer};
