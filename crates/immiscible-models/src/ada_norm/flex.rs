//! On Burn's CPU backend, each as one operation.

use super::fused::{self, Sizes};
use crate::flex::{self, Operation, Values, slice, tensor};
use burn::tensor::Tensor;

/// A layer norm with scale and shift.
#[derive(Debug)]
pub(super) struct Norm {
    sizes: Sizes,
    epsilon: f32,
}

/// A sum with a gate.
#[derive(Debug)]
pub(super) struct GatedSum(Sizes);

/// The norm of `x`, if that is on the CPU and every image has a shift and a scale of its own.
pub(super) fn norm(x: &Tensor<3>, shift: &Tensor<3>, scale: &Tensor<3>, epsilon: f64) -> Option<Norm> {
    Some(Norm { sizes: sizes(x, [shift, scale])?, epsilon: epsilon as f32 })
}

/// The sum of `x` and `h`, if they are on the CPU and every image has a gate of its own.
pub(super) fn gated_sum(x: &Tensor<3>, gate: &Tensor<3>, h: &Tensor<3>) -> Option<GatedSum> {
    sizes(x, [gate]).filter(|_| h.dims() == x.dims()).map(GatedSum)
}

fn sizes<const N: usize>(x: &Tensor<3>, of_images: [&Tensor<3>; N]) -> Option<Sizes> {
    let [batch, tokens, width] = x.dims();
    let there = [batch, tokens, width].iter().all(|&size| size > 0);
    let fit = of_images.iter().all(|it| it.dims() == [batch, 1, width]);
    (flex::has(x) && there && fit).then_some(Sizes { batch, tokens, width })
}

impl Sizes {
    fn of_tokens(&self, values: Vec<f32>) -> Values {
        tensor(values, [self.batch, self.tokens, self.width])
    }

    fn of_images(&self, values: Vec<f32>) -> Values {
        tensor(values, [self.batch, 1, self.width])
    }
}

impl Operation<3> for Norm {
    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, [x, shift, scale]: [&Values; 3]) -> Values {
        let Self { sizes, epsilon } = self;
        sizes.of_tokens(fused::norm(slice(x), slice(shift), slice(scale), *epsilon, sizes))
    }

    fn backward(&self, [x, _, scale]: [&Values; 3], gradient: &Values, _: [bool; 3]) -> [Option<Values>; 3] {
        let Self { sizes, epsilon } = self;
        let [by_x, by_shift, by_scale] =
            fused::norm_gradients(slice(x), slice(scale), slice(gradient), *epsilon, sizes);
        [Some(sizes.of_tokens(by_x)), Some(sizes.of_images(by_shift)), Some(sizes.of_images(by_scale))]
    }
}

impl Operation<3> for GatedSum {
    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, [x, gate, h]: [&Values; 3]) -> Values {
        self.0.of_tokens(fused::gated_sum(slice(x), slice(gate), slice(h), &self.0))
    }

    fn backward(&self, [_, gate, h]: [&Values; 3], gradient: &Values, _: [bool; 3]) -> [Option<Values>; 3] {
        let [by_gate, by_h] = fused::gated_sum_gradients(slice(gate), slice(h), slice(gradient), &self.0);
        [Some(gradient.clone()), Some(self.0.of_images(by_gate)), Some(self.0.of_tokens(by_h))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::tests::agree;
    use burn::tensor::Tensor;
    use burn::tensor::module::layer_norm;

    const SHAPES: [[usize; 3]; 4] = [[2, 5, 33], [1, 1, 1], [3, 150, 128], [1, 64, 200]];

    #[test]
    fn norms_and_their_gradients_are_those_of_the_backend() {
        for [batch, tokens, width] in SHAPES {
            for epsilon in [1e-6, 0.5] {
                // Of a single value the norm is a division of nearly 0 by the root of ε, and rounding is all of it.
                if width == 1 && epsilon < 0.1 {
                    continue;
                }
                let ours = |x: Tensor<3>, shift, scale| {
                    let norm = norm(&x, &shift, &scale, epsilon).unwrap();
                    flex::apply(norm, (x, shift, scale))
                };
                let theirs = |x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>| {
                    let ones = Tensor::ones([width], &x.device().inner());
                    layer_norm(x, ones, None, epsilon) * (scale + 1.0) + shift
                };
                agree(([batch, tokens, width], [batch, 1, width], [batch, 1, width]), ours, theirs);
            }
        }
    }

    #[test]
    fn gated_sums_and_their_gradients_are_those_of_the_backend() {
        for [batch, tokens, width] in SHAPES {
            let ours = |x: Tensor<3>, gate, h| {
                let sum = gated_sum(&x, &gate, &h).unwrap();
                flex::apply(sum, (x, gate, h))
            };
            let theirs = |x: Tensor<3>, gate: Tensor<3>, h: Tensor<3>| x + gate * h;
            let shape = [batch, tokens, width];
            agree((shape, [batch, 1, width], shape), ours, theirs);
        }
    }
}
