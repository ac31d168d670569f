//! The choice of every image among its own candidates, which the KNN couplings share.

use crate::{CouplingError, Draw, fresh_noise};
use immiscible_assign::AssignError;
use immiscible_random::{Key, Stream};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, parallel::prelude::*};
use std::time::Instant;

/// Candidates of an image that are compared at once; bounds the memory to this many noises a thread.
const CHUNK: usize = 16;

/// Every image takes, of its own `k` noises, the one of the highest score, and the first of those that have it.
///
/// Candidate 0 is the independent noise; the others are drawn by address, so that an image has the same ones whatever the batch, the
/// number of threads and `k` are. `score` is given the number of an image and some of its candidates, `[c, D]`, which are its to
/// change, and returns c scores.
///
/// # Errors
/// [`AssignError::NonFinite`] for images that are not finite.
pub(crate) fn best_of(
    k: usize,
    x0: ArrayView2<f32>,
    key: Key,
    score: impl Fn(usize, Array2<f32>) -> Vec<f64> + Sync,
) -> Result<Draw<Array2<f32>>, CouplingError> {
    all_finite(x0)?;
    let (rows, dimensions) = x0.dim();
    let drawn = fresh_noise(rows, dimensions, key);
    let mut noise = drawn.clone();
    let start = Instant::now();
    let key = key.stream(Stream::CANDIDATES);
    if k > 1 {
        let each = noise.axis_iter_mut(Axis(0)).into_par_iter().enumerate();
        each.for_each(|(row, mut noise)| {
            let best = best(k, row, drawn.row(row), key, &score);
            if let Some(values) = noise.as_slice_mut().filter(|_| best > 0) {
                key.fill_normals(address(row, best), dimensions, values);
            }
        });
    }
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    Draw::measured(x0, drawn.view(), noise, milliseconds)
}

/// The number of an image's best candidate; candidate 0 is `first`.
fn best(
    k: usize,
    row: usize,
    first: ArrayView1<f32>,
    key: Key,
    score: impl Fn(usize, Array2<f32>) -> Vec<f64>,
) -> usize {
    let dimensions = first.len();
    let (mut best, mut most) = (0, f64::NEG_INFINITY);
    for chunk in (0..k).step_by(CHUNK) {
        let count = CHUNK.min(k - chunk);
        let mut candidates = Array2::zeros((count, dimensions));
        let own = usize::from(chunk == 0);
        if let Some(values) = candidates.as_slice_mut() {
            let numbers: Vec<u64> = (chunk + own..chunk + count).map(|j| address(row, j)).collect();
            key.fill_normals_at(&numbers, dimensions, &mut values[own * dimensions..]);
        }
        if chunk == 0 {
            candidates.row_mut(0).assign(&first);
        }
        for (score, number) in score(row, candidates).into_iter().zip(chunk..) {
            // Strictly more, so that a tie keeps the earlier candidate.
            if score > most {
                (best, most) = (number, score);
            }
        }
    }
    best
}

/// The row of the candidates' table that holds candidate `j` of an image, whatever `k` and the batch are.
fn address(row: usize, j: usize) -> u64 {
    (j as u64) << 32 | row as u64
}

/// Sets what does not count to 0, of every row.
pub(crate) fn keep_counted(values: &mut Array2<f32>, mask: Option<ArrayView1<bool>>) {
    if let Some(mask) = mask {
        for mut row in values.rows_mut() {
            row.zip_mut_with(&mask, |value, &counts| *value = if counts { *value } else { 0.0 });
        }
    }
}

/// # Errors
/// Where the mask is not that of these images.
pub(crate) fn check_mask(x0: ArrayView2<f32>, mask: Option<ArrayView2<bool>>) -> Result<(), CouplingError> {
    match mask.filter(|mask| mask.dim() != x0.dim()) {
        None => Ok(()),
        Some(mask) => {
            Err(CouplingError::ContextRows { what: "mask has", rows: x0.nrows(), found: mask.nrows() })
        }
    }
}

/// # Errors
/// The first value that is not finite.
pub(crate) fn all_finite(x0: ArrayView2<f32>) -> Result<(), AssignError> {
    match x0.indexed_iter().find(|(_, x)| !x.is_finite()) {
        None => Ok(()),
        Some(((row, column), &value)) => Err(AssignError::NonFinite { what: "images", row, column, value }),
    }
}
