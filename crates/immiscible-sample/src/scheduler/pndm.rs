use immiscible_schedule::sampler::{Coordinates, Pndm};
use immiscible_schedule::{NoiseSchedule, Point, Time};

use super::discrete::{self, BETAS, Spacing, Timesteps};
use super::fields::{Fields, refuse};
use super::{Class, Model};
use crate::SampleError;
use crate::sampler::Plan;

struct PndmScheduler {
    timesteps: Timesteps,
    last: Point,
    kernel: Pndm,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas(fields, BETAS)?;
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Leading)?;
    if timesteps.spacing == Spacing::Linspace {
        let remedy = "its steps do not join there; leading and trailing are supported";
        return Err(refuse("timestep_spacing", "linspace", remedy));
    }
    let last =
        if fields.take("set_alpha_to_one", false)? { Point::CLEAN } else { schedule.at(Time::Index(0))? };
    let skip_prk_steps = fields.take("skip_prk_steps", false)?;
    let kernel = Pndm { skip_prk_steps, coordinates: Some(Coordinates::Scaled) };
    // Outputs are combined before they are read, which makes a difference for v.
    let objective = discrete::prediction(fields, &["epsilon"])?;
    let class = Box::new(PndmScheduler { timesteps, last, kernel });
    Ok(Model { objective, schedule: Box::new(schedule), class })
}

impl Class for PndmScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let total = self.timesteps.total;
        if self.timesteps.spacing == Spacing::Trailing && !total.is_multiple_of(steps.max(1)) {
            let remedy = format!("with trailing timesteps use a divisor of {total}");
            return Err(refuse("steps", &steps, remedy));
        }
        let path = self.timesteps.path(schedule, steps, self.last, true)?;
        Ok(Plan { kernel: Box::new(self.kernel), path, clip: None, prior: None })
    }
}
