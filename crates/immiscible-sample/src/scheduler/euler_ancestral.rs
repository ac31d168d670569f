use immiscible_schedule::NoiseSchedule;
use immiscible_schedule::sampler::EulerAncestral;

use super::discrete::{self, NEARLY_ZERO, Spacing, Timesteps};
use super::fields::Fields;
use super::levels::{Final, Scaled};
use super::{Class, Model};
use crate::SampleError;
use crate::sampler::Plan;

struct EulerAncestralDiscreteScheduler {
    way: Scaled,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas_or_zero_snr(fields, NEARLY_ZERO)?;
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Linspace)?;
    let way = Scaled { timesteps, curve: None, ends: [None; 2], last: Final::Zero };
    Ok(Model {
        objective: discrete::prediction(fields, &["epsilon", "v_prediction"])?,
        schedule: Box::new(schedule),
        class: Box::new(EulerAncestralDiscreteScheduler { way }),
    })
}

impl Class for EulerAncestralDiscreteScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let (path, prior) = self.way.path(schedule, steps)?;
        Ok(Plan { kernel: Box::new(EulerAncestral::new(1.0)?), path, clip: None, prior })
    }
}
