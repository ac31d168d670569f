use burn::prelude::*;
use immiscible_models::{Condition, Denoiser};
use immiscible_schedule::{
    Estimate, ForwardCondition, NoiseSchedule, Objective, Point, SamplerConfig, StepKernel, Transition,
    compatible,
};
use serde::{Deserialize, Serialize};

use crate::{NetworkPredictor, NoiseSource, Predictor, SampleError};

/// How to sample. The default is 50 deterministic DDIM steps without guidance, for pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// The step kernel.
    pub sampler: SamplerConfig,
    /// Number of steps.
    pub steps: usize,
    /// Scale of classifier-free guidance, for [`Guidance::new`](crate::Guidance::new); 1 is none.
    pub guidance: f64,
    /// Whether estimates of x0 are clamped to [−1, 1]. For pixels; latents have no such range.
    pub clip: bool,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { sampler: SamplerConfig::new("ddim"), steps: 50, guidance: 1.0, clip: true }
    }
}

/// What has been reached, after every step.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Steps taken, 1 to `steps`.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The noise level that was reached.
    pub point: Point,
    /// The images at that level, `[B, C, H, W]`. On an asynchronous device they may still be in the making.
    pub x: &'a Tensor<4>,
}

/// The way from noise to data: a grid of noise levels and the kernel that steps along it.
pub struct Sampler<'a> {
    schedule: &'a dyn NoiseSchedule,
    objective: &'a dyn Objective,
    kernel: Box<dyn StepKernel>,
    /// Where each step starts and ends.
    transitions: Vec<(Point, Point)>,
    clip: Option<Clip>,
}

/// How estimates of x0 are clamped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clip {
    /// To [−range, range].
    pub(crate) range: f64,
    /// Whether the noise is what the clamped x0 leaves of x_t, and not what was predicted.
    pub(crate) noise_follows: bool,
}

impl<'a> Sampler<'a> {
    /// For networks trained with `objective` on `schedule`.
    ///
    /// # Errors
    /// If the sampler's name or an option of it is wrong, the schedule has no such number of steps, or the
    /// objective cannot be sampled on it.
    pub fn new(
        config: &SampleConfig,
        schedule: &'a dyn NoiseSchedule,
        objective: &'a dyn Objective,
    ) -> Result<Self, SampleError> {
        compatible(schedule, objective)?;
        let kernel = config.sampler.build()?;
        let grid = schedule.grid(config.steps)?;
        let transitions = grid.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let clip = config.clip.then_some(Clip { range: 1.0, noise_follows: true });
        Ok(Self { schedule, objective, kernel, transitions, clip })
    }

    /// With steps that somebody else has chosen.
    pub(crate) fn along(
        schedule: &'a dyn NoiseSchedule,
        objective: &'a dyn Objective,
        kernel: Box<dyn StepKernel>,
        transitions: Vec<(Point, Point)>,
        clip: Option<Clip>,
    ) -> Self {
        Self { schedule, objective, kernel, transitions, clip }
    }

    /// Runs a network that was trained with the objective of this sampler.
    pub fn predictor(&self, network: &'a dyn Denoiser) -> NetworkPredictor<'a> {
        NetworkPredictor::new(network, self.objective)
    }

    /// How often a run calls its predictor.
    pub fn evaluations(&self) -> usize {
        self.kernel.evaluations(self.transitions.len())
    }

    /// Samples `shape[0]` images on `device`, where the network must be.
    ///
    /// # Shapes
    /// `shape` and the result are `[B, C, H, W]`.
    ///
    /// # Errors
    /// [`SampleError::Batch`] if `condition` is for another number of images.
    pub fn sample(
        &self,
        predictor: &mut dyn Predictor,
        noise: &mut dyn NoiseSource,
        shape: [usize; 4],
        condition: &Condition,
        device: &Device,
        mut progress: impl FnMut(Progress<'_>),
    ) -> Result<Tensor<4>, SampleError> {
        if let Some(conditions) = condition.batch().filter(|rows| *rows != shape[0]) {
            return Err(SampleError::Batch { images: shape[0], conditions });
        }
        let mut denoise = |x_t: &Tensor<4>, point: Point| {
            let levels = point.levels(device);
            let estimate = self.objective.read(predictor.predict(x_t, point, condition), x_t, &levels);
            let Some(Clip { range, noise_follows }) = self.clip else {
                return estimate;
            };
            let x0 = estimate.x0.clamp(-range, range);
            if noise_follows { Estimate::from_x0(x0, x_t, &levels) } else { Estimate { x0, ..estimate } }
        };
        let mut x = self.schedule.prior(noise.prior(shape, device), &ForwardCondition::default());
        for (i, &(from, to)) in self.transitions.iter().enumerate() {
            let Transition { mean, std } = self.kernel.step(&x, from, to, &mut denoise);
            x = if std > 0.0 { mean + noise.step(i, shape, device) * std } else { mean };
            progress(Progress { step: i + 1, steps: self.transitions.len(), point: to, x: &x });
        }
        Ok(x)
    }
}
