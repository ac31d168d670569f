use burn::prelude::*;

use super::{Coordinates, Denoise, StepKernel, Steps, Transition};
use crate::{Estimate, NoiseSchedule, Point, ScheduleError};

/// Heun's second-order method: an Euler step, then one with the mean of the estimates at both of its ends (Karras et al.
/// 2022, arXiv 2206.00364, algorithm 1). A step to clean data is an Euler step, because eps cannot be read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heun {
    /// The coordinates of the steps, the paper's being [`Coordinates::Scaled`]; [`Coordinates::of`] the schedule if absent.
    pub coordinates: Option<Coordinates>,
}

impl StepKernel for Heun {
    fn name(&self) -> &'static str {
        "heun"
    }

    fn begin<'a>(
        &'a self,
        schedule: &'a dyn NoiseSchedule,
        _: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(Run { coordinates: self.coordinates.unwrap_or_else(|| Coordinates::of(schedule)) }))
    }

    fn evaluations(&self, steps: usize) -> Option<usize> {
        Some((2 * steps).saturating_sub(1))
    }
}

struct Run {
    coordinates: Coordinates,
}

impl Steps for Run {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let first = denoise(x_t, from);
        let ahead = self.coordinates.advance(x_t, first.clone(), from, to);
        if to.sigma == 0.0 {
            return Ok(Transition::exact(ahead));
        }
        let second = denoise(&ahead, to);
        let mean = weighted(&[(0.5, &first), (0.5, &second)]);
        Ok(Transition::exact(self.coordinates.advance(x_t, mean, from, to)))
    }
}

/// The weighted sum of estimates.
pub(super) fn weighted(terms: &[(f64, &Estimate)]) -> Estimate {
    let sum = |part: fn(&Estimate) -> &Tensor<4>| {
        let terms = terms.iter().map(|(weight, estimate)| part(estimate).clone() * *weight);
        terms.reduce(|sum, term| sum + term).expect("at least one estimate")
    };
    Estimate { x0: sum(|estimate| &estimate.x0), noise: sum(|estimate| &estimate.noise), variance: None }
}
