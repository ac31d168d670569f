use burn::prelude::*;

use super::euler::displacement;
use super::{Denoise, StepKernel, Transition};
use crate::Point;

/// Heun's second-order method for dx = x0 dalpha + eps dsigma: an Euler step, then the mean of the
/// displacements at both of its ends (Karras et al. 2022, arXiv 2206.00364, algorithm 1). A step to clean
/// data is an Euler step, because eps cannot be read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heun;

impl StepKernel for Heun {
    fn name(&self) -> &'static str {
        "heun"
    }

    fn step(&self, x_t: &Tensor<4>, from: Point, to: Point, denoise: &mut Denoise<'_>) -> Transition {
        let first = displacement(denoise(x_t, from), from, to);
        let ahead = x_t.clone() + first.clone();
        if to.sigma == 0.0 {
            return Transition { mean: ahead, std: 0.0 };
        }
        let second = displacement(denoise(&ahead, to), from, to);
        Transition { mean: x_t.clone() + (first + second) * 0.5, std: 0.0 }
    }

    fn evaluations(&self, steps: usize) -> usize {
        (2 * steps).saturating_sub(1)
    }
}
