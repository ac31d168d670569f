use burn::prelude::*;

use super::{Denoise, Forward, StepKernel, Steps, Transition};
use crate::{NoiseSchedule, Point, ScheduleError};

/// Goes to x_s along the estimated eps, of which a share is replaced by fresh noise (Song et al. 2021,
/// arXiv 2010.02502, eq. 12 and 16).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ddim {
    eta: f64,
}

impl Ddim {
    /// `eta` = 0 is deterministic, `eta` = 1 renews as much noise as DDPM with the small variance.
    ///
    /// # Errors
    /// [`ScheduleError::Eta`] if `eta` is outside [0, 1].
    pub fn new(eta: f64) -> Result<Self, ScheduleError> {
        if !(0.0..=1.0).contains(&eta) {
            return Err(ScheduleError::Eta(eta));
        }
        Ok(Self { eta })
    }
}

impl StepKernel for Ddim {
    fn name(&self) -> &'static str {
        "ddim"
    }

    fn begin<'a>(
        &'a self,
        _: &'a dyn NoiseSchedule,
        _: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(*self))
    }
}

impl Steps for Ddim {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let estimate = denoise(x_t, from);
        let variance = self.eta.powi(2) * Forward::between(to, from).posterior_variance(to, from); // eq. 16
        let kept = (to.sigma.powi(2) - variance).max(0.0).sqrt();
        Ok(Transition::gaussian(estimate.x0 * to.alpha + estimate.noise * kept, variance.sqrt())) // eq. 12
    }
}
