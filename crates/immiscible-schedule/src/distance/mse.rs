use burn::prelude::*;

use super::Distance;

/// The squared error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mse;

impl Distance for Mse {
    fn name(&self) -> &'static str {
        "mse"
    }

    fn of(&self, error: Tensor<4>) -> Tensor<4> {
        error.powi_scalar(2)
    }
}
