use burn::prelude::*;

use super::dpmpp_2m::{History, decay};
use super::{Denoise, StepKernel, Steps, Transition, valid_order};
use crate::{NoiseSchedule, Point, ScheduleError};

/// SDE-DPM-Solver++(2M): [`DpmPp2m`](super::DpmPp2m) for the stochastic equation, which renews the noise (Lu et al. 2022,
/// arXiv 2211.01095, eq. 18 and §5; as in k-diffusion and diffusers). Of first order it is DDPM with the small variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpmPp2mSde {
    order: usize,
    /// Whether the last step is of first order also if it ends at a noise level above 0.
    pub lower_order_final: bool,
}

impl DpmPp2mSde {
    /// `order` is 2, or 1 for DDPM.
    ///
    /// # Errors
    /// [`ScheduleError::Order`] for another order.
    pub fn new(order: usize) -> Result<Self, ScheduleError> {
        Ok(Self { order: valid_order("dpmpp_2m_sde", order, 2)?, lower_order_final: false })
    }
}

impl StepKernel for DpmPp2mSde {
    fn name(&self) -> &'static str {
        "dpmpp_2m_sde"
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
        let renewed = 1.0 - kept.powi(2);
        let mean = x_t.clone() * (to.sigma / from.sigma * kept) + x0 * (to.alpha * renewed);
        Ok(Transition::gaussian(mean, to.sigma * renewed.max(0.0).sqrt()))
    }
}
