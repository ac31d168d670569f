use crate::{
    Files, Prepared, StepReport, TrainError, TrainStep,
    diffusion::{all_finite, couple},
};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_coupling::{Coupling, CouplingError, Draw, PairContext};
use immiscible_models::{AutoencoderKL, Network};
use immiscible_random::{Key, Stream};
use ndarray::Array4;
use std::path::Path;
use std::sync::Arc;

/// Images that are encoded together; bounds the memory of the encoder, whose first feature maps are as large as the images.
const CHUNK: usize = 32;

/// Images to what latent diffusion runs on: the scaled latents of a frozen autoencoder (Rombach et al. 2022, arXiv
/// 2112.10752).
pub struct Latents {
    vae: AutoencoderKL,
    /// Channels, and how many times higher and wider images are.
    channels: usize,
    factor: usize,
    /// Whether latents are drawn from their distribution, and not its mean.
    sample: bool,
    device: Device,
}

impl Latents {
    /// With `vae` on the plain `device`; its latents have `channels` channels and are `factor` times lower and narrower than
    /// the images. They are drawn anew in every step if `sample`, and the means of their distributions if not.
    pub fn new(vae: AutoencoderKL, channels: usize, factor: usize, sample: bool, device: &Device) -> Self {
        Self { vae, channels, factor, sample, device: device.clone() }
    }

    /// The scaled latents of a batch. `key` is the step's.
    ///
    /// # Shapes
    /// `[B, C, H, W]` → `[B, channels, H/factor, W/factor]`
    ///
    /// # Errors
    /// When the device does not return them.
    pub fn encode(&self, images: &Array4<f32>, key: Key) -> Result<Array4<f32>, TrainError> {
        let (rows, channels, height, width) = images.dim();
        let latent = [self.channels, height / self.factor, width / self.factor];
        let numbers = latent.iter().product();
        let pixels: Vec<f32> = images.iter().copied().collect();
        let mut all = Vec::with_capacity(rows * numbers);
        for first in (0..rows).step_by(CHUNK) {
            let count = CHUNK.min(rows - first);
            let size = channels * height * width;
            let chunk = pixels[first * size..(first + count) * size].to_vec();
            let x = TensorData::new(chunk, [count, channels, height, width]);
            let noise = self.sample.then(|| {
                let mut values = vec![0.0; count * numbers];
                key.stream(Stream::LATENT).fill_normals(first as u64, numbers, &mut values);
                let [c, h, w] = latent;
                Tensor::from_data(TensorData::new(values, [count, c, h, w]), &self.device)
            });
            let latents = self.vae.latents(Tensor::from_data(x, &self.device), noise);
            let values = latents.try_into_data().map_err(not_returned)?.try_into_vec_as::<f32>();
            all.extend(values.map_err(not_returned)?);
        }
        let [c, h, w] = latent;
        Array4::from_shape_vec((rows, c, h, w), all).map_err(not_returned)
    }
}

/// A method that learns from the latents of images: encodes a batch, couples its noise to the scaled latents, and hands both
/// on. The distance that a coupling makes small is that of the latents, not that of the pixels.
pub struct LatentStep {
    inner: Box<dyn TrainStep>,
    latents: Latents,
    coupling: Arc<dyn Coupling>,
    key: Key,
}

impl LatentStep {
    /// `key` is the run's. Give the trainer [`OnLatents`] of the same coupling.
    pub fn new(inner: Box<dyn TrainStep>, latents: Latents, coupling: Arc<dyn Coupling>, key: Key) -> Self {
        Self { inner, latents, coupling, key }
    }
}

fn not_returned(reason: impl std::fmt::Display) -> TrainError {
    TrainError::Device { what: "the latents of a batch", reason: reason.to_string() }
}

impl TrainStep for LatentStep {
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError> {
        let mut batch = prepared.batch;
        batch.images = self.latents.encode(&batch.images, self.key.step(step))?;
        all_finite(&batch, step, true)?;
        self.inner.step(couple(&*self.coupling, batch, self.key, step)?, step)
    }

    fn sampling_network(&self) -> &Network {
        self.inner.sampling_network()
    }

    fn learning_rate_at(&self, step: u64) -> f64 {
        self.inner.learning_rate_at(step)
    }

    fn save(&self, files: &mut Files) -> Result<(), TrainError> {
        self.inner.save(files)
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.inner.load(folder)
    }
}

/// A coupling that leaves batches of images alone until their latents are there.
pub struct OnLatents(pub Arc<dyn Coupling>);

impl Coupling for OnLatents {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn draw(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Tensor<4>>, CouplingError> {
        self.0.draw(x0, pairing, key)
    }
}
