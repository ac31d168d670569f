//! Convolutions of images, by the device that they run on.

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod im2col;

use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

/// [`Conv2d::forward`], faster where this project can do better than the backend.
pub(crate) trait Convolve {
    /// # Shapes
    /// `[B, C, H, W]` → `[B, C', H', W']`
    fn convolve(&self, x: Tensor<4>) -> Tensor<4>;
}

impl Convolve for Conv2d {
    fn convolve(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "flex")]
        // Few images do not keep many threads busy here.
        if let Some(geometry) = flex::geometry(self, &x)
            && geometry.shares() >= rayon::current_num_threads()
        {
            return flex::convolve(self, x, geometry);
        }
        self.forward(x)
    }
}
