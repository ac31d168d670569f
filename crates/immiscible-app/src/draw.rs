//! Samples from a network, batch by batch.

use anyhow::{Result, anyhow, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use immiscible_models::{AutoencoderKL, Condition, Denoiser};
use immiscible_sample::{GivenNoise, Guidance, NoiseSource, Predictor, Progress, Sampler, SeededNoise};
use immiscible_schedule::Point;
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
    /// How often the way to the samples is looked at, its ends included; 0, or at least 2.
    pub(crate) frames: usize,
    /// What the data were multiplied by.
    pub(crate) scale: f64,
    pub(crate) device: &'a Device,
}

/// Samples, and what they cost.
pub(crate) struct Drawn {
    /// `[N, C, H, W]`
    pub(crate) images: Array4<f32>,
    /// How often the network was asked on the way of one sample; with guidance each time also without the condition.
    pub(crate) evaluations: usize,
    /// The way there, `[N, C, H, W]` each: evenly over the steps, each of them at most once, from the noise to the images.
    pub(crate) frames: Vec<Array4<f32>>,
}

/// Keeps what the first call is asked for, which is x_T.
struct Watched<'a, P> {
    inner: &'a mut P,
    first: Option<(Tensor<4>, Point)>,
}

impl<P: Predictor> Predictor for Watched<'_, P> {
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, condition: &Condition) -> Tensor<4> {
        self.first.get_or_insert_with(|| (x_t.clone(), point));
        self.inner.predict(x_t, point, condition)
    }
}

/// Noise that is larger than an image is brought to its size.
fn shown(x: &Tensor<4>, point: Point) -> Tensor<4> {
    x.clone() / point.alpha.hypot(point.sigma).max(1.0)
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
        let mut ways: Vec<Vec<Array4<f32>>> = Vec::new();
        for first in (0..n).step_by(chunk) {
            let rows = chunk.min(n - first);
            let condition = self.condition_of(first..first + rows);
            let shape = [rows, channels, height, width];
            let mut noise = noise(first, rows);
            let mut watched = Watched { inner: &mut predictor, first: None };
            let mut way = Vec::new();
            let see = |progress: Progress<'_>| {
                evaluations = evaluations.max(progress.evaluations);
                if self.looks_at(progress.step, progress.steps) {
                    way.push(shown(progress.x, progress.point));
                }
            };
            let x = self.sampler.sample(&mut watched, &mut *noise, shape, &condition, self.device, see)?;
            if self.frames > 0 {
                let start = watched.first.map(|(x, point)| shown(&x, point));
                let seen = start.into_iter().chain(way).map(|x| self.to_host(x));
                ways.push(seen.collect::<Result<_>>()?);
            }
            batches.push(self.to_host(x)?);
        }
        let together = |batches: &[&Array4<f32>]| {
            let views: Vec<_> = batches.iter().map(|batch| batch.view()).collect();
            ndarray::concatenate(Axis(0), &views)
        };
        let images = together(&batches.iter().collect::<Vec<_>>())?;
        let seen = ways.iter().map(Vec::len).min().unwrap_or(0);
        let mut frames = (0..seen)
            .map(|frame| together(&ways.iter().map(|way| &way[frame]).collect::<Vec<_>>()))
            .collect::<Result<Vec<_>, _>>()?;
        if self.frames > 0 {
            frames.push(images.clone());
        }
        Ok(Drawn { images, evaluations, frames })
    }

    /// Whether one of the frames between the first and the last is that after `step`.
    fn looks_at(&self, step: usize, steps: usize) -> bool {
        let parts = self.frames.saturating_sub(1);
        step < steps && (1..parts).any(|frame| (frame * steps + parts / 2) / parts == step)
    }

    /// The images that samples stand for, on the host.
    fn to_host(&self, x: Tensor<4>) -> Result<Array4<f32>> {
        let x = self.vae.map_or_else(|| x.clone(), |(vae, _)| vae.images(x.clone()));
        let dims = x.dims();
        let x = if self.scale == 1.0 { x } else { x / self.scale };
        let x = x.into_data().try_into_vec_as::<f32>().map_err(|error| anyhow!("{error}"))?;
        Ok(Array4::from_shape_vec(dims, x)?)
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
