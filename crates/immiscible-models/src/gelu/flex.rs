//! GELU on Burn's CPU backend: one pass over the numbers, and one for the gradient, for which only the input is kept.

use super::coefficients;
use crate::flex::{Operation, Values, slice};
use crate::output::{copy, zeros};
use crate::wide::{exp, sigmoid};
use burn::tensor::TensorData;
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use std::f32::consts::FRAC_1_SQRT_2;
use std::fmt::Debug;

/// A function of each number by itself.
trait Function: Copy + Debug + Send + Sync + 'static {
    fn value(self, x: f32) -> f32;

    fn derivative(self, x: f32) -> f32;
}

/// x Φ(x)
#[derive(Clone, Copy, Debug)]
pub(super) struct Gelu;

impl Function for Gelu {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * normal(x).0
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        /// 1/√(2π)
        const AT_ZERO: f32 = 0.398_942_3;
        let (below, bell) = normal(x);
        below + x * AT_ZERO * bell
    }
}

/// Φ(x) within 3·10⁻⁷, and e^(−x²/2). Φ by formula 7.1.26 of Abramowitz and Stegun for the error function.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * FRAC_1_SQRT_2;
    let bell = exp(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut series = 1.061_405_4;
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        series = series * t + coefficient;
    }
    let beyond = 0.5 * series * t * bell;
    (if x < 0.0 { beyond } else { 1.0 - beyond }, bell)
}

/// x σ(a x + b x³)
#[derive(Clone, Copy, Debug)]
pub(super) struct GeluApproximate;

impl Function for GeluApproximate {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        let [first, third] = coefficients().map(|it| it as f32);
        x * sigmoid(x * (first + third * x * x))
    }

    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        let [first, third] = coefficients().map(|it| it as f32);
        let s = sigmoid(x * (first + third * x * x));
        s + x * s * (1.0 - s) * (first + 3.0 * third * x * x)
    }
}

impl<F: Function> Operation<1> for F {
    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, [x]: [&Values; 1]) -> Values {
        let values = slice(x);
        let mut out = zeros(values.len());
        let pieces = out.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE));
        pieces.for_each(|(out, x)| Arch::new().dispatch(Forward { function: *self, x, out }));
        of_shape(out, x)
    }

    fn backward(&self, [x]: [&Values; 1], gradient: &Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let mut by_x = copy(slice(gradient));
        let pieces = by_x.par_chunks_mut(PIECE).zip(slice(x).par_chunks(PIECE));
        pieces.for_each(|(by_x, x)| Arch::new().dispatch(Backward { function: *self, x, by_x }));
        [Some(of_shape(by_x, x))]
    }
}

/// Numbers that a thread takes at a time.
const PIECE: usize = 1 << 14;

fn of_shape(values: Vec<f32>, like: &Values) -> Values {
    Values::from_data(TensorData::new(values, like.layout().shape().clone()))
}

/// Compiled for every instruction set.
struct Forward<'a, F> {
    function: F,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Function> NullaryFnOnce for Forward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { function, x, out } = self;
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = function.value(x));
    }
}

/// Multiplies the gradient by the output to one by the input. Compiled for every instruction set.
struct Backward<'a, F> {
    function: F,
    x: &'a [f32],
    by_x: &'a mut [f32],
}

impl<F: Function> NullaryFnOnce for Backward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { function, x, by_x } = self;
        by_x.iter_mut().zip(x).for_each(|(by_x, &x)| *by_x *= function.derivative(x));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{gelu, gelu_approximate};
    use super::*;
    use crate::flex::tests::agree;
    use burn::tensor::{Device, Tensor, activation};

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        for rows in [1, 3, 700] {
            let around = |gelu: fn(Tensor<3>) -> Tensor<3>| {
                move |x, factor, shift| gelu(Tensor::<3>::mul_scalar(x, 2.0)) * factor + shift
            };
            let shape = [2, rows, 33];
            agree((shape, shape, shape), around(gelu), around(activation::gelu));
            agree((shape, shape, shape), around(gelu_approximate), around(activation::gelu_approximate));
        }
    }

    #[test]
    fn the_distribution_function_is_that_of_the_error_function() {
        let x: Vec<f32> = (-10_000..=10_000).map(|i| i as f32 / 1000.0).collect();
        let z = Tensor::<1>::from_floats(&*x, &Device::flex()).div_scalar(2f32.sqrt());
        for (x, erf) in x.into_iter().zip(z.erf().into_data().iter::<f32>()) {
            let (found, bell) = normal(x);
            assert!((found - 0.5 * (1.0 + erf)).abs() < 3e-7, "{x}: {found}, {erf}");
            assert!((bell - (-0.5 * x * x).exp()).abs() < 1e-6, "{x}: {bell}");
        }
        assert_eq!([Gelu.value(1e9), Gelu.derivative(1e9)], [1e9, 1.0]);
        assert!(Gelu.value(-1e9).abs() < 1e-6 && Gelu.value(f32::NAN).is_nan());
    }
}
