#![doc = include_str!("../README.md")]

mod error;
mod guidance;
mod noise;
mod predictor;
mod sampler;

pub use error::SampleError;
pub use guidance::Guidance;
pub use noise::{NoiseSource, SeededNoise};
pub use predictor::{NetworkPredictor, Predictor};
pub use sampler::{Progress, SampleConfig, Sampler};
