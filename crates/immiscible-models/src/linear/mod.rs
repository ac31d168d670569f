//! Linear layers, by the device that they run on.

#[cfg(feature = "flex")]
mod flex;

use burn::nn::Linear;
use burn::tensor::{Tensor, module::linear};

/// [`Linear::forward`] of rows, in the type of the input: the weights are cast to it.
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
        let dtype = x.dtype();
        linear(x, self.weight.val().cast(dtype), self.bias.as_ref().map(|bias| bias.val().cast(dtype)))
    }
}
