use burn::prelude::*;

use super::{Ddim, Denoise, StepKernel, Steps, Transition};
use crate::{NoiseSchedule, Point, ScheduleError};

/// Euler's method to a noise level below the next one, and fresh noise back up to it (`sample_euler_ancestral` of
/// k-diffusion). Where Euler's method goes down to and how much noise it takes back is what makes it DDIM with the same eta, on
/// every schedule; the name is kept because of the grids and defaults that come with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EulerAncestral {
    step: Ddim,
}

impl EulerAncestral {
    /// `eta` = 1 renews as much noise as DDPM, `eta` = 0 is Euler's method.
    ///
    /// # Errors
    /// [`ScheduleError::Eta`] if `eta` is outside [0, 1].
    pub fn new(eta: f64) -> Result<Self, ScheduleError> {
        Ok(Self { step: Ddim::new(eta)? })
    }
}

impl StepKernel for EulerAncestral {
    fn name(&self) -> &'static str {
        "euler_ancestral"
    }

    fn begin<'a>(
        &'a self,
        _: &'a dyn NoiseSchedule,
        _: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(*self))
    }
}

impl Steps for EulerAncestral {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        self.step.step(x_t, from, to, denoise)
    }
}
