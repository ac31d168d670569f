//! Samples from a network, batch by batch.

use anyhow::{Result, anyhow, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use immiscible_models::{AutoencoderKL, Condition, Denoiser};
use immiscible_sample::{GivenNoise, Guidance, NoiseSource, Progress, Sampler, SeededNoise};
use ndarray::{Array4, ArrayView4, Axis};

/// Samples that are drawn together, and the numbers in them: 256 of 3×64×64, fewer of larger ones.
const CHUNK: usize = 256;
const CHUNK_NUMBERS: usize = CHUNK * 3 * 64 * 64;

/// What is drawn, and how.
pub(crate) struct Draw<'a> {
    pub(crate) sampler: Sampler<'a>,
    pub(crate) network: &'a dyn Denoiser,
    /// What every sample is drawn for: sample i has row i, modulo the number of rows.
    pub(crate) condition: Condition,
    /// Classifier-free guidance weight, 1 for none.
    pub(crate) guidance: f64,
    /// Levels of noise with guidance; all if absent.
    pub(crate) guidance_interval: Option<[f64; 2]>,
    /// What stands for no condition, one row, if the network has such a thing.
    pub(crate) null: Option<Condition>,
    /// `[C, H, W]` of what the network works on.
    pub(crate) shape: [usize; 3],
    /// What makes images of it, and how much higher and wider they are.
    pub(crate) vae: Option<(&'a AutoencoderKL, usize)>,
    pub(crate) device: &'a Device,
}

/// Samples, and what they cost.
pub(crate) struct Drawn {
    /// `[N, C, H, W]`
    pub(crate) images: Array4<f32>,
    /// How often the network was asked on the way of one sample; with guidance each time also without the condition.
    pub(crate) evaluations: usize,
}

impl Draw<'_> {
    /// Draws `n` samples from the noise of `seed`: sample i is the same for every `n`.
    pub(crate) fn seeded(&self, n: usize, seed: u64) -> Result<Drawn> {
        self.all(n, |first, _| Box::new(SeededNoise::new(seed, first as u64)))
    }

    /// One sample for each given x_T, `[N, C, H, W]`; `seed` is for whatever the steps add.
    pub(crate) fn from(&self, noise: ArrayView4<f32>, seed: u64) -> Result<Drawn> {
        let (n, c, h, w) = noise.dim();
        ensure!(
            [c, h, w] == self.shape,
            "the noise is [{n}, {c}, {h}, {w}], and the network takes {:?} for each image",
            self.shape
        );
        self.all(n, |first, rows| {
            let rows = noise.slice_axis(Axis(0), (first..first + rows).into());
            let data = TensorData::new(rows.iter().copied().collect::<Vec<f32>>(), rows.shape().to_vec());
            let prior = Tensor::from_data(data, self.device);
            Box::new(GivenNoise::new(prior, SeededNoise::new(seed, first as u64)))
        })
    }

    fn all(&self, n: usize, noise: impl Fn(usize, usize) -> Box<dyn NoiseSource>) -> Result<Drawn> {
        let [channels, height, width] = self.shape;
        let mut predictor =
            Guidance::new(self.sampler.predictor(self.network), self.guidance, self.null.clone())?;
        if let Some(interval) = self.guidance_interval {
            predictor = predictor.within(interval)?;
        }
        let factor = self.vae.map_or(1, |(_, factor)| factor * factor);
        let chunk = (CHUNK_NUMBERS / (channels * height * width * factor)).clamp(1, CHUNK);
        let (mut batches, mut evaluations) = (Vec::new(), 0);
        for first in (0..n).step_by(chunk) {
            let rows = chunk.min(n - first);
            let condition = self.condition_of(first..first + rows);
            let shape = [rows, channels, height, width];
            let mut noise = noise(first, rows);
            let count = |progress: Progress<'_>| evaluations = evaluations.max(progress.evaluations);
            let x =
                self.sampler.sample(&mut predictor, &mut *noise, shape, &condition, self.device, count)?;
            let x = self.vae.map_or_else(|| x.clone(), |(vae, _)| vae.images(x.clone()));
            let dims = x.dims();
            let x = x.into_data().try_into_vec_as::<f32>().map_err(|error| anyhow!("{error}"))?;
            batches.push(Array4::from_shape_vec(dims, x)?);
        }
        let views: Vec<_> = batches.iter().map(|batch| batch.view()).collect();
        Ok(Drawn { images: ndarray::concatenate(Axis(0), &views)?, evaluations })
    }

    fn condition_of(&self, samples: std::ops::Range<usize>) -> Condition {
        let Some(rows) = self.condition.batch() else {
            return Condition::None;
        };
        let rows: Vec<i64> = samples.map(|i| (i % rows) as i64).collect();
        let shape = [rows.len()];
        self.condition.select(Tensor::<1, Int>::from_data(TensorData::new(rows, shape), self.device))
    }
}
