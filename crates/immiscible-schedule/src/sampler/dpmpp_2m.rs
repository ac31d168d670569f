use burn::prelude::*;

use super::{Denoise, StepKernel, Steps, Transition, valid_order};
use crate::{NoiseSchedule, Point, ScheduleError};

/// DPM-Solver++(2M): exact in the linear part of the equation, with x0 extrapolated from the last two estimates, of second order
/// for one evaluation a step (Lu et al. 2022, arXiv 2211.01095, algorithm 2). The first step and a step to clean data are of first order,
/// which is DDIM; from pure noise on `sigmoid` the first one is so long that the whole is of order 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpmPp2m {
    order: usize,
    /// Whether the last step is of first order also if it ends at a noise level above 0.
    pub lower_order_final: bool,
}

impl DpmPp2m {
    /// `order` is 2, or 1 for DDIM.
    ///
    /// # Errors
    /// [`ScheduleError::Order`] for another order.
    pub fn new(order: usize) -> Result<Self, ScheduleError> {
        Ok(Self { order: valid_order("dpmpp_2m", order, 2)?, lower_order_final: false })
    }
}

impl StepKernel for DpmPp2m {
    fn name(&self) -> &'static str {
        "dpmpp_2m"
    }

    fn begin<'a>(
        &'a self,
        _: &'a dyn NoiseSchedule,
        path: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        let history = History::new(self.order, self.lower_order_final, path.len());
        Ok(Box::new(Run { history }))
    }
}

struct Run {
    history: History,
}

impl Steps for Run {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let x0 = self.history.extrapolate(denoise(x_t, from).x0, from, to);
        let kept = decay(from, to);
        Ok(Transition::exact(x_t.clone() * (to.sigma / from.sigma) + x0 * (to.alpha * (1.0 - kept))))
    }
}

/// exp(−h), where h is by how much lambda = ln(alpha/sigma) grows from one point to the other; 0 if it comes from pure noise or
/// goes to clean data.
pub(super) fn decay(from: Point, to: Point) -> f64 {
    (to.sigma * from.alpha) / (to.alpha * from.sigma)
}

/// The last estimate of x0, from which the next one is extrapolated.
pub(super) struct History {
    order: usize,
    lower_order_final: bool,
    steps_left: usize,
    last: Option<(Tensor<4>, f64)>,
}

impl History {
    pub(super) fn new(order: usize, lower_order_final: bool, steps: usize) -> Self {
        Self { order, lower_order_final, steps_left: steps, last: None }
    }

    /// x0 + (x0 − x0')/(2 r) with r = h'/h, for the estimate x0 at `from` and the one before it (algorithm 2, line 8).
    pub(super) fn extrapolate(&mut self, x0: Tensor<4>, from: Point, to: Point) -> Tensor<4> {
        let h = -decay(from, to).ln();
        self.steps_left = self.steps_left.saturating_sub(1);
        let first_order =
            self.order == 1 || to.sigma == 0.0 || self.lower_order_final && self.steps_left == 0;
        let last = self.last.replace((x0.clone(), h)).filter(|_| !first_order);
        let Some((before, h_before)) = last else {
            return x0;
        };
        x0.clone() + (x0 - before) * (0.5 * h / h_before)
    }
}
