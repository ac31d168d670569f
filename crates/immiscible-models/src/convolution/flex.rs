//! The convolution on Burn's CPU backend, with its gradients. Burn's own takes up to five times as long for the gradient by the
//! kernel, which it computes as a convolution whose kernel is as large as the image.

use super::im2col::{self, Geometry};
use crate::flex::{self, Operation, Values, slice, tensor};
use burn::backend::Flex;
use burn::backend::ops::{ConvOptions, ModuleOps};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

/// What `conv` does with `x`, if that is on the CPU and of a kind that is done here.
pub(super) fn geometry(conv: &Conv2d, x: &Tensor<4>) -> Option<Geometry> {
    let plain = conv.groups == 1 && conv.dilation == [1, 1];
    let [batch, channels, height, width] = x.dims();
    let [to, from, ..] = conv.weight.dims();
    if !(flex::has(x) && flex::has(&conv.weight.val()) && plain && from == channels && batch > 0) {
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
    let bias = flex::bias(conv.bias.as_ref(), geometry.output[0], &x);
    flex::apply(geometry, (x, conv.weight.val(), bias))
}

impl Operation<3> for Geometry {
    fn is_cheap(&self) -> bool {
        false
    }

    fn forward(&self, [x, weight, bias]: [&Values; 3]) -> Values {
        let [channels, height, width] = self.output;
        let out = im2col::forward(slice(x), slice(weight), Some(slice(bias)), self);
        tensor(out, [self.batch, channels, height, width])
    }

    fn backward(
        &self,
        [x, weight, _]: [&Values; 3],
        gradient: &Values,
        [by_x, by_weight, by_bias]: [bool; 3],
    ) -> [Option<Values>; 3] {
        let ([from, high, wide], [to, ..], [tall, broad]) = (self.input, self.output, self.kernel);
        let of_output = slice(gradient);
        let input = || match self.stride {
            [1, 1] => {
                tensor(im2col::input_gradient(slice(weight), of_output, self), [self.batch, from, high, wide])
            }
            _ => Flex::conv2d_x_backward(x.clone(), weight.clone(), gradient.clone(), options(self)),
        };
        let kernel = || tensor(im2col::weight_gradient(slice(x), of_output, self), [to, from, tall, broad]);
        let bias = || tensor(im2col::bias_gradient(of_output, self), [to]);
        [by_x.then(input), by_weight.then(kernel), by_bias.then(bias)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::tests::agree;
    use burn::module::Param;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::Device;

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        let explicit = PaddingConfig2d::Explicit;
        for (batch, [from, to], [height, width], [tall, wide], stride, padding) in [
            (2, [3, 40], [32, 32], [3, 3], [1, 1], explicit(1, 1, 1, 1)),
            (1, [70, 65], [16, 16], [3, 3], [1, 1], explicit(1, 1, 1, 1)),
            (5, [33, 8], [4, 4], [3, 3], [1, 1], explicit(1, 1, 1, 1)),
            (21, [6, 5], [4, 3], [1, 1], [1, 1], PaddingConfig2d::Valid),
            (3, [4, 6], [8, 8], [3, 3], [2, 2], explicit(0, 0, 1, 1)),
            (2, [4, 6], [9, 7], [3, 3], [2, 2], explicit(1, 1, 1, 1)),
            (2, [4, 6], [8, 6], [3, 3], [2, 2], explicit(1, 1, 1, 1)),
            (2, [3, 8], [8, 8], [2, 2], [2, 2], PaddingConfig2d::Valid),
            (2, [3, 4], [6, 300], [5, 3], [1, 1], explicit(4, 0, 2, 1)),
            (1, [2, 3], [3, 1], [3, 3], [1, 1], explicit(2, 2, 2, 2)),
        ] {
            let config =
                Conv2dConfig::new([from, to], [tall, wide]).with_stride(stride).with_padding(padding);
            let with = |weight: Tensor<4>, bias: Tensor<1>| {
                let mut conv = config.init(&Device::flex());
                // As they are, with what they are computed from.
                conv.weight = Param::initialized(conv.weight.id, weight);
                conv.bias = conv.bias.map(|old| Param::initialized(old.id, bias));
                conv
            };
            let shapes = ([batch, from, height, width], [to, from, tall, wide], [to]);
            let ours = |x: Tensor<4>, weight, bias| {
                let conv = with(weight, bias);
                let geometry = geometry(&conv, &x).unwrap();
                convolve(&conv, x, geometry)
            };
            agree(shapes, ours, |x: Tensor<4>, weight, bias| with(weight, bias).forward(x));
        }
    }

    #[test]
    fn without_a_bias_it_is_that_with_zeros() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let conv = Conv2dConfig::new([3, 4], [3, 3]).with_bias(false).init(&device);
            let x = Tensor::ones([2, 3, 5, 5], &device);
            let geometry = geometry(&conv, &x).unwrap();
            let found = convolve(&conv, x.clone(), geometry).into_data();
            found.assert_approx_eq::<f32>(&conv.forward(x).into_data(), Default::default());
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
}
