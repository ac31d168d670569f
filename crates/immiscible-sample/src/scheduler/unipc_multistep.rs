use immiscible_schedule::NoiseSchedule;
use immiscible_schedule::sampler::{UniPc, UniPcB};

use super::discrete::{self, NEARLY_ZERO, Spacing, Timesteps};
use super::fields::{Fields, refuse};
use super::levels::{Curve, Final, Solver};
use super::{Class, Model};
use crate::SampleError;
use crate::clip::Clip;
use crate::sampler::Plan;

struct UniPcMultistepScheduler {
    way: Solver,
    kernel: UniPc,
    clip: Option<Clip>,
}

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas_or_zero_snr(fields, NEARLY_ZERO)?;
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Linspace)?;
    let order = fields.take("solver_order", 2)?;
    if !(1..=3).contains(&order) {
        return Err(refuse("solver_order", &order, "1 to 3 are supported"));
    }
    let b = fields.take("solver_type", UniPcB::Bh2)?;
    let lower_order_final = fields.take("lower_order_final", true)?;
    let clip = discrete::clip(fields, None)?;
    let curve = Curve::read(fields)?;
    let last = Final::read(fields)?;
    if !lower_order_final && last == Final::Zero {
        let remedy = "set it to true, or final_sigmas_type to sigma_min: the last step has no higher order";
        return Err(refuse("lower_order_final", &false, remedy));
    }
    fields.only("predict_x0", true)?;
    fields.only("disable_corrector", [0_usize; 0])?;
    for field in ["solver_p", "sigma_min", "sigma_max", "shift_terminal"] {
        fields.only(field, ())?;
    }
    for field in ["use_flow_sigmas", "use_dynamic_shifting"] {
        fields.only(field, false)?;
    }
    fields.ignore(&["flow_shift", "time_shift_type"]);
    let way = Solver { timesteps, curve, rounds_down: curve == Some(Curve::Exponential), last };
    let mut kernel = UniPc::new(order)?;
    (kernel.b, kernel.lower_order_final) = (b, lower_order_final);
    Ok(Model {
        objective: discrete::prediction(fields, discrete::ALL)?,
        schedule: Box::new(schedule),
        class: Box::new(UniPcMultistepScheduler { way, kernel, clip }),
    })
}

impl Class for UniPcMultistepScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let path = self.way.path(schedule, steps)?;
        Ok(Plan { kernel: Box::new(self.kernel), path, clip: self.clip, prior: None })
    }
}
