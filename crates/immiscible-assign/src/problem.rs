use ndarray::{ArrayView2, ArrayView3};

use crate::Cost;

/// The noises that images may take.
#[derive(Clone, Copy, Debug)]
pub enum Candidates<'a> {
    /// [M, D]: one set for all images, each noise taken at most once.
    Shared(ArrayView2<'a, f32>),
    /// [B, k, D]: k noises for each image, drawn for it alone.
    PerImage(ArrayView3<'a, f32>),
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
    /// Class-wise assignment: the group of each image, B of them, usually its label. Noise j of a shared set belongs to
    /// the group of image j, and images take noises of their own group only, which keeps the noise independent of the
    /// label. Candidates per image are the image's own anyway.
    pub groups: Option<&'a [u32]>,
}
