use std::f64::consts::FRAC_PI_2;

use immiscible_random::Key;

use super::{TimeSampler, flow_points};
use crate::{NoiseSchedule, ScheduleError, Times};

/// Flow times t = 1 − u − s (cos²(π u/2) − 1 + u) of a uniform u, before the shift: for s > 0 middle times more often, yet
/// both ends often enough (Esser et al. 2024, arXiv 2403.03206, eq. 20).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mode {
    scale: f64,
}

impl Mode {
    /// # Errors
    /// [`ScheduleError::OutOfRange`] unless `scale` is in [−1, 2/(π − 2)], where t falls with u.
    pub fn new(scale: f64) -> Result<Self, ScheduleError> {
        if !(-1.0..=1.0 / (FRAC_PI_2 - 1.0)).contains(&scale) {
            let (kind, name, option) = ("time sampler", "mode".into(), "scale");
            let valid = "a number in [-1, 1.7519]";
            return Err(ScheduleError::OutOfRange { kind, name, option, value: scale, valid });
        }
        Ok(Self { scale })
    }
}

impl TimeSampler for Mode {
    fn name(&self) -> &'static str {
        "mode"
    }

    fn sample(&self, schedule: &dyn NoiseSchedule, batch: usize, key: Key) -> Result<Times, ScheduleError> {
        let time = |u: f64| 1.0 - u - self.scale * ((FRAC_PI_2 * u).cos().powi(2) - 1.0 + u);
        flow_points(self.name(), schedule, (0..batch as u64).map(|row| time(key.uniform(row))))
    }
}
