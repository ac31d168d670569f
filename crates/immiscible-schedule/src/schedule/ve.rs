//! Noise on data that keep their size.

use immiscible_random::Key;

use super::{NoiseSchedule, ScheduleConfig};
use crate::{ForwardCondition, Point, ScheduleError, Time, Times};
use burn::prelude::*;

/// x_t = x0 + sigma eps for sigma above 0 (Song et al. 2021, arXiv 2011.13456, §3.4), with the noise levels of Karras et al.
/// 2022, arXiv 2206.00364: sigma falls evenly in sigma^(1/rho).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ve {
    sigma_min: f64,
    sigma_max: f64,
    rho: f64,
}

/// Far more steps than any solver needs; beyond it is a slip of the keyboard.
const MAX_STEPS: usize = 100_000;

impl Ve {
    /// `sigma_min` = 0.002, `sigma_max` = 80 and `rho` = 7 are those of Karras et al., for data of standard deviation 0.5.
    ///
    /// # Errors
    /// [`ScheduleError::Sigmas`] unless 0 < `sigma_min` < `sigma_max` and 0 < `rho`, all finite.
    pub fn new(sigma_min: f64, sigma_max: f64, rho: f64) -> Result<Self, ScheduleError> {
        let valid =
            0.0 < sigma_min && sigma_min < sigma_max && sigma_max.is_finite() && 0.0 < rho && rho.is_finite();
        if !valid {
            return Err(ScheduleError::Sigmas { sigma_min, sigma_max, rho });
        }
        Ok(Self { sigma_min, sigma_max, rho })
    }

    pub(super) fn build(config: &ScheduleConfig) -> Result<Box<dyn NoiseSchedule>, ScheduleError> {
        let [sigma_min, sigma_max, rho] =
            [(config.sigma_min, 0.002), (config.sigma_max, 80.0), (config.rho, 7.0)]
                .map(|(option, default)| option.unwrap_or(default));
        Ok(Box::new(Self::new(sigma_min, sigma_max, rho)?))
    }

    fn point(sigma: f64) -> Point {
        Point { time: Time::Sigma(sigma), alpha: 1.0, sigma }
    }

    /// The noise level a share `u` of the way from the smallest to the largest (eq. 5).
    fn level(&self, u: f64) -> Point {
        let [min, max] = [self.sigma_min, self.sigma_max].map(|sigma| sigma.powf(1.0 / self.rho));
        Self::point((min + u * (max - min)).powf(self.rho))
    }
}

impl NoiseSchedule for Ve {
    fn name(&self) -> &str {
        "ve"
    }

    fn at(&self, time: Time) -> Result<Point, ScheduleError> {
        match time {
            Time::Clean => Ok(Point::CLEAN),
            Time::Sigma(sigma) if sigma > 0.0 && sigma.is_finite() => Ok(Self::point(sigma)),
            _ => Err(ScheduleError::Time {
                name: self.name().into(),
                time,
                valid: "the noise levels above 0".into(),
            }),
        }
    }

    /// The noise level `ratio` itself; alpha is 1.
    fn nearest(&self, ratio: f64) -> Point {
        Self::point(ratio)
    }

    fn noisiest(&self) -> Point {
        Self::point(self.sigma_max)
    }

    fn quantile(&self, u: f64) -> Point {
        self.level(u)
    }

    /// Uniform in sigma^(1/rho).
    fn sample_t(&self, batch: usize, key: Key) -> Times {
        (0..batch as u64).map(|row| self.level(1.0 - key.uniform(row))).collect::<Vec<_>>().into()
    }

    /// From `sigma_max` to `sigma_min` (eq. 5), then clean.
    fn grid(&self, steps: usize) -> Result<Vec<Point>, ScheduleError> {
        if !(1..=MAX_STEPS).contains(&steps) {
            let valid = format!("1 to {MAX_STEPS} steps");
            return Err(ScheduleError::Steps { name: self.name().into(), steps, valid });
        }
        let last = (steps - 1).max(1) as f64;
        let points = (1..steps).map(|i| self.level(1.0 - i as f64 / last));
        Ok([self.noisiest()].into_iter().chain(points).chain([Point::CLEAN]).collect())
    }

    /// sigma_max eps, as Karras et al.: the data are left out, which are small beside it.
    fn prior(&self, noise: Tensor<4>, _condition: &ForwardCondition) -> Tensor<4> {
        noise * self.sigma_max
    }
}
