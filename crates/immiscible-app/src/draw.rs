//! Samples from a network, batch by batch.

use anyhow::{Result, anyhow, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_models::{Condition, Denoiser};
use immiscible_sample::{GivenNoise, Guidance, NetworkPredictor, NoiseSource, Sampler, SeededNoise};
use ndarray::{Array4, ArrayView4, Axis};

/// Samples that are drawn together.
const CHUNK: usize = 256;

/// What is drawn, and how.
pub(crate) struct Draw<'a> {
    pub(crate) sampler: Sampler<'a>,
    pub(crate) network: &'a dyn Denoiser,
    /// Classifier-free guidance weight, 1 for none.
    pub(crate) guidance: f64,
    /// The class that stands for none, if the network has one.
    pub(crate) null: Option<u32>,
    /// `[C, H, W]`.
    pub(crate) shape: [usize; 3],
    pub(crate) device: &'a Device,
}

impl Draw<'_> {
    /// Draws one sample for each of `labels` (no class where that is None), from the noise of `seed`: sample i is the same
    /// for every number of them.
    pub(crate) fn seeded(&self, labels: &[Option<u32>], seed: u64) -> Result<Array4<f32>> {
        self.all(labels, |first, _| Box::new(SeededNoise::new(seed, first as u64)))
    }

    /// The same from a given x_T, `[N, C, H, W]`; `seed` is for whatever the steps add.
    pub(crate) fn from(
        &self,
        noise: ArrayView4<f32>,
        labels: &[Option<u32>],
        seed: u64,
    ) -> Result<Array4<f32>> {
        let (n, c, h, w) = noise.dim();
        ensure!(
            [c, h, w] == self.shape,
            "the noise is [{n}, {c}, {h}, {w}], and the network takes {:?} for each image",
            self.shape
        );
        self.all(labels, |first, rows| {
            let rows = noise.slice_axis(Axis(0), (first..first + rows).into());
            let data = TensorData::new(rows.iter().copied().collect::<Vec<f32>>(), rows.shape().to_vec());
            let prior = Tensor::from_data(data, self.device);
            Box::new(GivenNoise::new(prior, SeededNoise::new(seed, first as u64)))
        })
    }

    fn all(
        &self,
        labels: &[Option<u32>],
        noise: impl Fn(usize, usize) -> Box<dyn NoiseSource>,
    ) -> Result<Array4<f32>> {
        let [channels, height, width] = self.shape;
        let mut predictor = Guidance::new(NetworkPredictor::new(self.network), self.guidance, self.null)?;
        let mut samples = Array4::zeros((0, channels, height, width));
        for (chunk, labels) in labels.chunks(CHUNK).enumerate() {
            let condition = match labels.iter().copied().collect::<Option<Vec<u32>>>() {
                Some(labels) => Condition::classes(&labels, self.device),
                None => Condition::None,
            };
            let shape = [labels.len(), channels, height, width];
            let mut noise = noise(chunk * CHUNK, labels.len());
            let x =
                self.sampler.sample(&mut predictor, &mut *noise, shape, &condition, self.device, |_| ())?;
            let x = x.into_data().try_into_vec_as::<f32>().map_err(|error| anyhow!("{error}"))?;
            samples.append(Axis(0), Array4::from_shape_vec(shape, x)?.view())?;
        }
        Ok(samples)
    }
}
