//! Attention, softmax(q kᵀ / √d) v (Vaswani et al. 2017), by the device that it runs on.

#[cfg(feature = "flex")]
mod blockwise;
#[cfg(feature = "flex")]
mod flex;

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
    let (dtype, [q, k, v]) = (q.dtype(), [q, k, v].map(split));
    let y = match dtype {
        DType::F16 | DType::BF16 => {
            let scale = (heads as f64 / width as f64).sqrt();
            let logits = q.matmul(k.swap_dims(2, 3)).cast(DType::F32) * scale;
            softmax(logits, 3).cast(dtype).matmul(v)
        }
        _ => attention(q, k, v, None, None, Default::default()),
    };
    y.swap_dims(1, 2).reshape([batch, length, width])
}
