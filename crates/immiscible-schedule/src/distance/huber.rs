use burn::prelude::*;

use super::Distance;

/// d²/2 up to |d| = delta, then delta (|d| − delta/2), element by element (Huber 1964, doi 10.1214/aoms/1177703732).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Huber {
    /// Where it turns from square to linear, positive.
    pub delta: f64,
}

impl Distance for Huber {
    fn name(&self) -> &'static str {
        "huber"
    }

    fn of(&self, error: Tensor<4>) -> Tensor<4> {
        let size = error.abs();
        let square = size.clone().clamp_max(self.delta);
        square.clone() * (size - square * 0.5)
    }
}
