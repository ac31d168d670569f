use immiscible_schedule::NoiseSchedule;
use immiscible_schedule::objective::FlowVelocity;
use immiscible_schedule::sampler::Heun;
use immiscible_schedule::schedule::flow::Flow;

use super::fields::Fields;
use super::flow_match_euler::{FlowWay, read_shift};
use super::{Class, Model};
use crate::SampleError;
use crate::sampler::Plan;

struct FlowMatchHeunDiscreteScheduler {
    way: FlowWay,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let way = FlowWay { shift: read_shift(fields)?, curve: None };
    let class = Box::new(FlowMatchHeunDiscreteScheduler { way });
    Ok(Model { schedule: Box::new(Flow::default()), objective: Box::new(FlowVelocity), class })
}

impl Class for FlowMatchHeunDiscreteScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let path = self.way.path(schedule, steps)?;
        Ok(Plan { kernel: Box::new(Heun::default()), path, clip: None, prior: None })
    }
}
