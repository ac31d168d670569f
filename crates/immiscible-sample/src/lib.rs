#![doc = include_str!("../README.md")]

mod clip;
mod error;
mod grid;
mod guidance;
mod noise;
mod pipeline;
mod predictor;
mod sampler;
mod scheduler;

pub use error::SampleError;
pub use grid::Spacing;
pub use guidance::Guidance;
pub use noise::{GivenNoise, NoiseSource, SeededNoise};
pub use pipeline::{Pipeline, PipelineError};
pub use predictor::{NetworkPredictor, Predictor};
pub use sampler::{Progress, SampleConfig, Sampler};
pub use scheduler::Scheduler;
