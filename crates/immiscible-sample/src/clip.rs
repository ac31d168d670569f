//! Estimates of x0 kept in the range of the data.

use burn::prelude::*;
use immiscible_schedule::{Estimate, Levels};

/// How estimates of x0 are kept in range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clip {
    pub(crate) range: Range,
    /// Whether the noise is what the new x0 leaves of x_t, and not what was predicted.
    pub(crate) noise_follows: bool,
}

/// Which range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Range {
    /// [−range, range].
    Fixed(f64),
    /// [−range, range], into which x0 is squeezed by the `ratio`-quantile of its absolute values in each image, if that is above
    /// `range` and up to `most` (dynamic thresholding, Saharia et al. 2022, arXiv 2205.11487, §2.3).
    Dynamic { range: f64, ratio: f64, most: f64 },
}

impl Clip {
    pub(crate) fn apply(self, estimate: Estimate, x_t: &Tensor<4>, levels: &Levels) -> Estimate {
        let x0 = match self.range {
            Range::Fixed(range) => estimate.x0.clamp(-range, range),
            Range::Dynamic { range, ratio, most } => squeeze(estimate.x0, range, ratio, most),
        };
        let variance = estimate.variance;
        if self.noise_follows {
            return Estimate { variance, ..Estimate::from_x0(x0, x_t, levels) };
        }
        Estimate { x0, noise: estimate.noise, variance }
    }
}

fn squeeze(x0: Tensor<4>, range: f64, ratio: f64, most: f64) -> Tensor<4> {
    let batch = x0.dims()[0];
    let sorted = x0.clone().abs().flatten::<2>(1, 3).sort(1);
    // The quantile lies between two of the sorted values.
    let position = ratio * (sorted.dims()[1] - 1) as f64;
    let at = |index: f64| sorted.clone().narrow(1, index as usize, 1);
    let (below, above) = (at(position.floor()), at(position.ceil()));
    let quantile = below.clone() + (above - below) * position.fract();
    let limit = quantile.clamp_min(range).clamp_max(most).reshape([batch, 1, 1, 1]);
    let dims = x0.dims();
    let limit = limit.expand(dims);
    x0.min_pair(limit.clone()).max_pair(limit.clone() * -1.0) / limit * range
}
