use burn::prelude::*;

use super::euler::displacement;
use super::{Denoise, StepKernel, Steps, Transition, between, needs_continuous_time};
use crate::{NoiseSchedule, Point, ScheduleError};

/// The midpoint method, of second order: the whole step with the estimate halfway. For schedules with a continuous time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Midpoint;

struct Run<'a> {
    schedule: &'a dyn NoiseSchedule,
}

impl StepKernel for Midpoint {
    fn name(&self) -> &'static str {
        "midpoint"
    }

    fn begin<'a>(
        &'a self,
        schedule: &'a dyn NoiseSchedule,
        path: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        needs_continuous_time(self.name(), schedule, path)?;
        Ok(Box::new(Run { schedule }))
    }

    fn evaluations(&self, steps: usize) -> Option<usize> {
        Some(2 * steps)
    }
}

impl Steps for Run<'_> {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let middle = between(Midpoint.name(), self.schedule, from, to, 0.5)?;
        let halfway = x_t.clone() + displacement(denoise(x_t, from), from, middle);
        Ok(Transition::exact(x_t.clone() + displacement(denoise(&halfway, middle), from, to)))
    }
}
