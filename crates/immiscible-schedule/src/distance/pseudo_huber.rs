use burn::prelude::*;

use super::Distance;

/// √(‖d‖² + c²) − c, with the L2 norm over all D elements of a sample (Song & Dhariwal 2024, arXiv 2310.14189, eq. 8).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PseudoHuber {
    /// Where it turns from square to linear, positive; 0.00054 √D, as in the paper, if none is given.
    pub c: Option<f64>,
}

impl Distance for PseudoHuber {
    fn name(&self) -> &'static str {
        "pseudo_huber"
    }

    fn of(&self, error: Tensor<4>) -> Tensor<4> {
        let [_, channels, height, width] = error.dims();
        let c = self.c.unwrap_or_else(|| 0.00054 * ((channels * height * width) as f64).sqrt());
        let square = error.powi_scalar(2).sum_dims(&[1, 2, 3]);
        // The difference of the definition, without its cancellation where d is small beside c.
        square.clone() / ((square + c * c).sqrt() + c)
    }
}
