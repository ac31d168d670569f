//! Step kernels: from x_t to a distribution of x_s at a lower noise level.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Estimate, NoiseSchedule, Point, ScheduleError, error::lookup};

mod consistency;
mod ddim;
mod ddpm;
mod euler;
mod heun;

pub use consistency::Consistency;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use euler::Euler;
pub use heun::Heun;

/// The distribution of x_s after a step: Gaussian with this mean and the same standard deviation everywhere.
#[derive(Debug, Clone)]
pub struct Transition {
    /// Mean, `[B, C, H, W]`.
    pub mean: Tensor<4>,
    /// Standard deviation; 0 for a deterministic step.
    pub std: f64,
}

/// What a kernel calls to learn about x0 and eps at a noise level.
pub type Denoise<'a> = dyn FnMut(&Tensor<4>, Point) -> Estimate + 'a;

/// One step of a sampler. A kernel holds options and no state, draws no noise, and neither clamps nor
/// detaches, so gradients pass through it.
pub trait StepKernel: Send + Sync {
    /// Name in the config.
    fn name(&self) -> &'static str;

    /// The distribution of x at `to`, given `x_t` at the noisier point `from`. At a clean `to` it has no
    /// spread. Calls `denoise` once, or more often if the method says so.
    ///
    /// # Shapes
    /// `x_t` is `[B, C, H, W]`.
    fn step(&self, x_t: &Tensor<4>, from: Point, to: Point, denoise: &mut Denoise<'_>) -> Transition;

    /// The `steps + 1` points that a run visits, from the noisiest to clean: those of the schedule, unless the method wants
    /// others.
    ///
    /// # Errors
    /// [`ScheduleError::Steps`] if there is no such grid.
    fn grid(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Vec<Point>, ScheduleError> {
        schedule.grid(steps)
    }

    /// Whether `denoise` must say where the trajectory of x_t ends, which a consistency function does, and not what the data
    /// behind x_t are on average.
    fn jumps(&self) -> bool {
        false
    }

    /// How often the network runs on a grid of `steps` steps.
    fn evaluations(&self, steps: usize) -> usize {
        steps
    }
}

/// Which sampler, and its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerConfig {
    /// A name in [`SAMPLERS`].
    pub name: String,
    /// DDIM only: how much noise is renewed, 0 (none, the default) to 1 (as in DDPM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// DDPM only: the variance of a step; small by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance: Option<Variance>,
    /// Consistency sampling only: the noise level at which trajectories end; 0.002 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
}

impl SamplerConfig {
    /// The sampler of this name with default options.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), eta: None, variance: None, sigma_min: None }
    }

    /// Builds the sampler.
    ///
    /// # Errors
    /// If the name is unknown or an option does not fit the sampler.
    pub fn build(&self) -> Result<Box<dyn StepKernel>, ScheduleError> {
        let build = lookup("sampler", SAMPLERS, &self.name)?;
        let unused =
            |option| ScheduleError::UnusedOption { kind: "sampler", name: self.name.clone(), option };
        if self.eta.is_some() && self.name != "ddim" {
            return Err(unused("eta"));
        }
        if self.variance.is_some() && self.name != "ddpm" {
            return Err(unused("variance"));
        }
        if self.sigma_min.is_some() && self.name != "consistency" {
            return Err(unused("sigma_min"));
        }
        build(self)
    }
}

/// Builds a step kernel from its config.
pub type BuildSampler = fn(&SamplerConfig) -> Result<Box<dyn StepKernel>, ScheduleError>;

/// Every sampler by name.
pub const SAMPLERS: &[(&str, BuildSampler)] = &[
    ("consistency", |config| Ok(Box::new(Consistency::new(config.sigma_min.unwrap_or(0.002))?))),
    ("ddim", |config| Ok(Box::new(Ddim::new(config.eta.unwrap_or(0.0))?))),
    ("ddpm", |config| Ok(Box::new(Ddpm { variance: config.variance.unwrap_or_default() }))),
    ("euler", |_| Ok(Box::new(Euler))),
    ("heun", |_| Ok(Box::new(Heun))),
];

/// The single steps of the forward process from `to` to the noisier `from`: x_t = ratio x_s + sqrt(variance) eps.
struct Forward {
    /// alpha_t|s = alpha_t/alpha_s.
    ratio: f64,
    /// sigma²_t|s = sigma_t² − alpha²_t|s sigma_s².
    variance: f64,
}

impl Forward {
    /// Kingma et al. 2021, arXiv 2107.00630, appendix A.1.
    fn between(to: Point, from: Point) -> Self {
        let ratio = from.alpha / to.alpha;
        // Rounding can leave a negative variance where the two points nearly coincide.
        let variance = (from.sigma.powi(2) - (ratio * to.sigma).powi(2)).max(0.0);
        Self { ratio, variance }
    }

    /// Variance of x_s given x_t and x0: sigma²_t|s sigma_s²/sigma_t².
    fn posterior_variance(&self, to: Point, from: Point) -> f64 {
        self.variance * (to.sigma / from.sigma).powi(2)
    }
}
