//! A group norm (Wu and He 2018) with SiLU behind it, y = x̂ γ + β and out = y σ(y), and their gradients. Every group is read a few
//! times while it is in a core's cache, where operations one by one read and write all images each time; and nothing but the
//! input is kept for the gradients.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

/// What is normalised, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layer {
    /// Images, channels, height and width.
    pub(super) shape: [usize; 4],
    pub(super) groups: usize,
    pub(super) epsilon: f32,
    /// Whether SiLU follows.
    pub(super) silu: bool,
}

impl Layer {
    fn channels(&self) -> usize {
        self.shape[1] / self.groups
    }

    fn pixels(&self) -> usize {
        self.shape[2] * self.shape[3]
    }

    /// Values in a group of an image.
    fn group_len(&self) -> usize {
        self.channels() * self.pixels()
    }

    /// The channels of the `index`-th group, counted over all images.
    fn channels_of(&self, index: usize) -> std::ops::Range<usize> {
        let first = index % self.groups * self.channels();
        first..first + self.channels()
    }
}

/// The norm, and what follows.
///
/// # Shapes
/// `x` `[B, C, H, W]`, `gamma` and `beta` `[C]` → `[B, C, H, W]`
pub(super) fn forward(x: &[f32], gamma: &[f32], beta: &[f32], layer: &Layer) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    let groups = out.par_chunks_mut(layer.group_len()).zip(x.par_chunks(layer.group_len()));
    groups.enumerate().for_each(|(index, (out, x))| {
        let channels = layer.channels_of(index);
        let (gamma, beta) = (&gamma[channels.clone()], &beta[channels]);
        Arch::new().dispatch(Forward { x, gamma, beta, layer, out });
    });
    out
}

/// The gradients of a loss by `x`, γ and β.
pub(super) struct Gradients {
    /// `[B, C, H, W]`
    pub(super) x: Vec<f32>,
    /// `[C]`
    pub(super) gamma: Vec<f32>,
    /// `[C]`
    pub(super) beta: Vec<f32>,
}

/// The gradients, of which `gradient` is that by the output.
///
/// # Shapes
/// `x` and `gradient` `[B, C, H, W]`, `gamma` and `beta` `[C]`
pub(super) fn backward(x: &[f32], gamma: &[f32], beta: &[f32], gradient: &[f32], layer: &Layer) -> Gradients {
    let [batch, channels, ..] = layer.shape;
    let mut by_x = vec![0.0; x.len()];
    // Of each image, summed up afterwards in their order.
    let mut by_gamma = vec![0.0; batch * channels];
    let mut by_beta = vec![0.0; batch * channels];
    let len = layer.group_len();
    by_x.par_chunks_mut(len)
        .zip(by_gamma.par_chunks_mut(layer.channels()).zip(by_beta.par_chunks_mut(layer.channels())))
        .zip(x.par_chunks(len).zip(gradient.par_chunks(len)))
        .enumerate()
        .for_each(|(index, ((by_x, (by_gamma, by_beta)), (x, gradient)))| {
            let channels = layer.channels_of(index);
            let (gamma, beta) = (&gamma[channels.clone()], &beta[channels]);
            Arch::new().dispatch(Backward { x, gamma, beta, gradient, layer, by_x, by_gamma, by_beta });
        });
    let over_images = |of_each: Vec<f32>| {
        let mut sum = vec![0.0; channels];
        for image in of_each.chunks_exact(channels) {
            sum.iter_mut().zip(image).for_each(|(sum, value)| *sum += value);
        }
        sum
    };
    Gradients { x: by_x, gamma: over_images(by_gamma), beta: over_images(by_beta) }
}

/// Of one group, compiled for every instruction set.
struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    layer: &'a Layer,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { x, gamma, beta, layer, out } = self;
        let (mean, scale) = moments(x, layer.epsilon);
        let channels = x.chunks_exact(layer.pixels()).zip(out.chunks_exact_mut(layer.pixels()));
        for ((x, out), (gamma, beta)) in channels.zip(gamma.iter().zip(beta)) {
            // (x − mean) · scale · γ + β
            let factor = scale * gamma;
            if layer.silu {
                for (out, &x) in out.iter_mut().zip(x) {
                    let y = (x - mean) * factor + beta;
                    *out = y * sigmoid(y);
                }
            } else {
                out.iter_mut().zip(x).for_each(|(out, &x)| *out = (x - mean) * factor + beta);
            }
        }
    }
}

/// Of one group, compiled for every instruction set.
struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    gradient: &'a [f32],
    layer: &'a Layer,
    by_x: &'a mut [f32],
    by_gamma: &'a mut [f32],
    by_beta: &'a mut [f32],
}

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { x, gamma, beta, gradient, layer, by_x, by_gamma, by_beta } = self;
        let (mean, scale) = moments(x, layer.epsilon);
        // Means over the group of ∂/∂x̂, and of that times x̂.
        let (mut of_normed, mut of_both) = (0.0, 0.0);
        let pixels = layer.pixels();
        let channels = x.chunks_exact(pixels).zip(gradient.chunks_exact(pixels));
        let channels = channels.zip(by_x.chunks_exact_mut(pixels));
        for (c, ((x, gradient), by_x)) in channels.enumerate() {
            // Of y, kept where that of x will be.
            if layer.silu {
                let factor = scale * gamma[c];
                for ((by_y, &gradient), &x) in by_x.iter_mut().zip(gradient).zip(x) {
                    let y = (x - mean) * factor + beta[c];
                    let s = sigmoid(y);
                    *by_y = gradient * s * (1.0 + y * (1.0 - s));
                }
            } else {
                by_x.copy_from_slice(gradient);
            }
            by_beta[c] = sum(by_x, |by_y| by_y);
            by_gamma[c] = scale * sum_of_pairs(by_x, x, |by_y, x| by_y * (x - mean));
            of_normed += gamma[c] * by_beta[c];
            of_both += gamma[c] * by_gamma[c];
        }
        let count = x.len() as f32;
        let (of_normed, of_both) = (of_normed / count, of_both / count);
        let channels = x.chunks_exact(pixels).zip(by_x.chunks_exact_mut(pixels));
        for ((x, by_x), gamma) in channels.zip(gamma) {
            for (by_x, &x) in by_x.iter_mut().zip(x) {
                *by_x = scale * (gamma * *by_x - of_normed - (x - mean) * scale * of_both);
            }
        }
    }
}

/// Mean and 1/√(variance + ε).
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// Partial sums that are kept while adding up: as many as wide vectors hold, several times, so that additions overlap.
const PARTS: usize = 64;

#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (wide, rest) = values.as_chunks::<PARTS>();
    let mut parts = [0.0; PARTS];
    for values in wide {
        parts.iter_mut().zip(values).for_each(|(part, &value)| *part += term(value));
    }
    parts.iter().sum::<f32>() + rest.iter().map(|&value| term(value)).sum::<f32>()
}

#[inline(always)]
fn sum_of_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((wide_a, rest_a), (wide_b, rest_b)) = (a.as_chunks::<PARTS>(), b.as_chunks::<PARTS>());
    let mut parts = [0.0; PARTS];
    for (a, b) in wide_a.iter().zip(wide_b) {
        parts.iter_mut().zip(a).zip(b).for_each(|((part, &a), &b)| *part += term(a, b));
    }
    parts.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(&a, &b)| term(a, b)).sum::<f32>()
}

/// 1 / (1 + e^−y), to 3·10⁻⁷ of it. With the library's exponential a loop would not become one over wide vectors.
#[inline(always)]
fn sigmoid(y: f32) -> f32 {
    1.0 / (1.0 + exp(-y))
}

/// eˣ for x in [−87, 87], and what it is at the end beyond.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added to a number below 2²², it leaves no digits behind the point: the number's integer is in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // eˣ = 2ᵏ 2ᶠ with an integer k and |f| ≤ 1/2; of 2ᶠ the first seven terms of its series.
    let t = x.clamp(-87.0, 87.0) * std::f32::consts::LOG2_E;
    let rounded = t + ROUND;
    let f = t - (rounded - ROUND);
    let mut power = 1.540_353e-4;
    for coefficient in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0]
    {
        power = power * f + coefficient;
    }
    let two_to_k = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    power * two_to_k
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_and_sigmoids_are_those_of_the_library() {
        for i in -88_000..=88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x.clamp(-87.0, 87.0)).exp();
            // The argument's own rounding grows with it: an eighth of a unit in the last place for each 1.
            let tolerance = 2e-7 + 1e-7 * f64::from(x.abs());
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < tolerance, "{x}: {}, {expected}", exp(x));
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) - expected).abs() < 3e-7, "{x}: {}, {expected}", sigmoid(x));
        }
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert!(sigmoid(f32::NEG_INFINITY) < 1e-37);
        assert!(sigmoid(f32::NAN).is_nan());
    }
}
