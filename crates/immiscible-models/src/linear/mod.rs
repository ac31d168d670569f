//! Linear layers, by the device that they run on.

#[cfg(feature = "flex")]
mod flex;

use burn::nn::Linear;
use burn::tensor::Tensor;

/// [`Linear::forward`] of rows.
pub(crate) trait Project {
    /// # Shapes
    /// `[B, N, D]` → `[B, N, E]`
    fn project(&self, x: Tensor<3>) -> Tensor<3>;
}

impl Project for Linear {
    fn project(&self, x: Tensor<3>) -> Tensor<3> {
        #[cfg(feature = "flex")]
        if let Some(projection) = flex::projection(self, &x) {
            return flex::project(self, x, projection);
        }
        self.forward(x)
    }
}
