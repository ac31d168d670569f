//! Attention, softmax(q kᵀ / √d) v (Vaswani et al. 2017), by the device that it runs on.

#[cfg(feature = "flex")]
mod blockwise;
#[cfg(feature = "flex")]
mod flex;

use burn::tensor::Tensor;
use burn::tensor::module::attention;

/// Attention of several heads, which lie side by side in each row.
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
    let y = attention(split(q), split(k), split(v), None, None, Default::default());
    y.swap_dims(1, 2).reshape([batch, length, width])
}
