use immiscible_schedule::NoiseSchedule;
use immiscible_schedule::sampler::{Coordinates, Heun};

use super::discrete::{self, Spacing, Timesteps};
use super::fields::{Fields, refuse};
use super::levels::{Curve, Final, Scaled};
use super::{Class, Model};
use crate::SampleError;
use crate::clip::{Clip, Range};
use crate::sampler::Plan;

struct HeunDiscreteScheduler {
    way: Scaled,
    clip: Option<Clip>,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas(fields, [0.00085, 0.012])?;
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Linspace)?;
    let curve = Curve::read(fields)?;
    let clamps = fields.take("clip_sample", false)?;
    let range: f64 = fields.take("clip_sample_range", 1.0)?;
    if !(range > 0.0 && range.is_finite()) {
        return Err(refuse("clip_sample_range", &range, "use a positive number"));
    }
    let clip = clamps.then_some(Clip { range: Range::Fixed(range), noise_follows: true });
    let way = Scaled { timesteps, curve, ends: [None; 2], last: Final::Zero };
    Ok(Model {
        objective: discrete::prediction(fields, discrete::ALL)?,
        schedule: Box::new(schedule),
        class: Box::new(HeunDiscreteScheduler { way, clip }),
    })
}

impl Class for HeunDiscreteScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let (path, prior) = self.way.path(schedule, steps)?;
        let kernel = Box::new(Heun { coordinates: Some(Coordinates::Scaled) });
        Ok(Plan { kernel, path, clip: self.clip, prior })
    }
}
