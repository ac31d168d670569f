#![doc = include_str!("../README.md")]

mod adam;
mod checkpoint;
mod class_condition;
mod config;
mod consistency;
mod consistency_loss;
#[cfg(feature = "flex")]
mod cpu;
mod diffusion;
mod distance;
mod ema;
mod error;
mod file_system;
mod improved_consistency;
mod latent;
mod learner;
mod learning_rate;
mod lock;
mod loss;
mod method;
mod muon;
mod optimizer;
mod parameters;
mod radam;
mod record;
mod step;
mod trainer;
mod upload;
mod window;

#[cfg(fuzzing)]
pub use checkpoint::fuzz_manifest;
pub use checkpoint::{Checkpoint, CheckpointStore, Files, Saved, sha256_hex};
pub use class_condition::ClassCondition;
pub use config::{CheckpointConfig, EmaConfig, OptimizerConfig, TrainConfig};
pub use consistency::{ConsistencyStep, Curriculum, uniform_neighbours};
pub use consistency_loss::{ConsistencyLoss, Neighbours};
pub use diffusion::{Diffusion, Prepared, prepare};
pub use distance::{DISTANCES, Distance};
pub use ema::{AVERAGES, Decay, Ema, power_gamma};
pub use error::TrainError;
pub use file_system::{Disk, FileSystem};
pub use improved_consistency::{DoublingCurriculum, ImprovedConsistencyStep, LogNormal};
pub use latent::{LatentStep, Latents, OnLatents, Parts};
pub use learner::{EMA_WEIGHTS, WEIGHTS, ema_weights_of};
pub use learning_rate::{LEARNING_RATE_SCHEDULES, LearningRateSchedule};
pub use lock::RunLock;
pub use loss::{Loss, LossConfig};
pub use method::{BuildMethod, METHODS, MethodConfig, MethodParts};
pub use optimizer::OPTIMIZERS;
pub use record::{Average, METRICS_SCHEMA, Record};
pub use step::{DiffusionStep, StepReport, TrainStep};
pub use trainer::{Observer, Start, Trainer};
