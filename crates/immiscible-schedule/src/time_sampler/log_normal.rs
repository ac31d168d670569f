use immiscible_random::Key;

use super::{Normal, TimeSampler};
use crate::{NoiseSchedule, ScheduleError, Times};

/// ln(sigma/alpha) is normal (Karras et al. 2022, arXiv 2206.00364, table 1: P_mean and P_std).
///
/// Where the data shrink, sigma/alpha takes the place of the paper's sigma; it is sqrt((1 − alpha²)/alpha²) on a discrete
/// schedule, which takes its nearest timestep. On the flow it is the [`LogitNormal`](super::LogitNormal) of the same numbers,
/// and the schedule's shift has no part in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogNormal(pub(super) Normal);

impl TimeSampler for LogNormal {
    fn name(&self) -> &'static str {
        "log_normal"
    }

    fn sample(&self, schedule: &dyn NoiseSchedule, batch: usize, key: Key) -> Result<Times, ScheduleError> {
        let points = self.0.sample(batch, key).map(|ln| schedule.nearest(ln.exp()));
        Ok(points.collect::<Vec<_>>().into())
    }
}
