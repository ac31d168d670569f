//! GELU, x Φ(x) (Hendrycks and Gimpel 2016, arXiv 1606.08415), by the device that it runs on.

#[cfg(feature = "flex")]
mod flex;

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu as by_the_backend, sigmoid};
use std::f64::consts::PI;

/// With Φ the distribution function of the normal distribution.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if crate::flex::has(&x) {
        return crate::flex::apply_to_one(flex::Gelu, x);
    }
    by_the_backend(x)
}

/// x/2 · (1 + tanh z) with z = √(2/π) (x + 0.044715 x³), §2: x σ(2 z).
pub(crate) fn gelu_approximate<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if crate::flex::has(&x) {
        return crate::flex::apply_to_one(flex::GeluApproximate, x);
    }
    let [first, third] = coefficients();
    let z = x.clone() * ((x.clone() * x.clone()) * third + first);
    x * sigmoid(z)
}

/// Those of x and x³ in 2 z.
fn coefficients() -> [f64; 2] {
    let first = 2.0 * (2.0 / PI).sqrt();
    [first, 0.044715 * first]
}
