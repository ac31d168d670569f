use immiscible_schedule::NoiseSchedule;
use immiscible_schedule::sampler::Euler;

use super::discrete::{self, NEARLY_ZERO, Spacing, Timesteps};
use super::fields::Fields;
use super::levels::{Curve, Final, Scaled};
use super::{Class, Model};
use crate::SampleError;
use crate::sampler::Plan;

struct EulerDiscreteScheduler {
    way: Scaled,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas_or_zero_snr(fields, NEARLY_ZERO)?;
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Linspace)?;
    let curve = Curve::read(fields)?;
    let ends = [fields.take("sigma_min", None)?, fields.take("sigma_max", None)?];
    let last = Final::read(fields)?;
    fields.only("interpolation_type", "linear")?;
    fields.only("timestep_type", "discrete")?;
    Ok(Model {
        objective: discrete::prediction(fields, discrete::ALL)?,
        schedule: Box::new(schedule),
        class: Box::new(EulerDiscreteScheduler { way: Scaled { timesteps, curve, ends, last } }),
    })
}

impl Class for EulerDiscreteScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let (path, prior) = self.way.path(schedule, steps)?;
        Ok(Plan { kernel: Box::new(Euler), path, clip: None, prior })
    }
}
