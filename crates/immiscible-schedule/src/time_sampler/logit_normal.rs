use immiscible_random::Key;

use super::{Normal, TimeSampler, flow_points};
use crate::{NoiseSchedule, ScheduleError, Times};

/// Flow times with a normal ln(t/(1 − t)), before the shift: middle times more often than both ends
/// (Esser et al. 2024, arXiv 2403.03206, eq. 19, with m and s as mean and standard deviation).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitNormal(pub(super) Normal);

impl TimeSampler for LogitNormal {
    fn name(&self) -> &'static str {
        "logit_normal"
    }

    fn sample(&self, schedule: &dyn NoiseSchedule, batch: usize, key: Key) -> Result<Times, ScheduleError> {
        let times = self.0.sample(batch, key).map(|logit| 1.0 / (1.0 + (-logit).exp()));
        flow_points(self.name(), schedule, times)
    }
}
