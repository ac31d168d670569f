//! Takes the steps, and remembers them.
//!
//! [`Diffusion::loss`] is the one training step that everything serves; [`DiffusionStep`] adds the optimiser and the
//! average of the weights; [`Trainer`] is the loop with its log and its checkpoints. Everything random is a function
//! of the seed and the step, so a resumed run goes on exactly where it stopped.

mod checkpoint;
mod config;
mod diffusion;
mod ema;
mod error;
mod optimizer;
mod parameters;
mod record;
mod step;
mod trainer;

pub use checkpoint::{Checkpoint, CheckpointStore, sha256_hex};
pub use config::{CheckpointConfig, EmaConfig, OptimizerConfig, TrainConfig};
pub use diffusion::{ClassCondition, Diffusion, Prepared, prepare};
pub use ema::Ema;
pub use error::TrainError;
pub use optimizer::OPTIMIZERS;
pub use record::{Average, Record};
pub use step::{EMA_WEIGHTS, DiffusionStep, StepReport, TrainStep};
pub use trainer::{Observer, Trainer};
