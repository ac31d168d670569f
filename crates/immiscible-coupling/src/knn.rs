use crate::{
    Coupling, CouplingError, Draw, PairContext, Statistics, download, fresh_noise, statistics::Sums, upload,
};
use burn::tensor::{Distribution, FloatDType, Tensor, TensorData};
use immiscible_random::{Key, Stream};
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Candidates that are drawn and compared at once; bounds the memory to this many batches of noise.
const CHUNK: usize = 8;

/// By what the nearest of the candidates is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The smallest |x − n|, as in the paper.
    #[default]
    L2,
    /// The largest ⟨x, n⟩, which does not prefer short noises. Where the mean image is not zero, as it hardly ever is, it
    /// moves the mean of the noise even more; [`PricedKnn`](crate::PricedKnn) does not.
    Dot,
}

/// Nearest of k (arXiv 2505.18521, Algorithm 1): every image takes the nearest of its own k noises.
///
/// It needs no other image, so it works at batch size 1 and needs no communication between devices. Unlike an
/// assignment it does not keep the marginal: short noises are nearer, so the energy falls below 1, and the mean
/// moves along the data's. [`Statistics`] shows both.
///
/// The first candidate is the independent noise, so `k = 1` is ordinary training bit for bit. The others come
/// from the device's own generator, reseeded from the key.
#[derive(Clone, Copy, Debug)]
pub struct Knn {
    /// Candidates per image, at least 1.
    pub k: usize,
    /// By what the nearest is told.
    pub select: Select,
    /// Side of the grid of cells whose means are compared in place of pixels, for images so large that k noises of k are all
    /// alike (8 is used for video latents). It must divide height and width.
    pub coarse: Option<usize>,
    /// The images are compared as if multiplied by this; what is trained on stays as it is. [`Select::L2`] comes the nearer to
    /// [`Select::Dot`] the larger it is.
    pub image_scale: f32,
    /// Whether the distances of [`Select::L2`] are those of half precision throughout, as in the paper's code: ‖h(x) − h(n)‖,
    /// where h and the difference round, and the norm does, whose sum does not. Of candidates that are then equally near the first
    /// one is taken.
    pub half: bool,
}

impl Knn {
    /// The nearest of `k` in L2, as in the paper.
    pub const fn new(k: usize) -> Self {
        Self { k, select: Select::L2, coarse: None, image_scale: 1.0, half: false }
    }

    /// The share of the energy that noise of so many dimensions loses to the choice by [`Select::L2`], at most: 2m_k/√(2D), where
    /// m_k is the expected maximum of k standard normals; less the longer the images are.
    pub fn energy_loss(&self, dimensions: usize) -> f64 {
        2.0 * expected_maximum(self.k) / (2.0 * dimensions as f64).sqrt()
    }

    /// What is smallest for the nearest: `[1, B, D]` and `[k, B, D]` to `[k, B, 1]`.
    fn score(&self, x: &Tensor<3>, n: &Tensor<3>) -> Tensor<3> {
        match self.select {
            Select::L2 if self.half => {
                let difference = to_half(to_half(n.clone()) - to_half(x.clone()));
                to_half(difference.powi_scalar(2).sum_dim(2).sqrt())
            }
            Select::L2 => squared_distance(x, n),
            Select::Dot => -(n.clone() * x.clone()).sum_dim(2),
        }
    }

    /// What is compared of images or noises `[k, B, D]`: the pixels that count, or their means over the cells of a grid.
    fn compared(&self, values: Tensor<3>, mask: Option<&Tensor<3>>, shape: [usize; 4]) -> Tensor<3> {
        let values = match mask {
            Some(mask) => values * mask.clone(),
            None => values,
        };
        let ([_, channels, height, width], Some(side)) = (shape, self.coarse) else {
            return values;
        };
        let [k, rows, _] = values.dims();
        values
            .reshape([k * rows * channels, side, height / side, side, width / side])
            .mean_dim(2)
            .mean_dim(4)
            .reshape([k, rows, channels * side * side])
    }
}

impl Coupling for Knn {
    fn name(&self) -> &'static str {
        "knn"
    }

    fn exact_marginal(&self) -> bool {
        self.k == 1
    }

    fn draw(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Tensor<4>>, CouplingError> {
        let shape = x0.dims();
        let [rows, channels, height, width] = shape;
        let dimensions = channels * height * width;
        if let Some(side) = self.coarse.filter(|&side| height % side != 0 || width % side != 0) {
            return Err(CouplingError::Option {
                option: "coarse",
                value: side.to_string(),
                remedy: "write a number that divides the images' height and width",
            });
        }
        let device = x0.device();
        let mask = match pairing.mask {
            Some(mask) if mask.dim() != (rows, dimensions) => {
                return Err(CouplingError::ContextRows { what: "mask has", rows, found: mask.nrows() });
            }
            Some(mask) => {
                let counts: Vec<f32> = mask.iter().map(|&counts| if counts { 1.0 } else { 0.0 }).collect();
                Some(Tensor::<3>::from_data(TensorData::new(counts, [1, rows, dimensions]), &device))
            }
            None => None,
        };
        let compared = |values: Tensor<3>| self.compared(values, mask.as_ref(), shape);
        let first = upload(fresh_noise(rows, dimensions, key), shape, &device);

        let start = Instant::now();
        let x = x0.clone().reshape([1, rows, dimensions]);
        let drawn = first.reshape([1, rows, dimensions]);
        let image = compared(x.clone() * self.image_scale);
        let (mut best, mut least) = (drawn.clone(), self.score(&image, &compared(drawn.clone())));
        if self.k > 1 {
            device.seed(key.stream(Stream::CANDIDATES).device_seed());
        }
        for chunk in (1..self.k).step_by(CHUNK) {
            let count = CHUNK.min(self.k - chunk);
            let candidates =
                Tensor::<3>::random([count, rows, dimensions], Distribution::Normal(0.0, 1.0), &device);
            let scores = self.score(&image, &compared(candidates.clone()));
            for j in 0..count {
                let score = scores.clone().narrow(0, j, 1);
                let candidate = candidates.clone().narrow(0, j, 1);
                // Strictly less, so that a tie keeps the earlier candidate.
                let nearer = score.clone().lower(least.clone());
                best = best.mask_where(nearer.clone().expand([1, rows, dimensions]), candidate);
                least = least.mask_where(nearer, score);
            }
        }
        let statistics = measure(&x, &drawn, &best)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        Ok(Draw { noise: best.reshape(shape), statistics: Statistics { milliseconds, ..statistics } })
    }
}

/// [`Statistics`] in one read of the device.
fn measure(x: &Tensor<3>, drawn: &Tensor<3>, taken: &Tensor<3>) -> Result<Statistics, CouplingError> {
    let [_, rows, dimensions] = x.dims();
    let distance = |n: &Tensor<3>| squared_distance(x, n).sqrt().mean();
    let product = |a: Tensor<3>, b: Tensor<3>| (a * b).sum();
    let (sum_x, sum_e) = (x.clone().sum_dim(1), taken.clone().sum_dim(1));
    let sums = Tensor::cat(
        vec![
            distance(drawn),
            distance(taken),
            product(x.clone(), taken.clone()),
            product(x.clone(), x.clone()),
            product(taken.clone(), taken.clone()),
            product(sum_x, sum_e.clone()),
            product(sum_e.clone(), sum_e),
        ],
        0,
    );
    let sums: Vec<f64> = download(sums)?.into_iter().map(f64::from).collect();
    let [distance_before, distance_after, inner, image, noise, means, mean] = sums[..] else {
        return Err(CouplingError::Device(format!("{} statistics instead of 7", sums.len())));
    };
    if !sums.iter().all(|sum| sum.is_finite()) {
        return Err(CouplingError::NonFinite);
    }
    let sums = Sums { inner, image, noise, means, mean };
    Ok(Statistics { distance_before, distance_after, ..Statistics::of_sums((rows, dimensions), sums) })
}

/// |x − n|² of every row: `[1, B, D]` and `[k, B, D]` to `[k, B, 1]`.
fn squared_distance(x: &Tensor<3>, n: &Tensor<3>) -> Tensor<3> {
    (n.clone() - x.clone()).powi_scalar(2).sum_dim(2)
}

/// The nearest numbers of half precision, in single precision: an operation on two of them that is rounded so is that of half
/// precision.
fn to_half(values: Tensor<3>) -> Tensor<3> {
    values.cast(FloatDType::F16).cast(FloatDType::F32)
}

/// 2m_k/s of every image, with s = √(2D + 4|x|²): the share of an image that its nearest of k noises carries, and by which the
/// energy of that noise falls below 1; for D large.
pub(crate) fn shares(x0: ArrayView2<f32>, k: usize) -> Vec<f64> {
    let m_k = expected_maximum(k);
    let share = |square: f64| 2.0 * m_k / (2.0 * x0.ncols() as f64 + 4.0 * square).sqrt();
    x0.rows().into_iter().map(|x| share(f64::from(x.dot(&x)))).collect()
}

/// m_k, the expected maximum of k standard normals: ∫₀^∞ 1 − Φ(z)ᵏ − Φ(−z)ᵏ dz.
pub(crate) fn expected_maximum(k: usize) -> f64 {
    const STEP: f64 = 1e-3;
    let density = |z: f64| (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    let mut integral = 0.0;
    // Φ(z), by the same midpoint rule.
    let mut below = 0.5;
    for i in 0..9_000 {
        let left = i as f64 * STEP;
        let middle: f64 = below + density(left + STEP / 4.0) * STEP / 2.0;
        integral += (1.0 - middle.powf(k as f64) - (1.0 - middle).max(0.0).powf(k as f64)) * STEP;
        below += density(left + STEP / 2.0) * STEP;
    }
    integral
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_maxima_are_those_of_the_tables() {
        for (k, expected) in
            [(1, 0.0), (2, 0.564_19), (4, 1.029_38), (8, 1.423_60), (16, 1.765_99), (64, 2.343_73)]
        {
            let found = expected_maximum(k);
            assert!((found - expected).abs() < 1e-4, "m_{k} = {found}");
        }
        // √(2D) = 64 for D = 2,048.
        assert!((Knn::new(4).energy_loss(2048) - 2.0 * 1.029_38 / 64.0).abs() < 1e-5);
        assert!(Knn::new(1).energy_loss(64).abs() < 1e-5);
    }
}
