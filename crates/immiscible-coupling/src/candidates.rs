//! The choice of every image among its own candidates, which the KNN couplings share.

use crate::{Compared, Costs, CouplingError, Draw, Statistics, download, fresh_noise, statistics::Sums};
use burn::tensor::{Tensor, TensorData};
use immiscible_assign::AssignError;
use immiscible_random::{Key, Stream};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, parallel::prelude::*};
use std::time::Instant;

/// Candidates of an image that are compared at once; bounds the memory to this many noises a thread.
const CHUNK: usize = 16;
/// Numbers of candidates that are on a device at once, where one of each image is not more.
const MOST: usize = 1 << 24;

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

/// [`best_of`] for images that are on a device, `[B, C, H, W]`: the candidates are drawn on the host by the same addresses, while the
/// device still makes the images or compares those before, and compared there some at a time; the best of them stay there. `score` is
/// given the images `[1, B, D]` and some candidates of each, `[c, B, D]`, and returns `[c, B, 1]`.
pub(crate) fn best_of_on_device(
    k: usize,
    x0: &Tensor<4>,
    key: Key,
    score: impl Fn(&Tensor<3>, &Tensor<3>) -> Tensor<3>,
) -> Result<(Compared, Costs), CouplingError> {
    let (device, shape) = (x0.device(), x0.dims());
    let [rows, dimensions] = [shape[0], shape[1..].iter().product()];
    let x = x0.clone().reshape([1, rows, dimensions]);
    let on_device = |values: Vec<f32>, count| {
        Tensor::<3>::from_data(TensorData::new(values, [count, rows, dimensions]), &device)
    };
    let first = on_device(fresh_noise(rows, dimensions, key).into_raw_vec_and_offset().0, 1);
    let key = key.stream(Stream::CANDIDATES);
    // So many candidates of every image from number `chunk` on, as far as there are any.
    let at_once = (MOST / (rows * dimensions).max(1)).clamp(1, CHUNK);
    let draw = |chunk: usize| {
        let numbers: Vec<u64> =
            (chunk..k.min(chunk + at_once)).flat_map(|j| (0..rows).map(move |row| address(row, j))).collect();
        let mut values = vec![0.0; numbers.len() * dimensions];
        key.fill_normals_at(&numbers, dimensions, &mut values);
        values
    };
    let mut drawn = draw(1);
    // What the device still has to do to make the images is no part of comparing them.
    device.sync().map_err(CouplingError::device)?;

    let start = Instant::now();
    let (mut best, mut most) = (first.clone(), score(&x, &first));
    for chunk in (1..k).step_by(at_once) {
        let candidates = on_device(drawn, at_once.min(k - chunk));
        let (highest, place) = score(&x, &candidates).max_dim_with_indices(0);
        let nearest = candidates.gather(0, place.expand([1, rows, dimensions]));
        // Strictly more, so that a tie keeps the earlier candidate.
        let nearer = highest.clone().greater(most.clone());
        best = best.mask_where(nearer.clone().expand([1, rows, dimensions]), nearest);
        most = most.mask_where(nearer, highest);
        // While the device compares.
        drawn = draw(chunk + at_once);
    }

    let distance = |n: &Tensor<3>| (x.clone() - n.clone()).square().sum_dim(2).sqrt().mean();
    let over_rows = |it: &Tensor<3>| it.clone().sum_dim(1);
    let sums = [
        distance(&first),
        distance(&best),
        (x.clone() * best.clone()).sum(),
        x.clone().square().sum(),
        best.clone().square().sum(),
        (over_rows(&x) * over_rows(&best)).sum(),
        over_rows(&best).square().sum(),
    ];
    let read = download(Tensor::cat(sums.to_vec(), 0))?;
    let [distance_before, distance_after, inner, image, noise, means, mean] =
        std::array::from_fn(|i| f64::from(read.get(i).copied().unwrap_or(f32::NAN)));
    let statistics = Statistics {
        distance_before,
        distance_after,
        ..Statistics::of_sums((rows, dimensions), Sums { inner, image, noise, means, mean })
    };
    let moved = [size_of::<f32>() * read.len(), size_of::<f32>() * k * rows * dimensions];
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    Ok(Compared::chosen(best.reshape(shape), statistics, moved, milliseconds))
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
