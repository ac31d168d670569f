use immiscible_random::Key;

use super::TimeSampler;
use crate::{NoiseSchedule, ScheduleError, Times};

/// Uniform times, one from each of B equal parts of their range: sample i of a batch of B takes part i, so that every batch
/// sees all noise levels and the loss varies less (Kingma et al. 2021, arXiv 2107.00630, appendix I.1, where all samples
/// share one offset in their parts; here, as in k-diffusion's `stratified_uniform`, each has its own).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stratified;

impl TimeSampler for Stratified {
    fn name(&self) -> &'static str {
        "stratified"
    }

    fn sample(&self, schedule: &dyn NoiseSchedule, batch: usize, key: Key) -> Result<Times, ScheduleError> {
        let share = |row: u64| (row as f64 + 1.0 - key.uniform(row)) / batch as f64;
        Ok((0..batch as u64).map(|row| schedule.quantile(share(row))).collect::<Vec<_>>().into())
    }
}
