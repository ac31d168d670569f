use immiscible_schedule::sampler::{DpmPp2m, DpmPp2mSde};
use immiscible_schedule::{NoiseSchedule, StepKernel};

use super::discrete::{self, NEARLY_ZERO, Spacing, Timesteps};
use super::fields::{Fields, refuse};
use super::levels::{Curve, Final, Solver};
use super::{Class, Model};
use crate::SampleError;
use crate::clip::Clip;
use crate::sampler::Plan;

struct DpmSolverMultistepScheduler {
    way: Solver,
    order: usize,
    sde: bool,
    lower_order_final: bool,
    euler_at_final: bool,
    clip: Option<Clip>,
}

/// From this many steps on `lower_order_final` says nothing.
const MANY_STEPS: usize = 15;

pub(super) fn read(fields: &mut Fields) -> Result<Model, SampleError> {
    let schedule = discrete::betas_or_zero_snr(fields, NEARLY_ZERO)?;
    let timesteps = Timesteps::read(fields, &schedule, Spacing::Linspace)?;
    let order = fields.take("solver_order", 2)?;
    if !(1..=2).contains(&order) {
        return Err(refuse("solver_order", &order, "1 and 2 are supported"));
    }
    let algorithm = fields.take("algorithm_type", "dpmsolver++".to_owned())?;
    let sde = match &*algorithm {
        "dpmsolver++" => false,
        "sde-dpmsolver++" => true,
        _ => {
            return Err(refuse(
                "algorithm_type",
                &algorithm,
                "dpmsolver++ and sde-dpmsolver++ are supported",
            ));
        }
    };
    fields.only("solver_type", "midpoint")?;
    let lower_order_final = fields.take("lower_order_final", true)?;
    let euler_at_final = fields.take("euler_at_final", false)?;
    let clip = discrete::clip(fields, None)?;
    let curve = Curve::read(fields)?;
    for field in ["use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting"] {
        fields.only(field, false)?;
    }
    // The mean is all that is taken of a network that predicts a variance, and flows are refused.
    fields.ignore(&["variance_type", "flow_shift", "time_shift_type"]);
    if fields.take("lambda_min_clipped", None::<f64>)?.is_some() {
        return Err(refuse("lambda_min_clipped", "a number", "only -Infinity is supported"));
    }
    fields.forget("lambda_min_clipped");
    let last = Final::read(fields)?;
    // Times are made whole numbers, and rounded before with Karras' levels on all schedules but this one.
    let rounds_down = curve == Some(Curve::Exponential) || fields.is("beta_schedule", "squaredcos_cap_v2");
    let way = Solver { timesteps, curve, rounds_down, last };
    Ok(Model {
        objective: discrete::prediction(fields, discrete::ALL)?,
        schedule: Box::new(schedule),
        class: Box::new(DpmSolverMultistepScheduler {
            way,
            order,
            sde,
            lower_order_final,
            euler_at_final,
            clip,
        }),
    })
}

impl Class for DpmSolverMultistepScheduler {
    fn plan(&self, schedule: &dyn NoiseSchedule, steps: usize, _: Option<&str>) -> Result<Plan, SampleError> {
        let lower_order_final = self.euler_at_final || self.lower_order_final && steps < MANY_STEPS;
        let kernel: Box<dyn StepKernel> = if self.sde {
            let mut kernel = DpmPp2mSde::new(self.order)?;
            kernel.lower_order_final = lower_order_final;
            Box::new(kernel)
        } else {
            let mut kernel = DpmPp2m::new(self.order)?;
            kernel.lower_order_final = lower_order_final;
            Box::new(kernel)
        };
        Ok(Plan { kernel, path: self.way.path(schedule, steps)?, clip: self.clip, prior: None })
    }
}
