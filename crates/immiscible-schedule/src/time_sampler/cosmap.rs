use std::f64::consts::FRAC_PI_2;

use immiscible_random::Key;

use super::{TimeSampler, flow_points};
use crate::{NoiseSchedule, ScheduleError, Times};

/// Flow times t = 1 − 1/(tan(π u/2) + 1) of a uniform u, before the shift: the noise levels of the cosine schedule
/// (Esser et al. 2024, arXiv 2403.03206, eq. 21).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosmap;

impl TimeSampler for Cosmap {
    fn name(&self) -> &'static str {
        "cosmap"
    }

    fn sample(&self, schedule: &dyn NoiseSchedule, batch: usize, key: Key) -> Result<Times, ScheduleError> {
        let time = |u: f64| 1.0 - 1.0 / ((FRAC_PI_2 * u).tan() + 1.0);
        flow_points(self.name(), schedule, (0..batch as u64).map(|row| time(key.uniform(row))))
    }
}
