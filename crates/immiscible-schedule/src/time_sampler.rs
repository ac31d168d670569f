//! Which times a network is trained on.

use immiscible_random::Key;
use serde::{Deserialize, Serialize};

use crate::{NoiseSchedule, Point, ScheduleError, Time, Times, error::lookup};

mod cosmap;
mod log_normal;
mod logit_normal;
mod mode;
mod stratified;
mod uniform;

pub use cosmap::Cosmap;
pub use log_normal::LogNormal;
pub use logit_normal::LogitNormal;
pub use mode::Mode;
pub use stratified::Stratified;
pub use uniform::Uniform;

/// A distribution of training times. It chooses how often each noise level is seen; a [`Weighting`](crate::Weighting) chooses
/// how much it then counts.
pub trait TimeSampler: Send + Sync {
    /// Name in the config.
    fn name(&self) -> &'static str;

    /// Training times for `batch` samples; a function of `key`, `batch` and the sample's position.
    ///
    /// # Errors
    /// [`ScheduleError::TimeSampler`] if the distribution is not one of this schedule's times.
    fn sample(&self, schedule: &dyn NoiseSchedule, batch: usize, key: Key) -> Result<Times, ScheduleError>;
}

/// Which distribution of training times, and its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeSamplerConfig {
    /// A name in [`TIME_SAMPLERS`].
    pub name: String,
    /// Of `log_normal`: mean of ln(sigma/alpha), −1.2 if absent. Of `logit_normal`: mean of ln(t/(1 − t)), 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Of `log_normal`, 1.2 if absent, and of `logit_normal`, 1 if absent: the standard deviation of the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Of `mode`: how strongly middle times are preferred; 1.29 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
}

impl Default for TimeSamplerConfig {
    /// Uniform times.
    fn default() -> Self {
        Self::new("uniform")
    }
}

impl TimeSamplerConfig {
    /// The distribution of this name with default options.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), mean: None, std: None, scale: None }
    }

    /// Builds the sampler of times.
    ///
    /// # Errors
    /// If the name is unknown, or an option does not fit or is outside its range.
    pub fn build(&self) -> Result<Box<dyn TimeSampler>, ScheduleError> {
        let build = lookup("time sampler", TIME_SAMPLERS, &self.name)?;
        let normal = ["log_normal", "logit_normal"].contains(&&*self.name);
        let unused = [
            ("mean", self.mean.is_some() && !normal),
            ("std", self.std.is_some() && !normal),
            ("scale", self.scale.is_some() && self.name != "mode"),
        ];
        match unused.into_iter().find(|(_, unused)| *unused) {
            Some((option, _)) => {
                Err(ScheduleError::UnusedOption { kind: "time sampler", name: self.name.clone(), option })
            }
            None => build(self),
        }
    }

    /// Builds the sampler of times and draws one from it.
    ///
    /// # Errors
    /// Those of [`build`](Self::build), and [`ScheduleError::TimeSampler`] if it does not go with the schedule.
    pub fn build_for(&self, schedule: &dyn NoiseSchedule) -> Result<Box<dyn TimeSampler>, ScheduleError> {
        let sampler = self.build()?;
        sampler.sample(schedule, 1, Key::new(0))?;
        Ok(sampler)
    }

    fn normal(&self, mean: f64, std: f64) -> Result<Normal, ScheduleError> {
        let (mean, std) = (self.mean.unwrap_or(mean), self.std.unwrap_or(std));
        let refuse = |option, value, valid| ScheduleError::OutOfRange {
            kind: "time sampler",
            name: self.name.clone(),
            option,
            value,
            valid,
        };
        if !(-20.0..=20.0).contains(&mean) {
            return Err(refuse("mean", mean, "a number in [-20, 20]"));
        }
        if !(std > 0.0 && std <= 10.0) {
            return Err(refuse("std", std, "a number in (0, 10]"));
        }
        Ok(Normal { mean, std })
    }
}

/// Builds a sampler of times from its config.
pub type BuildTimeSampler = fn(&TimeSamplerConfig) -> Result<Box<dyn TimeSampler>, ScheduleError>;

/// Every distribution of training times by name.
pub const TIME_SAMPLERS: &[(&str, BuildTimeSampler)] = &[
    ("cosmap", |_| Ok(Box::new(Cosmap))),
    ("log_normal", |config| Ok(Box::new(LogNormal(config.normal(-1.2, 1.2)?)))),
    ("logit_normal", |config| Ok(Box::new(LogitNormal(config.normal(0.0, 1.0)?)))),
    ("mode", |config| Ok(Box::new(Mode::new(config.scale.unwrap_or(1.29))?))),
    ("stratified", |_| Ok(Box::new(Stratified))),
    ("uniform", |_| Ok(Box::new(Uniform))),
];

/// A normal distribution on the host. Both are bounded, so that its exponential is a finite noise level also in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normal {
    mean: f64,
    std: f64,
}

impl Normal {
    /// One number per sample; number i depends on `key` and i alone.
    fn sample(self, batch: usize, key: Key) -> impl Iterator<Item = f64> {
        let mut normals = vec![0.0; batch];
        key.fill_normals(0, 1, &mut normals);
        normals.into_iter().map(move |normal| self.mean + self.std * f64::from(normal))
    }
}

/// The points of flow times, shifted as the schedule says.
fn flow_points(
    name: &'static str,
    schedule: &dyn NoiseSchedule,
    times: impl Iterator<Item = f64>,
) -> Result<Times, ScheduleError> {
    let point = |t: f64| match schedule.quantile(t.clamp(f64::EPSILON, 1.0)) {
        point @ Point { time: Time::Continuous(_), .. } => Ok(point),
        _ => Err(ScheduleError::TimeSampler { time_sampler: name, schedule: schedule.name().into() }),
    };
    Ok(times.map(point).collect::<Result<Vec<_>, _>>()?.into())
}
