use burn::prelude::*;

use super::{Estimate, Objective};
use crate::{Levels, Point};

/// The network predicts the noise eps (Ho et al. 2020, arXiv 2006.11239, eq. 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epsilon;

impl Objective for Epsilon {
    fn name(&self) -> &'static str {
        "epsilon"
    }

    fn target(&self, _x0: &Tensor<4>, noise: &Tensor<4>, _levels: &Levels) -> Tensor<4> {
        noise.clone()
    }

    fn read(&self, output: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Estimate {
        Estimate::from_noise(output, x_t, levels)
    }

    /// x0 = (x_t − sigma eps)/alpha
    fn x0_error(&self, point: Point) -> f64 {
        (point.sigma / point.alpha).powi(2)
    }

    fn reads_pure_noise(&self) -> bool {
        false
    }
}
