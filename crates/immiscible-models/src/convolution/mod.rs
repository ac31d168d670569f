//! Convolutions of images, by the device that they run on.

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod im2col;

use burn::nn::{PaddingConfig2d, conv::Conv2d};
use burn::tensor::{Tensor, module::conv2d, ops::ConvOptions};

/// [`Conv2d::forward`], faster where this project can do better than the backend, and in the type of the input: the weights are
/// cast to it.
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
        let padding = match self.padding {
            PaddingConfig2d::Valid => [(0, 0); 2],
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
            // No network here has it.
            PaddingConfig2d::Same => return self.forward(x),
        };
        let options = ConvOptions::new_with_padding(self.stride, padding, self.dilation, self.groups);
        let dtype = x.dtype();
        let bias = self.bias.as_ref().map(|bias| bias.val().cast(dtype));
        conv2d(x, self.weight.val().cast(dtype), bias, options)
    }
}
