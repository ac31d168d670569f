use std::{fmt, str::FromStr};

use ndarray::{
    Array1, Array2, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut2, Axis, parallel::prelude::*,
};
use serde::{Deserialize, Serialize};

use crate::{
    AssignError, Precision,
    distance::{absolute_distance, squared_distance},
    half, int8,
    product::product,
};

/// What it costs an image x to take a noise n.
///
/// Over permutations `Dot` and `SquaredL2` have the same optimum, because ‖x‖² and ‖n‖² then always add up to the same
/// sum; `L2` is nearly the same and is what the paper minimises (Immiscible Diffusion, arXiv 2406.12303, Algorithm 1), and
/// `L1` is its ablation (Table 5). When each image picks among its own candidates they differ: the distances prefer short
/// noises, `Dot` does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// −⟨x, n⟩: one matrix product, and the best conditioned.
    #[default]
    Dot,
    /// ‖x − n‖².
    SquaredL2,
    /// ‖x − n‖.
    L2,
    /// Σ |x − n|: no matrix product, and several times slower.
    L1,
}

/// Images whose absolute differences with one noise are summed while that noise is in the cache.
const L1_BLOCK: usize = 16;

impl Cost {
    /// Every cost there is, in the order of the declaration.
    pub const ALL: [Self; 4] = [Self::Dot, Self::SquaredL2, Self::L2, Self::L1];

    /// The cost of every image with every noise, by one matrix product (but for `L1`).
    ///
    /// # Shapes
    /// `images` is [B, D], `noise` is [M, D], the result [B, M].
    ///
    /// # Errors
    /// If the two differ in D, or if a value, or a cost made of them, is not finite.
    pub fn matrix(self, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Result<Array2<f32>, AssignError> {
        self.of_all(images, noise, None, Precision::F32)
    }

    /// The same over the coordinates in `mask` [B, D].
    pub(crate) fn of_all(
        self,
        images: ArrayView2<f32>,
        noise: ArrayView2<f32>,
        mask: Option<ArrayView2<bool>>,
        precision: Precision,
    ) -> Result<Array2<f32>, AssignError> {
        if images.ncols() != noise.ncols() {
            return Err(AssignError::ShapeMismatch {
                what: "candidates",
                expected: vec![noise.nrows(), images.ncols()],
                found: noise.shape().to_vec(),
            });
        }
        if precision == Precision::F16 {
            return match self {
                Self::L2 => half::distances(images, noise, mask),
                _ => Err(AssignError::HalfIsL2 { cost: self.name() }),
            };
        }
        let cost = match self {
            Self::L1 => absolute_distances(images, noise, mask),
            _ => {
                // Masked coordinates of the image are 0 and so drop out of the product.
                let masked = mask.map(|mask| {
                    let mut masked = images.to_owned();
                    masked.zip_mut_with(&mask, |x, &counts| *x = if counts { *x } else { 0.0 });
                    masked
                });
                let images = masked.as_ref().map_or(images, |masked| masked.view());
                let scale = if self == Self::Dot { -1.0 } else { -2.0 };
                let mut cost = match precision {
                    Precision::F32 | Precision::F16 => product(scale, images, noise),
                    Precision::Int8 => int8::product(scale, images, noise),
                };
                if self != Self::Dot {
                    self.complete_squares(&mut cost, images, noise, mask);
                }
                cost
            }
        };
        all_finite(cost.view(), "cost").map_err(|found| {
            // An input is the better culprit, where one is.
            let inputs = all_finite(images, "images").and(all_finite(noise, "candidates"));
            inputs.err().unwrap_or(found)
        })?;
        Ok(cost)
    }

    /// ‖x − n‖² = ‖x‖² + ‖n‖² − 2⟨x, n⟩ of matrices that hold the last term.
    fn complete_squares(
        self,
        cost: &mut Array2<f32>,
        images: ArrayView2<f32>,
        noise: ArrayView2<f32>,
        mask: Option<ArrayView2<bool>>,
    ) {
        if let Some(mask) = mask {
            let counts = mask.mapv(|counts| if counts { 1.0 } else { 0.0 });
            *cost += &product(1.0, counts.view(), noise.mapv(|n| n * n).view());
        }
        let n2 = if mask.is_some() { Array1::zeros(noise.nrows()) } else { squared_norms(noise) };
        let x2 = squared_norms(images);
        cost.axis_iter_mut(Axis(0)).into_par_iter().zip(x2.axis_iter(Axis(0))).for_each(|(mut row, x2)| {
            row.zip_mut_with(&n2, |c, n2| *c = self.of_squared(*c + (x2.into_scalar() + n2)));
        });
    }

    /// The cost of every image with each of its own candidates.
    ///
    /// # Shapes
    /// `images` is [B, D], `noise` is [B, k, D], the result [B, k].
    pub(crate) fn of_own(
        self,
        images: ArrayView2<f32>,
        noise: ArrayView3<f32>,
        mask: Option<ArrayView2<bool>>,
    ) -> Result<Array2<f32>, AssignError> {
        let (batch, k, dimension) = noise.dim();
        if (batch, dimension) != images.dim() {
            return Err(AssignError::ShapeMismatch {
                what: "candidates",
                expected: vec![images.nrows(), k, images.ncols()],
                found: noise.shape().to_vec(),
            });
        }
        let mut costs = Array2::zeros((batch, k));
        costs.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(i, mut costs)| {
            let (image, noise) = (images.row(i), noise.index_axis(Axis(0), i));
            for (c, noise) in costs.iter_mut().zip(noise.rows()) {
                *c = match mask {
                    None => self.between(image, noise),
                    Some(mask) => {
                        let counted = |values: ArrayView1<f32>| -> Array1<f32> {
                            let pairs = values.into_iter().zip(mask.row(i));
                            pairs.filter(|(_, counts)| **counts).map(|(&x, _)| x).collect()
                        };
                        self.between(counted(image).view(), counted(noise).view())
                    }
                };
            }
        });
        all_finite(costs.view(), "cost").map_err(|found| {
            let noise = noise.as_standard_layout();
            let rows = noise.view().into_shape_with_order((batch * k, dimension));
            let inputs = all_finite(images, "images")
                .and_then(|()| rows.map_or(Ok(()), |rows| all_finite(rows, "candidates")));
            inputs.err().unwrap_or(found)
        })?;
        Ok(costs)
    }

    /// The cost of one image and one noise of the same length.
    fn between(self, image: ArrayView1<f32>, noise: ArrayView1<f32>) -> f32 {
        match self {
            Self::Dot => -image.dot(&noise),
            Self::SquaredL2 | Self::L2 => self.of_squared(squared_distance(image, noise) as f32),
            Self::L1 => absolute_distance(image, noise),
        }
    }

    /// Rounding takes the distance of equal vectors below zero. `f32::max` would also turn NaN into zero.
    fn of_squared(self, squared: f32) -> f32 {
        let squared = if squared < 0.0 { 0.0 } else { squared };
        if self == Self::L2 { squared.sqrt() } else { squared }
    }

    /// The name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dot => "dot",
            Self::SquaredL2 => "squared_l2",
            Self::L2 => "l2",
            Self::L1 => "l1",
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Cost {
    type Err = AssignError;

    fn from_str(name: &str) -> Result<Self, AssignError> {
        Self::ALL
            .into_iter()
            .find(|cost| cost.name() == name)
            .ok_or_else(|| AssignError::UnknownCost { name: name.into() })
    }
}

fn absolute_distances(
    images: ArrayView2<f32>,
    noise: ArrayView2<f32>,
    mask: Option<ArrayView2<bool>>,
) -> Array2<f32> {
    let (images, noise) = (images.as_standard_layout(), noise.as_standard_layout());
    match mask {
        None => by_blocks(L1_BLOCK, images.view(), noise.view(), |images, mut cost| {
            for (n, mut column) in noise.rows().into_iter().zip(cost.columns_mut()) {
                for (x, c) in images.rows().into_iter().zip(&mut column) {
                    *c = absolute_distance(x, n);
                }
            }
        }),
        Some(mask) => {
            let mut cost = Array2::zeros((images.nrows(), noise.nrows()));
            cost.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(i, mut row)| {
                for (c, n) in row.iter_mut().zip(noise.rows()) {
                    let differences = images.row(i).into_iter().zip(n).map(|(x, n)| (x - n).abs());
                    *c = differences.zip(mask.row(i)).filter(|(_, counts)| **counts).map(|(d, _)| d).sum();
                }
            });
            cost
        }
    }
}

/// A [B, M] matrix, of which `fill` makes the rows of some images at a time, in parallel.
pub(crate) fn by_blocks(
    block: usize,
    images: ArrayView2<f32>,
    noise: ArrayView2<f32>,
    fill: impl Fn(ArrayView2<f32>, ArrayViewMut2<f32>) + Sync + Send,
) -> Array2<f32> {
    let mut cost = Array2::zeros((images.nrows(), noise.nrows()));
    cost.axis_chunks_iter_mut(Axis(0), block)
        .into_par_iter()
        .zip(images.axis_chunks_iter(Axis(0), block))
        .for_each(|(cost, images)| fill(images, cost));
    cost
}

fn squared_norms(rows: ArrayView2<f32>) -> Array1<f32> {
    rows.rows().into_iter().map(|row| row.dot(&row)).collect()
}

/// # Errors
/// The first value that is not finite.
pub(crate) fn all_finite(values: ArrayView2<f32>, what: &'static str) -> Result<(), AssignError> {
    // `&` in place of `&&`: without a branch the loop becomes SIMD.
    let finite = |row: ArrayView1<f32>| row.fold(true, |all, x| all & x.is_finite());
    match values.axis_iter(Axis(0)).into_par_iter().position_first(|row| !finite(row)) {
        None => Ok(()),
        Some(row) => {
            let found = values.row(row).into_iter().copied().enumerate().find(|(_, x)| !x.is_finite());
            let (column, value) = found.unwrap_or_default();
            Err(AssignError::NonFinite { what, row, column, value })
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn matrices_hold_the_definitions() {
        let images = array![[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]];
        let noise = array![[1.0, 2.0], [4.0, -2.0]];
        for cost in Cost::ALL {
            let matrix = cost.matrix(images.view(), noise.view()).expect("finite");
            for ((i, j), &entry) in matrix.indexed_iter() {
                let (x, n) = (images.row(i), noise.row(j));
                let squared = (&x - &n).mapv(|d| d * d).sum();
                let expected = match cost {
                    Cost::Dot => -(&x * &n).sum(),
                    Cost::SquaredL2 => squared,
                    Cost::L2 => squared.sqrt(),
                    Cost::L1 => (&x - &n).mapv(f32::abs).sum(),
                };
                assert!((entry - expected).abs() < 1e-5, "{cost} [{i}, {j}]: {entry}, not {expected}");
                assert!((cost.between(x, n) - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_distance_is_never_negative() {
        let rows = Array2::from_shape_fn((9, 100), |(i, d)| ((i * 100 + d) as f32).sin() * 1e3);
        for cost in [Cost::SquaredL2, Cost::L2, Cost::L1] {
            let matrix = cost.matrix(rows.view(), rows.view()).expect("finite");
            assert!(matrix.iter().all(|&c| c >= 0.0));
        }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let good = Array2::<f32>::ones((3, 4));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bad = good.clone();
            bad[(2, 1)] = value;
            for cost in Cost::ALL {
                for (images, noise, culprit) in [(&bad, &good, "images"), (&good, &bad, "candidates")] {
                    match cost.matrix(images.view(), noise.view()) {
                        Err(AssignError::NonFinite { what, row: 2, column: 1, .. }) => {
                            assert_eq!(what, culprit)
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        let huge = Array2::from_elem((1, 2), 1e30);
        let overflow = Cost::Dot.matrix(huge.view(), huge.view());
        assert!(matches!(overflow, Err(AssignError::NonFinite { what: "cost", row: 0, column: 0, .. })));
    }

    #[test]
    fn names_go_both_ways() {
        for cost in Cost::ALL {
            assert_eq!(cost.to_string().parse(), Ok(cost));
            let serialised = serde_json::to_string(&cost).expect("a string");
            assert_eq!(serialised, format!("\"{cost}\""));
        }
        let error = "cosine".parse::<Cost>().expect_err("there is none");
        assert_eq!(error.to_string(), "there is no cost \"cosine\": the costs are dot, squared_l2, l2, l1");
    }
}
