use burn::prelude::*;

use super::{Estimate, Objective};
use crate::{Levels, Point};

/// The network predicts the data x0 (Salimans & Ho 2022, arXiv 2202.00512, §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct X0;

impl Objective for X0 {
    fn name(&self) -> &'static str {
        "x0"
    }

    fn target(&self, x0: &Tensor<4>, _noise: &Tensor<4>, _levels: &Levels) -> Tensor<4> {
        x0.clone()
    }

    fn read(&self, output: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Estimate {
        Estimate::from_x0(output, x_t, levels)
    }

    fn x0_error(&self, _point: Point) -> f64 {
        1.0
    }
}
