use std::{fmt, str::FromStr};

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, linalg::general_mat_mul, parallel::prelude::*};
use serde::{Deserialize, Serialize};

use crate::{AssignError, distance::squared_distance};

/// What it costs an image x to take a noise n.
///
/// Over permutations `Dot` and `SquaredL2` have the same optimum, because ‖x‖² and ‖n‖² then always add up to the same
/// sum; `L2` is nearly the same and is what the paper minimises (Immiscible Diffusion, arXiv 2406.12303, Algorithm 1).
/// When each image picks among its own candidates they differ: the two distances prefer short noises, `Dot` does not.
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
}

/// Images of one matrix product: enough of them to be worth the noises' repacking. It does not depend on the number of
/// threads, so neither do the results.
const BLOCK: usize = 256;

impl Cost {
    /// Every cost there is, in the order of the declaration.
    pub const ALL: [Self; 3] = [Self::Dot, Self::SquaredL2, Self::L2];

    /// The cost of every image with every noise, by one matrix product.
    ///
    /// # Shapes
    /// `images` is [B, D], `noise` is [M, D], the result [B, M].
    ///
    /// # Errors
    /// If the two differ in D, or if a value, or a cost made of them, is not finite.
    pub fn matrix(self, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Result<Array2<f32>, AssignError> {
        if images.ncols() != noise.ncols() {
            return Err(AssignError::ShapeMismatch {
                what: "candidates",
                expected: vec![noise.nrows(), images.ncols()],
                found: noise.shape().to_vec(),
            });
        }
        let scale = if self == Self::Dot { -1.0 } else { -2.0 };
        let mut cost = Array2::zeros((images.nrows(), noise.nrows()));
        cost.axis_chunks_iter_mut(Axis(0), BLOCK)
            .into_par_iter()
            .zip(images.axis_chunks_iter(Axis(0), BLOCK))
            .for_each(|(mut cost, images)| general_mat_mul(scale, &images, &noise.t(), 0.0, &mut cost));
        if self != Self::Dot {
            // ‖x − n‖² = ‖x‖² + ‖n‖² − 2⟨x, n⟩.
            let [x2, n2] = [squared_norms(images), squared_norms(noise)];
            cost.axis_iter_mut(Axis(0)).into_par_iter().zip(x2.axis_iter(Axis(0))).for_each(
                |(mut row, x2)| {
                    row.zip_mut_with(&n2, |c, n2| *c = self.of_squared(*c + (x2.into_scalar() + n2)));
                },
            );
        }
        all_finite(cost.view(), "cost").map_err(|found| {
            // An input is the better culprit, where one is.
            let inputs = all_finite(images, "images").and(all_finite(noise, "candidates"));
            inputs.err().unwrap_or(found)
        })?;
        Ok(cost)
    }

    /// The cost of one image and one noise of the same length.
    pub(crate) fn between(self, image: ArrayView1<f32>, noise: ArrayView1<f32>) -> f32 {
        match self {
            Self::Dot => -image.dot(&noise),
            Self::SquaredL2 | Self::L2 => self.of_squared(squared_distance(image, noise) as f32),
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
                };
                assert!((entry - expected).abs() < 1e-5, "{cost} [{i}, {j}]: {entry}, not {expected}");
                assert!((cost.between(x, n) - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_distance_is_never_negative() {
        let rows = Array2::from_shape_fn((9, 100), |(i, d)| ((i * 100 + d) as f32).sin() * 1e3);
        for cost in [Cost::SquaredL2, Cost::L2] {
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
        assert_eq!(error.to_string(), "there is no cost \"cosine\": the costs are dot, squared_l2, l2");
    }
}
