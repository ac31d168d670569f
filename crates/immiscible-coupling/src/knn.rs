use crate::{Coupling, CouplingError, Draw, PairContext, Statistics, fresh_noise, upload};
use burn::tensor::{Distribution, Tensor};
use immiscible_random::{Key, Stream};
use std::time::Instant;

/// Candidates that are drawn and compared at once; bounds the memory to this many batches of noise.
const CHUNK: usize = 8;

/// Nearest of k (arXiv 2505.18521, Algorithm 1): every image takes the nearest, in L2, of its own k noises.
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
}

impl Coupling for Knn {
    fn name(&self) -> &'static str {
        "knn"
    }

    fn draw(
        &self,
        x0: &Tensor<4>,
        _pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Tensor<4>>, CouplingError> {
        let shape = x0.dims();
        let rows = shape[0];
        let dimensions = shape[1..].iter().product();
        let device = x0.device();
        let first = upload(fresh_noise(rows, dimensions, key), shape, &device);

        let start = Instant::now();
        let x = x0.clone().reshape([1, rows, dimensions]);
        let drawn = first.reshape([1, rows, dimensions]);
        let before = squared_distance(&x, &drawn);
        let (mut best, mut nearest) = (drawn, before.clone());
        if self.k > 1 {
            device.seed(key.stream(Stream::CANDIDATES).device_seed());
        }
        for chunk in (1..self.k).step_by(CHUNK) {
            let count = CHUNK.min(self.k - chunk);
            let candidates =
                Tensor::<3>::random([count, rows, dimensions], Distribution::Normal(0.0, 1.0), &device);
            let distances = squared_distance(&x, &candidates);
            for j in 0..count {
                let distance = distances.clone().narrow(0, j, 1);
                let candidate = candidates.clone().narrow(0, j, 1);
                // Strictly nearer, so that a tie keeps the earlier candidate.
                let nearer = distance.clone().lower(nearest.clone());
                best = best.mask_where(nearer.clone().expand([1, rows, dimensions]), candidate);
                nearest = nearest.mask_where(nearer, distance);
            }
        }
        let mean = |squared: Tensor<3>| squared.sqrt().mean();
        let sums = Tensor::cat(
            vec![
                mean(before),
                mean(nearest),
                (x.clone() * best.clone()).sum(),
                (x.clone() * x).sum(),
                (best.clone() * best.clone()).sum(),
            ],
            0,
        );
        let sums: Vec<f32> = sums.into_data().try_into_vec_as().map_err(CouplingError::device)?;
        let [before, after, inner, image, energy] = sums[..] else {
            return Err(CouplingError::Device(format!("{} statistics instead of 5", sums.len())));
        };
        let statistics = Statistics {
            distance_before: before.into(),
            distance_after: after.into(),
            coefficient: if image > 0.0 { f64::from(inner) / f64::from(image) } else { 0.0 },
            energy: f64::from(energy) / (rows * dimensions) as f64,
            milliseconds: start.elapsed().as_secs_f64() * 1e3,
        };
        Ok(Draw { noise: best.reshape(shape), statistics })
    }
}

/// |x − n|² of every row: `[1, B, D]` and `[k, B, D]` to `[k, B, 1]`.
fn squared_distance(x: &Tensor<3>, n: &Tensor<3>) -> Tensor<3> {
    (n.clone() - x.clone()).powi_scalar(2).sum_dim(2)
}
