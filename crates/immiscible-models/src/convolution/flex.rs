//! The convolution on Burn's CPU backend, with its gradients. Burn's own takes up to five times as long for the gradient by the
//! kernel, which it computes as a convolution whose kernel is as large as the image.

use super::im2col::{self, Geometry};
use crate::flex::{self, Values, slice, tensor};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::{ConvOptions, ModuleOps};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

/// What `conv` does with `x`, if that is on the CPU and of a kind that is done here.
pub(super) fn geometry(conv: &Conv2d, x: &Tensor<4>) -> Option<Geometry> {
    let plain = conv.groups == 1 && conv.dilation == [1, 1];
    let [batch, channels, height, width] = x.dims();
    let [to, from, ..] = conv.weight.dims();
    if !(flex::has(x) && plain && from == channels && batch > 0) {
        return None;
    }
    let [top, left, bottom, right] = match conv.padding {
        PaddingConfig2d::Valid => [0; 4],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [top, left, bottom, right],
        PaddingConfig2d::Same => return None,
    };
    // With more zeros than the kernel is long the gradient would be a convolution of a part.
    let [tall, wide] = conv.kernel_size;
    if top.max(bottom) >= tall || left.max(right) >= wide {
        return None;
    }
    let outputs = |size: usize, kernel: usize, stride: usize| Some(size.checked_sub(kernel)? / stride + 1);
    let output = [
        to,
        outputs(height + top + bottom, tall, conv.stride[0])?,
        outputs(width + left + right, wide, conv.stride[1])?,
    ];
    Some(Geometry {
        batch,
        input: [channels, height, width],
        output,
        kernel: conv.kernel_size,
        stride: conv.stride,
        padding: [top, left],
    })
}

/// The convolution on the CPU.
pub(super) fn convolve(conv: &Conv2d, x: Tensor<4>, geometry: Geometry) -> Tensor<4> {
    let zeros = || Tensor::zeros([geometry.output[0]], &x.device().inner());
    let bias = conv.bias.as_ref().map_or_else(zeros, |bias| bias.val()).into_dispatch();
    let weight = conv.weight.val().into_dispatch();
    Tensor::from_dispatch(<Dispatch as Convolution>::convolution(x.into_dispatch(), weight, bias, geometry))
}

#[backend_extension(Flex, Autodiff)]
trait Convolution: Backend {
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;
}

impl Convolution for Flex {
    fn convolution(x: Values, weight: Values, bias: Values, geometry: Geometry) -> Values {
        let [x, weight, bias] = [x, weight, bias].map(|it| it.to_contiguous());
        let out = im2col::forward(slice(&x), slice(&weight), Some(slice(&bias)), &geometry);
        let [channels, height, width] = geometry.output;
        tensor(out, [geometry.batch, channels, height, width])
    }
}

/// The gradients by `x`, by the kernel and by the bias.
#[derive(Debug)]
struct Gradient;

impl Backward<Flex, 3> for Gradient {
    /// `x`, the kernel, and what the convolution looks like.
    type State = (NodeId, NodeId, Geometry);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, weight, geometry) = ops.state;
        let [x, weight] = [x, weight].map(|it| checkpointer.retrieve_node_output::<Values>(it));
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let of_output = slice(&gradient);
        let [height, width] = geometry.kernel;
        let [[from, high, wide], [to, ..]] = [geometry.input, geometry.output];
        for (which, node) in ops.parents.iter().enumerate() {
            let Some(node) = node else { continue };
            let by = match which {
                0 if geometry.stride == [1, 1] => {
                    let weight = weight.to_contiguous();
                    let by = im2col::input_gradient(slice(&weight), of_output, &geometry);
                    tensor(by, [geometry.batch, from, high, wide])
                }
                0 => Flex::conv2d_x_backward(x.clone(), weight.clone(), gradient.clone(), options(&geometry)),
                1 => {
                    let x = x.to_contiguous();
                    let by = im2col::weight_gradient(slice(&x), of_output, &geometry);
                    tensor(by, [to, from, height, width])
                }
                _ => tensor(im2col::bias_gradient(of_output, &geometry), [to]),
            };
            gradients.register::<Flex>(node.id, by);
        }
    }
}

/// As Burn writes it.
fn options(geometry: &Geometry) -> ConvOptions<2> {
    let [above, left] = geometry.padding;
    let after = |i: usize| {
        let seen = (geometry.output[i + 1] - 1) * geometry.stride[i] + geometry.kernel[i];
        seen.saturating_sub(geometry.input[i + 1] + geometry.padding[i])
    };
    ConvOptions::new_with_padding(geometry.stride, [(above, after(0)), (left, after(1))], [1, 1], 1)
}

impl<C: CheckpointStrategy> Convolution for Autodiff<Flex, C> {
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        let prepared =
            Gradient.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
        match prepared {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), geometry);
                let [x, weight, bias] = [x, weight, bias].map(|it| it.into_primitive());
                prepared.finish(state, Flex::convolution(x, weight, bias, geometry))
            }
            OpsKind::UnTracked(prepared) => {
                let [x, weight, bias] = [x, weight, bias].map(|it| it.into_primitive());
                prepared.finish(Flex::convolution(x, weight, bias, geometry))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::tests::with_gradients;
    use burn::module::Param;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};

    fn of(conv: &Conv2d, x: Tensor<4>, apply: impl Fn(&Conv2d, Tensor<4>) -> Tensor<4>) -> Vec<TensorData> {
        let bias: Vec<_> = conv.bias.iter().map(|bias| bias.val()).collect();
        with_gradients(x, |x| apply(conv, x), &bias, &[conv.weight.val()])
    }

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        let device = Device::flex().autodiff();
        let explicit = PaddingConfig2d::Explicit;
        for (batch, [from, to], [height, width], [tall, wide], stride, padding, bias) in [
            (2, [3, 40], [32, 32], [3, 3], [1, 1], explicit(1, 1, 1, 1), true),
            (1, [70, 65], [16, 16], [3, 3], [1, 1], explicit(1, 1, 1, 1), true),
            (5, [33, 8], [4, 4], [3, 3], [1, 1], explicit(1, 1, 1, 1), false),
            (21, [6, 5], [4, 3], [1, 1], [1, 1], PaddingConfig2d::Valid, true),
            (3, [4, 6], [8, 8], [3, 3], [2, 2], explicit(0, 0, 1, 1), true),
            (2, [4, 6], [9, 7], [3, 3], [2, 2], explicit(1, 1, 1, 1), true),
            (2, [3, 8], [8, 8], [2, 2], [2, 2], PaddingConfig2d::Valid, true),
            (2, [3, 4], [6, 300], [5, 3], [1, 1], explicit(4, 0, 2, 1), true),
            (1, [2, 3], [3, 1], [3, 3], [1, 1], explicit(2, 2, 2, 2), true),
        ] {
            let conv = Conv2dConfig::new([from, to], [tall, wide]).with_stride(stride).with_bias(bias);
            let conv = conv.with_padding(padding).init(&device);
            let x = Tensor::random([batch, from, height, width], Distribution::Default, &device);
            // Not in the order of its dimensions.
            let x = x.swap_dims(2, 3).mul_scalar(1.0).swap_dims(2, 3);
            let geometry = geometry(&conv, &x).unwrap();
            let found = of(&conv, x.clone(), |conv, x| convolve(conv, x, geometry));
            let expected = of(&conv, x, |conv, x| conv.forward(x));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }

    /// What is not done here is left to the backend.
    #[test]
    fn other_convolutions_are_left_to_the_backend() {
        let device = Device::flex();
        let x = Tensor::<4>::zeros([1, 4, 5, 5], &device);
        let config = || Conv2dConfig::new([4, 4], [3, 3]);
        for config in [
            config().with_groups(2),
            config().with_dilation([2, 2]),
            config().with_padding(PaddingConfig2d::Same),
            config().with_padding(PaddingConfig2d::Explicit(3, 0, 0, 0)),
        ] {
            assert!(geometry(&config.init(&device), &x).is_none(), "{config:?}");
        }
        assert!(geometry(&config().init(&device), &x).is_some());
        assert!(geometry(&config().init(&device), &Tensor::zeros([1, 4, 2, 5], &device)).is_none());
    }

    #[test]
    fn a_network_that_is_checkpointed_has_the_same_gradients() {
        let [x, weight] = [[2, 5, 6, 6], [5, 5, 3, 3]]
            .map(|shape| Tensor::<4>::random(shape, Distribution::Default, &Device::flex()).into_data());
        let [plain, checkpointed] =
            [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()].map(|device| {
                let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
                let mut conv = Conv2dConfig::new([5, 5], [3, 3]).with_padding(padding).init(&device);
                conv.weight = Param::from_data(weight.clone(), &device);
                conv.bias = Some(Param::from_data([0.1, -0.2, 0.3, -0.4, 0.5], &device));
                let x = Tensor::from_data(x.clone(), &device);
                let geometry = geometry(&conv, &x).unwrap();
                of(&conv, x, |conv, x| convolve(conv, convolve(conv, x, geometry).exp(), geometry))
            });
        assert_eq!(plain, checkpointed);
    }
}
