//! What adaLN-Zero (Peebles and Xie 2023, arXiv 2212.09748, §3.2) puts around the layers of a DiT, by the device that it runs on.

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod fused;

use burn::tensor::Tensor;
use burn::tensor::module::layer_norm;

/// LN(x) (1 + scale) + shift with a layer norm without weights (Ba et al. 2016), computed in the type of the two; the result is of
/// x's.
///
/// # Shapes
/// `x`: `[B, N, D]`, `shift`, `scale`: `[B, 1, D]` → `[B, N, D]`
pub(crate) fn modulated_norm(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, epsilon: f64) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if let Some(norm) = flex::norm(&x, &shift, &scale, epsilon) {
        return crate::flex::apply(norm, (x, shift, scale));
    }
    let ([.., width], dtype, computed_in) = (x.dims(), x.dtype(), scale.dtype());
    let ones = Tensor::ones([width], (&x.device(), computed_in));
    (layer_norm(x.cast(computed_in), ones, None, epsilon) * (scale + 1.0) + shift).cast(dtype)
}

/// x + gate · h, in the type of x.
///
/// # Shapes
/// `x`, `h`: `[B, N, D]`, `gate`: `[B, 1, D]` → `[B, N, D]`
pub(crate) fn add_gated(x: Tensor<3>, gate: Tensor<3>, h: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if let Some(sum) = flex::gated_sum(&x, &gate, &h) {
        return crate::flex::apply(sum, (x, gate, h));
    }
    let dtype = x.dtype();
    x + gate.cast(dtype) * h
}
