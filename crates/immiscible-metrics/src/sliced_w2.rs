use std::fmt;

use immiscible_random::{Key, Stream};
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{MetricError, error::check};

/// Projections of one matrix product. It does not depend on the number of threads, so neither does the result.
const BLOCK: usize = 32;

/// The sliced 2-Wasserstein distance of two sets of samples: √(mean over random unit vectors θ of W₂²(⟨θ, a⟩, ⟨θ, b⟩))
/// (Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", Journal of Mathematical Imaging and Vision 51, 2015).
///
/// It has the unit of the data, for one direction: moving all samples by δ moves it by about ‖δ‖/√D. Finite samples of
/// the *same* distribution are not at distance 0, so a value says something only with the number of samples, projections
/// and seed, and beside a floor: see [`SlicedW2`].
///
/// The W₂ of each projection is exact. Row p of the [projection stream](Stream::PROJECTION) of `key` is the direction of
/// projection p, so two calls with one key look along the same directions.
///
/// # Shapes
/// `a` is [N, D], `b` is [M, D]; N and M may differ.
///
/// # Errors
/// If a set is empty or not finite, if the two differ in D, or without projections.
pub fn sliced_w2(
    a: ArrayView2<f32>,
    b: ArrayView2<f32>,
    projections: usize,
    key: Key,
) -> Result<f64, MetricError> {
    check(a, "a")?;
    check(b, "b")?;
    if a.ncols() != b.ncols() {
        return Err(MetricError::ShapeMismatch {
            what: "the dimension of b",
            expected: a.ncols(),
            found: b.ncols(),
        });
    }
    if projections == 0 {
        return Err(MetricError::NoProjections);
    }
    let directions = directions(projections, a.ncols(), key);
    let squares: Vec<f64> = directions
        .axis_chunks_iter(Axis(0), BLOCK)
        .flat_map(|directions| {
            let (a, b) = (sorted_projections(directions, a), sorted_projections(directions, b));
            a.par_iter().zip(b).map(|(a, b)| w2_squared(a, &b)).collect::<Vec<_>>()
        })
        .collect();
    Ok((squares.iter().sum::<f64>() / projections as f64).sqrt())
}

/// Unit vectors, uniform on the sphere: [projections, D].
fn directions(projections: usize, dimension: usize, key: Key) -> Array2<f32> {
    let mut directions = Array2::zeros((projections, dimension));
    let key = key.stream(Stream::PROJECTION);
    for (p, mut direction) in directions.rows_mut().into_iter().enumerate() {
        let mut normals = vec![0.0; dimension];
        key.fill_normals(p as u64, dimension, &mut normals);
        let norm = normals.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        // One normal alone can be 0: its direction then sees no distance.
        let norm = norm.max(f64::MIN_POSITIVE);
        for (x, normal) in direction.iter_mut().zip(normals) {
            *x = (f64::from(normal) / norm) as f32;
        }
    }
    directions
}

/// For each direction the samples' coordinates along it, in ascending order.
fn sorted_projections(directions: ArrayView2<f32>, samples: ArrayView2<f32>) -> Vec<Vec<f32>> {
    let mut rows: Vec<Vec<f32>> =
        directions.dot(&samples.t()).rows().into_iter().map(|row| row.to_vec()).collect();
    rows.par_iter_mut().for_each(|row| row.sort_unstable_by(f32::total_cmp));
    rows
}

/// W₂² = ∫₀¹ (F⁻¹(q) − G⁻¹(q))² dq of two ascending, non-empty sets. Both quantile functions are steps, so the integral is
/// a sum over the pieces between their jumps i/N and j/M, told apart in units of 1/(NM).
fn w2_squared(a: &[f32], b: &[f32]) -> f64 {
    let (n, m) = (a.len() as u64, b.len() as u64);
    let (mut i, mut j, mut from, mut sum) = (0, 0, 0, 0.0);
    while from < n * m {
        let (end_i, end_j) = ((i + 1) * m, (j + 1) * n);
        let to = end_i.min(end_j);
        let difference = f64::from(a[i as usize]) - f64::from(b[j as usize]);
        sum += difference * difference * (to - from) as f64;
        i += u64::from(end_i == to);
        j += u64::from(end_j == to);
        from = to;
    }
    sum / (n * m) as f64
}

/// A [`sliced_w2`] with all that is needed to read it.
///
/// The real samples are divided at random, by the key: as many as were generated are held out, the others are the
/// reference. `value` compares the generated samples with the reference, `floor` the held-out ones, so both have the same
/// sample counts, directions and reference, and no sample meets itself. A generator as good as the data scores the floor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlicedW2 {
    /// Generated against reference, in the unit of the data.
    pub value: f64,
    /// Held-out real samples against the same reference.
    pub floor: f64,
    /// Number of generated samples, and of held-out ones.
    pub samples: usize,
    /// Number of real samples in the reference.
    pub reference: usize,
    /// Number of directions.
    pub projections: usize,
    /// The seed of the directions and of the division.
    pub seed: u64,
}

impl SlicedW2 {
    /// Measures `generated` against `real`.
    ///
    /// # Shapes
    /// `generated` is [N, D], `real` is [R, D] with R ≥ 2N.
    ///
    /// # Errors
    /// As [`sliced_w2`], and if there are fewer than 2N real samples.
    pub fn measure(
        generated: ArrayView2<f32>,
        real: ArrayView2<f32>,
        projections: usize,
        key: Key,
    ) -> Result<Self, MetricError> {
        check(generated, "the generated set")?;
        check(real, "the real set")?;
        let samples = generated.nrows();
        if real.nrows() < 2 * samples {
            return Err(MetricError::TooFewReal { generated: samples, real: real.nrows() });
        }
        let order: Vec<usize> = key
            .stream(Stream::SHUFFLE)
            .permutation(real.nrows())
            .into_iter()
            .map(|row| row as usize)
            .collect();
        let (held_out, reference) = order.split_at(samples);
        let (held_out, reference) = (real.select(Axis(0), held_out), real.select(Axis(0), reference));
        let distance = |samples| sliced_w2(samples, reference.view(), projections, key);
        Ok(Self {
            value: distance(generated)?,
            floor: distance(held_out.view())?,
            samples,
            reference: reference.nrows(),
            projections,
            seed: key.seed(),
        })
    }
}

impl fmt::Display for SlicedW2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, floor, samples, reference, projections, seed } = self;
        write!(
            f,
            "sliced W2 {value:.4} (floor {floor:.4}; {samples} samples against {reference}, {projections} projections, \
             seed {seed})"
        )
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};

    use super::*;

    const KEY: Key = Key::new(11);

    fn normals(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
        let mut values = vec![0.0; rows * columns];
        Key::new(seed).fill_normals(0, columns, &mut values);
        Array2::from_shape_vec((rows, columns), values).expect("rows * columns values")
    }

    fn distance(a: &Array2<f32>, b: &Array2<f32>, projections: usize) -> f64 {
        sliced_w2(a.view(), b.view(), projections, KEY).expect("finite samples")
    }

    #[test]
    fn a_shift_on_the_line_is_its_length() {
        let a = normals(0, 100, 1);
        assert!((distance(&a, &(&a + 2.5), 3) - 2.5).abs() < 1e-6);
    }

    #[test]
    fn a_shift_in_space_is_its_length_in_one_direction() {
        let (a, shift) = (normals(0, 50, 40), normals(1, 1, 40));
        let length = shift.mapv(|x| x * x).sum().sqrt();
        let expected = f64::from(length) / 40.0_f64.sqrt();
        let found = distance(&a, &(&a + &shift), 2_000);
        // The mean of χ²₁ over 2,000 directions has a standard error of 3 %, its root of half that.
        assert!((found / expected - 1.0).abs() < 0.06, "{found}, not {expected}");
    }

    #[test]
    fn normals_differ_by_their_spread() {
        // W₂ of N(0, 1) and N(0, 4) on a line is 2 − 1.
        let (a, b) = (normals(0, 4_000, 8), normals(1, 5_000, 8) * 2.0);
        assert!((distance(&a, &b, 50) - 1.0).abs() < 0.05);
    }

    #[test]
    fn a_set_is_at_distance_zero_from_itself_in_any_order() {
        let a = normals(0, 301, 20);
        assert_eq!(distance(&a, &a, 40), 0.0);
        let order: Vec<usize> = KEY.permutation(301).into_iter().map(|row| row as usize).collect();
        assert!(distance(&a, &a.select(Axis(0), &order), 40) < 1e-6);
        // Every sample three times is the same distribution.
        let thrice: Vec<usize> = (0..903).map(|row| row / 3).collect();
        assert!(distance(&a, &a.select(Axis(0), &thrice), 40) < 1e-6);
    }

    #[test]
    fn sets_of_different_size_by_hand() {
        // Quantiles: 0 0 | 0 6 | 6 6 of {0, 6} in sixths, against {0, 3, 6}: 0 0 | 3 3 | 6 6.
        assert_eq!(w2_squared(&[0.0, 6.0], &[0.0, 3.0, 6.0]), (9.0 + 9.0) / 6.0);
        assert_eq!(w2_squared(&[1.0], &[0.0, 1.0, 2.0, 3.0]), (1.0 + 0.0 + 1.0 + 4.0) / 4.0);
    }

    #[test]
    fn rotating_both_sets_changes_only_the_choice_of_directions() {
        let (a, mut b) = (normals(0, 200, 3), normals(1, 200, 3));
        b.column_mut(0).mapv_inplace(|x| 2.0 * x + 1.0);
        let (sin, cos) = 0.7_f32.sin_cos();
        let rotation = array![[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]];
        let (plain, rotated) =
            (distance(&a, &b, 4_000), distance(&a.dot(&rotation), &b.dot(&rotation), 4_000));
        assert!((plain / rotated - 1.0).abs() < 0.03, "{plain} and {rotated}");
    }

    #[test]
    fn threads_do_not_matter() {
        let (a, b) = (normals(0, 700, 30), normals(1, 500, 30));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| distance(&a, &b, 70)).to_bits()
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn directions_are_unit_vectors_and_the_first_stay_when_more_are_asked_for() {
        let many = directions(100, 50, KEY);
        for direction in many.rows() {
            assert!((direction.dot(&direction) - 1.0).abs() < 1e-5);
        }
        let mean: Array1<f32> = many.mean_axis(Axis(0)).expect("a hundred rows");
        assert!(mean.dot(&mean).sqrt() < 0.2, "the sphere has no preferred side");
        assert_eq!(directions(7, 50, KEY), many.slice_axis(Axis(0), (..7).into()));
    }

    #[test]
    fn a_perfect_generator_scores_the_floor_and_a_poor_one_does_not() {
        let real = normals(0, 3_000, 16);
        let perfect = SlicedW2::measure(normals(1, 1_000, 16).view(), real.view(), 100, KEY).expect("finite");
        assert!((perfect.value / perfect.floor - 1.0).abs() < 0.15, "{perfect}");
        assert_eq!(
            (perfect.samples, perfect.reference, perfect.projections, perfect.seed),
            (1_000, 2_000, 100, 11)
        );
        let copies = real.slice_axis(Axis(0), (..1_000).into());
        let poor = (&copies * 0.8).to_owned();
        let poor = SlicedW2::measure(poor.view(), real.view(), 100, KEY).expect("finite");
        assert!(poor.value > 3.0 * poor.floor, "{poor}");
        assert!(poor.to_string().contains("1000 samples against 2000, 100 projections, seed 11"), "{poor}");
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let (a, narrow, none) = (normals(0, 4, 3), normals(0, 4, 2), Array2::zeros((0, 3)));
        let error = |a: &Array2<f32>, b: &Array2<f32>, projections| {
            sliced_w2(a.view(), b.view(), projections, KEY).expect_err("no number").to_string()
        };
        assert_eq!(error(&a, &narrow, 1), "the dimension of b is 2, but 3 is needed");
        assert_eq!(error(&a, &none, 1), "b is empty: a metric needs at least one sample");
        assert!(error(&a, &a, 0).contains("at least one projection"));
        let mut broken = a.clone();
        broken[(3, 1)] = f32::NAN;
        assert_eq!(error(&broken, &a, 1), "a holds NaN at row 3, column 1: every value must be finite");
        let few = SlicedW2::measure(a.view(), normals(0, 7, 3).view(), 1, KEY).expect_err("too few");
        assert!(few.to_string().starts_with("4 generated samples need at least 8 real ones"), "{few}");
    }
}
