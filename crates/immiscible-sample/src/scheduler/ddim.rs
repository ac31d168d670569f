use immiscible_schedule::sampler::Ddim;
use immiscible_schedule::{NoiseSchedule, Point, Time};

use super::discrete::{self, Spacing, Timesteps};
use super::fields::Fields;
use super::{Class, Model};
use crate::SampleError;
use crate::clip::Clip;
use crate::sampler::Plan;

struct DdimScheduler {
    timesteps: Timesteps,
    last: Point,
    clip: Option<Clip>,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas_or_zero_snr(fields, 0.0)?;
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Leading)?;
    let last =
        if fields.take("set_alpha_to_one", true)? { Point::CLEAN } else { schedule.at(Time::Index(0))? };
    let clip = discrete::clip(fields, Some(true))?;
    Ok(Model {
        objective: discrete::prediction(fields, discrete::ALL)?,
        schedule: Box::new(schedule),
        class: Box::new(DdimScheduler { timesteps, last, clip }),
    })
}

impl Class for DdimScheduler {
    fn plan(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
        sampler: Option<&str>,
    ) -> Result<Plan, SampleError> {
        let joined = sampler.is_some_and(|name| name != "ddim");
        let path = self.timesteps.path(schedule, steps, self.last, joined)?;
        Ok(Plan { kernel: Box::new(Ddim::new(0.0)?), path, clip: self.clip, prior: None })
    }
}
