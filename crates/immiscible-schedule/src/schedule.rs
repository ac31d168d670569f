//! Noise schedules: x_t = alpha_t x0 + sigma_t eps.

use burn::prelude::*;
use immiscible_random::Key;
use serde::{Deserialize, Serialize};

use crate::{Levels, Point, ScheduleError, Time, Times, error::lookup};

pub mod cosine;
pub mod flow;
pub mod linear;
pub mod scaled_linear;
mod variance_preserving;
pub mod ve;

pub use variance_preserving::VariancePreserving;

/// What a forward process may depend on besides x0 and eps. No built-in schedule looks at it; a process
/// whose noise is centred elsewhere than at zero does.
#[derive(Debug, Clone, Default)]
pub struct ForwardCondition {
    /// Mean of the noisy end of the process, `[B, C, H, W]`.
    pub mean: Option<Tensor<4>>,
}

/// A forward process: how much of x0 is left and how much noise is there at every time.
///
/// alpha falls and sigma rises with time. The process owns both of its ends: [`add_noise`] goes from data
/// to x_t, [`prior`] says where sampling starts.
///
/// [`add_noise`]: NoiseSchedule::add_noise
/// [`prior`]: NoiseSchedule::prior
pub trait NoiseSchedule: Send + Sync {
    /// Name in the config.
    fn name(&self) -> &str;

    /// alpha and sigma at a time; [`Time::Clean`] exists everywhere.
    ///
    /// # Errors
    /// [`ScheduleError::Time`] if the schedule has no such time.
    fn at(&self, time: Time) -> Result<Point, ScheduleError>;

    /// Where the forward process ends and sampling starts.
    fn noisiest(&self) -> Point;

    /// Uniform training times for `batch` samples. Sample i's time depends on `key` and i alone.
    fn sample_t(&self, batch: usize, key: Key) -> Times;

    /// The `steps + 1` points that sampling visits, from [`noisiest`](NoiseSchedule::noisiest) to clean.
    ///
    /// # Errors
    /// [`ScheduleError::Steps`] if there is no such grid.
    fn grid(&self, steps: usize) -> Result<Vec<Point>, ScheduleError>;

    /// x_t = alpha_t x0 + sigma_t eps.
    ///
    /// # Shapes
    /// `x0`, `noise` and the result are `[B, C, H, W]`.
    fn add_noise(
        &self,
        x0: &Tensor<4>,
        noise: &Tensor<4>,
        levels: &Levels,
        _condition: &ForwardCondition,
    ) -> Tensor<4> {
        levels.alpha.clone() * x0.clone() + levels.sigma.clone() * noise.clone()
    }

    /// x_T from standard normal noise: scaled to the standard deviation that data of unit variance have at
    /// the noisiest time, sqrt(alpha² + sigma²). That is the noise itself for every schedule here.
    ///
    /// # Shapes
    /// `noise` and the result are `[B, C, H, W]`.
    fn prior(&self, noise: Tensor<4>, _condition: &ForwardCondition) -> Tensor<4> {
        let Point { alpha, sigma, .. } = self.noisiest();
        noise * alpha.hypot(sigma)
    }
}

/// Far more timesteps than any published schedule has; their tables still fit anywhere.
const MAX_TIMESTEPS: usize = 100_000;

/// Which noise schedule, and its options.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// A name in [`SCHEDULES`].
    pub name: String,
    /// Number T of training timesteps of a discrete schedule; 1000 if absent. Continuous schedules have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timesteps: Option<usize>,
    /// Of `ve`: the smallest noise level; 0.002 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// Of `ve`: the largest noise level; 80 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// Of `ve`: how much closer small noise levels lie than large ones; 7 if absent, 1 for evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
}

impl ScheduleConfig {
    /// The schedule of this name with default options.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Builds the schedule.
    ///
    /// # Errors
    /// If the name is unknown or an option does not fit the schedule.
    pub fn build(&self) -> Result<Box<dyn NoiseSchedule>, ScheduleError> {
        let build = lookup("schedule", SCHEDULES, &self.name)?;
        let unused = [
            ("timesteps", self.timesteps.is_some() && ["flow", "ve"].contains(&&*self.name)),
            ("sigma_min", self.sigma_min.is_some() && self.name != "ve"),
            ("sigma_max", self.sigma_max.is_some() && self.name != "ve"),
            ("rho", self.rho.is_some() && self.name != "ve"),
        ];
        if let Some((option, _)) = unused.into_iter().find(|(_, unused)| *unused) {
            return Err(ScheduleError::UnusedOption { kind: "schedule", name: self.name.clone(), option });
        }
        match self.timesteps {
            Some(timesteps) if timesteps > MAX_TIMESTEPS => Err(ScheduleError::TooManyTimesteps {
                name: self.name.clone(),
                timesteps,
                max: MAX_TIMESTEPS,
            }),
            _ => build(self),
        }
    }

    fn timesteps(&self) -> usize {
        self.timesteps.unwrap_or(1000)
    }
}

/// Builds a schedule from its config.
pub type BuildSchedule = fn(&ScheduleConfig) -> Result<Box<dyn NoiseSchedule>, ScheduleError>;

/// Every noise schedule by name.
pub const SCHEDULES: &[(&str, BuildSchedule)] = &[
    ("cosine", |config| Ok(Box::new(cosine::cosine(config.timesteps())?))),
    ("flow", |_| Ok(Box::new(flow::Flow))),
    ("linear", |config| Ok(Box::new(linear::linear(config.timesteps())?))),
    ("scaled_linear", |config| Ok(Box::new(scaled_linear::scaled_linear(config.timesteps())?))),
    ("ve", ve::Ve::build),
];
