#![doc = include_str!("../README.md")]
//!
//! Conventions: x₀ is data, `noise` is ε ~ N(0, I), a larger time is noisier, tensors are `[B, C, H, W]`. Times,
//! α and σ are `f64` on the host and reach the device once per step as [`Levels`].

pub mod distance;
mod error;
mod learned_variance;
pub mod objective;
pub mod sampler;
pub mod schedule;
mod time;
pub mod time_sampler;
pub mod weighting;

pub use distance::{DISTANCES, Distance, DistanceConfig};
pub use error::ScheduleError;
pub use learned_variance::LearnedVariance;
pub use objective::{Estimate, OBJECTIVES, Objective, ObjectiveConfig, compatible};
pub use sampler::{SAMPLERS, SamplerConfig, Spread, StepKernel, Steps, Transition, Variance};
pub use schedule::{ForwardCondition, NoiseSchedule, SCHEDULES, ScheduleConfig, VariancePreserving};
pub use time::{Levels, Point, Time, Times};
pub use time_sampler::{TIME_SAMPLERS, TimeSampler, TimeSamplerConfig};
pub use weighting::{WEIGHTINGS, Weighting, WeightingConfig};
