//! Attention a few rows at a time, so that the shares of all rows are never in memory at once, and its gradients, for which they
//! are computed again (after Rabe and Staats 2021, arXiv 2112.05682).

use crate::matrix::{Matrix, multiply};
use crate::output::zeros;
use crate::wide::{exp, largest, sum, sum_of_pairs};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    /// Rows that attend.
    pub(super) queries: usize,
    /// Rows that are attended to.
    pub(super) keys: usize,
    pub(super) heads: usize,
    /// Values of a row in each head.
    pub(super) depth: usize,
}

impl Sizes {
    pub(super) fn width(&self) -> usize {
        self.heads * self.depth
    }

    /// Rows that are worked on at a time: their shares stay in a core's cache.
    fn rows(&self) -> usize {
        (16_384 / self.keys).clamp(16, 64).min(self.queries)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.depth as f32).sqrt()
    }

    /// The part of rows that belongs to a head.
    fn head<'a>(&self, rows: &'a [f32], head: usize) -> Matrix<'a> {
        Matrix { values: &rows[head * self.depth..], steps: [self.width(), 1] }
    }

    /// Shares of `rows` rows of `q` in what is attended to, `[rows, keys]`.
    fn shares(&self, rows: usize, q: Matrix<'_>, k: Matrix<'_>, shares: &mut [f32]) {
        multiply([rows, self.depth, self.keys], self.scale(), q, k.transposed(), shares, self.keys, false);
        Arch::new().dispatch(Softmax { rows: shares, columns: self.keys });
    }
}

/// # Shapes
/// `q` `[B, N, H·d]`, `k` and `v` `[B, M, H·d]` → `[B, N, H·d]`
pub(super) fn forward(q: &[f32], k: &[f32], v: &[f32], sizes: &Sizes) -> Vec<f32> {
    let (width, of_image) = (sizes.width(), sizes.keys * sizes.width());
    let mut out = zeros(q.len());
    let images = out.par_chunks_mut(sizes.queries * width).zip(q.par_chunks(sizes.queries * width));
    images.zip(k.par_chunks(of_image).zip(v.par_chunks(of_image))).for_each(|((out, q), (k, v))| {
        let blocks = out.par_chunks_mut(sizes.rows() * width).zip(q.par_chunks(sizes.rows() * width));
        blocks.for_each_init(Vec::new, |shares, (out, q)| {
            let rows = q.len() / width;
            shares.resize(rows * sizes.keys, 0.0);
            for head in 0..sizes.heads {
                sizes.shares(rows, sizes.head(q, head), sizes.head(k, head), shares);
                let shares = Matrix { values: shares, steps: [sizes.keys, 1] };
                let out = &mut out[head * sizes.depth..];
                multiply(
                    [rows, sizes.keys, sizes.depth],
                    1.0,
                    shares,
                    sizes.head(v, head),
                    out,
                    width,
                    false,
                );
            }
        });
    });
    out
}

/// The gradients of a loss by `q`, `k` and `v`, of which `gradient` is that by the output.
///
/// # Shapes
/// `q` and `gradient` `[B, N, H·d]`, `k` and `v` `[B, M, H·d]` → those of `q`, `k` and `v`
pub(super) fn backward(q: &[f32], k: &[f32], v: &[f32], gradient: &[f32], sizes: &Sizes) -> [Vec<f32>; 3] {
    let (width, depth, keys) = (sizes.width(), sizes.depth, sizes.keys);
    let [of_queries, of_keys] = [sizes.queries, keys].map(|rows| rows * width);
    let [mut by_q, mut by_k, mut by_v] = [q.len(), k.len(), v.len()].map(zeros);
    let inputs = q.par_chunks(of_queries).zip(gradient.par_chunks(of_queries));
    let inputs = inputs.zip(k.par_chunks(of_keys).zip(v.par_chunks(of_keys)));
    by_q.par_chunks_mut(of_queries)
        .zip(by_k.par_chunks_mut(of_keys).zip(by_v.par_chunks_mut(of_keys)))
        .zip(inputs)
        .for_each_init(
            || [Vec::new(), Vec::new()],
            |[shares, by_shares], ((by_q, (by_k, by_v)), ((q, gradient), (k, v)))| {
                let block = sizes.rows() * width;
                let blocks = by_q.chunks_mut(block).zip(q.chunks(block).zip(gradient.chunks(block)));
                for (by_q, (q, gradient)) in blocks {
                    let rows = q.len() / width;
                    shares.resize(rows * keys, 0.0);
                    by_shares.resize(rows * keys, 0.0);
                    for head in 0..sizes.heads {
                        let [q, gradient, k, v] = [q, gradient, k, v].map(|it| sizes.head(it, head));
                        let at = head * depth;
                        sizes.shares(rows, q, k, shares);
                        multiply([rows, depth, keys], 1.0, gradient, v.transposed(), by_shares, keys, false);
                        let of_rows = |values| Matrix { values, steps: [keys, 1] };
                        let p = of_rows(shares).transposed();
                        multiply([keys, rows, depth], 1.0, p, gradient, &mut by_v[at..], width, true);
                        Arch::new().dispatch(SoftmaxGradient { shares, by_shares, columns: keys });
                        let (by_scores, scale) = (of_rows(by_shares), sizes.scale());
                        multiply([rows, keys, depth], scale, by_scores, k, &mut by_q[at..], width, false);
                        let by_scores = by_scores.transposed();
                        multiply([keys, rows, depth], scale, by_scores, q, &mut by_k[at..], width, true);
                    }
                }
            },
        );
    [by_q, by_k, by_v]
}

/// Each row becomes its softmax. Compiled for every instruction set.
struct Softmax<'a> {
    rows: &'a mut [f32],
    columns: usize,
}

impl NullaryFnOnce for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.rows.chunks_exact_mut(self.columns) {
            let largest = largest(row);
            row.iter_mut().for_each(|value| *value = exp(*value - largest));
            let share = 1.0 / sum(row, |value| value);
            row.iter_mut().for_each(|value| *value *= share);
        }
    }
}

/// ∂/∂scores = p ∘ (∂/∂p − ⟨∂/∂p, p⟩), row by row, in place of ∂/∂p. Compiled for every instruction set.
struct SoftmaxGradient<'a> {
    shares: &'a [f32],
    by_shares: &'a mut [f32],
    columns: usize,
}

impl NullaryFnOnce for SoftmaxGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.shares.chunks_exact(self.columns).zip(self.by_shares.chunks_exact_mut(self.columns));
        for (shares, by_shares) in rows {
            let mean = sum_of_pairs(shares, by_shares, |p, by_p| p * by_p);
            by_shares.iter_mut().zip(shares).for_each(|(by_p, p)| *by_p = p * (*by_p - mean));
        }
    }
}
