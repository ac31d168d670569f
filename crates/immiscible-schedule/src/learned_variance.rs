use std::f64::consts::{LN_2, SQRT_2};

use burn::prelude::*;

use crate::{NoiseSchedule, Point, ScheduleError, Time, Times};

/// The variance of a step back as a network learns it: between the smallest and the largest that can be right, on the scale of
/// logarithms (Nichol & Dhariwal 2021, arXiv 2102.09672, §3.1).
///
/// The network has twice the channels: those of its objective, then a number v for each, −1 for the small variance and 1 for
/// the large one.
#[derive(Debug, Clone)]
pub struct LearnedVariance {
    /// Timestep 0 first.
    steps: Vec<Step>,
}

/// The step from a timestep to the one before it.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// ln beta~ (DDPM eq. 7).
    log_small: f64,
    /// ln beta.
    log_large: f64,
    /// What x0 contributes to the mean.
    from_x0: f64,
}

impl Step {
    fn between(to: Point, from: Point) -> Self {
        let beta = 1.0 - (from.alpha / to.alpha).powi(2);
        let total = from.sigma.powi(2);
        Self {
            log_small: (beta * to.sigma.powi(2) / total).ln(),
            log_large: beta.ln(),
            from_x0: to.alpha * beta / total,
        }
    }
}

impl LearnedVariance {
    /// # Errors
    /// [`ScheduleError::LearnedVariance`] unless the schedule is discrete and has at least 2 timesteps.
    pub fn new(schedule: &dyn NoiseSchedule) -> Result<Self, ScheduleError> {
        let Time::Index(last @ 1..) = schedule.noisiest().time else {
            return Err(ScheduleError::LearnedVariance(schedule.name().into()));
        };
        let points = (0..=last).map(|i| schedule.at(Time::Index(i))).collect::<Result<Vec<_>, _>>()?;
        let mut steps = vec![Step::between(Point::CLEAN, points[0])];
        steps.extend(points.windows(2).map(|pair| Step::between(pair[0], pair[1])));
        // The last step back has no spread, and no logarithm of it; the one before lends its own.
        steps[0].log_small = steps[1].log_small;
        Ok(Self { steps })
    }

    /// T, the number of timesteps.
    pub fn timesteps(&self) -> usize {
        self.steps.len()
    }

    fn each<'a>(&'a self, times: &'a Times) -> impl Iterator<Item = (usize, Step)> + 'a {
        times.points().iter().map(|point| {
            let Time::Index(i) = point.time else { panic!("{} is no timestep", point.time) };
            (i as usize, self.steps[i as usize])
        })
    }

    /// ln Σ = (v + 1)/2 ln beta + (1 − v)/2 ln beta~ (eq. 15, with the paper's v from 0 to 1).
    ///
    /// # Shapes
    /// `v` and the result are `[B, C, H, W]`, `times` has B timesteps.
    ///
    /// # Panics
    /// If `times` are not timesteps of the schedule.
    pub fn log_variance(&self, v: Tensor<4>, times: &Times) -> Tensor<4> {
        let device = v.device();
        let upload =
            |value: fn(Step) -> f64| per_sample(self.each(times).map(|(_, step)| value(step)), &device);
        let middle = upload(|step| (step.log_large + step.log_small) / 2.0);
        v * upload(|step| (step.log_large - step.log_small) / 2.0) + middle
    }

    /// The terms L_t of the variational bound in bits, one for each element: how far the learned step back is from the one
    /// that knows x0, or at timestep 0 how badly it tells the 256 values of x0 (eq. 4–7; the decoder as in
    /// Ho et al. 2020, arXiv 2006.11239, eq. 13).
    ///
    /// The bound of a whole chain is T times the mean over uniform timesteps. The paper trains v alone with it: hand over an
    /// `estimate` that is detached.
    ///
    /// # Shapes
    /// `v`, `estimate` (of x0), `x0` and the result are `[B, C, H, W]`; `times` has B timesteps; `x0` is in [−1, 1].
    ///
    /// # Panics
    /// If `times` are not timesteps of the schedule.
    pub fn bits(&self, v: Tensor<4>, estimate: Tensor<4>, x0: &Tensor<4>, times: &Times) -> Tensor<4> {
        let device = v.device();
        let upload =
            |value: fn(Step) -> f64| per_sample(self.each(times).map(|(_, step)| value(step)), &device);
        let error = x0.clone() - estimate;
        let log_variance = self.log_variance(v, times);

        // KL divergence of N(mean~, beta~) from N(mean, Σ); the means differ by what x0 contributes.
        let excess = log_variance.clone() - upload(|step| step.log_small);
        let distance =
            (error.clone() * upload(|step| step.from_x0)).square() * log_variance.clone().neg().exp();
        let divergence = (excess.clone().neg().exp() + excess + distance - 1.0) / (2.0 * LN_2);
        let first: Vec<bool> = self.each(times).map(|(i, _)| i == 0).collect();
        if !first.contains(&true) {
            return divergence;
        }
        let decoder = discretised_bits(error, log_variance, x0);
        let first = Tensor::<1, Bool>::from_data(first.as_slice(), &device);
        let first = first.reshape([times.points().len(), 1, 1, 1]).expand(divergence.dims());
        divergence.mask_where(first, decoder)
    }
}

/// Half the distance between two of the 256 values of a pixel in [−1, 1].
const HALF_BIN: f64 = 1.0 / 255.0;
/// Smaller probabilities are lost to rounding.
const LEAST: f64 = 1e-12;

/// −log2 of the probability that a Gaussian around x0 − `error` gives to the bin of x0; the outermost bins have no far end.
fn discretised_bits(error: Tensor<4>, log_variance: Tensor<4>, x0: &Tensor<4>) -> Tensor<4> {
    let inverse = (log_variance * -0.5).exp();
    let below = |end: Tensor<4>| ((end * inverse.clone() / SQRT_2).erf() + 1.0) * 0.5;
    let upper = below(error.clone() + HALF_BIN);
    let not_lower = below((error - HALF_BIN).neg());
    let inside = upper.clone() + not_lower.clone() - 1.0;
    let probability = inside
        .mask_where(x0.clone().lower_elem(-0.999), upper)
        .mask_where(x0.clone().greater_elem(0.999), not_lower);
    probability.clamp_min(LEAST).log() / -LN_2
}

fn per_sample(values: impl Iterator<Item = f64>, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = values.map(|value| value as f32).collect();
    Tensor::<1>::from_floats(values.as_slice(), device).reshape([values.len(), 1, 1, 1])
}
