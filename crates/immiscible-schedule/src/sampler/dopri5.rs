use burn::prelude::*;

use super::euler::displacement;
use super::heun::weighted;
use super::{Denoise, StepKernel, Steps, Transition, between, needs_continuous_time};
use crate::{Estimate, NoiseSchedule, Point, ScheduleError};

/// The Runge-Kutta pair of Dormand and Prince (1980, J. Comp. Appl. Math. 6, table 2), of order 5 with an error estimate of order 4,
/// which chooses the size of its steps (Hairer, Nørsett & Wanner 1993, §II.4). It goes through the points of the grid on the way,
/// so one step is what to ask for. For schedules with a continuous time, in which alpha and sigma are linear.
///
/// The size of the steps is the same for the whole batch: images depend on the batch that they are made in, within the tolerance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dopri5 {
    tolerance: f64,
}

/// Where steps to clean data stop, and what is left is one Euler step: eps need not be readable there, and networks are not
/// trained there (sigma_min of Karras et al. 2022, arXiv 2206.00364, table 1).
const LEAST_SIGMA: f64 = 0.002;
/// Far more steps than any smooth equation needs.
const MOST_STEPS: usize = 10_000;

impl Dopri5 {
    /// `tolerance` is the error that a step may have, relative and absolute.
    ///
    /// # Errors
    /// [`ScheduleError::Tolerance`] unless it is between 1e-7, where f32 ends, and 1.
    pub fn new(tolerance: f64) -> Result<Self, ScheduleError> {
        if !(1e-7..1.0).contains(&tolerance) {
            return Err(ScheduleError::Tolerance(tolerance));
        }
        Ok(Self { tolerance })
    }
}

impl StepKernel for Dopri5 {
    fn name(&self) -> &'static str {
        "dopri5"
    }

    fn begin<'a>(
        &'a self,
        schedule: &'a dyn NoiseSchedule,
        path: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        needs_continuous_time(self.name(), schedule, path)?;
        Ok(Box::new(Run { schedule, tolerance: self.tolerance, size: None, last: None }))
    }

    fn evaluations(&self, _: usize) -> Option<usize> {
        None
    }
}

struct Run<'a> {
    schedule: &'a dyn NoiseSchedule,
    tolerance: f64,
    /// By how much sigma falls in the next step.
    size: Option<f64>,
    /// The estimate at the end of the last step, where the next one starts.
    last: Option<(Point, Estimate)>,
}

/// Where the estimates 2 to 7 are taken, as shares of the step.
const NODES: [f64; 6] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
/// How the estimates before them are weighted on the way there; the last row is the result of order 5.
const WEIGHTS: [&[f64]; 6] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// Order 5 less order 4.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0];

impl Steps for Run<'_> {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let end = if to.sigma == 0.0 && from.sigma > LEAST_SIGMA {
            self.between(from, to, 1.0 - LEAST_SIGMA / from.sigma)?
        } else if to.sigma == 0.0 {
            from
        } else {
            to
        };
        let (mut x, mut at) = (x_t.clone(), from);
        let mut first = match self.last.take() {
            Some((point, estimate)) if point == from => estimate,
            _ => denoise(x_t, from),
        };
        for _ in 0..MOST_STEPS {
            let left = at.sigma - end.sigma;
            if left <= 0.0 {
                break;
            }
            let size = self.size.unwrap_or_else(|| self.first_size(&x, &first, at, end));
            // What rounding would leave over is no step.
            let reaches = size >= left * (1.0 - 1e-6);
            let next = if reaches { end } else { self.between(at, end, size / left)? };
            let (ahead, last, error) = self.try_step(&x, &first, at, next, denoise)?;
            // Hairer et al., eq. II.4.13. A step that was cut short says nothing against a longer one.
            let grown = size.min(left) * (0.9 * error.max(1e-10).powf(-0.2)).clamp(0.2, 10.0);
            if error <= 1.0 {
                (x, first, at) = (ahead, last, next);
                self.size = Some(if reaches { grown.max(size) } else { grown });
            } else if error.is_finite() && grown > 1e-6 * at.sigma {
                self.size = Some(grown);
            } else {
                break;
            }
        }
        if at != end {
            return Err(ScheduleError::StepSize { sampler: "dopri5", sigma: at.sigma });
        }
        if end != to {
            return Ok(Transition::exact(x + displacement(first, end, to)));
        }
        self.last = Some((to, first));
        Ok(Transition::exact(x))
    }
}

impl Run<'_> {
    fn between(&self, from: Point, to: Point, u: f64) -> Result<Point, ScheduleError> {
        between("dopri5", self.schedule, from, to, u)
    }

    /// x at `to`, the estimate there, and the error in units of the tolerance.
    fn try_step(
        &self,
        x: &Tensor<4>,
        first: &Estimate,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<(Tensor<4>, Estimate, f64), ScheduleError> {
        let mut estimates = vec![first.clone()];
        let mut ahead = x.clone();
        for (node, weights) in NODES.into_iter().zip(WEIGHTS) {
            let terms: Vec<_> = weights.iter().copied().zip(&estimates).collect();
            // The derivative is linear in the estimate, and its weights sum to the node.
            ahead = x.clone() + displacement(weighted(&terms), from, to);
            let point = if node == 1.0 { to } else { self.between(from, to, node)? };
            estimates.push(denoise(&ahead, point));
        }
        let terms: Vec<_> = ERROR.into_iter().zip(&estimates).collect();
        let error = displacement(weighted(&terms), from, to);
        let scale = x.clone().abs().max_pair(ahead.clone().abs()) * self.tolerance + self.tolerance;
        let error: f32 = (error / scale).square().mean().sqrt().into_scalar();
        Ok((ahead, estimates.swap_remove(6), f64::from(error)))
    }

    /// A hundredth of the way on which x changes by its own size (Hairer et al., §II.4, algorithm a).
    fn first_size(&self, x: &Tensor<4>, first: &Estimate, from: Point, end: Point) -> f64 {
        let left = from.sigma - end.sigma;
        let norm =
            |tensor: Tensor<4>| -> f64 { f64::from(tensor.square().mean().sqrt().into_scalar::<f32>()) };
        let way = norm(displacement(first.clone(), from, end));
        let share = 0.01 * norm(x.clone()) / way;
        if share.is_finite() { left * share.clamp(1e-4, 1.0) } else { left * 0.01 }
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use burn::tensor::{DType, TensorData};

    use super::*;
    use crate::Time;
    use crate::schedule::{flow::Flow, ve::Ve};

    /// What is known about x_t, and where the trajectory that is tested goes.
    type Problem<'a> = (&'a dyn Fn(&Tensor<4>, Point) -> Estimate, &'a dyn Fn(Point) -> f64);

    /// The error after `steps` steps of the same size, and the largest estimate of it.
    fn errors(
        schedule: &dyn NoiseSchedule,
        [from, to]: [Point; 2],
        (denoise, exact): Problem<'_>,
        steps: usize,
    ) -> [f64; 2] {
        let run = Run { schedule, tolerance: 1.0, size: None, last: None };
        let start = TensorData::new(vec![exact(from)], [1, 1, 1, 1]);
        let mut x = Tensor::from_data(start, (&Device::flex(), DType::F64));
        let (mut at, mut estimate, mut largest) = (from, denoise(&x, from), 0.0_f64);
        for i in 1..=steps {
            let next = run.between(from, to, i as f64 / steps as f64).unwrap();
            let (ahead, last, error) =
                run.try_step(&x, &estimate, at, next, &mut |x, point| denoise(x, point)).unwrap();
            (x, estimate, at, largest) = (ahead, last, next, largest.max(error));
        }
        [(x.into_scalar::<f64>() - exact(to)).abs(), largest]
    }

    /// Of order 5, as the estimate for a single step is with its order 4. Gaussian data are kind to the method itself.
    #[test]
    fn halving_the_step_reduces_error_and_estimate_to_a_32nd() {
        // dx/dt = sin(2 pi t) − 0.4 x on the straight path.
        let wave = |x_t: &Tensor<4>, Point { sigma: t, .. }| Estimate {
            x0: x_t.zeros_like(),
            noise: x_t.clone() * -0.4 + (TAU * t).sin(),
            variance: None,
        };
        let wave_exact = |Point { sigma: t, .. }| {
            (-0.4 * t).exp() + (0.4 * (TAU * t).sin() - TAU * (TAU * t).cos()) / TAU.hypot(0.4).powi(2)
        };
        // Data N(0.3, 0.5²) and the trajectory that stays a standard deviation above the mean.
        let std = |point: Point| (0.5 * point.alpha).hypot(point.sigma);
        let gaussian = |x_t: &Tensor<4>, point: Point| {
            let scaled = (x_t.clone() - 0.3 * point.alpha) / std(point).powi(2);
            Estimate {
                x0: scaled.clone() * (0.25 * point.alpha) + 0.3,
                noise: scaled * point.sigma,
                variance: None,
            }
        };
        let gaussian_exact = |point: Point| 0.3 * point.alpha + std(point);

        let (flow, ve) = (Flow::default(), Ve::new(0.002, 80.0, 7.0).unwrap());
        let times = [0.95, 0.2].map(|t| flow.at(Time::Continuous(t)).unwrap());
        let levels = [3.0, 0.3].map(|sigma| ve.at(Time::Sigma(sigma)).unwrap());
        let known: Problem<'_> = (&gaussian, &gaussian_exact);
        let cases: [(&dyn NoiseSchedule, _, Problem<'_>, usize, f64); 3] = [
            (&flow, times, (&wave, &wave_exact), 16, 1.15 * 32.0),
            (&flow, times, known, 16, f64::INFINITY),
            (&ve, levels, known, 32, f64::INFINITY),
        ];
        for (schedule, ends, problem, steps, most) in cases {
            let [coarse, fine] = [steps, 2 * steps].map(|steps| errors(schedule, ends, problem, steps));
            let [error, estimate] = [0, 1].map(|i| coarse[i] / fine[i]);
            let name = schedule.name();
            assert!((0.85 * 32.0..=most).contains(&error), "{name}: {error}");
            assert!((0.85 * 32.0..=1.15 * 32.0).contains(&estimate), "{name}: estimate {estimate}");
        }
    }
}
