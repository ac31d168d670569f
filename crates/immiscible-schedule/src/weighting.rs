//! How much each noise level counts in the loss.

use serde::{Deserialize, Serialize};

use crate::{NoiseSchedule, Objective, Point, ScheduleError, error::lookup, objective::SIGMA_DATA};

mod cosmap;
mod edm;
mod min_snr;
mod p2;
mod sigma_sqrt;
mod simple;
mod soft_min_snr;

pub use cosmap::Cosmap;
pub use edm::Edm;
pub use min_snr::MinSnr;
pub use p2::P2;
pub use sigma_sqrt::SigmaSqrt;
pub use simple::Simple;
pub use soft_min_snr::SoftMinSnr;

/// The weight of a sample's squared error, by its noise level.
///
/// All but [`Simple`] weigh the error of x0, whatever the network outputs: their weight of ‖x̂0 − x0‖² is a function of the
/// signal-to-noise ratio, and [`Objective::x0_error`] converts it.
pub trait Weighting: Send + Sync {
    /// Name in the config.
    fn name(&self) -> &'static str;

    /// The weight of ‖output − target‖² of a network with this objective.
    fn weight(&self, objective: &dyn Objective, point: Point) -> f64;
}

/// Which weighting, and its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightingConfig {
    /// A name in [`WEIGHTINGS`].
    pub name: String,
    /// Of `min_snr`: the largest weight, 5 if absent. Of `p2`: how strongly large signal-to-noise ratios are weighed down,
    /// 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Of `p2`: the signal-to-noise ratio from which it weighs down; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<f64>,
    /// Of `edm` and `soft_min_snr`: the standard deviation of the data; 0.5 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
}

impl Default for WeightingConfig {
    /// No weights.
    fn default() -> Self {
        Self::new("simple")
    }
}

impl WeightingConfig {
    /// The weighting of this name with default options.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), gamma: None, k: None, sigma_data: None }
    }

    /// The same for data that are multiplied by `scale`, and so have `scale` times the standard deviation.
    pub fn of_scaled_data(&self, scale: f64) -> Self {
        let of_data = self.sigma_data.or(OF_SIGMA_DATA.contains(&&*self.name).then_some(SIGMA_DATA));
        Self { sigma_data: of_data.map(|sigma| sigma * scale), ..self.clone() }
    }

    /// Builds the weighting.
    ///
    /// # Errors
    /// If the name is unknown, or an option does not fit or is not a positive number.
    pub fn build(&self) -> Result<Box<dyn Weighting>, ScheduleError> {
        let build = lookup("weighting", WEIGHTINGS, &self.name)?;
        for (option, value, users) in [
            ("gamma", self.gamma, &["min_snr", "p2"][..]),
            ("k", self.k, &["p2"]),
            ("sigma_data", self.sigma_data, OF_SIGMA_DATA),
        ] {
            let (kind, name) = ("weighting", self.name.clone());
            match value {
                Some(_) if !users.contains(&&*name) => {
                    return Err(ScheduleError::UnusedOption { kind, name, option });
                }
                Some(value) if !(value > 0.0 && value <= MAX_OPTION) => {
                    let valid = "a number in (0, 1000000]";
                    return Err(ScheduleError::OutOfRange { kind, name, option, value, valid });
                }
                _ => {}
            }
        }
        Ok(build(self))
    }

    /// Builds the weighting if all its weights are finite: the ends of the schedule are where one may not be.
    ///
    /// # Errors
    /// Those of [`build`](Self::build), and [`ScheduleError::Weight`] with the time.
    pub fn build_for(
        &self,
        schedule: &dyn NoiseSchedule,
        objective: &dyn Objective,
    ) -> Result<Box<dyn Weighting>, ScheduleError> {
        let weighting = self.build()?;
        for point in [schedule.quantile(f64::EPSILON), schedule.noisiest()] {
            // Weights reach the device as f32.
            let weight = weighting.weight(objective, point);
            if !(weight as f32).is_finite() {
                return Err(ScheduleError::Weight {
                    weighting: weighting.name(),
                    objective: objective.name(),
                    schedule: schedule.name().into(),
                    time: point.time,
                    weight,
                });
            }
        }
        Ok(weighting)
    }
}

/// The weightings that know the standard deviation of the data.
const OF_SIGMA_DATA: &[&str] = &["edm", "soft_min_snr"];

/// Far beyond any use; smaller than what overflows.
const MAX_OPTION: f64 = 1e6;

/// Builds a weighting from its config.
pub type BuildWeighting = fn(&WeightingConfig) -> Box<dyn Weighting>;

/// Every weighting by name.
pub const WEIGHTINGS: &[(&str, BuildWeighting)] = &[
    ("cosmap", |_| Box::new(Cosmap)),
    ("edm", |config| Box::new(Edm { sigma_data: config.sigma_data.unwrap_or(SIGMA_DATA) })),
    ("min_snr", |config| Box::new(MinSnr { gamma: config.gamma.unwrap_or(5.0) })),
    ("p2", |config| Box::new(P2 { k: config.k.unwrap_or(1.0), gamma: config.gamma.unwrap_or(1.0) })),
    ("sigma_sqrt", |_| Box::new(SigmaSqrt)),
    ("simple", |_| Box::new(Simple)),
    ("soft_min_snr", |config| Box::new(SoftMinSnr { sigma_data: config.sigma_data.unwrap_or(SIGMA_DATA) })),
];

/// The flow time with the signal-to-noise ratio of a point: t = sigma/(alpha + sigma).
fn flow_time(Point { alpha, sigma, .. }: Point) -> f64 {
    sigma / (alpha + sigma)
}
