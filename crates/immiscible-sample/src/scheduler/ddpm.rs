use immiscible_schedule::sampler::Ddpm;
use immiscible_schedule::{NoiseSchedule, Point, Variance};

use super::discrete::{self, Spacing, Timesteps};
use super::fields::{Fields, refuse};
use super::{Class, Model};
use crate::SampleError;
use crate::clip::Clip;
use crate::sampler::Plan;

struct DdpmScheduler {
    timesteps: Timesteps,
    variance: Variance,
    clip: Option<Clip>,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas_or_zero_snr(fields, 0.0)?;
    let kind = fields.take("variance_type", "fixed_small".to_owned())?;
    let variance = match &*kind {
        // The logarithm is taken and undone there.
        "fixed_small" | "fixed_small_log" => Variance::FixedSmall,
        "fixed_large" => Variance::FixedLarge,
        "learned" => Variance::Learned,
        "learned_range" => Variance::LearnedRange,
        _ => {
            let remedy = "fixed_small, fixed_small_log, fixed_large, learned and learned_range are supported";
            return Err(refuse("variance_type", &kind, remedy));
        }
    };
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Leading)?;
    let clip = discrete::clip(fields, Some(true))?;
    Ok(Model {
        objective: discrete::prediction(fields, discrete::ALL)?,
        schedule: Box::new(schedule),
        class: Box::new(DdpmScheduler { timesteps, variance, clip }),
    })
}

impl Class for DdpmScheduler {
    fn plan(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
        sampler: Option<&str>,
    ) -> Result<Plan, SampleError> {
        let path = self.timesteps.path(schedule, steps, Point::CLEAN, sampler != Some("ddim"))?;
        let kernel = Box::new(Ddpm { variance: self.variance, noise_at_the_end: true });
        Ok(Plan { kernel, path, clip: self.clip, prior: None })
    }
}
