use burn::prelude::*;

use super::{Estimate, Objective};
use crate::{Levels, Point};

/// The network predicts v = alpha eps − sigma x0 (Salimans & Ho 2022, arXiv 2202.00512, appendix D).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct V;

impl Objective for V {
    fn name(&self) -> &'static str {
        "v"
    }

    fn target(&self, x0: &Tensor<4>, noise: &Tensor<4>, levels: &Levels) -> Tensor<4> {
        levels.alpha.clone() * noise.clone() - levels.sigma.clone() * x0.clone()
    }

    /// (x_t, v) is (x0, eps) rotated and stretched by sqrt(alpha² + sigma²), which is 1 in the paper.
    fn read(&self, output: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Estimate {
        let Levels { alpha, sigma } = levels;
        let norm = alpha.clone().square() + sigma.clone().square();
        let x0 = alpha.clone() * x_t.clone() - sigma.clone() * output.clone();
        let noise = sigma.clone() * x_t.clone() + alpha.clone() * output;
        Estimate { x0: x0 / norm.clone(), noise: noise / norm, variance: None }
    }

    /// sigma²/(alpha² + sigma²)², which is 1/(SNR + 1) where alpha² + sigma² = 1
    fn x0_error(&self, point: Point) -> f64 {
        let Point { alpha, sigma, .. } = point;
        (sigma / (alpha * alpha + sigma * sigma)).powi(2)
    }
}
