//! What the operations have in common that are written for Burn's CPU backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, Tensor, TensorData};

/// A tensor of the CPU.
pub(crate) type Values = FloatTensor<Flex>;

/// Whether `x` is on the CPU and of single precision.
pub(crate) fn has<const D: usize>(x: &Tensor<D>) -> bool {
    let on_the_cpu = match x.device().as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns, reason = "there may be no other device")]
        _ => false,
    };
    on_the_cpu && x.dtype() == DType::F32
}

pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Values {
    Values::from_data(TensorData::new(values, shape))
}

/// Values in the order of their dimensions.
///
/// # Panics
/// Where they are in another, or not of single precision.
pub(crate) fn slice(tensor: &Values) -> &[f32] {
    tensor.as_slice().expect("values of single precision, made contiguous")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::Int;

    /// The output for `x`, and the gradients by `x` and by parameters, of a loss in which no two pixels count the same.
    pub(crate) fn with_gradients(
        x: Tensor<4>,
        apply: impl Fn(Tensor<4>) -> Tensor<4>,
        vectors: &[Tensor<1>],
        kernels: &[Tensor<4>],
    ) -> Vec<TensorData> {
        let x = x.require_grad();
        let out = apply(x.clone());
        let weights = Tensor::<1, Int>::arange(0..out.shape().num_elements() as i64, &x.device());
        let weights = weights.float().mul_scalar(0.7).sin().reshape(out.dims());
        let gradients = (out.clone() * weights).sum().backward();
        let mut all = vec![out.into_data(), x.grad(&gradients).unwrap().into_data()];
        all.extend(vectors.iter().map(|it| it.grad(&gradients).unwrap().into_data()));
        all.extend(kernels.iter().map(|it| it.grad(&gradients).unwrap().into_data()));
        all
    }
}
