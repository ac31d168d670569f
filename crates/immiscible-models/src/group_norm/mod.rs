//! Group norms and the activations behind them, by the device that they run on.

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod fused;

use crate::resnet::ActFn;
use burn::nn::GroupNorm;
use burn::tensor::Tensor;

/// [`GroupNorm::forward`] and an activation, in one go where that is faster. They are computed in the type of the norm's weights, and
/// the result is of the input's.
pub(crate) trait Normalize {
    /// # Shapes
    /// `[B, C, H, W]` → `[B, C, H, W]`
    fn normalize(&self, x: Tensor<4>, act: Option<ActFn>) -> Tensor<4>;
}

impl Normalize for GroupNorm {
    fn normalize(&self, x: Tensor<4>, act: Option<ActFn>) -> Tensor<4> {
        #[cfg(feature = "flex")]
        if let Some(layer) = flex::layer(self, &x, act) {
            return flex::normalize(self, x, layer);
        }
        let dtype = x.dtype();
        let weights = self.gamma.as_ref().map_or(dtype, |gamma| gamma.val().dtype());
        let y = self.forward(x.cast(weights));
        let y = match act {
            Some(act) => act.forward(y),
            None => y,
        };
        y.cast(dtype)
    }
}
