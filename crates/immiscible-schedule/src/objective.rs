//! What the network regresses, and what its output says about x0 and eps.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Levels, NoiseSchedule, Point, ScheduleError, error::lookup};

mod consistency;
mod edm;
mod epsilon;
mod flow_velocity;
mod v;
mod x0;

pub use consistency::Consistency;
pub use edm::Edm;
pub use epsilon::Epsilon;
pub use flow_velocity::FlowVelocity;
pub use v::V;
pub use x0::X0;

/// What is believed about the two ends of x_t = alpha x0 + sigma eps.
///
/// # Shapes
/// All tensors have the shape of x_t.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// The data.
    pub x0: Tensor<4>,
    /// The noise.
    pub noise: Tensor<4>,
    /// What a network that predicts the variance of a step says about it, in the units of its output.
    pub variance: Option<Tensor<4>>,
}

impl Estimate {
    /// Completes an estimate of x0: eps = (x_t − alpha x0)/sigma. Needs sigma > 0.
    pub fn from_x0(x0: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Self {
        let noise = (x_t.clone() - levels.alpha.clone() * x0.clone()) / levels.sigma.clone();
        Self { x0, noise, variance: None }
    }

    /// Completes an estimate of eps: x0 = (x_t − sigma eps)/alpha. Needs alpha > 0.
    pub fn from_noise(noise: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Self {
        let x0 = (x_t.clone() - levels.sigma.clone() * noise.clone()) / levels.alpha.clone();
        Self { x0, noise, variance: None }
    }
}

/// A linear combination of x0 and eps that a network learns. Pure algebra, with formulas that hold for any
/// alpha and sigma.
pub trait Objective: Send + Sync {
    /// Name in the config.
    fn name(&self) -> &'static str;

    /// What the network should output at x_t = alpha x0 + sigma eps.
    ///
    /// # Shapes
    /// `x0`, `noise` and the result are `[B, C, H, W]`.
    fn target(&self, x0: &Tensor<4>, noise: &Tensor<4>, levels: &Levels) -> Tensor<4>;

    /// What the network's output at `x_t` says about x0 and eps; inverse of [`target`](Objective::target).
    /// The result satisfies alpha x0 + sigma eps = x_t. Needs sigma > 0.
    ///
    /// # Shapes
    /// `output` and `x_t` are `[B, C, H, W]`.
    fn read(&self, output: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Estimate;

    /// What the network is given for `x_t`: x_t itself, unless the objective brings it to unit variance first.
    ///
    /// # Shapes
    /// `[B, C, H, W]` → the same
    fn network_input(&self, x_t: Tensor<4>, _levels: &Levels) -> Tensor<4> {
        x_t
    }

    /// The number that the network embeds at a point.
    fn network_time(&self, point: Point) -> f32 {
        point.time.network_time()
    }

    /// ‖x̂0 − x0‖² / ‖output − target‖² at the same x_t: what an error of the output is worth as one of x0. Weights, which the
    /// literature defines for one target or the other, are converted by it.
    fn x0_error(&self, point: Point) -> f64;

    /// Whether [`read`](Objective::read) is defined at alpha = 0, where x_t is pure noise.
    fn reads_pure_noise(&self) -> bool {
        true
    }

    /// Whether x0 of [`read`](Objective::read) is where the trajectory of x_t ends, and not what the data behind x_t are on
    /// average. It takes a sampler that [jumps](crate::StepKernel::jumps), and no other.
    fn jumps(&self) -> bool {
        false
    }
}

/// Which objective.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// A name in [`OBJECTIVES`].
    pub name: String,
    /// Of `edm`: the standard deviation of the data; 0.5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
}

impl ObjectiveConfig {
    /// The objective of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The same for data that are multiplied by `scale`, and so have `scale` times the standard deviation.
    pub fn of_scaled_data(&self, scale: f64) -> Self {
        let of_data = self.sigma_data.or((self.name == "edm").then_some(SIGMA_DATA));
        Self { sigma_data: of_data.map(|sigma| sigma * scale), ..self.clone() }
    }

    /// Builds the objective.
    ///
    /// # Errors
    /// If the name is unknown or an option does not fit the objective.
    pub fn build(&self) -> Result<Box<dyn Objective>, ScheduleError> {
        if self.sigma_data.is_some() && self.name != "edm" {
            let name = self.name.clone();
            return Err(ScheduleError::UnusedOption { kind: "objective", name, option: "sigma_data" });
        }
        lookup("objective", OBJECTIVES, &self.name)?(self)
    }
}

/// The standard deviation of images in [−1, 1] that the field reckons with.
pub const SIGMA_DATA: f64 = 0.5;

/// Builds an objective from its config.
pub type BuildObjective = fn(&ObjectiveConfig) -> Result<Box<dyn Objective>, ScheduleError>;

/// Every objective by name.
pub const OBJECTIVES: &[(&str, BuildObjective)] = &[
    ("edm", |config| Ok(Box::new(Edm::new(config.sigma_data.unwrap_or(SIGMA_DATA))?))),
    ("epsilon", |_| Ok(Box::new(Epsilon))),
    ("flow_velocity", |_| Ok(Box::new(FlowVelocity))),
    ("v", |_| Ok(Box::new(V))),
    ("x0", |_| Ok(Box::new(X0))),
];

/// Whether a network trained with `objective` can be sampled on `schedule`.
///
/// # Errors
/// [`ScheduleError::PureNoise`] if sampling would start where the output says nothing about x0.
pub fn compatible(schedule: &dyn NoiseSchedule, objective: &dyn Objective) -> Result<(), ScheduleError> {
    if schedule.noisiest().alpha > 0.0 || objective.reads_pure_noise() {
        return Ok(());
    }
    let alternatives = OBJECTIVES.iter().filter(|(name, build)| {
        build(&ObjectiveConfig::new(*name)).is_ok_and(|objective| objective.reads_pure_noise())
    });
    Err(ScheduleError::PureNoise {
        objective: objective.name(),
        schedule: schedule.name().into(),
        alternatives: alternatives.map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
    })
}
