use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Denoise, Forward, StepKernel, Transition};
use crate::Point;

/// The variance of a [`Ddpm`] step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// Exact if x0 is known: the variance of x_s given x_t and x0.
    #[default]
    FixedSmall,
    /// Exact if x0 has unit variance: beta_t on a variance-preserving schedule.
    FixedLarge,
}

/// Ancestral sampling: x_s is drawn from its distribution given x_t and the estimated x0 (Ho et al. 2020,
/// arXiv 2006.11239, eq. 6-7 and §3.2), in the form for any two noise levels (Kingma et al. 2021,
/// arXiv 2107.00630, appendix A.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ddpm {
    /// Variance of a step.
    pub variance: Variance,
}

impl StepKernel for Ddpm {
    fn name(&self) -> &'static str {
        "ddpm"
    }

    fn step(&self, x_t: &Tensor<4>, from: Point, to: Point, denoise: &mut Denoise<'_>) -> Transition {
        let forward = Forward::between(to, from);
        let total = from.sigma.powi(2);
        // DDPM eq. 7
        let from_x_t = forward.ratio * to.sigma.powi(2) / total;
        let from_x0 = to.alpha * forward.variance / total;
        let mean = x_t.clone() * from_x_t + denoise(x_t, from).x0 * from_x0;
        let variance = match self.variance {
            _ if to.sigma == 0.0 => 0.0,
            Variance::FixedSmall => forward.posterior_variance(to, from),
            // A Gaussian x_s of variance alpha_s² + sigma_s², observed through the forward step to x_t.
            Variance::FixedLarge => {
                let power = |point: Point| point.alpha.powi(2) + point.sigma.powi(2);
                forward.variance * power(to) / power(from)
            }
        };
        Transition { mean, std: variance.sqrt() }
    }
}
