use burn::prelude::*;

use super::{Denoise, StepKernel, Steps, Transition};
use crate::{Estimate, NoiseSchedule, Point, ScheduleError};

/// Euler's method for dx = x0 dalpha + eps dsigma. On the flow schedule that is x_s = x_t + (s − t) u
/// (Liu et al. 2023, arXiv 2209.03003, §2.1); on any schedule it is DDIM with eta = 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Euler;

impl StepKernel for Euler {
    fn name(&self) -> &'static str {
        "euler"
    }

    fn begin<'a>(
        &'a self,
        _: &'a dyn NoiseSchedule,
        _: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(*self))
    }
}

impl Steps for Euler {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        Ok(Transition::exact(x_t.clone() + displacement(denoise(x_t, from), from, to)))
    }
}

/// x0 (alpha_s − alpha_t) + eps (sigma_s − sigma_t).
pub(super) fn displacement(estimate: Estimate, from: Point, to: Point) -> Tensor<4> {
    estimate.x0 * (to.alpha - from.alpha) + estimate.noise * (to.sigma - from.sigma)
}
