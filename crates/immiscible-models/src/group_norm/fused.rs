//! A group norm (Wu and He 2018) with SiLU behind it, y = x̂ γ + β and out = y σ(y), and their gradients. Every group is read a few
//! times while it is in a core's cache, where operations one by one read and write all images each time; and nothing but the
//! input is kept for the gradients.

use crate::output::zeros;
use crate::wide::{moments, sigmoid, sum, sum_of_pairs, sum_of_rows};
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
    let mut out = zeros(x.len());
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
    let mut by_x = zeros(x.len());
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
    let [gamma, beta] = [by_gamma, by_beta].map(|of_images| sum_of_rows(&of_images, channels));
    Gradients { x: by_x, gamma, beta }
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
