use immiscible_schedule::objective::Edm;
use immiscible_schedule::sampler::Euler;
use immiscible_schedule::schedule::ve::Ve;
use immiscible_schedule::{NoiseSchedule, Point, Time};

use super::discrete::MOST_TIMESTEPS;
use super::fields::{Fields, refuse};
use super::levels::Final;
use super::{Class, Model};
use crate::SampleError;
use crate::grid::{exponential, karras};
use crate::sampler::Plan;

struct EdmEulerScheduler {
    sigma_min: f64,
    sigma_max: f64,
    /// Of Karras' levels; otherwise they are exponential.
    rho: Option<f64>,
    last: Final,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let [sigma_min, sigma_max] = [fields.take("sigma_min", 0.002)?, fields.take("sigma_max", 80.0)?];
    let sigma_data = fields.take("sigma_data", 0.5)?;
    let rho = fields.take("rho", 7.0)?;
    let levels = fields.take("sigma_schedule", "karras".to_owned())?;
    let curve = match &*levels {
        "karras" => Some(rho),
        "exponential" => None,
        _ => return Err(refuse("sigma_schedule", &levels, "karras and exponential are supported")),
    };
    let last = Final::read(fields)?;
    fields.only("prediction_type", "epsilon")?;
    fields.ignore(&["num_train_timesteps"]);
    Ok(Model {
        schedule: Box::new(Ve::new(sigma_min, sigma_max, rho)?),
        objective: Box::new(Edm::new(sigma_data)?),
        class: Box::new(EdmEulerScheduler { sigma_min, sigma_max, rho: curve, last }),
    })
}

impl Class for EdmEulerScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        if !(1..=MOST_TIMESTEPS).contains(&steps) {
            return Err(refuse("steps", &steps, format!("use 1 to {MOST_TIMESTEPS}")));
        }
        let levels = match self.rho {
            Some(rho) => karras(self.sigma_max, self.sigma_min, rho, steps),
            None => exponential(self.sigma_max, self.sigma_min, steps),
        };
        let mut points: Vec<Point> =
            levels.into_iter().map(|level| schedule.at(Time::Sigma(level))).collect::<Result<_, _>>()?;
        points.push(match self.last {
            Final::Zero => Point::CLEAN,
            Final::SigmaMin => points[steps - 1],
        });
        let path = points.windows(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Plan { kernel: Box::new(Euler), path, clip: None, prior: Some(self.sigma_max.hypot(1.0)) })
    }
}
