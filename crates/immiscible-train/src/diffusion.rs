use crate::{ClassCondition, Loss, TrainError, loss::Noised, upload::upload_images};
use burn::tensor::{Device, Tensor};
use immiscible_coupling::{Coupling, Draw, PairContext, Statistics, upload};
use immiscible_data::{Batch, Images};
use immiscible_models::{Condition, Ctx, Denoiser, Precision, TimeInput};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{ForwardCondition, NoiseSchedule, Objective, TimeSampler, Times};
use ndarray::{Array2, ArrayView2, ArrayView3};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

/// A batch as it leaves the loader's pipeline: images, and their noise where the coupling works on the host.
#[derive(Debug)]
pub struct Prepared {
    /// Images, labels and indices.
    pub batch: Batch,
    /// The noise, or none when it is drawn on the device.
    pub drawn: Option<Draw<Array2<f32>>>,
    /// x₀ `[B, C, H, W]` and its noise, where both came to be on the device: in place of the batch's images and of `drawn`.
    pub on_device: Option<(Tensor<4>, Draw<Tensor<4>>)>,
}

/// What is trained: the forward process, what the network regresses, when and at what cost, and how noise meets image.
pub struct Diffusion {
    /// x_t = α_t x₀ + σ_t ε.
    pub schedule: Box<dyn NoiseSchedule>,
    /// What the network regresses.
    pub objective: Box<dyn Objective>,
    /// Which times are trained on.
    pub time: Box<dyn TimeSampler>,
    /// What an output costs.
    pub loss: Loss,
    /// Which noise goes with which image.
    pub coupling: Arc<dyn Coupling>,
    /// Present when the network takes labels.
    pub classes: Option<ClassCondition>,
    /// What the network computes in.
    pub precision: Precision,
}

/// The coupling's view of a batch.
pub(crate) fn pairing(batch: &Batch) -> PairContext<'_> {
    let [_, channels, height, width] = batch.images.dim();
    PairContext {
        labels: batch.labels.as_deref(),
        index: Some(&batch.index),
        mask: batch.mask.as_ref().map(|mask| mask.view()),
        shape: Some([channels, height, width]),
        ..PairContext::default()
    }
}

/// What `f` makes of images as vectors, `[B, C·H·W]`. Those of pixels are in memory that the thread keeps for the next batch.
pub(crate) fn with_rows<T>(images: &Images, f: impl FnOnce(ArrayView2<f32>) -> T) -> T {
    thread_local!(static OF_PIXELS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) });
    let [rows, channels, height, width] = images.dim();
    let shape = (rows, channels * height * width);
    match images {
        Images::Values(values) => f(values.to_shape(shape).expect("B rows of C·H·W values").view()),
        Images::Pixels { .. } => {
            let mut values = OF_PIXELS.take();
            images.values_to(&mut values);
            let result = f(ArrayView2::from_shape(shape, &values).expect("B rows of C·H·W values"));
            OF_PIXELS.set(values);
            result
        }
    }
}

/// Every coupling is given finite images only, and a batch that no weights could learn from is not taken for a step that
/// diverged.
pub(crate) fn all_finite(batch: &Batch, step: u64, latents: bool) -> Result<(), TrainError> {
    let finite = |image: &ArrayView3<f32>| image.fold(true, |all, value| all & value.is_finite());
    let Images::Values(images) = &batch.images else {
        return Ok(());
    };
    match images.outer_iter().zip(&batch.index).find(|(image, _)| !finite(image)) {
        Some((image, &index)) => {
            let value = image.iter().copied().find(|value| !value.is_finite()).unwrap_or(f32::NAN);
            Err(TrainError::NonFiniteImage { step, image: index, value, latents })
        }
        None => Ok(()),
    }
}

/// The coupling's part that runs on host arrays in the loader's pipeline, a batch ahead of the step.
///
/// `key` is the run's key; the step selects its part.
///
/// # Errors
/// [`TrainError::NonFiniteImage`] for images that are not finite, and when the coupling refuses the batch.
pub fn prepare(coupling: &dyn Coupling, batch: Batch, key: Key, step: u64) -> Result<Prepared, TrainError> {
    all_finite(&batch, step, false)?;
    couple(coupling, batch, key, step)
}

/// [`prepare`] for images, or latents of them, that are finite.
pub(crate) fn couple(
    coupling: &dyn Coupling,
    batch: Batch,
    key: Key,
    step: u64,
) -> Result<Prepared, TrainError> {
    let Some(host) = coupling.host() else {
        return Ok(Prepared { batch, drawn: None, on_device: None });
    };
    let key_of_noise = key.step(step).stream(Stream::NOISE);
    let drawn = with_rows(&batch.images, |x0| host.draw_host(x0, &pairing(&batch), key_of_noise))
        .map_err(|source| TrainError::Coupling { step, source })?;
    Ok(Prepared { batch, drawn: Some(drawn), on_device: None })
}

/// A batch on the device with all that a step is about: images, their noise and their condition.
pub(crate) struct Example {
    /// `[B, C, H, W]`.
    pub(crate) x0: Tensor<4>,
    /// Row i is that of image i.
    pub(crate) noise: Tensor<4>,
    pub(crate) condition: Condition,
    pub(crate) statistics: Statistics,
}

impl Example {
    pub(crate) fn rows(&self) -> usize {
        self.x0.dims()[0]
    }

    /// Some of the rows.
    pub(crate) fn part(&self, rows: Range<usize>) -> Self {
        let of = |tensor: &Tensor<4>| tensor.clone().slice([rows.clone()]);
        let condition = self.condition.slice(rows.clone());
        Self { x0: of(&self.x0), noise: of(&self.noise), condition, statistics: self.statistics }
    }
}

/// The seed of the device for some rows of a batch: masks of dropout differ between the parts of a batch. `key` is the step's.
pub(crate) fn dropout_seed(key: Key, rows: &Range<usize>) -> u64 {
    key.stream(Stream::DROPOUT).device_seed().wrapping_add(rows.start as u64)
}

impl Diffusion {
    /// Uploads a batch, and draws its noise where that was not done yet. `key` is the step's.
    pub(crate) fn example(
        &self,
        Prepared { batch, drawn, on_device }: Prepared,
        key: Key,
        step: u64,
        device: &Device,
    ) -> Result<Example, TrainError> {
        let (x0, Draw { noise, statistics }) = match on_device {
            Some(both) => both,
            None => {
                let shape = batch.images.dim();
                let x0 = upload_images(&batch.images, 0..shape[0], device);
                let drawn = match drawn {
                    Some(Draw { noise, statistics }) => {
                        Draw { noise: upload(noise, shape, device), statistics }
                    }
                    None => self
                        .coupling
                        .draw(&x0, &pairing(&batch), key.stream(Stream::NOISE))
                        .map_err(|source| TrainError::Coupling { step, source })?,
                };
                (x0, drawn)
            }
        };
        let condition = match (&self.classes, &batch.labels) {
            (Some(classes), Some(labels)) => classes.condition(labels, key, device),
            _ => Condition::None,
        };
        Ok(Example { x0, noise, condition, statistics })
    }

    /// The training step's loss on a batch, `[1]`, and what the coupling did.
    ///
    /// `device` is a plain device; the network may live on its autodiff side.
    ///
    /// # Errors
    /// When the coupling refuses the batch, the times are not those of the schedule, or the output has not the channels that
    /// the loss needs.
    pub fn loss(
        &self,
        network: &impl Denoiser,
        prepared: Prepared,
        key: Key,
        step: u64,
        device: &Device,
    ) -> Result<(Tensor<1>, Statistics), TrainError> {
        let key = key.step(step);
        let example = self.example(prepared, key, step, device)?;
        let times = self.times(example.rows(), key)?;
        let loss = self.loss_of(network, &example, &times, 0..example.rows(), key, device)?;
        Ok((loss, example.statistics))
    }

    /// How networks are called.
    pub(crate) fn ctx(&self) -> Ctx<'static> {
        Ctx { precision: self.precision, ..Ctx::default() }
    }

    /// Of a batch of so many rows. `key` is the step's.
    pub(crate) fn times(&self, rows: usize, key: Key) -> Result<Times, TrainError> {
        Ok(self.time.sample(&*self.schedule, rows, key.stream(Stream::TIME))?)
    }

    /// The mean loss of some rows of a batch, `[1]`.
    pub(crate) fn loss_of(
        &self,
        network: &impl Denoiser,
        example: &Example,
        times: &Times,
        rows: Range<usize>,
        key: Key,
        device: &Device,
    ) -> Result<Tensor<1>, TrainError> {
        let Example { x0, noise, condition, .. } = example.part(rows.clone());
        let t: Times = times.points()[rows.clone()].to_vec().into();
        let levels = t.levels(device);
        let x_t = self.schedule.add_noise(&x0, &noise, &levels, &ForwardCondition::default());
        let target = self.objective.target(&x0, &noise, &levels);
        let times: Vec<f32> = t.points().iter().map(|point| self.objective.network_time(*point)).collect();
        let time = TimeInput::of(&times, device);
        // Dropout draws from the device's generator, right after this.
        device.seed(dropout_seed(key, &rows));
        let input = self.objective.network_input(x_t.clone(), &levels);
        let output = network.forward(input, time, &condition, self.ctx()).pred;
        let noised = Noised { x0: &x0, x_t: &x_t, target, times: &t, levels: &levels };
        self.loss.of(&*self.objective, output, noised)
    }
}
