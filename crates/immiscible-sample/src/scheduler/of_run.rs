//! The settings that say in the package's words how a run of this project is sampled.

use immiscible_schedule::{ObjectiveConfig, ScheduleConfig, Variance};
use serde_json::{Value, json};

use super::discrete;
use super::fields::refuse;
use crate::{SampleConfig, SampleError, Spacing};

/// Names of samplers here and of classes there, on discrete schedules.
pub(super) const SAMPLER_CLASSES: &[(&str, &str)] = &[
    ("ddim", "DDIMScheduler"),
    ("ddpm", "DDPMScheduler"),
    ("dpmpp_2m", "DPMSolverMultistepScheduler"),
    ("dpmpp_2m_sde", "DPMSolverMultistepScheduler"),
    ("euler", "EulerDiscreteScheduler"),
    ("euler_ancestral", "EulerAncestralDiscreteScheduler"),
    ("heun", "HeunDiscreteScheduler"),
    ("pndm", "PNDMScheduler"),
    ("unipc", "UniPCMultistepScheduler"),
];

/// The fields of the scheduler; null stands for the default.
pub(super) fn fields(
    schedule: &ScheduleConfig,
    objective: &ObjectiveConfig,
    sample: &SampleConfig,
) -> Result<Value, SampleError> {
    check_range(sample)?;
    match &*schedule.name {
        "flow" => of_flow(schedule, objective, sample),
        "ve" => of_edm(schedule, objective, sample),
        _ => of_discrete(schedule, objective, sample),
    }
}

/// The package's pipelines take what they draw for images, and nothing divides it.
fn check_range(sample: &SampleConfig) -> Result<(), SampleError> {
    match sample.range {
        1.0 => Ok(()),
        range => {
            Err(refuse("range", &range, "diffusers draws data in [-1, 1]; train without a scale to export"))
        }
    }
}

fn of_flow(
    schedule: &ScheduleConfig,
    objective: &ObjectiveConfig,
    sample: &SampleConfig,
) -> Result<Value, SampleError> {
    if objective.name != "flow_velocity" {
        let remedy = "on the flow schedule diffusers samples the flow's velocity only; train flow_velocity";
        return Err(refuse("objective.name", &objective.name, remedy));
    }
    match (&*sample.sampler.name, sample.spacing) {
        ("euler", spacing) => Ok(json!({
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": schedule.shift,
            "use_karras_sigmas": spacing == Some(Spacing::Karras),
            "use_exponential_sigmas": spacing == Some(Spacing::Exponential),
        })),
        ("heun", None) => {
            Ok(json!({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": schedule.shift}))
        }
        ("heun", spacing) => Err(refuse("sample.spacing", &spacing, "with heun diffusers has its own only")),
        (sampler, _) => Err(refuse(
            "sample.sampler",
            sampler,
            "diffusers has euler and heun for flows; export with one of them",
        )),
    }
}

fn of_edm(
    schedule: &ScheduleConfig,
    objective: &ObjectiveConfig,
    sample: &SampleConfig,
) -> Result<Value, SampleError> {
    if objective.name != "edm" {
        let remedy = "on the ve schedule diffusers samples EDM's objective only; train edm";
        return Err(refuse("objective.name", &objective.name, remedy));
    }
    if sample.sampler.name != "euler" {
        let remedy = "diffusers has euler for EDM; export with it";
        return Err(refuse("sample.sampler", &sample.sampler.name, remedy));
    }
    Ok(json!({
        "_class_name": "EDMEulerScheduler",
        "sigma_min": schedule.sigma_min,
        "sigma_max": schedule.sigma_max,
        "rho": schedule.rho,
        "sigma_data": objective.sigma_data,
        "sigma_schedule": (sample.spacing == Some(Spacing::Exponential)).then_some("exponential"),
    }))
}

pub(super) fn fields_of_consistency(
    schedule: &ScheduleConfig,
    sigma_data: f64,
    levels: usize,
    sample: &SampleConfig,
) -> Result<Value, SampleError> {
    check_range(sample)?;
    if schedule.name != "ve" {
        return Err(refuse("schedule.name", &schedule.name, "a consistency function needs ve"));
    }
    if sample.spacing.is_some() {
        let remedy = "diffusers samples a consistency function on the schedule's own grid; leave it out";
        return Err(refuse("sample.spacing", &sample.spacing, remedy));
    }
    if sample.threshold.is_some() {
        let remedy = "diffusers clamps a consistency function; leave it out";
        return Err(refuse("sample.threshold", &sample.threshold, remedy));
    }
    Ok(json!({
        "_class_name": "CMStochasticIterativeScheduler",
        "num_train_timesteps": levels,
        "sigma_min": schedule.sigma_min,
        "sigma_max": schedule.sigma_max,
        "rho": schedule.rho,
        "sigma_data": sigma_data,
        "clip_denoised": sample.clip,
    }))
}

fn of_discrete(
    schedule: &ScheduleConfig,
    objective: &ObjectiveConfig,
    sample: &SampleConfig,
) -> Result<Value, SampleError> {
    let sampler = &sample.sampler;
    let Some((_, class)) = SAMPLER_CLASSES.iter().find(|(own, _)| *own == sampler.name) else {
        let names: Vec<_> = SAMPLER_CLASSES.iter().map(|(own, _)| *own).collect();
        return Err(refuse("sample.sampler", &sampler.name, format!("diffusers has {}", names.join(", "))));
    };
    let prediction = discrete::PREDICTION_TYPES.iter().find(|(own, _)| *own == objective.name);
    let Some((_, prediction)) = prediction else {
        let remedy = "diffusers has epsilon, x0 and v for this schedule";
        return Err(refuse("objective.name", &objective.name, remedy));
    };
    let variance = sampler.variance.unwrap_or_default();
    let ends_at_0 = matches!(sample.spacing, Some(Spacing::Leading | Spacing::Linspace));
    if sampler.name == "ddpm" && variance != Variance::FixedSmall && !ends_at_0 {
        let remedy = "with it diffusers adds noise to the last image, unless sample.spacing is \"linspace\" or \"leading\"";
        return Err(refuse("sample.variance", &sampler.variance, remedy));
    }
    if sampler.eta.is_some_and(|eta| eta != 1.0) && sampler.name == "euler_ancestral" {
        return Err(refuse("sample.eta", &sampler.eta, "diffusers has 1 only; leave it out"));
    }
    let timesteps = schedule.timesteps.unwrap_or(1000);
    let scale = 1000.0 / timesteps as f64;
    let (beta_schedule, [first, last]) = match &*schedule.name {
        "linear" => ("linear", [1e-4, 0.02]),
        "scaled_linear" => ("scaled_linear", [0.00085, 0.012]),
        "cosine" => ("squaredcos_cap_v2", [1e-4 / scale, 0.02 / scale]),
        _ => {
            let remedy = "diffusers has linear, scaled_linear and cosine";
            return Err(refuse("schedule.name", &schedule.name, remedy));
        }
    };
    let has = |classes: &[&str]| classes.contains(&&*sampler.name);
    let solver = has(&["dpmpp_2m", "dpmpp_2m_sde", "unipc"]);
    let levels = solver || has(&["euler", "heun"]);
    let (karras, exponential) =
        (sample.spacing == Some(Spacing::Karras), sample.spacing == Some(Spacing::Exponential));
    let spacing = match sample.spacing {
        None | Some(Spacing::Trailing) => "trailing",
        Some(Spacing::Karras | Spacing::Exponential) if levels => "trailing",
        Some(Spacing::Leading) if !solver => "leading",
        Some(Spacing::Linspace) if has(&["ddim", "ddpm"]) => "linspace",
        Some(_) => {
            return Err(refuse(
                "sample.spacing",
                &sample.spacing,
                "diffusers has no such grid for this sampler",
            ));
        }
    };
    let rescaled = has(&["ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "euler", "unipc"]);
    if schedule.zero_terminal_snr && !rescaled {
        let remedy = "diffusers has no such schedule for this sampler; export with ddim or ddpm";
        return Err(refuse("schedule.zero_terminal_snr", &true, remedy));
    }
    let threshold = sample.threshold.filter(|_| has(&["ddim", "ddpm"]) || solver);
    Ok(json!({
        "_class_name": class,
        "num_train_timesteps": timesteps,
        "beta_start": schedule.beta_start.unwrap_or(first) * scale,
        "beta_end": schedule.beta_end.unwrap_or(last) * scale,
        "rescale_betas_zero_snr": rescaled.then_some(schedule.zero_terminal_snr),
        "beta_schedule": beta_schedule,
        "prediction_type": prediction,
        "timestep_spacing": spacing,
        "clip_sample": has(&["ddim", "ddpm", "heun"]).then_some(sample.clip),
        "thresholding": threshold.map(|_| true),
        "dynamic_thresholding_ratio": threshold,
        "sample_max_value": threshold.map(|_| 1e6),
        "variance_type": has(&["ddpm"]).then_some(variance),
        "set_alpha_to_one": has(&["ddim", "pndm"]).then_some(true),
        "skip_prk_steps": has(&["pndm"]).then_some(sampler.skip_prk_steps.unwrap_or(true)),
        "solver_order": solver.then_some(sampler.order.unwrap_or(2)),
        "algorithm_type": has(&["dpmpp_2m_sde"]).then_some("sde-dpmsolver++"),
        "use_karras_sigmas": levels.then_some(karras),
        "use_exponential_sigmas": levels.then_some(exponential),
    }))
}
