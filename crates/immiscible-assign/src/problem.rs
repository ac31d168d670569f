use ndarray::{Array2, ArrayView2, ArrayView3};
use serde::{Deserialize, Serialize};

use crate::{AssignError, Cost, Products, cost::all_finite};

/// Noises from which on the costs of 8 bits are no matrix in single precision any more …
const MATRIX: usize = 4096;
/// … and costs up to which they are kept in 16 bits: 512 MiB.
const KEPT: usize = 1 << 28;

/// The noises that images may take.
#[derive(Clone, Copy, Debug)]
pub enum Candidates<'a> {
    /// [M, D]: one set for all images, each noise taken at most once; M ≥ B. A pool, M > B, brings noise closer than a
    /// permutation can, but what it leaves out is not chosen at random: the noise in use is no longer normal.
    Shared(ArrayView2<'a, f32>),
    /// [B, k, D]: k noises for each image, drawn for it alone.
    PerImage(ArrayView3<'a, f32>),
}

/// How images and noises are read when their costs are computed. The noise that an image gets is never touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 8 bits, with a scale for every image and every noise: integer products are faster, and the assignment
    /// loses 0.01 to 0.04 % of its gain. For [`Cost::L1`], which has no product, this is the same as `F32`.
    Int8,
    /// Half precision throughout, of a shared set with [`Cost::L2`] only: the "quantised assignment" of the paper's code
    /// (arXiv 2406.12303), to repeat its experiments. It is slow here, where the code's GPU gains by it.
    F16,
}

/// Which noise does each image take?
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The images x₀ as vectors, [B, D].
    pub images: ArrayView2<'a, f32>,
    /// The noises to choose from.
    pub candidates: Candidates<'a>,
    /// What is minimised.
    pub cost: Cost,
    /// Class-wise assignment: the group of each image, B of them, usually its label. Images take noises of their own group
    /// only, which keeps the noise independent of the label. Of a shared set, noise j belongs to the group of image j, and
    /// in a pool of a multiple of B noises to that of image j mod B. Candidates per image are the image's own anyway.
    pub groups: Option<&'a [u32]>,
    /// The coordinates that count, [B, D]: an image's padding, say, has no say in which noise it takes. `None` is all.
    pub mask: Option<ArrayView2<'a, bool>>,
    /// The precision of the costs.
    pub precision: Precision,
}

impl<'a> Problem<'a> {
    /// Costs −⟨x, n⟩ in full precision, with neither groups nor a mask.
    pub fn new(images: ArrayView2<'a, f32>, candidates: Candidates<'a>) -> Self {
        Self { images, candidates, cost: Cost::Dot, groups: None, mask: None, precision: Precision::F32 }
    }

    /// What each image would pay for each of its candidates; groups are not looked at.
    ///
    /// # Shapes
    /// [B, M] for a shared set, [B, k] for candidates per image.
    ///
    /// # Errors
    /// If shapes do not fit each other, or if a value, or a cost made of them, is not finite.
    pub fn cost_matrix(&self) -> Result<Array2<f32>, AssignError> {
        self.check_mask()?;
        match self.candidates {
            Candidates::Shared(noise) => self.cost.of_all(self.images, noise, self.mask, self.precision),
            Candidates::PerImage(noise) => self.cost.of_own(self.images, noise, self.mask),
        }
    }

    /// The costs without their matrix, where they are simple and many.
    pub(crate) fn products(&self) -> Option<Products> {
        let Candidates::Shared(noise) = self.candidates else {
            return None;
        };
        let simple = self.cost == Cost::Dot && self.precision == Precision::Int8 && self.mask.is_none();
        let fits = self.images.ncols() == noise.ncols() && noise.nrows() >= MATRIX;
        if !(simple && fits) {
            return None;
        }
        Some(Products::new(-1.0, self.images, noise)?.keep(KEPT))
    }

    /// # Errors
    /// [`AssignError::NonFinite`] with the first value that is not finite.
    pub(crate) fn all_finite(&self) -> Result<(), AssignError> {
        all_finite(self.images, "images")?;
        match self.candidates {
            Candidates::Shared(noise) => all_finite(noise, "candidates"),
            Candidates::PerImage(_) => Ok(()),
        }
    }

    /// The same problem with these groups.
    pub(crate) fn in_groups<'b>(&self, groups: &'b [u32]) -> Problem<'b>
    where
        'a: 'b,
    {
        Problem {
            images: self.images.reborrow(),
            candidates: match self.candidates {
                Candidates::Shared(noise) => Candidates::Shared(noise.reborrow()),
                Candidates::PerImage(noise) => Candidates::PerImage(noise.reborrow()),
            },
            cost: self.cost,
            groups: Some(groups),
            mask: self.mask.map(ArrayView2::reborrow),
            precision: self.precision,
        }
    }

    fn check_mask(&self) -> Result<(), AssignError> {
        match self.mask {
            Some(mask) if mask.dim() != self.images.dim() => Err(AssignError::ShapeMismatch {
                what: "mask",
                expected: self.images.shape().to_vec(),
                found: mask.shape().to_vec(),
            }),
            _ => Ok(()),
        }
    }
}
