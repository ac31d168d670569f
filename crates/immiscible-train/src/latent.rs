use crate::{
    Files, Prepared, StepReport, TrainError, TrainStep,
    diffusion::{all_finite, couple, pairing},
    upload::{bytes_of_image, upload_images},
};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_coupling::{Chosen, Compared, Coupling, CouplingError, Draw, PairContext, download};
use immiscible_data::{Batch, DataError, Images};
use immiscible_models::{AutoencoderKL, Network};
use immiscible_random::{Key, Stream};
use ndarray::Array4;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

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

    /// The scaled latents of a batch's images. `key` is the step's.
    ///
    /// # Shapes
    /// `[B, C, H, W]` → `[B, channels, H/factor, W/factor]`
    ///
    /// # Errors
    /// When the device does not return them.
    pub fn encode(&self, images: &Images, key: Key) -> Result<Array4<f32>, TrainError> {
        read(self.encode_on_device(images, key))
    }

    /// The same without reading them back, `[B, channels, H/factor, W/factor]`.
    fn encode_on_device(&self, images: &Images, key: Key) -> Tensor<4> {
        let [rows, _, height, width] = images.dim();
        let [c, h, w] = [self.channels, height / self.factor, width / self.factor];
        let numbers = c * h * w;
        let chunks = (0..rows).step_by(CHUNK).map(|first| {
            let count = CHUNK.min(rows - first);
            let x = upload_images(images, first..first + count, &self.device);
            let noise = self.sample.then(|| {
                let mut values = vec![0.0; count * numbers];
                key.stream(Stream::LATENT).fill_normals(first as u64, numbers, &mut values);
                Tensor::from_data(TensorData::new(values, [count, c, h, w]), &self.device)
            });
            self.vae.latents(x, noise)
        });
        match chunks.collect::<Vec<_>>() {
            chunks if chunks.is_empty() => Tensor::zeros([0, c, h, w], &self.device),
            chunks => Tensor::cat(chunks, 0),
        }
    }

    /// What goes to the device for images that become so many numbers, in bytes.
    fn bytes(&self, images: &Images, latents: usize) -> usize {
        let noise = if self.sample { size_of::<f32>() * latents } else { 0 };
        images.dim()[0] * bytes_of_image(images) + noise
    }
}

fn read(latents: Tensor<4>) -> Result<Array4<f32>, TrainError> {
    let [rows, c, h, w] = latents.dims();
    let values = download(latents).map_err(not_returned)?;
    Array4::from_shape_vec((rows, c, h, w), values).map_err(not_returned)
}

fn not_returned(reason: impl std::fmt::Display) -> TrainError {
    TrainError::Device { what: "the latents of a batch", reason: reason.to_string() }
}

/// What the latents of a step and their coupling took. Times are wall-clock milliseconds; those of comparison, choice and gathering
/// are 0 where the coupling does not [compare](Coupling::compare) on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Until the latents were there; their noise is drawn meanwhile.
    pub encode_ms: f64,
    /// The comparison with the noises on the device.
    pub cost_ms: f64,
    /// The choice on the host.
    pub solve_ms: f64,
    /// Asking for the noises that were chosen.
    pub gather_ms: f64,
    /// What of the coupling's time went by beside the step before.
    pub hidden_ms: f64,
    /// Read from the device, in bytes: costs, or the latents themselves.
    pub bytes_to_host: f64,
    /// Put on the device, in bytes: images, latents and noises.
    pub bytes_to_device: f64,
}

impl Parts {
    /// The sum of each.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            encode_ms: self.encode_ms + other.encode_ms,
            cost_ms: self.cost_ms + other.cost_ms,
            solve_ms: self.solve_ms + other.solve_ms,
            gather_ms: self.gather_ms + other.gather_ms,
            hidden_ms: self.hidden_ms + other.hidden_ms,
            bytes_to_host: self.bytes_to_host + other.bytes_to_host,
            bytes_to_device: self.bytes_to_device + other.bytes_to_device,
        }
    }
}

/// What is worked out on a thread beside the step, from host arrays only, or was at once.
enum Work<T> {
    Done(T),
    Running(JoinHandle<T>),
}

impl<T: Send + 'static> Work<T> {
    fn of(work: impl FnOnce() -> T + Send + 'static, beside: bool) -> Result<Self, TrainError> {
        if !beside {
            return Ok(Self::Done(work()));
        }
        let thread = Builder::new().name("coupling".into()).spawn(work).map_err(DataError::Thread)?;
        Ok(Self::Running(thread))
    }

    /// The result, and the milliseconds for which it was waited for, or none where nothing else went on meanwhile.
    fn wait(self) -> (T, Option<f64>) {
        match self {
            Self::Done(done) => (done, None),
            Self::Running(thread) => {
                let start = Instant::now();
                let done = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                (done, Some(start.elapsed().as_secs_f64() * 1e3))
            }
        }
    }
}

/// A batch that was encoded, and whose noise is being chosen.
struct Begun {
    parts: Parts,
    coupling: Coupled,
}

enum Coupled {
    /// Latents and noises stay on the device.
    OnDevice(Box<OnDevice>),
    /// The latents were read back, for a coupling that works on the host, or draws on the device when the step is taken.
    OnHost(Box<Work<Result<Prepared, TrainError>>>),
}

/// What is on the device, and which noises were chosen for it.
struct OnDevice {
    x0: Tensor<4>,
    compared: Compared,
    chosen: Work<Result<Chosen, CouplingError>>,
}

/// A method that learns from the latents of images: encodes a batch, couples its noise to the scaled latents, and hands both
/// on. The distance that a coupling makes small is that of the latents, not that of the pixels.
pub struct LatentStep {
    inner: Box<dyn TrainStep>,
    latents: Latents,
    coupling: Arc<dyn Coupling>,
    key: Key,
    /// What was begun with for steps to come, by their numbers.
    ahead: BTreeMap<u64, Result<Begun, TrainError>>,
}

impl LatentStep {
    /// `key` is the run's. Give the trainer [`OnLatents`] of the same coupling.
    pub fn new(inner: Box<dyn TrainStep>, latents: Latents, coupling: Arc<dyn Coupling>, key: Key) -> Self {
        Self { inner, latents, coupling, key, ahead: BTreeMap::new() }
    }

    /// Encodes and compares a batch, and lets its noise be chosen: on a thread `beside` what comes next, or now.
    fn begin(&self, batch: &Batch, step: u64, beside: bool) -> Result<Begun, TrainError> {
        let start = Instant::now();
        let elapsed_ms = || start.elapsed().as_secs_f64() * 1e3;
        let key = self.key.step(step);
        let x0 = self.latents.encode_on_device(&batch.images, key);
        let numbers: usize = x0.dims().iter().product();
        let (images, latents) = (self.latents.bytes(&batch.images, numbers), size_of::<f32>() * numbers);
        let compared = self.coupling.compare(&x0, &pairing(batch), key.stream(Stream::NOISE));
        if let Some((compared, costs)) = compared.map_err(|source| TrainError::Coupling { step, source })? {
            let parts = Parts {
                encode_ms: elapsed_ms() - costs.milliseconds(),
                cost_ms: costs.milliseconds(),
                bytes_to_host: costs.bytes_to_host() as f64,
                bytes_to_device: (images + costs.bytes_to_device()) as f64,
                ..Parts::default()
            };
            let chosen = Work::of(move || costs.solve(), beside)?;
            return Ok(Begun {
                parts,
                coupling: Coupled::OnDevice(Box::new(OnDevice { x0, compared, chosen })),
            });
        }
        let (labels, index, mask) = (batch.labels.clone(), batch.index.clone(), batch.mask.clone());
        let batch = Batch { images: Images::Values(read(x0)?.into_shared()), labels, index, mask };
        let parts = Parts {
            encode_ms: elapsed_ms(),
            bytes_to_host: latents as f64,
            // With their noise they go to the device again.
            bytes_to_device: (images + 2 * latents) as f64,
            ..Parts::default()
        };
        all_finite(&batch, step, true)?;
        let (coupling, key) = (Arc::clone(&self.coupling), self.key);
        let coupled = Work::of(move || couple(&*coupling, batch, key, step), beside)?;
        Ok(Begun { parts, coupling: Coupled::OnHost(Box::new(coupled)) })
    }

    /// Waits for the noise.
    fn finish(&self, begun: Begun, batch: Batch, step: u64) -> Result<(Prepared, Parts), TrainError> {
        let Begun { mut parts, coupling } = begun;
        match coupling {
            Coupled::OnDevice(on_device) => {
                let OnDevice { x0, compared, chosen } = *on_device;
                let (chosen, waited_ms) = chosen.wait();
                let chosen = chosen.or_else(|source| refused(&x0, &batch, step, source))?;
                parts.solve_ms = chosen.milliseconds;
                parts.hidden_ms = waited_ms.map_or(0.0, |waited| (parts.solve_ms - waited).max(0.0));
                let start = Instant::now();
                let drawn = compared.take(chosen);
                parts.gather_ms = start.elapsed().as_secs_f64() * 1e3;
                Ok((Prepared { batch, drawn: None, on_device: Some((x0, drawn)) }, parts))
            }
            Coupled::OnHost(coupled) => {
                let (prepared, waited_ms) = coupled.wait();
                let prepared = prepared?;
                let took_ms = prepared.drawn.as_ref().map_or(0.0, |drawn| drawn.statistics.milliseconds);
                parts.hidden_ms = waited_ms.map_or(0.0, |waited| (took_ms - waited).max(0.0));
                Ok((prepared, parts))
            }
        }
    }
}

/// Why a coupling refused latents: one of them that is not finite is the better culprit, where there is one.
fn refused<T>(x0: &Tensor<4>, batch: &Batch, step: u64, source: CouplingError) -> Result<T, TrainError> {
    let latents = Images::Values(read(x0.clone())?.into_shared());
    all_finite(&Batch { images: latents, ..batch.clone() }, step, true)?;
    Err(TrainError::Coupling { step, source })
}

impl TrainStep for LatentStep {
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError> {
        let begun = match self.ahead.remove(&step) {
            Some(begun) => begun?,
            None => self.begin(&prepared.batch, step, false)?,
        };
        let (prepared, parts) = self.finish(begun, prepared.batch, step)?;
        Ok(StepReport { latents: Some(parts), ..self.inner.step(prepared, step)? })
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    /// Encodes the batch and compares its latents with their noises, and has the noise chosen on a thread.
    fn look_ahead(&mut self, next: &Prepared, step: u64) {
        let begun = self.begin(&next.batch, step, true);
        self.ahead.insert(step, begun);
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
        self.ahead.clear();
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
