use burn::prelude::*;

use super::heun::weighted;
use super::{Coordinates, Denoise, StepKernel, Steps, Transition, between};
use crate::{Estimate, NoiseSchedule, Point, ScheduleError, Time};

/// Pseudo linear multistep: an Adams-Bashforth combination of the last four estimates takes the place of the one in DDIM's step
/// (Liu et al. 2022, arXiv 2202.09778, eq. 9 and 12, algorithm 2). For even grids.
///
/// Of second order: steps that are even in time are not in sigma/alpha, and the combination is for those. On the straight path, where they
/// are, [`Coordinates::Path`] make it the plain Adams-Bashforth method, of fourth order after Runge-Kutta steps and of third
/// without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pndm {
    /// Start with combinations of fewer estimates, after one step that is corrected (PLMS, as in Stable Diffusion), in place of
    /// three Runge-Kutta steps of four evaluations each (F-PNDM, the paper's).
    pub skip_prk_steps: bool,
    /// The coordinates of the steps, the paper's being [`Coordinates::Scaled`]; [`Coordinates::of`] the schedule if absent.
    pub coordinates: Option<Coordinates>,
}

/// Runge-Kutta steps at the start.
const PRK_STEPS: usize = 3;

impl StepKernel for Pndm {
    fn name(&self) -> &'static str {
        "pndm"
    }

    fn begin<'a>(
        &'a self,
        schedule: &'a dyn NoiseSchedule,
        path: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        if !self.skip_prk_steps && path.len() <= PRK_STEPS {
            let (steps, least) = (path.len(), PRK_STEPS + 1);
            return Err(ScheduleError::TooFewSteps { sampler: self.name(), steps, least });
        }
        let runge_kutta = if self.skip_prk_steps { 0 } else { PRK_STEPS };
        let coordinates = self.coordinates.unwrap_or_else(|| Coordinates::of(schedule));
        Ok(Box::new(Run { schedule, coordinates, runge_kutta, last: Vec::new() }))
    }

    fn evaluations(&self, steps: usize) -> Option<usize> {
        Some(match (self.skip_prk_steps, steps) {
            // A single step ends at clean data and is not corrected.
            (true, 0 | 1) => steps,
            (true, _) => steps + 1,
            (false, _) => steps + 3 * PRK_STEPS,
        })
    }
}

struct Run<'a> {
    schedule: &'a dyn NoiseSchedule,
    coordinates: Coordinates,
    /// Runge-Kutta steps that are still to take.
    runge_kutta: usize,
    /// Estimates at the starts of the last steps, the newest one last.
    last: Vec<Estimate>,
}

impl Steps for Run<'_> {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let first = denoise(x_t, from);
        let corrects = self.last.is_empty();
        if self.last.len() == 4 {
            self.last.remove(0);
        }
        self.last.push(first.clone());
        let coordinates = self.coordinates;
        let advance = |estimate, to| coordinates.advance(x_t, estimate, from, to);

        let estimate = if self.runge_kutta > 0 {
            self.runge_kutta -= 1;
            let middle = middle(self.schedule, from, to)?;
            let second = denoise(&advance(first.clone(), middle), middle);
            let third = denoise(&advance(second.clone(), middle), middle);
            let fourth = denoise(&advance(third.clone(), to), to);
            weighted(&[(1.0 / 6.0, &first), (1.0 / 3.0, &second), (1.0 / 3.0, &third), (1.0 / 6.0, &fourth)])
        } else {
            match &self.last[..] {
                _ if corrects && to.sigma == 0.0 => first,
                _ if corrects => {
                    let second = denoise(&advance(first.clone(), to), to);
                    weighted(&[(0.5, &first), (0.5, &second)])
                }
                [e1, e0] => weighted(&[(3.0 / 2.0, e0), (-1.0 / 2.0, e1)]),
                [e2, e1, e0] => weighted(&[(23.0 / 12.0, e0), (-16.0 / 12.0, e1), (5.0 / 12.0, e2)]),
                [e3, e2, e1, e0] => {
                    weighted(&[(55.0 / 24.0, e0), (-59.0 / 24.0, e1), (37.0 / 24.0, e2), (-9.0 / 24.0, e3)])
                }
                _ => first,
            }
        };
        Ok(Transition::exact(advance(estimate, to)))
    }
}

/// Half a step from a point; on a discrete schedule rounded to the noisier timestep.
fn middle(schedule: &dyn NoiseSchedule, from: Point, to: Point) -> Result<Point, ScheduleError> {
    match (from.time, to.time) {
        (Time::Index(t), Time::Index(s)) => schedule.at(Time::Index(t - (t - s) / 2)),
        _ => between("pndm", schedule, from, to, 0.5),
    }
}
