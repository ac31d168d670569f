use immiscible_random::Key;

use super::TimeSampler;
use crate::{NoiseSchedule, ScheduleError, Times};

/// The schedule's own uniform times: timesteps, flow times, or levels evenly spaced in sigma^(1/rho)
/// (Ho et al. 2020, arXiv 2006.11239, algorithm 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uniform;

impl TimeSampler for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn sample(&self, schedule: &dyn NoiseSchedule, batch: usize, key: Key) -> Result<Times, ScheduleError> {
        Ok(schedule.sample_t(batch, key))
    }
}
