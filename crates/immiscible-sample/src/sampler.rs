use std::cell::Cell;

use burn::prelude::*;
use immiscible_models::{Condition, Denoiser};
use immiscible_schedule::{
    Estimate, ForwardCondition, NoiseSchedule, Objective, Point, SamplerConfig, StepKernel, compatible,
};
use serde::{Deserialize, Serialize};

use crate::clip::{Clip, Range};
use crate::grid::grid;
use crate::guidance::valid_interval;
use crate::predictor::split_variance;
use crate::{NetworkPredictor, NoiseSource, Predictor, SampleError, Spacing};

/// How to sample. The default is 50 deterministic DDIM steps without guidance, for pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// The step kernel.
    pub sampler: SamplerConfig,
    /// Number of steps.
    pub steps: usize,
    /// How noise levels are spaced; the schedule's own way if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spacing: Option<Spacing>,
    /// Scale of classifier-free guidance, for [`Guidance::new`](crate::Guidance::new); 1 is none.
    pub guidance: f64,
    /// Levels of noise sigma/alpha with guidance, for [`Guidance::within`](crate::Guidance::within); all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<[f64; 2]>,
    /// Whether estimates of x0 are clamped to [−range, range]. For pixels; latents have no such range.
    pub clip: bool,
    /// The largest absolute value of the data: 1, or the scale that they were trained with.
    pub range: f64,
    /// With `clip`: squeeze estimates of x0 into that range by this quantile of their absolute values, if that is beyond it, in place
    /// of clamping them (dynamic thresholding, Saharia et al. 2022, arXiv 2205.11487, §2.3). In (0, 1], 0.995 is usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            sampler: SamplerConfig::new("ddim"),
            steps: 50,
            spacing: None,
            guidance: 1.0,
            guidance_interval: None,
            clip: true,
            range: 1.0,
            threshold: None,
        }
    }
}

impl SampleConfig {
    fn clip(&self) -> Result<Option<Clip>, SampleError> {
        let range = self.range;
        if !(range > 0.0 && range.is_finite()) {
            return Err(SampleError::Range(range));
        }
        let range = match self.threshold {
            None => Range::Fixed(range),
            Some(ratio) if !(ratio > 0.0 && ratio <= 1.0) => return Err(SampleError::Threshold(ratio)),
            Some(ratio) if !self.clip => return Err(SampleError::ThresholdWithoutClip(ratio)),
            Some(ratio) => Range::Dynamic { range, ratio, most: f64::INFINITY },
        };
        Ok(self.clip.then_some(Clip { range, noise_follows: true }))
    }
}

/// What has been reached, after every step.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Steps taken, 1 to `steps`.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// How often the predictor has been called.
    pub evaluations: usize,
    /// The noise level that was reached.
    pub point: Point,
    /// The images at that level, `[B, C, H, W]`. On an asynchronous device they may still be in the making.
    pub x: &'a Tensor<4>,
}

/// The way from noise to data: a grid of noise levels and the kernel that steps along it.
pub struct Sampler<'a> {
    schedule: &'a dyn NoiseSchedule,
    objective: &'a dyn Objective,
    plan: Plan,
}

/// Where each step starts and ends.
pub(crate) type Path = Vec<(Point, Point)>;

/// What is decided before a run.
pub(crate) struct Plan {
    pub(crate) kernel: Box<dyn StepKernel>,
    pub(crate) path: Path,
    pub(crate) clip: Option<Clip>,
    /// Standard deviation of x_T, if it is not that of the schedule.
    pub(crate) prior: Option<f64>,
}

impl<'a> Sampler<'a> {
    /// For networks trained with `objective` on `schedule`.
    ///
    /// # Errors
    /// If the sampler's name or an option of it is wrong, the schedule has no such number of steps, or the
    /// objective or the sampler cannot be used on it.
    pub fn new(
        config: &SampleConfig,
        schedule: &'a dyn NoiseSchedule,
        objective: &'a dyn Objective,
    ) -> Result<Self, SampleError> {
        config.guidance_interval.map(valid_interval).transpose()?;
        let kernel = config.sampler.build()?;
        let points = match config.spacing {
            None => kernel.grid(schedule, config.steps)?,
            // At the end of another grid a consistency function is the identity.
            Some(spacing) if kernel.jumps() => {
                return Err(SampleError::OwnSpacing { spacing, sampler: kernel.name() });
            }
            spacing => grid(schedule, spacing, config.steps)?,
        };
        let path = points.windows(2).map(|pair| (pair[0], pair[1])).collect();
        Self::planned(schedule, objective, Plan { kernel, path, clip: config.clip()?, prior: None })
    }

    /// With what somebody else has decided.
    pub(crate) fn planned(
        schedule: &'a dyn NoiseSchedule,
        objective: &'a dyn Objective,
        plan: Plan,
    ) -> Result<Self, SampleError> {
        compatible(schedule, objective)?;
        let sampler = plan.kernel.name();
        if plan.kernel.jumps() != objective.jumps() {
            let remedy = match objective.jumps() {
                true => "it jumps to the end of the trajectory; write consistency",
                false => "the sampler needs a consistency function; write another, such as ddim",
            };
            return Err(SampleError::Jumps { sampler, objective: objective.name(), remedy });
        }
        plan.kernel.begin(schedule, &plan.path)?;
        Ok(Self { schedule, objective, plan })
    }

    /// Runs a network that was trained with the objective of this sampler.
    pub fn predictor(&self, network: &'a dyn Denoiser) -> NetworkPredictor<'a> {
        NetworkPredictor::new(network, self.objective)
    }

    /// How often a run calls its predictor; `None` if that depends on what it answers, and [`Progress`] counts it.
    pub fn evaluations(&self) -> Option<usize> {
        self.plan.kernel.evaluations(self.plan.path.len())
    }

    /// Whether the network must predict the variance of a step, in a second half of channels.
    pub fn needs_variance(&self) -> bool {
        self.plan.kernel.needs_variance()
    }

    /// Samples `shape[0]` images on `device`, where the network must be.
    ///
    /// # Shapes
    /// `shape` and the result are `[B, C, H, W]`.
    ///
    /// # Errors
    /// [`SampleError::Batch`] if `condition` is for another number of images; [`SampleError::Schedule`] if the kernel cannot go on
    /// with what the predictor answers.
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
        let Plan { kernel, path, clip, prior } = &self.plan;
        let evaluations = Cell::new(0);
        let mut denoise = |x_t: &Tensor<4>, point: Point| {
            evaluations.set(evaluations.get() + 1);
            let levels = point.levels(device);
            let (output, variance) = split_variance(predictor.predict(x_t, point, condition), shape[1]);
            let estimate = Estimate { variance, ..self.objective.read(output, x_t, &levels) };
            match clip {
                Some(clip) => clip.apply(estimate, x_t, &levels),
                None => estimate,
            }
        };
        let start = noise.prior(shape, device);
        let mut x = match prior {
            Some(std) => start * *std,
            None => self.schedule.prior(start, &ForwardCondition::default()),
        };
        let mut run = kernel.begin(self.schedule, path)?;
        for (i, &(from, to)) in path.iter().enumerate() {
            for draw in 0.. {
                let transition = run.step(&x, from, to, &mut denoise)?;
                let arrived = transition.arrived;
                x = transition.draw(|| noise.step(i, draw, shape, device));
                if arrived {
                    break;
                }
            }
            let (step, steps, evaluations) = (i + 1, path.len(), evaluations.get());
            progress(Progress { step, steps, evaluations, point: to, x: &x });
        }
        Ok(x)
    }
}
