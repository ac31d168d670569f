//! diffusers' schedulers: `scheduler_config.json` in and out.

use immiscible_schedule::{NoiseSchedule, Objective, ObjectiveConfig, SamplerConfig, ScheduleConfig};
use serde_json::{Map, Value};

use crate::sampler::Plan;
use crate::{SampleConfig, SampleError, Sampler};

mod cm_stochastic_iterative;
mod ddim;
mod ddpm;
mod discrete;
mod dpm_solver_multistep;
mod edm_euler;
mod euler;
mod euler_ancestral;
mod fields;
mod flow_match_euler;
mod flow_match_heun;
mod heun;
mod levels;
mod of_run;
mod pndm;
mod unipc_multistep;

use fields::{Fields, refuse};

/// How a model's noise was scheduled and how it is sampled, as one of diffusers' schedulers.
///
/// Timesteps, their successors, noise levels, the scale of x_T and the clamping of x0 are those of the Python package, which
/// differ from this project's own where the number of steps does not divide the number of timesteps. x_t is in this
/// project's units, alpha x0 + sigma eps, also where the package's is x0 + (sigma/alpha) eps.
pub struct Scheduler {
    class: &'static str,
    /// All fields with their values, defaults included.
    fields: Map<String, Value>,
    model: Model,
}

/// What a scheduler's settings say.
struct Model {
    schedule: Box<dyn NoiseSchedule>,
    objective: Box<dyn Objective>,
    class: Box<dyn Class>,
}

/// How a class of the package goes from noise to data.
trait Class: Send + Sync {
    /// The way in this number of steps. `sampler` names the one that is asked for in place of the class's own.
    fn plan(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
        sampler: Option<&str>,
    ) -> Result<Plan, SampleError>;

    /// A usual number of steps.
    fn steps(&self) -> usize {
        50
    }
}

/// Reads the fields of a class.
type Read = fn(&mut Fields) -> Result<Model, SampleError>;

/// Every class of the package that is known.
const CLASSES: &[(&str, Read)] = &[
    ("CMStochasticIterativeScheduler", cm_stochastic_iterative::read),
    ("DDIMScheduler", ddim::read),
    ("DDPMScheduler", ddpm::read),
    ("DPMSolverMultistepScheduler", dpm_solver_multistep::read),
    ("EDMEulerScheduler", edm_euler::read),
    ("EulerAncestralDiscreteScheduler", euler_ancestral::read),
    ("EulerDiscreteScheduler", euler::read),
    ("FlowMatchEulerDiscreteScheduler", flow_match_euler::read),
    ("FlowMatchHeunDiscreteScheduler", flow_match_heun::read),
    ("HeunDiscreteScheduler", heun::read),
    ("PNDMScheduler", pndm::read),
    ("UniPCMultistepScheduler", unipc_multistep::read),
];

impl Scheduler {
    /// The scheduler of a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`SampleError::Scheduler`] with the field and its value.
    pub fn from_json(text: &str) -> Result<Self, SampleError> {
        // Python writes a number that JSON does not have.
        let text = text.replace("-Infinity", "null");
        let fields = serde_json::from_str(&text);
        Self::from_fields(fields.map_err(|reason| SampleError::SchedulerFile(reason.to_string()))?)
    }

    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, SampleError> {
        let class = fields.remove("_class_name").unwrap_or_default();
        fields.retain(|field, _| !field.starts_with('_'));
        let known = CLASSES.iter().find(|(name, _)| class.as_str() == Some(name));
        let Some((class, read)) = known else {
            let names: Vec<_> = CLASSES.iter().map(|(name, _)| *name).collect();
            return Err(refuse("_class_name", &class, format!("this crate has {}", names.join(", "))));
        };
        let mut fields = Fields::new(fields);
        let model = read(&mut fields)?;
        Ok(Self { class, fields: fields.finish()?, model })
    }

    /// The `scheduler_config.json` that the Python package reads.
    pub fn to_json(&self) -> String {
        let mut all = Map::new();
        all.insert("_class_name".into(), self.class.into());
        all.extend(self.fields.clone());
        format!("{:#}\n", Value::Object(all))
    }

    /// The name of the class in diffusers.
    pub fn class_name(&self) -> &'static str {
        self.class
    }

    /// The scheduler of a model that was trained here: the class of the sampler's name on a discrete schedule, and the package's
    /// flow-matching or EDM classes on the others. Steps are spaced as this project does, but on flows, whose last step begins at
    /// time 0.001 in the package. Classes without clamping do not clamp.
    ///
    /// # Errors
    /// [`SampleError::Scheduler`] for a schedule, an objective or a sampler that the package does not have.
    pub fn of_run(
        schedule: &ScheduleConfig,
        objective: &ObjectiveConfig,
        sample: &SampleConfig,
    ) -> Result<Self, SampleError> {
        Self::from_given(of_run::fields(schedule, objective, sample)?)
    }

    /// The scheduler of a consistency function that was trained here, with `levels` noise levels at the end. A number of steps
    /// that divides `levels` − 1 takes this project's noise levels, others take the package's.
    ///
    /// # Errors
    /// [`SampleError::Scheduler`] for a schedule or a spacing that the package does not have.
    pub fn of_consistency(
        schedule: &ScheduleConfig,
        sigma_data: f64,
        levels: usize,
        sample: &SampleConfig,
    ) -> Result<Self, SampleError> {
        Self::from_given(of_run::fields_of_consistency(schedule, sigma_data, levels, sample)?)
    }

    /// Null stands for a default.
    fn from_given(fields: Value) -> Result<Self, SampleError> {
        let Value::Object(fields) = fields else { return Err(refuse("fields", &fields, "use a map")) };
        Self::from_fields(fields.into_iter().filter(|(_, value)| !value.is_null()).collect())
    }

    /// Whether the network must predict the variance of a step, in a second half of channels.
    pub fn takes_variance(&self) -> bool {
        let variance = self.fields.get("variance_type").and_then(Value::as_str);
        self.class == "DDPMScheduler" && variance.is_some_and(|kind| kind.starts_with("learned"))
    }

    /// A usual number of steps for the class.
    pub fn steps(&self) -> usize {
        self.model.class.steps()
    }

    /// The sampler of the scheduler's class, or the one that is named, in this number of steps.
    ///
    /// # Errors
    /// If there is no such sampler or number of steps.
    pub fn sampler(&self, sampler: Option<&SamplerConfig>, steps: usize) -> Result<Sampler<'_>, SampleError> {
        let Model { schedule, objective, class } = &self.model;
        let mut plan = class.plan(&**schedule, steps, sampler.map(|config| &*config.name))?;
        // The class's own sampler keeps the options that the class gives it, unless others are given.
        let own = SamplerConfig::new(plan.kernel.name());
        if let Some(config) = sampler.filter(|config| **config != own) {
            plan.kernel = config.build()?;
        }
        Sampler::planned(&**schedule, &**objective, plan)
    }
}

#[cfg(test)]
mod tests {
    use super::of_run::SAMPLER_CLASSES;
    use super::*;
    use crate::Spacing;
    use immiscible_schedule::Time;

    fn ddim(fields: &str) -> Result<Scheduler, SampleError> {
        Scheduler::from_json(&format!(
            r#"{{"_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1"{fields}}}"#
        ))
    }

    /// Where the steps of DDIM, or of another sampler, start and end.
    fn timesteps(scheduler: &Scheduler, steps: usize, sampler: Option<&str>) -> Vec<(Time, Time)> {
        let plan = scheduler.model.class.plan(&*scheduler.model.schedule, steps, sampler).unwrap();
        plan.path.into_iter().map(|(from, to)| (from.time, to.time)).collect()
    }

    #[test]
    fn every_class_survives() {
        assert!(CLASSES.is_sorted_by(|a, b| a.0 < b.0));
        for (class, _) in CLASSES {
            let scheduler = Scheduler::from_json(&format!(r#"{{"_class_name": "{class}"}}"#)).unwrap();
            assert_eq!(scheduler.class_name(), *class);
            assert!(scheduler.sampler(None, 10).is_ok(), "{class}");
            let again = Scheduler::from_json(&scheduler.to_json()).unwrap();
            assert_eq!(scheduler.fields, again.fields);
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (json, words) in [
            (r#"{"_class_name": "KDPM2DiscreteScheduler"}"#, ["KDPM2DiscreteScheduler", "DDIMScheduler"]),
            (r#"{}"#, ["_class_name", "null"]),
            (r#"{"_class_name": "DDIMScheduler", "betas": 1}"#, ["betas", "unknown field"]),
            (
                r#"{"_class_name": "DDIMScheduler", "dynamic_thresholding_ratio": 0}"#,
                ["dynamic_thresholding_ratio", "above 0"],
            ),
            (
                r#"{"_class_name": "PNDMScheduler", "timestep_spacing": "linspace"}"#,
                ["timestep_spacing", "leading"],
            ),
            (
                r#"{"_class_name": "PNDMScheduler", "prediction_type": "v_prediction"}"#,
                ["prediction_type", "epsilon"],
            ),
            (
                r#"{"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": true}"#,
                ["use_beta_sigmas", "false"],
            ),
            (
                r#"{"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}"#,
                ["timestep_type", "discrete"],
            ),
            (
                r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#,
                ["solver_order", "1 and 2"],
            ),
            (
                r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}"#,
                ["algorithm_type", "dpmsolver++"],
            ),
            (
                r#"{"_class_name": "UniPCMultistepScheduler", "lower_order_final": false}"#,
                ["lower_order_final", "sigma_min"],
            ),
            (
                r#"{"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}"#,
                ["prediction_type", "epsilon"],
            ),
            (
                r#"{"_class_name": "DDIMScheduler", "prediction_type": "flow"}"#,
                ["prediction_type", "v_prediction"],
            ),
            (r#"{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}"#, ["beta_schedule", "sigmoid"]),
            (r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 0}"#, ["num_train_timesteps", "0"]),
            (
                r#"{"_class_name": "DDIMScheduler", "trained_betas": [0.1]}"#,
                ["num_train_timesteps", "1 betas"],
            ),
            (
                r#"{"_class_name": "DDIMScheduler", "clip_sample_range": -1}"#,
                ["clip_sample_range", "positive"],
            ),
            (r#"{"_class_name": "DDIMScheduler", "steps_offset": 4294967296}"#, ["steps_offset", "1000"]),
            (
                r#"{"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}"#,
                ["fixed_large_log", "fixed_small"],
            ),
            (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}"#, ["shift", "positive"]),
            (
                r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#,
                ["use_dynamic_shifting", "false"],
            ),
            (r#"{"_class_name": "DDIMScheduler", "steps_offset": "one"}"#, ["steps_offset", "one"]),
            ("[]", ["settings", "map"]),
            ("{", ["settings", "EOF"]),
        ] {
            let error = Scheduler::from_json(json).err().expect(json).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{json}: {error}");
        }
    }

    /// The files of Stable Diffusion 1.5 and XL, with fields that their classes do not have.
    #[test]
    fn fields_of_other_classes_are_kept_and_ignored() {
        for file in [
            r#"{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
                "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
                "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
                "clip_sample": false}"#,
            r#"{"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
                "beta_start": 0.00085, "clip_sample": false, "interpolation_type": "linear",
                "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0,
                "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
                "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false}"#,
        ] {
            let scheduler = Scheduler::from_json(file).unwrap();
            assert!(scheduler.to_json().contains("\"clip_sample\": false"));
            assert!(scheduler.sampler(None, 20).is_ok());
        }
        // Python writes what JSON does not have.
        let infinite = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}"#;
        assert!(!Scheduler::from_json(infinite).unwrap().to_json().contains("lambda_min_clipped"));
    }

    #[test]
    fn timesteps_are_the_packages() {
        use Time::{Clean, Index};
        let leading = timesteps(&ddim("").unwrap(), 4, None);
        assert_eq!(
            leading,
            [(Index(750), Index(500)), (Index(500), Index(250)), (Index(250), Index(0)), (Index(0), Clean)]
        );
        let offset = ddim(r#", "steps_offset": 1, "set_alpha_to_one": false"#).unwrap();
        assert_eq!(timesteps(&offset, 2, None), [(Index(501), Index(1)), (Index(1), Index(0))]);
        // 1000 / 3 is no whole number: each step goes down by 333, and the next one starts elsewhere.
        let trailing = ddim(r#", "timestep_spacing": "trailing""#).unwrap();
        assert_eq!(
            timesteps(&trailing, 3, None),
            [(Index(999), Index(666)), (Index(666), Index(333)), (Index(332), Clean)]
        );
        let linspace = ddim(r#", "timestep_spacing": "linspace""#).unwrap();
        let ancestral = timesteps(&trailing, 3, Some("ddpm"));
        assert_eq!(ancestral, [(Index(999), Index(666)), (Index(666), Index(332)), (Index(332), Clean)]);
        assert_eq!(
            timesteps(&linspace, 3, None),
            [(Index(999), Index(666)), (Index(500), Index(167)), (Index(0), Clean)]
        );
        assert!(matches!(offset.sampler(None, 1000), Err(SampleError::Schedule(_))));
        assert!(ddim("").unwrap().sampler(None, 0).is_err());
        assert!(ddim("").unwrap().sampler(None, 1001).is_err());
    }

    #[test]
    fn a_run_goes_out_and_comes_back_with_the_same_noise_levels() {
        for (name, timesteps) in
            [("linear", 1000), ("scaled_linear", 1000), ("cosine", 1000), ("linear", 250)]
        {
            let schedule = ScheduleConfig { timesteps: Some(timesteps), ..ScheduleConfig::new(name) };
            for objective in ["epsilon", "x0", "v"] {
                for (sampler, class) in SAMPLER_CLASSES {
                    let (objective, sample) = (ObjectiveConfig::new(objective), sample(sampler));
                    let scheduler = match Scheduler::of_run(&schedule, &objective, &sample) {
                        Ok(scheduler) => scheduler,
                        Err(error) => {
                            let known = *class == "PNDMScheduler" || class.contains("Ancestral");
                            assert!(known && objective.name != "epsilon", "{class}: {error}");
                            continue;
                        }
                    };
                    assert_eq!(scheduler.class_name(), *class);
                    let read = Scheduler::from_json(&scheduler.to_json()).unwrap();
                    assert_eq!(read.model.objective.name(), objective.name);
                    assert!(read.sampler(None, 10).is_ok(), "{class}");
                    let own = schedule.build().unwrap();
                    for t in [0, 1, timesteps / 2, timesteps - 1] {
                        let at = |schedule: &dyn NoiseSchedule| schedule.at(Time::Index(t as u32)).unwrap();
                        let (a, b) = (at(&*own), at(&*read.model.schedule));
                        assert!(
                            (a.alpha - b.alpha).abs() < 1e-9 && (a.sigma - b.sigma).abs() < 1e-9,
                            "{name}, {t}"
                        );
                    }
                }
            }
        }
        let of = |schedule: &str, objective: &str, sampler: &str| {
            let (schedule, objective) = (ScheduleConfig::new(schedule), ObjectiveConfig::new(objective));
            Scheduler::of_run(&schedule, &objective, &sample(sampler)).map(|scheduler| scheduler.class_name())
        };
        assert_eq!(of("flow", "flow_velocity", "euler").unwrap(), "FlowMatchEulerDiscreteScheduler");
        assert_eq!(of("flow", "flow_velocity", "heun").unwrap(), "FlowMatchHeunDiscreteScheduler");
        assert_eq!(of("ve", "edm", "euler").unwrap(), "EDMEulerScheduler");
        assert!(of("flow", "epsilon", "euler").is_err());
        assert!(of("linear", "flow_velocity", "euler").is_err());
        for (schedule, objective, sampler) in
            [("linear", "epsilon", "dopri5"), ("flow", "flow_velocity", "midpoint"), ("ve", "edm", "heun")]
        {
            let error = of(schedule, objective, sampler).unwrap_err().to_string();
            assert!(error.contains("sample.sampler") && error.contains("euler"), "{error}");
        }
    }

    #[test]
    fn grids_go_out_with_a_run() {
        let (linear, epsilon) = (ScheduleConfig::new("linear"), ObjectiveConfig::new("epsilon"));
        let with = |spacing, sampler: &str| {
            let sample = SampleConfig { spacing: Some(spacing), ..sample(sampler) };
            Scheduler::of_run(&linear, &epsilon, &sample)
        };
        assert!(with(Spacing::Karras, "dpmpp_2m").unwrap().to_json().contains("\"use_karras_sigmas\": true"));
        assert!(with(Spacing::Leading, "ddim").unwrap().to_json().contains("leading"));
        for (spacing, sampler) in
            [(Spacing::Quadratic, "ddim"), (Spacing::Karras, "ddim"), (Spacing::Leading, "unipc")]
        {
            let error = with(spacing, sampler).err().expect("an error").to_string();
            assert!(error.contains("sample.spacing"), "{error}");
        }
    }

    fn sample(sampler: &str) -> SampleConfig {
        SampleConfig { sampler: SamplerConfig::new(sampler), ..SampleConfig::default() }
    }
}
