//! Noise schedules: x_t = alpha_t x0 + sigma_t eps.

use burn::prelude::*;
use immiscible_random::Key;
use serde::{Deserialize, Serialize};

use crate::{Levels, Point, ScheduleError, Time, Times, error::lookup};

pub mod cosine;
pub mod flow;
pub mod linear;
pub mod scaled_linear;
pub mod sigmoid;
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

    /// The point with sigma/alpha = `ratio` > 0, the noise relative to the data; of a discrete schedule the nearest timestep.
    fn nearest(&self, ratio: f64) -> Point;

    /// Where the forward process ends and sampling starts.
    fn noisiest(&self) -> Point;

    /// The point that a share `u` in (0, 1] of the uniform training times does not exceed; the noisiest one for 1.
    fn quantile(&self, u: f64) -> Point;

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
    /// Of `linear` and `scaled_linear`: beta at the first of 1000 timesteps; 1e-4 and 0.00085 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_start: Option<f64>,
    /// Of `linear` and `scaled_linear`: beta at the last of 1000 timesteps; 0.02 and 0.012 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_end: Option<f64>,
    /// Of `sigmoid`: where on the sigmoid alpha² starts; −3 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Of `sigmoid`: where it ends; 3 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// Of `sigmoid`: the temperature, by which both are divided; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Of discrete schedules: whether the last timestep is brought to pure noise; see
    /// [`VariancePreserving::with_zero_terminal_snr`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub zero_terminal_snr: bool,
    /// Of `flow`: how far times are moved towards the noise; 1, not at all, if absent. See [`flow::Flow::new`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
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
        let name = &*self.name;
        let discrete = !["flow", "ve"].contains(&name);
        let between = ["linear", "scaled_linear"].contains(&name);
        let unused = [
            ("timesteps", self.timesteps.is_some() && !discrete),
            ("beta_start", self.beta_start.is_some() && !between),
            ("beta_end", self.beta_end.is_some() && !between),
            ("start", self.start.is_some() && name != "sigmoid"),
            ("end", self.end.is_some() && name != "sigmoid"),
            ("tau", self.tau.is_some() && name != "sigmoid"),
            ("zero_terminal_snr", self.zero_terminal_snr && !discrete),
            ("shift", self.shift.is_some() && name != "flow"),
            ("sigma_min", self.sigma_min.is_some() && name != "ve"),
            ("sigma_max", self.sigma_max.is_some() && name != "ve"),
            ("rho", self.rho.is_some() && name != "ve"),
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

    /// Builds a discrete schedule from its number of timesteps.
    fn discrete(
        &self,
        build: impl FnOnce(usize) -> Result<VariancePreserving, ScheduleError>,
    ) -> Result<Box<dyn NoiseSchedule>, ScheduleError> {
        let schedule = build(self.timesteps.unwrap_or(1000))?;
        Ok(Box::new(if self.zero_terminal_snr { schedule.with_zero_terminal_snr(0.0)? } else { schedule }))
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Builds a schedule from its config.
pub type BuildSchedule = fn(&ScheduleConfig) -> Result<Box<dyn NoiseSchedule>, ScheduleError>;

/// Every noise schedule by name.
pub const SCHEDULES: &[(&str, BuildSchedule)] = &[
    ("cosine", |config| config.discrete(cosine::cosine)),
    ("flow", |config| Ok(Box::new(flow::Flow::new(config.shift.unwrap_or(1.0))?))),
    ("linear", |config| {
        let [beta_start, beta_end] = [config.beta_start.unwrap_or(1e-4), config.beta_end.unwrap_or(0.02)];
        config.discrete(|timesteps| linear::linear_between(timesteps, beta_start, beta_end))
    }),
    ("scaled_linear", |config| {
        let [beta_start, beta_end] = [config.beta_start.unwrap_or(0.00085), config.beta_end.unwrap_or(0.012)];
        config.discrete(|timesteps| scaled_linear::scaled_linear_between(timesteps, beta_start, beta_end))
    }),
    ("sigmoid", |config| {
        let [start, end, tau] = [(config.start, -3.0), (config.end, 3.0), (config.tau, 1.0)]
            .map(|(option, default)| option.unwrap_or(default));
        config.discrete(|timesteps| sigmoid::sigmoid(timesteps, start, end, tau))
    }),
    ("ve", ve::Ve::build),
];
