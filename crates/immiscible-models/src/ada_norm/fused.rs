//! A layer norm with scale and shift, out = x̂ (1 + scale) + shift, a sum with a gate, out = x + gate · h, and their gradients. The
//! values of a token are read a few times while they are in a core's cache, where operations one by one read and write all tokens
//! each time; and nothing but the inputs is kept for the gradients.

use crate::output::{copy, zeros};
use crate::wide::{moments, sum, sum_of_pairs, sum_of_rows};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Images, each with a scale, a shift and a gate of its own.
    pub(super) batch: usize,
    /// Of an image.
    pub(super) tokens: usize,
    /// Values of a token.
    pub(super) width: usize,
}

/// Tokens that a thread takes at a time.
const BLOCK: usize = 64;

impl Sizes {
    /// Values of an image.
    fn image(&self) -> usize {
        self.tokens * self.width
    }

    /// Of an image.
    fn blocks(&self) -> usize {
        self.tokens.div_ceil(BLOCK)
    }

    /// What was added up for each block, added up in their order for each image: `[B, blocks, D]` → `[B, D]`.
    fn over_blocks(&self, of_blocks: &[f32]) -> Vec<f32> {
        let images = of_blocks.chunks_exact(self.blocks() * self.width);
        images.flat_map(|blocks| sum_of_rows(blocks, self.width)).collect()
    }

    fn zeros(&self, rows: usize) -> Vec<f32> {
        zeros(self.batch * rows * self.width)
    }
}

/// # Shapes
/// `x` `[B, N, D]`, `shift` and `scale` `[B, D]` → `[B, N, D]`
pub(super) fn norm(x: &[f32], shift: &[f32], scale: &[f32], epsilon: f32, sizes: &Sizes) -> Vec<f32> {
    let mut out = sizes.zeros(sizes.tokens);
    let images = out.par_chunks_mut(sizes.image()).zip(x.par_chunks(sizes.image()));
    let images = images.zip(shift.par_chunks(sizes.width).zip(scale.par_chunks(sizes.width)));
    images.for_each(|((out, x), (shift, scale))| {
        let block = BLOCK * sizes.width;
        out.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(out, x)| {
            Arch::new().dispatch(Norm { x, shift, scale, epsilon, out });
        });
    });
    out
}

/// The gradients of a loss by `x`, `shift` and `scale`, of which `gradient` is that by the output.
///
/// # Shapes
/// `x` and `gradient` `[B, N, D]`, `scale` `[B, D]` → those of `x`, `shift` and `scale`
pub(super) fn norm_gradients(
    x: &[f32],
    scale: &[f32],
    gradient: &[f32],
    epsilon: f32,
    sizes: &Sizes,
) -> [Vec<f32>; 3] {
    let (image, width, block) = (sizes.image(), sizes.width, BLOCK * sizes.width);
    let mut by_x = sizes.zeros(sizes.tokens);
    let [mut by_shift, mut by_scale] = [(); 2].map(|()| sizes.zeros(sizes.blocks()));
    let of_image = sizes.blocks() * width;
    by_x.par_chunks_mut(image)
        .zip(by_shift.par_chunks_mut(of_image).zip(by_scale.par_chunks_mut(of_image)))
        .zip(x.par_chunks(image).zip(gradient.par_chunks(image)).zip(scale.par_chunks(width)))
        .for_each(|((by_x, (by_shift, by_scale)), ((x, gradient), scale))| {
            by_x.par_chunks_mut(block)
                .zip(by_shift.par_chunks_mut(width).zip(by_scale.par_chunks_mut(width)))
                .zip(x.par_chunks(block).zip(gradient.par_chunks(block)))
                .for_each(|((by_x, (by_shift, by_scale)), (x, gradient))| {
                    let block = NormGradients { x, scale, gradient, epsilon, by_x, by_shift, by_scale };
                    Arch::new().dispatch(block);
                });
        });
    [by_x, sizes.over_blocks(&by_shift), sizes.over_blocks(&by_scale)]
}

/// # Shapes
/// `x` and `h` `[B, N, D]`, `gate` `[B, D]` → `[B, N, D]`
pub(super) fn gated_sum(x: &[f32], gate: &[f32], h: &[f32], sizes: &Sizes) -> Vec<f32> {
    let (image, block) = (sizes.image(), BLOCK * sizes.width);
    let mut out = copy(x);
    let images = out.par_chunks_mut(image).zip(h.par_chunks(image)).zip(gate.par_chunks(sizes.width));
    images.for_each(|((out, h), gate)| {
        out.par_chunks_mut(block).zip(h.par_chunks(block)).for_each(|(out, h)| {
            Arch::new().dispatch(GatedSum { gate, h, out });
        });
    });
    out
}

/// The gradients by `gate` and `h`; that by `x` is `gradient` itself.
///
/// # Shapes
/// `h` and `gradient` `[B, N, D]`, `gate` `[B, D]` → those of `gate` and `h`
pub(super) fn gated_sum_gradients(gate: &[f32], h: &[f32], gradient: &[f32], sizes: &Sizes) -> [Vec<f32>; 2] {
    let (image, width, block) = (sizes.image(), sizes.width, BLOCK * sizes.width);
    let [mut by_gate, mut by_h] = [sizes.blocks(), sizes.tokens].map(|rows| sizes.zeros(rows));
    by_h.par_chunks_mut(image)
        .zip(by_gate.par_chunks_mut(sizes.blocks() * width).zip(gate.par_chunks(width)))
        .zip(h.par_chunks(image).zip(gradient.par_chunks(image)))
        .for_each(|((by_h, (by_gate, gate)), (h, gradient))| {
            by_h.par_chunks_mut(block)
                .zip(by_gate.par_chunks_mut(width))
                .zip(h.par_chunks(block).zip(gradient.par_chunks(block)))
                .for_each(|((by_h, by_gate), (h, gradient))| {
                    Arch::new().dispatch(GatedSumGradients { gate, h, gradient, by_gate, by_h });
                });
        });
    [sizes.over_blocks(&by_gate), by_h]
}

/// Of some tokens of an image, compiled for every instruction set.
struct Norm<'a> {
    x: &'a [f32],
    shift: &'a [f32],
    scale: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { x, shift, scale, epsilon, out } = self;
        let width = scale.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (mean, factor) = moments(x, epsilon);
            for (((out, x), shift), scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
                *out = (x - mean) * factor * (1.0 + scale) + shift;
            }
        }
    }
}

/// Of some tokens of an image, compiled for every instruction set.
struct NormGradients<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    gradient: &'a [f32],
    epsilon: f32,
    by_x: &'a mut [f32],
    by_shift: &'a mut [f32],
    by_scale: &'a mut [f32],
}

impl NullaryFnOnce for NormGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { x, scale, gradient, epsilon, by_x, by_shift, by_scale } = self;
        let width = scale.len();
        let tokens = x.chunks_exact(width).zip(gradient.chunks_exact(width));
        for ((x, gradient), by_x) in tokens.zip(by_x.chunks_exact_mut(width)) {
            let (mean, factor) = moments(x, epsilon);
            by_shift.iter_mut().zip(gradient).for_each(|(by_shift, gradient)| *by_shift += gradient);
            for ((by_scale, x), gradient) in by_scale.iter_mut().zip(x).zip(gradient) {
                *by_scale += gradient * (x - mean) * factor;
            }
            // By x̂, where that by x will be; and the means of it, and of it times x̂.
            for ((by_x, gradient), scale) in by_x.iter_mut().zip(gradient).zip(scale) {
                *by_x = gradient * (1.0 + scale);
            }
            let count = width as f32;
            let of_normed = sum(by_x, |by_x| by_x) / count;
            let of_both = sum_of_pairs(by_x, x, |by_x, x| by_x * (x - mean)) * factor / count;
            for (by_x, x) in by_x.iter_mut().zip(x) {
                *by_x = factor * (*by_x - of_normed - (x - mean) * factor * of_both);
            }
        }
    }
}

/// Of some tokens of an image, added to x. Compiled for every instruction set.
struct GatedSum<'a> {
    gate: &'a [f32],
    h: &'a [f32],
    out: &'a mut [f32],
}

impl NullaryFnOnce for GatedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { gate, h, out } = self;
        for (h, out) in h.chunks_exact(gate.len()).zip(out.chunks_exact_mut(gate.len())) {
            out.iter_mut().zip(gate).zip(h).for_each(|((out, gate), h)| *out += gate * h);
        }
    }
}

/// Of some tokens of an image, compiled for every instruction set.
struct GatedSumGradients<'a> {
    gate: &'a [f32],
    h: &'a [f32],
    gradient: &'a [f32],
    by_gate: &'a mut [f32],
    by_h: &'a mut [f32],
}

impl NullaryFnOnce for GatedSumGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { gate, h, gradient, by_gate, by_h } = self;
        let width = gate.len();
        let tokens = h.chunks_exact(width).zip(gradient.chunks_exact(width));
        for ((h, gradient), by_h) in tokens.zip(by_h.chunks_exact_mut(width)) {
            for ((by_gate, gradient), h) in by_gate.iter_mut().zip(gradient).zip(h) {
                *by_gate += gradient * h;
            }
            for ((by_h, gradient), gate) in by_h.iter_mut().zip(gradient).zip(gate) {
                *by_h = gradient * gate;
            }
        }
    }
}
