//! Step kernels: from x_t to a distribution of x_s at a lower noise level.
//!
//! # Orders
//!
//! As measured in double precision on Gaussian data, where the score is known, from 1024 to 2048 steps of one run: p where
//! half the step has 2^−p of the error, without the ends of the schedule and from the noisiest point to the middle.
//!
//! | | in between | from `linear`, `scaled_linear`, `ve` | from `flow` | from `cosine` | from `sigmoid` |
//! |---|---|---|---|---|---|
//! | `euler`, `ddim`, `dpmpp_2m` with `order` = 1 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 |
//! | `dpmpp_2m` | 2.0 | 2.0 | 1.9 | 1.9 | 1.0 |
//! | `heun` | 2.0 | 2.0 | 2.0 | 2.0 | 2.0 |
//! | `midpoint` (2 in general) | 3.0 | 3.0 | 3.0 | | |
//! | `pndm` | 2.0 to 3.0 | 2.0 | 3.0 | 1.1 | 1.0 |
//! | `pndm` without `skip_prk_steps` | 2.0 to 4.0 | 2.0 | 4.0 | 1.0 | 1.0 |
//! | `unipc` with `order` = 1 | 2.0 | 2.0 | 2.0 | 2.0 | 2.0 |
//! | `unipc` | 3.0 | 3.0 | 2.0 | 2.0 | 1.0 |
//! | `unipc` with `order` = 3 | 2.9 to 4.0 | 3.3 to 4.0 | 2.0 | 2.0 | 1.0 |
//!
//! On `flow` and `ve` that is so also up to the data, but for `unipc` with `lower_order_final`. On discrete schedules the last step, from
//! timestep 0 or a later one to clean data, is Euler's for all of them; sigma is the root of the time there, and whole runs are of order 1.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Estimate, NoiseSchedule, Point, ScheduleError, Time, error::lookup};

mod consistency;
mod ddim;
mod ddpm;
mod dopri5;
mod dpmpp_2m;
mod dpmpp_2m_sde;
mod euler;
mod euler_ancestral;
mod heun;
mod midpoint;
mod pndm;
mod unipc;

pub use consistency::Consistency;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use dopri5::Dopri5;
pub use dpmpp_2m::DpmPp2m;
pub use dpmpp_2m_sde::DpmPp2mSde;
pub use euler::Euler;
pub use euler_ancestral::EulerAncestral;
pub use heun::Heun;
pub use midpoint::Midpoint;
pub use pndm::Pndm;
pub use unipc::{UniPc, UniPcB};

/// The distribution of x after a step, or after a part of it: a Gaussian without covariances.
#[derive(Debug, Clone)]
pub struct Transition {
    /// Mean, `[B, C, H, W]`.
    pub mean: Tensor<4>,
    /// Standard deviation.
    pub std: Spread,
    /// Whether the step is done. If it is not, [`Steps::step`] is called again with x drawn from this distribution, and with
    /// the same two points; so a method that draws several noises in one step returns one transition for each.
    pub arrived: bool,
}

/// Standard deviation of a [`Transition`].
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one exists at a time")]
pub enum Spread {
    /// None: the mean is what is reached.
    None,
    /// The same everywhere, above 0.
    Same(f64),
    /// One for each value, `[B, C, H, W]`.
    Each(Tensor<4>),
}

impl Transition {
    /// A step without noise.
    pub fn exact(mean: Tensor<4>) -> Self {
        Self { mean, std: Spread::None, arrived: true }
    }

    /// A step whose noise has the same standard deviation `std` everywhere; none if that is 0.
    pub fn gaussian(mean: Tensor<4>, std: f64) -> Self {
        let std = if std > 0.0 { Spread::Same(std) } else { Spread::None };
        Self { mean, std, arrived: true }
    }

    /// x from this distribution. `noise` is asked for standard normals, of the mean's shape, if there is a spread.
    pub fn draw(self, noise: impl FnOnce() -> Tensor<4>) -> Tensor<4> {
        match self.std {
            Spread::None => self.mean,
            Spread::Same(std) => self.mean + noise() * std,
            Spread::Each(std) => self.mean + noise() * std,
        }
    }
}

/// What a kernel calls to learn about x0 and eps at a noise level.
pub type Denoise<'a> = dyn FnMut(&Tensor<4>, Point) -> Estimate + 'a;

/// A sampler: options and no state.
pub trait StepKernel: Send + Sync {
    /// Name in the config.
    fn name(&self) -> &'static str;

    /// Starts a run, which takes the steps of `path` one after the other, each from its first point to its second, less noisy
    /// one. Points are those of `schedule`; a method that evaluates the network between them asks it for more.
    ///
    /// # Errors
    /// If the method is not defined on this schedule or for this number of steps.
    fn begin<'a>(
        &'a self,
        schedule: &'a dyn NoiseSchedule,
        path: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError>;

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

    /// How often the network runs on a path of `steps` steps to clean data; `None` if the run decides.
    fn evaluations(&self, steps: usize) -> Option<usize> {
        Some(steps)
    }

    /// Whether it reads [`Estimate::variance`].
    fn needs_variance(&self) -> bool {
        false
    }
}

/// The steps of one run, with what the method remembers of earlier ones. They draw no noise, and neither clamp nor detach, so
/// gradients pass through them.
pub trait Steps {
    /// The distribution of x at `to`, given `x_t` at the noisier point `from`. At a clean `to` it has no spread, unless the
    /// method says otherwise.
    ///
    /// # Shapes
    /// `x_t` is `[B, C, H, W]`.
    ///
    /// # Errors
    /// If the method cannot go on with what `denoise` says.
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError>;
}

/// The coordinates in which a method that combines several estimates goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinates {
    /// x itself: dx = x0 dalpha + eps dsigma. Defined everywhere; on the straight path it is dx = u dt.
    Path,
    /// x/alpha, in which the data keep their size: d(x/alpha) = eps d(sigma/alpha) (Karras et al. 2022, arXiv 2206.00364, §4).
    /// Needs alpha > 0.
    Scaled,
}

impl Coordinates {
    /// [`Scaled`](Self::Scaled), unless x/alpha falls to less than a tenth over the noisiest tenth of the times:
    /// that would happen in the first few steps, and a combination of estimates far apart is wrong by more than all that is left.
    /// So `linear`, `scaled_linear` and `ve` are scaled; `cosine`, `sigmoid`, `flow` and schedules with `zero_terminal_snr`, which
    /// come from nearly no signal or none, have [`Path`](Self::Path).
    pub fn of(schedule: &dyn NoiseSchedule) -> Self {
        // None of 0 is less than ten times 0.
        if schedule.quantile(0.9).alpha < 10.0 * schedule.noisiest().alpha {
            Self::Scaled
        } else {
            Self::Path
        }
    }

    /// x at `to` from `x_t` at `from`, if x0 and eps stay the same on the way.
    fn advance(self, x_t: &Tensor<4>, estimate: Estimate, from: Point, to: Point) -> Tensor<4> {
        match self {
            Self::Path => x_t.clone() + euler::displacement(estimate, from, to),
            Self::Scaled => {
                let ratio = to.alpha / from.alpha;
                x_t.clone() * ratio + estimate.noise * (to.sigma - ratio * from.sigma)
            }
        }
    }
}

/// Which sampler, and its options.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerConfig {
    /// A name in [`SAMPLERS`].
    pub name: String,
    /// Of `ddim` and `euler_ancestral`: how much noise is renewed, 0 (none, the default of `ddim`) to 1 (as in DDPM, the
    /// default of `euler_ancestral`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Of `ddpm`: the variance of a step; small by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance: Option<Variance>,
    /// Of `dpmpp_2m` and `dpmpp_2m_sde` (1 or 2) and `unipc` (1 to 3): the order of the method, 2 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<usize>,
    /// Of `pndm`: start with multistep methods of lower order in place of Runge-Kutta steps; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_prk_steps: Option<bool>,
    /// Of `dopri5`: the relative and absolute error that a step may have; 1e-5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Of `consistency`: the noise level at which trajectories end; 0.002 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
}

impl SamplerConfig {
    /// The sampler of this name with default options.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Builds the sampler.
    ///
    /// # Errors
    /// If the name is unknown or an option does not fit the sampler.
    pub fn build(&self) -> Result<Box<dyn StepKernel>, ScheduleError> {
        let build = lookup("sampler", SAMPLERS, &self.name)?;
        let options: [(_, _, &[&str]); 6] = [
            ("eta", self.eta.is_some(), &["ddim", "euler_ancestral"]),
            ("variance", self.variance.is_some(), &["ddpm"]),
            ("order", self.order.is_some(), &["dpmpp_2m", "dpmpp_2m_sde", "unipc"]),
            ("skip_prk_steps", self.skip_prk_steps.is_some(), &["pndm"]),
            ("tolerance", self.tolerance.is_some(), &["dopri5"]),
            ("sigma_min", self.sigma_min.is_some(), &["consistency"]),
        ];
        let unused = options.into_iter().find(|(_, given, of)| *given && !of.contains(&&*self.name));
        if let Some((option, ..)) = unused {
            return Err(ScheduleError::UnusedOption { kind: "sampler", name: self.name.clone(), option });
        }
        build(self)
    }

    fn order(&self) -> usize {
        self.order.unwrap_or(2)
    }
}

/// Builds a step kernel from its config.
pub type BuildSampler = fn(&SamplerConfig) -> Result<Box<dyn StepKernel>, ScheduleError>;

/// Every sampler by name.
pub const SAMPLERS: &[(&str, BuildSampler)] = &[
    ("consistency", |config| Ok(Box::new(Consistency::new(config.sigma_min.unwrap_or(0.002))?))),
    ("ddim", |config| Ok(Box::new(Ddim::new(config.eta.unwrap_or(0.0))?))),
    ("ddpm", |config| {
        Ok(Box::new(Ddpm { variance: config.variance.unwrap_or_default(), ..Ddpm::default() }))
    }),
    ("dopri5", |config| Ok(Box::new(Dopri5::new(config.tolerance.unwrap_or(1e-5))?))),
    ("dpmpp_2m", |config| Ok(Box::new(DpmPp2m::new(config.order())?))),
    ("dpmpp_2m_sde", |config| Ok(Box::new(DpmPp2mSde::new(config.order())?))),
    ("euler", |_| Ok(Box::new(Euler))),
    ("euler_ancestral", |config| Ok(Box::new(EulerAncestral::new(config.eta.unwrap_or(1.0))?))),
    ("heun", |_| Ok(Box::new(Heun::default()))),
    ("midpoint", |_| Ok(Box::new(Midpoint))),
    ("pndm", |config| {
        let skip_prk_steps = config.skip_prk_steps.unwrap_or(true);
        Ok(Box::new(Pndm { skip_prk_steps, coordinates: None }))
    }),
    ("unipc", |config| Ok(Box::new(UniPc::new(config.order())?))),
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

/// The point a share `u` of the way from one point to another, where alpha and sigma are linear in the time.
fn between(
    sampler: &'static str,
    schedule: &dyn NoiseSchedule,
    from: Point,
    to: Point,
    u: f64,
) -> Result<Point, ScheduleError> {
    let mix = |from: f64, to: f64| from + u * (to - from);
    match (from.time, to.time) {
        (Time::Continuous(t), Time::Continuous(s)) => schedule.at(Time::Continuous(mix(t, s))),
        (Time::Continuous(t), Time::Clean) => schedule.at(Time::Continuous(mix(t, 0.0))),
        (Time::Sigma(t), Time::Sigma(s)) => schedule.at(Time::Sigma(mix(t, s))),
        (Time::Sigma(t), Time::Clean) => schedule.at(Time::Sigma(mix(t, 0.0))),
        _ => Err(ScheduleError::DiscreteTime { sampler, schedule: schedule.name().into() }),
    }
}

/// Checks that a method can evaluate the network between the points of a path.
fn needs_continuous_time(
    sampler: &'static str,
    schedule: &dyn NoiseSchedule,
    path: &[(Point, Point)],
) -> Result<(), ScheduleError> {
    path.iter().try_for_each(|&(from, to)| between(sampler, schedule, from, to, 0.5).map(drop))
}

/// Checks the order of a method.
fn valid_order(sampler: &'static str, order: usize, most: usize) -> Result<usize, ScheduleError> {
    if (1..=most).contains(&order) {
        return Ok(order);
    }
    Err(ScheduleError::Order { sampler, order, most })
}
