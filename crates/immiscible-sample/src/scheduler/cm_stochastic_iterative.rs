use immiscible_schedule::objective;
use immiscible_schedule::sampler::Consistency;
use immiscible_schedule::schedule::ve::Ve;
use immiscible_schedule::{NoiseSchedule, Point};

use super::discrete::MOST_TIMESTEPS;
use super::fields::{Fields, refuse};
use super::{Class, Model};
use crate::SampleError;
use crate::clip::{Clip, Range};
use crate::sampler::Plan;

struct CmStochasticIterativeScheduler {
    /// Noise levels of the grid that the steps are taken from.
    levels: usize,
    sigma_min: f64,
    sigma_max: f64,
    clip: Option<Clip>,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let levels = fields.take("num_train_timesteps", 40)?;
    if !(2..=MOST_TIMESTEPS).contains(&levels) {
        return Err(refuse("num_train_timesteps", &levels, format!("use 2 to {MOST_TIMESTEPS}")));
    }
    let [sigma_min, sigma_max] = [fields.take("sigma_min", 0.002)?, fields.take("sigma_max", 80.0)?];
    let (sigma_data, rho) = (fields.take("sigma_data", 0.5)?, fields.take("rho", 7.0)?);
    fields.only("s_noise", 1.0)?;
    let clip = Clip { range: Range::Fixed(1.0), noise_follows: true };
    let clip = fields.take("clip_denoised", true)?.then_some(clip);
    Ok(Model {
        schedule: Box::new(Ve::new(sigma_min, sigma_max, rho)?),
        objective: Box::new(objective::Consistency::new(sigma_min, sigma_data)?),
        class: Box::new(CmStochasticIterativeScheduler { levels, sigma_min, sigma_max, clip }),
    })
}

impl Class for CmStochasticIterativeScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let Self { levels, sigma_min, sigma_max, clip } = *self;
        if !(1..=levels).contains(&steps) {
            return Err(refuse("steps", &steps, format!("use 1 to num_train_timesteps = {levels}")));
        }
        // Every so many of the levels, from the noisiest on.
        let grid = schedule.grid(levels)?;
        let mut points: Vec<Point> = grid.into_iter().step_by(levels / steps).take(steps).collect();
        points.push(Point::CLEAN);
        let path = points.windows(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Plan { kernel: Box::new(Consistency::new(sigma_min)?), path, clip, prior: Some(sigma_max) })
    }

    fn steps(&self) -> usize {
        1
    }
}
