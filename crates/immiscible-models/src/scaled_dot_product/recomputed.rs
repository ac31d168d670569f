//! Attention on any backend, whose gradient computes the shares of all rows again and so keeps q, k and v alone.

#[cfg(feature = "cube")]
use burn::backend::Cube;
#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, TensorMetadata, backend_extension};
use burn::tensor::{DType, FloatDType, Tensor};

/// Whether the backend of `x` is one of those with a gradient of their own.
pub(super) fn has<const D: usize>(x: &Tensor<D>) -> bool {
    fn among(device: &DispatchDevice) -> bool {
        match device {
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(_) => true,
            #[cfg(feature = "flex")]
            DispatchDevice::Flex(_) => true,
            DispatchDevice::Autodiff(device) => among(device),
            #[allow(unreachable_patterns, reason = "there may be no other device")]
            _ => false,
        }
    }
    among(x.device().as_dispatch())
}

/// As [`super::attend`].
pub(super) fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Attend>::attend(q, k, v))
}

#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
trait Attend: Backend {
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[cfg(feature = "flex")]
impl Attend for Flex {
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self>(q, k, v)
    }
}

#[cfg(feature = "cube")]
impl Attend for Cube {
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
        forward::<Self>(q, k, v)
    }
}

impl<B: Attend, S: CheckpointStrategy> Attend for Autodiff<B, S> {
    fn attend(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
        let inputs = [q, k, v];
        match Recomputed.prepare::<S>(inputs.each_ref().map(|it| it.node())).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = inputs.each_ref().map(|it| prepared.checkpoint(it));
                let [q, k, v] = inputs.map(|it| it.into_primitive());
                prepared.finish(state, B::attend(q, k, v))
            }
            OpsKind::UnTracked(prepared) => {
                let [q, k, v] = inputs.map(|it| it.into_primitive());
                prepared.finish(B::attend(q, k, v))
            }
        }
    }
}

#[derive(Debug)]
struct Recomputed;

impl<B: Backend> Backward<B, 3> for Recomputed {
    type State = [NodeId; 3];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [q, k, v] = ops.state.map(|it| checkpointer.retrieve_node_output::<FloatTensor<B>>(it));
        let by_out = gradients.consume::<B>(&ops.node);
        for (node, by) in ops.parents.into_iter().zip(backward::<B>(q, k, v, by_out)) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, by);
            }
        }
    }
}

/// Not the backend's own attention: on GPUs its kernels without a matrix of all shares may round single precision to 16 bits.
fn forward<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>, v: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = q.dtype();
    B::float_matmul(cast::<B>(shares::<B>(q, k), dtype), v)
}

/// The gradients of a loss by q, k and v, from that by the output.
fn backward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    by_out: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let (dtype, scale) = (q.dtype(), scale::<B>(&q));
    let shares = shares::<B>(q.clone(), k.clone());
    let by_v = B::float_matmul(B::float_transpose(cast::<B>(shares.clone(), dtype)), by_out.clone());
    let by_shares = widened::<B>(B::float_matmul(by_out, B::float_transpose(v)));
    // Of the softmax p = softmax(z): ∂/∂z = p ∘ (∂/∂p − Σ p ∘ ∂/∂p).
    let mean = B::float_sum_dim(B::float_mul(shares.clone(), by_shares.clone()), 3);
    let by_logits = B::float_mul(shares, B::float_sub(by_shares, mean));
    let by_logits = cast::<B>(B::float_mul_scalar(by_logits, scale.into()), dtype);
    let by_q = B::float_matmul(by_logits.clone(), k);
    [by_q, B::float_matmul(B::float_transpose(by_logits), q), by_v]
}

/// softmax(q kᵀ / √d), at least of single precision.
fn shares<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>) -> FloatTensor<B> {
    let scale = scale::<B>(&q);
    let logits = widened::<B>(B::float_matmul(q, B::float_transpose(k)));
    B::softmax(B::float_mul_scalar(logits, scale.into()), 3)
}

fn scale<B: Backend>(q: &FloatTensor<B>) -> f64 {
    let [_, _, _, depth] = q.shape().dims();
    (depth as f64).powf(-0.5)
}

fn widened<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    match x.dtype() {
        DType::F16 | DType::BF16 => B::float_cast(x, FloatDType::F32),
        _ => x,
    }
}

fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::flex::tests::agree;
    use burn::tensor::module::attention;
    use burn::tensor::{Device, Distribution, Tolerance};

    /// Output and gradients in half precision are those in single precision, within what 8 bits leave, also where all three inputs
    /// are one tensor.
    #[test]
    fn half_precision_is_close_to_single() {
        let shape = [2, 2, 9, 8];
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::random(shape, Distribution::Normal(0.3, 1.0), &Device::flex()).into_data();
        let weights = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
        let found = [DType::F32, DType::BF16].map(|dtype| {
            let x = Tensor::<4>::from_data(x.clone(), &device).require_grad();
            let it = x.clone().cast(dtype);
            let out = attend(it.clone(), it.clone(), it).cast(DType::F32);
            let gradients = (out.clone() * Tensor::from_inner(weights.clone())).sum().backward();
            [out.into_data(), x.grad(&gradients).unwrap().into_data()]
        });
        let x = Tensor::<4>::from_data(x, &device).require_grad();
        let out = attention(x.clone(), x.clone(), x.clone(), None, None, Default::default());
        let gradients = (out.clone() * Tensor::from_inner(weights)).sum().backward();
        let expected = [out.into_data(), x.grad(&gradients).unwrap().into_data()];
        for (found, tolerance) in found.iter().zip([1e-4, 5e-2]) {
            for (found, expected) in found.iter().zip(&expected) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(tolerance, tolerance));
            }
        }
    }

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        for (batch, heads, queries, keys, depth) in
            [(2, 3, 5, 5, 4), (1, 2, 33, 77, 8), (3, 1, 64, 30, 16), (1, 1, 1, 1, 1)]
        {
            let shapes =
                ([batch, heads, queries, depth], [batch, heads, keys, depth], [batch, heads, keys, depth]);
            agree(shapes, attend, |q, k, v| attention(q, k, v, None, None, Default::default()));
        }
    }
}
