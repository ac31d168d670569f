use burn::prelude::*;

use super::{Denoise, StepKernel, Steps, Transition};
use crate::{NoiseSchedule, Point, ScheduleError};

/// Multistep consistency sampling: jumps to the end of the trajectory, then puts fresh noise on what it finds there (Song et
/// al. 2023, arXiv 2303.01469, algorithm 1). One step is the consistency function alone.
///
/// It needs a consistency function, [`objective::Consistency`](crate::objective::Consistency): an ordinary denoiser answers
/// with the mean of all data behind x_t, which is no sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Consistency {
    sigma_min: f64,
}

impl Consistency {
    /// `sigma_min` is the noise level at which trajectories end, as of the schedule: 0.002 in the paper.
    ///
    /// # Errors
    /// [`ScheduleError::SigmaMin`] unless it is positive and finite.
    pub fn new(sigma_min: f64) -> Result<Self, ScheduleError> {
        if !(sigma_min > 0.0 && sigma_min.is_finite()) {
            return Err(ScheduleError::SigmaMin(sigma_min));
        }
        Ok(Self { sigma_min })
    }
}

impl StepKernel for Consistency {
    fn name(&self) -> &'static str {
        "consistency"
    }

    fn begin<'a>(
        &'a self,
        _schedule: &'a dyn NoiseSchedule,
        _path: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(*self))
    }

    /// Without the last noise level of one step more: there, at sigma_min, the function is the identity.
    fn grid(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Vec<Point>, ScheduleError> {
        match steps.checked_add(1).map(|more| schedule.grid(more)) {
            Some(Ok(mut points)) if steps > 0 => {
                points.remove(steps);
                Ok(points)
            }
            _ => schedule.grid(steps),
        }
    }

    fn jumps(&self) -> bool {
        true
    }
}

impl Steps for Consistency {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let variance = to.sigma.powi(2) - self.sigma_min.powi(2);
        Ok(Transition::gaussian(denoise(x_t, from).x0 * to.alpha, variance.max(0.0).sqrt()))
    }
}
