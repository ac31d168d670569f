use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Denoise, Forward, Spread, StepKernel, Steps, Transition};
use crate::{NoiseSchedule, Point, ScheduleError, Time};

/// The variance of a [`Ddpm`] step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// Exact if x0 is known: the variance of x_s given x_t and x0.
    #[default]
    FixedSmall,
    /// Exact if x0 has unit variance: beta_t on a variance-preserving schedule.
    FixedLarge,
    /// What the network predicts in its second half of channels.
    Learned,
    /// Between the small and the large one, where the network's second half of channels says: −1 is the small one and 1 the
    /// large one, evenly in the logarithm (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15).
    LearnedRange,
}

/// Ancestral sampling: x_s is drawn from its distribution given x_t and the estimated x0 (Ho et al. 2020,
/// arXiv 2006.11239, eq. 6-7 and §3.2), in the form for any two noise levels (Kingma et al. 2021,
/// arXiv 2107.00630, appendix A.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ddpm {
    /// Variance of a step.
    pub variance: Variance,
    /// Whether a step to clean data adds noise, as in diffusers, unless it starts at timestep 0.
    pub noise_at_the_end: bool,
}

/// In place of the small variance where that is 0 and its logarithm is needed, as in diffusers.
const LEAST_VARIANCE: f64 = 1e-20;

impl StepKernel for Ddpm {
    fn name(&self) -> &'static str {
        "ddpm"
    }

    fn begin<'a>(
        &'a self,
        _: &'a dyn NoiseSchedule,
        _: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(*self))
    }

    fn needs_variance(&self) -> bool {
        matches!(self.variance, Variance::Learned | Variance::LearnedRange)
    }
}

impl Steps for Ddpm {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let estimate = denoise(x_t, from);
        let forward = Forward::between(to, from);
        let total = from.sigma.powi(2);
        // DDPM eq. 7
        let from_x_t = forward.ratio * to.sigma.powi(2) / total;
        let from_x0 = to.alpha * forward.variance / total;
        let mean = x_t.clone() * from_x_t + estimate.x0 * from_x0;
        if to.sigma == 0.0 && !(self.noise_at_the_end && from.time != Time::Index(0)) {
            return Ok(Transition::exact(mean));
        }
        let small = forward.posterior_variance(to, from);
        // A Gaussian x_s of variance alpha_s² + sigma_s², observed through the forward step to x_t.
        let power = |point: Point| point.alpha.powi(2) + point.sigma.powi(2);
        let large = forward.variance * power(to) / power(from);
        let predicted = || estimate.variance.clone().ok_or(ScheduleError::NoVariance { sampler: "ddpm" });
        let std = match self.variance {
            Variance::FixedSmall => return Ok(Transition::gaussian(mean, small.sqrt())),
            Variance::FixedLarge => return Ok(Transition::gaussian(mean, large.sqrt())),
            Variance::Learned => predicted()?.sqrt(),
            Variance::LearnedRange => {
                let [small, large] = [small, large].map(|variance| variance.max(LEAST_VARIANCE).ln());
                let share = (predicted()? + 1.0) * 0.5;
                ((share * (large - small) + small) * 0.5).exp() // eq. 15
            }
        };
        Ok(Transition { mean, std: Spread::Each(std), arrived: true })
    }
}
