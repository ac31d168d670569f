//! The distances of the paper's "quantised assignment", which are made of half-precision numbers throughout.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, parallel::prelude::*};

use crate::{AssignError, cost::all_finite, cost::by_blocks};

/// What images and noises are multiplied by, so that the squares of large ones stay in range.
const SCALE: f32 = 0.1;
/// The largest half-precision number.
const MAX: f32 = 65_504.0;
/// Images that are compared with one noise while it is in the cache.
const BLOCK: usize = 16;

/// ‖h(0.1)·h(x) − h(0.1)·h(n)‖, where h and every operation round to half precision; the sum of the squares alone is kept in
/// single precision, as PyTorch keeps it.
///
/// # Shapes
/// `images` and `mask` are [B, D], `noise` is [M, D], the result [B, M].
///
/// # Errors
/// [`AssignError::NonFinite`] for a value that half precision does not hold (above 65,504), which PyTorch takes for infinite
/// and SciPy then refuses.
pub(crate) fn distances(
    images: ArrayView2<f32>,
    noise: ArrayView2<f32>,
    mask: Option<ArrayView2<bool>>,
) -> Result<Array2<f32>, AssignError> {
    let factor = to_half(SCALE);
    let scaled = |values: ArrayView2<f32>, what| {
        all_finite(values, what)?;
        let held = values.mapv(to_half);
        all_finite(held.view(), what).map_err(|error| match error {
            AssignError::NonFinite { row, column, .. } => {
                AssignError::BeyondHalf { what, row, column, value: values[(row, column)] }
            }
            other => other,
        })?;
        Ok(held.mapv(|x| to_half(factor * x)).as_standard_layout().into_owned())
    };
    let (images, noise) = (scaled(images, "images")?, scaled(noise, "candidates")?);
    let Some(mask) = mask else {
        return Ok(by_blocks(BLOCK, images.view(), noise.view(), |images, mut cost| {
            for (n, mut column) in noise.rows().into_iter().zip(cost.columns_mut()) {
                for (x, c) in images.rows().into_iter().zip(&mut column) {
                    *c = to_half(sum_of_squares(x, n).sqrt());
                }
            }
        }));
    };
    let mut cost = Array2::zeros((images.nrows(), noise.nrows()));
    cost.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(i, mut row)| {
        for (c, n) in row.iter_mut().zip(noise.rows()) {
            let differences = images.row(i).into_iter().zip(n).map(|(x, n)| to_half(x - n));
            let counted = differences.zip(mask.row(i)).filter(|(_, counts)| **counts);
            *c = to_half(counted.map(|(d, _)| d * d).sum::<f32>().sqrt());
        }
    });
    Ok(cost)
}

/// ‖h(h(x) − h(n))‖, rounded to half precision, where h rounds to it as well; the sum of the squares alone is kept in single precision,
/// as PyTorch keeps it: the distance of the official code of Improved Immiscible Diffusion (arXiv 2505.18521). Infinite where a value
/// is beyond half precision.
///
/// # Shapes
/// Both `[D]`.
pub fn half_distance(x: ArrayView1<f32>, n: ArrayView1<f32>) -> f32 {
    to_half(sum(x, n, |x, n| to_half(to_half(x) - to_half(n)).powi(2)).sqrt())
}

/// Σ h(x − n)².
fn sum_of_squares(x: ArrayView1<f32>, n: ArrayView1<f32>) -> f32 {
    sum(x, n, |x, n| to_half(x - n).powi(2))
}

/// The sum of a term of every coordinate.
#[inline(always)]
fn sum(x: ArrayView1<f32>, n: ArrayView1<f32>, term: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let (Some(x), Some(n)) = (x.to_slice(), n.to_slice()) else {
        return x.iter().zip(n).map(|(&x, &n)| term(x, n)).sum();
    };
    let ((x, rest_x), (n, rest_n)) = (x.as_chunks::<LANES>(), n.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, n) in x.iter().zip(n) {
        for lane in 0..LANES {
            sums[lane] += term(x[lane], n[lane]);
        }
    }
    let rest: f32 = rest_x.iter().zip(rest_n).map(|(&x, &n)| term(x, n)).sum();
    sums.iter().sum::<f32>() + rest
}

/// The half-precision number nearest to `x` (of two, the even one), infinite beyond the largest.
///
/// An operation on two of them in single precision, rounded by this, is the operation in half precision: 24 bits are enough
/// to round twice as if once (Figueroa, "When is double rounding innocuous?", 1995).
#[inline(always)]
fn to_half(x: f32) -> f32 {
    // 11 significant bits of 24: half of the last one kept, less one unit where the kept part is even.
    let bits = x.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0x0fff + (bits >> 13 & 1)) & !0x1fff);
    // Below 2⁻¹⁴ the numbers are the multiples of 2⁻²⁴, the distance of two single-precision numbers around 0.75.
    let tiny = ((x.abs() + 0.75) - 0.75).copysign(x);
    let rounded = if x.abs() < 6.103_515_6e-5 { tiny } else { normal };
    if rounded.abs() > MAX { f32::INFINITY.copysign(x) } else { rounded }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::{Candidates, Cost, Precision, Problem, normals::normals};

    #[test]
    fn rounding_is_that_of_half_precision() {
        for (x, expected) in [
            (0.1, 0.099_975_586),
            (1.0 / 3.0, 0.333_251_95),
            (2_049.0, 2_048.0), // a tie goes to the even neighbour
            (2_051.0, 2_052.0),
            (65_519.0, 65_504.0),
            (65_520.0, f32::INFINITY),
            (-1e9, f32::NEG_INFINITY),
            (6.0e-8, 5.960_464_5e-8), // the smallest there is
            (2.9e-8, 0.0),
            (6.1e-5, 6.097_555e-5),
        ] {
            assert_eq!(to_half(x), expected, "{x}");
        }
        assert!(to_half(f32::NAN).is_nan());
    }

    /// `(h(0.1) * h(x))[:, None] - (h(0.1) * h(n))[None]` and `torch.linalg.vector_norm(…, dim=2)` of PyTorch 2, where
    /// h is `.half()`, for x = sin(0, 1, …) and n = 3·cos(0, 1, …).
    #[test]
    fn distances_are_those_of_pytorch() {
        let x = Array2::from_shape_fn((2, 50), |(i, d)| ((i * 50 + d) as f32).sin());
        let n = Array2::from_shape_fn((3, 50), |(i, d)| 3.0 * ((i * 50 + d) as f32).cos());
        let found = distances(x.view(), n.view(), None).expect("finite");
        let expected = [1.577_148_4, 1.449_218_8, 1.319_335_9, 1.696_289_1, 1.579_101_6, 1.451_171_9];
        for (found, expected) in found.iter().zip(expected) {
            // One unit in the last place: the sums are added in another order.
            assert!((found - expected).abs() <= 1.0 / 1024.0, "{found}, not {expected}");
        }
        let everything = Array2::from_elem((2, 50), true);
        let masked = distances(x.view(), n.view(), Some(everything.view())).expect("finite");
        assert!((masked - found).iter().all(|difference| difference.abs() <= 1.0 / 1024.0));
    }

    #[test]
    fn large_images_do_not_overflow_and_values_beyond_half_are_named() {
        // 3×256×256 numbers: the sum of their squares, 2.5e5 without the factor, is above 65,504.
        let (x, n) = (Array2::from_elem((1, 196_608), 0.5), normals(3, 2, 196_608));
        let half = distances(x.view(), n.view(), None).expect("in range");
        let single = Cost::L2.matrix(x.view(), n.view()).expect("finite");
        for (half, single) in half.iter().zip(&single) {
            assert!((10.0 * half / single - 1.0).abs() < 2e-3, "{half}, {single}");
        }
        let error = distances(array![[0.0, 7e4]].view(), array![[0.0, 1.0]].view(), None).unwrap_err();
        assert_eq!(error, AssignError::BeyondHalf { what: "images", row: 0, column: 1, value: 7e4 });
    }

    #[test]
    fn half_precision_is_of_the_l2_distance_and_loses_little() {
        let (images, noise) = (normals(1, 64, 200), normals(2, 64, 200));
        let problem = Problem {
            cost: Cost::L2,
            precision: Precision::F16,
            ..Problem::new(images.view(), Candidates::Shared(noise.view()))
        };
        let single = Problem { precision: Precision::F32, ..problem };
        let (half, best) = (
            crate::by_name("exact").unwrap().assign(&problem).unwrap(),
            crate::by_name("exact").unwrap().assign(&single).unwrap(),
        );
        let matrix = single.cost_matrix().unwrap();
        let cost: f64 =
            half.noise_of.iter().enumerate().map(|(i, &j)| f64::from(matrix[(i, j as usize)])).sum();
        assert!(cost - best.cost < 0.01 * (best.identity_cost - best.cost), "{cost}, {best:?}");
        let dot = Problem { cost: Cost::Dot, ..problem };
        assert_eq!(dot.cost_matrix(), Err(AssignError::HalfIsL2 { cost: "dot" }));
    }
}
