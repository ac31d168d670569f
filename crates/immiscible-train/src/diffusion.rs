use crate::TrainError;
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_coupling::{Coupling, Draw, PairContext, Statistics, upload};
use immiscible_data::Batch;
use immiscible_models::{Condition, Ctx, Denoiser, TimeInput};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{ForwardCondition, NoiseSchedule, Objective};
use ndarray::{Array2, CowArray, Ix2};
use std::sync::Arc;

/// A batch as it leaves the loader's pipeline: images, and their noise where the coupling works on the host.
#[derive(Debug)]
pub struct Prepared {
    /// Images, labels and indices.
    pub batch: Batch,
    /// The noise, or none when it is drawn on the device.
    pub drawn: Option<Draw<Array2<f32>>>,
}

/// How labels enter a class-conditional network.
#[derive(Clone, Copy, Debug)]
pub struct ClassCondition {
    /// The embedding that stands for "no class".
    pub null: u32,
    /// Probability in [0, 1) of training a row on the null class.
    pub dropout: f64,
}

/// What is trained: the forward process, what the network regresses, and how noise meets image.
pub struct Diffusion {
    /// x_t = α_t x₀ + σ_t ε.
    pub schedule: Box<dyn NoiseSchedule>,
    /// What the network regresses.
    pub objective: Box<dyn Objective>,
    /// Which noise goes with which image.
    pub coupling: Arc<dyn Coupling>,
    /// Present when the network takes labels.
    pub classes: Option<ClassCondition>,
}

/// The coupling's view of a batch.
fn pairing(batch: &Batch) -> PairContext<'_> {
    PairContext { labels: batch.labels.as_deref(), index: Some(&batch.index), ..PairContext::default() }
}

/// The images as vectors, `[B, C·H·W]`.
pub(crate) fn rows_of(batch: &Batch) -> CowArray<'_, f32, Ix2> {
    let rows = batch.images.dim().0;
    batch.images.to_shape((rows, batch.images.len() / rows.max(1))).expect("B rows of C·H·W values")
}

/// The coupling's part that runs on host arrays in the loader's pipeline, a batch ahead of the step.
///
/// `key` is the run's key; the step selects its part.
///
/// # Errors
/// When the coupling refuses the batch.
pub fn prepare(coupling: &dyn Coupling, batch: Batch, key: Key, step: u64) -> Result<Prepared, TrainError> {
    let Some(host) = coupling.host() else {
        return Ok(Prepared { batch, drawn: None });
    };
    let x0 = rows_of(&batch);
    let drawn = host
        .draw_host(x0.view(), &pairing(&batch), key.step(step).stream(Stream::NOISE))
        .map_err(|source| TrainError::Coupling { step, source })?;
    drop(x0);
    Ok(Prepared { batch, drawn: Some(drawn) })
}

impl Diffusion {
    /// The training step's loss: the mean squared error of the network on a batch, `[1]`, and what the coupling did.
    ///
    /// `device` is a plain device; the network may live on its autodiff side.
    ///
    /// # Errors
    /// When the coupling refuses the batch.
    pub fn loss(
        &self,
        network: &impl Denoiser,
        prepared: Prepared,
        key: Key,
        step: u64,
        device: &Device,
    ) -> Result<(Tensor<1>, Statistics), TrainError> {
        let Prepared { batch, drawn } = prepared;
        let key = key.step(step);
        let shape: [usize; 4] = batch.images.dim().into();
        let [rows, ..] = shape;
        let x0 =
            Tensor::<4>::from_data(TensorData::new(batch.images.iter().copied().collect(), shape), device);
        let Draw { noise, statistics } = match drawn {
            Some(Draw { noise, statistics }) => Draw { noise: upload(noise, shape, device), statistics },
            None => self
                .coupling
                .draw(&x0, &pairing(&batch), key.stream(Stream::NOISE))
                .map_err(|source| TrainError::Coupling { step, source })?,
        };
        let condition = self.condition(&batch, key, device);
        let t = self.schedule.sample_t(rows, key.stream(Stream::TIME));
        let levels = t.levels(device);
        let x_t = self.schedule.add_noise(&x0, &noise, &levels, &ForwardCondition::default());
        let target = self.objective.target(&x0, &noise, &levels);
        let time = TimeInput::of(&t.network_times(), device);
        // Dropout draws from the device's generator, right after this.
        device.seed(key.stream(Stream::DROPOUT).device_seed());
        let output = network.forward(x_t, time, &condition, Ctx::default()).pred;
        Ok((mean_squared_error(output, target), statistics))
    }

    fn condition(&self, batch: &Batch, key: Key, device: &Device) -> Condition {
        let (Some(classes), Some(labels)) = (self.classes, &batch.labels) else {
            return Condition::None;
        };
        let key = key.stream(Stream::CONDITION_DROP);
        let labels: Vec<u32> = (0..)
            .zip(labels)
            .map(|(row, &label)| if key.uniform(row) < classes.dropout { classes.null } else { label })
            .collect();
        Condition::classes(&labels, device)
    }
}

/// Mean over the elements of every sample, then over the samples.
fn mean_squared_error(output: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
    (output - target).powi_scalar(2).mean()
}
