use burn::prelude::*;

use super::{Estimate, Objective};
use crate::{Levels, Point};

/// The network predicts u = eps − x0, the velocity dx_t/dt of the straight path (Liu et al. 2023,
/// arXiv 2209.03003, eq. 1, with time reversed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowVelocity;

impl Objective for FlowVelocity {
    fn name(&self) -> &'static str {
        "flow_velocity"
    }

    fn target(&self, x0: &Tensor<4>, noise: &Tensor<4>, _levels: &Levels) -> Tensor<4> {
        noise.clone() - x0.clone()
    }

    /// Solves u = eps − x0 and x_t = alpha x0 + sigma eps; alpha + sigma is 1 on the straight path.
    fn read(&self, output: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Estimate {
        let Levels { alpha, sigma } = levels;
        let sum = alpha.clone() + sigma.clone();
        let x0 = x_t.clone() - sigma.clone() * output.clone();
        let noise = x_t.clone() + alpha.clone() * output;
        Estimate { x0: x0 / sum.clone(), noise: noise / sum, variance: None }
    }

    /// t² on the straight path
    fn x0_error(&self, point: Point) -> f64 {
        (point.sigma / (point.alpha + point.sigma)).powi(2)
    }
}
