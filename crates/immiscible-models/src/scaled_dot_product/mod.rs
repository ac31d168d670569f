//! Attention, softmax(q kᵀ / √d) v (Vaswani et al. 2017), by the device that it runs on.

#[cfg(feature = "flex")]
mod blockwise;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "cube", feature = "flex"))]
mod recomputed;

use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::{DType, Tensor};

/// Attention of several heads, which lie side by side in each row. The softmax is at
/// least of single precision; its logits are products of q's type.
///
/// # Shapes
/// `q` `[B, N, H·d]`, `k` and `v` `[B, M, H·d]` → `[B, N, H·d]`
pub(crate) fn scaled_dot_product(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if let Some(sizes) = flex::sizes(&q, &k, heads) {
        return flex::attend(q, k, v, sizes);
    }
    let [batch, length, width] = q.dims();
    let split = |x: Tensor<3>| {
        let [_, length, _] = x.dims();
        x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
    };
    let [q, k, v] = [q, k, v].map(split);
    attend(q, k, v).swap_dims(1, 2).reshape([batch, length, width])
}

/// Attention of each head by itself.
///
/// # Shapes
/// `q` `[B, H, N, d]`, `k` and `v` `[B, H, M, d]` → `[B, H, N, d]`
fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    #[cfg(any(feature = "cube", feature = "flex"))]
    if recomputed::has(&q) {
        return recomputed::attend(q, k, v);
    }
    match q.dtype() {
        dtype @ (DType::F16 | DType::BF16) => {
            let [_, _, _, depth] = q.dims();
            let logits = q.matmul(k.swap_dims(2, 3)).cast(DType::F32) / (depth as f64).sqrt();
            softmax(logits, 3).cast(dtype).matmul(v)
        }
        _ => attention(q, k, v, None, None, Default::default()),
    }
}
