#![doc = include_str!("../README.md")]

mod checkpoint;
mod class_condition;
mod config;
mod consistency;
mod consistency_loss;
mod diffusion;
mod distance;
mod ema;
mod error;
mod improved_consistency;
mod latent;
mod learner;
mod method;
mod optimizer;
mod parameters;
mod record;
mod step;
mod trainer;

pub use checkpoint::{Checkpoint, CheckpointStore, sha256_hex};
pub use class_condition::ClassCondition;
pub use config::{CheckpointConfig, EmaConfig, OptimizerConfig, TrainConfig};
pub use consistency::{ConsistencyStep, Curriculum, uniform_neighbours};
pub use consistency_loss::{ConsistencyLoss, Neighbours};
pub use diffusion::{Diffusion, Prepared, prepare};
pub use distance::{DISTANCES, Distance};
pub use ema::Ema;
pub use error::TrainError;
pub use improved_consistency::{DoublingCurriculum, ImprovedConsistencyStep, LogNormal};
pub use latent::{LatentStep, Latents, OnLatents};
pub use learner::{EMA_WEIGHTS, WEIGHTS};
pub use method::{BuildMethod, METHODS, MethodConfig, MethodParts};
pub use optimizer::OPTIMIZERS;
pub use record::{Average, Record};
pub use step::{DiffusionStep, StepReport, TrainStep};
pub use trainer::{Observer, Trainer};
