use immiscible_schedule::objective::FlowVelocity;
use immiscible_schedule::sampler::Euler;
use immiscible_schedule::schedule::flow::Flow;
use immiscible_schedule::{NoiseSchedule, Point, Time};

use super::discrete::MOST_TIMESTEPS;
use super::fields::{Fields, refuse};
use super::levels::Curve;
use super::{Class, Model};
use crate::SampleError;
use crate::grid::evenly;
use crate::sampler::{Path, Plan};

struct FlowMatchEulerDiscreteScheduler {
    way: FlowWay,
}

/// The times of the flow-matching classes.
pub(super) struct FlowWay {
    pub(super) shift: f64,
    pub(super) curve: Option<Curve>,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let shift = read_shift(fields)?;
    let curve = Curve::read(fields)?;
    for field in ["use_dynamic_shifting", "invert_sigmas", "stochastic_sampling"] {
        fields.only(field, false)?;
    }
    fields.only("shift_terminal", ())?;
    // Of the dynamic shift.
    fields.ignore(&["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"]);
    let class = Box::new(FlowMatchEulerDiscreteScheduler { way: FlowWay { shift, curve } });
    Ok(Model { schedule: Box::new(Flow::default()), objective: Box::new(FlowVelocity), class })
}

/// Training timesteps, all that is supported.
const TIMESTEPS: usize = 1000;

pub(super) fn read_shift(fields: &mut Fields) -> Result<f64, SampleError> {
    fields.only("num_train_timesteps", TIMESTEPS)?;
    let shift: f64 = fields.take("shift", 1.0)?;
    if !(shift > 0.0 && shift.is_finite()) {
        return Err(refuse("shift", &shift, "use a positive number, 1 for none"));
    }
    Ok(shift)
}

impl FlowWay {
    /// Evenly from t = 1 to the smallest time of training, shifted, then to the data.
    pub(super) fn path(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Path, SampleError> {
        if !(1..=MOST_TIMESTEPS).contains(&steps) {
            return Err(refuse("steps", &steps, format!("use 1 to {MOST_TIMESTEPS}")));
        }
        // Rounding can go beyond 1.
        let shifted = |t: f64| (self.shift * t / (1.0 + (self.shift - 1.0) * t)).min(1.0);
        let least = shifted(1.0 / TIMESTEPS as f64);
        let times: Vec<f64> = evenly(1.0, least, steps).map(shifted).collect();
        let times = match self.curve {
            Some(curve) => curve.levels(times[0], times[steps - 1], steps),
            None => times,
        };
        let points = times.into_iter().map(|t| schedule.at(Time::Continuous(t)));
        let points: Vec<Point> = points.chain([Ok(Point::CLEAN)]).collect::<Result<_, _>>()?;
        Ok(points.windows(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

impl Class for FlowMatchEulerDiscreteScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let path = self.way.path(schedule, steps)?;
        Ok(Plan { kernel: Box::new(Euler), path, clip: None, prior: None })
    }
}
