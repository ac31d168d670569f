//! diffusers' schedulers: `scheduler_config.json` in and out.

use immiscible_schedule::schedule::{
    cosine::cosine, flow::Flow, linear::linear, scaled_linear::scaled_linear,
};
use immiscible_schedule::{
    NoiseSchedule, Objective, ObjectiveConfig, Point, SamplerConfig, ScheduleConfig, StepKernel, Time,
    Variance, VariancePreserving, compatible,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::sampler::Clip;
use crate::{SampleError, Sampler};

/// How a model's noise was scheduled and how it is sampled, as one of diffusers' schedulers.
///
/// Timesteps, their successors, the last noise level and the clamping of x0 are those of the Python package, which differ
/// from this project's own where the number of steps does not divide the number of timesteps.
pub struct Scheduler {
    settings: Settings,
    schedule: Box<dyn NoiseSchedule>,
    objective: Box<dyn Objective>,
}

/// The classes that are known.
#[derive(Clone, Debug, PartialEq)]
enum Settings {
    Ddpm(Discrete),
    Ddim(Discrete),
    Flow(FlowMatchEuler),
}

/// The fields and defaults of `DDPMScheduler` and `DDIMScheduler`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Discrete {
    num_train_timesteps: usize,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    trained_betas: Option<Vec<f64>>,
    clip_sample: bool,
    prediction_type: String,
    thresholding: bool,
    dynamic_thresholding_ratio: f64,
    clip_sample_range: f64,
    sample_max_value: f64,
    timestep_spacing: Spacing,
    steps_offset: usize,
    rescale_betas_zero_snr: bool,
    /// Of `DDPMScheduler`.
    #[serde(skip_serializing_if = "Option::is_none")]
    variance_type: Option<Variance>,
    /// Of `DDIMScheduler`: whether the last step ends at the data, and not at timestep 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_alpha_to_one: Option<bool>,
}

/// How the timesteps of sampling are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Spacing {
    /// Evenly spaced, both ends included.
    Linspace,
    /// Multiples of T/S from 0 on.
    Leading,
    /// Multiples of T/S from T − 1 down.
    Trailing,
}

impl Default for Discrete {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: "linear".into(),
            trained_betas: None,
            clip_sample: true,
            prediction_type: "epsilon".into(),
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            clip_sample_range: 1.0,
            sample_max_value: 1.0,
            timestep_spacing: Spacing::Leading,
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            variance_type: None,
            set_alpha_to_one: None,
        }
    }
}

/// The fields and defaults of `FlowMatchEulerDiscreteScheduler`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FlowMatchEuler {
    num_train_timesteps: usize,
    shift: f64,
    use_dynamic_shifting: bool,
    base_shift: Option<f64>,
    max_shift: Option<f64>,
    base_image_seq_len: Option<usize>,
    max_image_seq_len: Option<usize>,
    invert_sigmas: bool,
    shift_terminal: Option<f64>,
    use_karras_sigmas: Option<bool>,
    use_exponential_sigmas: Option<bool>,
    use_beta_sigmas: Option<bool>,
    time_shift_type: String,
    stochastic_sampling: bool,
}

impl Default for FlowMatchEuler {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: Some(0.5),
            max_shift: Some(1.15),
            base_image_seq_len: Some(256),
            max_image_seq_len: Some(4096),
            invert_sigmas: false,
            shift_terminal: None,
            use_karras_sigmas: Some(false),
            use_exponential_sigmas: Some(false),
            use_beta_sigmas: Some(false),
            time_shift_type: "exponential".into(),
            stochastic_sampling: false,
        }
    }
}

const DDPM: &str = "DDPMScheduler";
const DDIM: &str = "DDIMScheduler";
const FLOW: &str = "FlowMatchEulerDiscreteScheduler";

/// Names of objectives here and of prediction types there.
const PREDICTION_TYPES: [(&str, &str); 3] = [("epsilon", "epsilon"), ("x0", "sample"), ("v", "v_prediction")];

impl Scheduler {
    /// The scheduler of a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`SampleError::Scheduler`] with the field and its value.
    pub fn from_json(text: &str) -> Result<Self, SampleError> {
        let unreadable = |reason: serde_json::Error| SampleError::SchedulerFile(reason.to_string());
        let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(unreadable)?;
        let class = fields.remove("_class_name").unwrap_or_default();
        fields.retain(|field, _| !field.starts_with('_'));
        fn read<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, SampleError> {
            serde_json::from_value(Value::Object(fields))
                .map_err(|reason| SampleError::SchedulerFile(reason.to_string()))
        }
        let settings = match class.as_str() {
            Some(DDPM) => Settings::Ddpm(read(fields)?),
            Some(DDIM) => Settings::Ddim(read(fields)?),
            Some(FLOW) => Settings::Flow(read(fields)?),
            _ => {
                return Err(refuse(
                    "_class_name",
                    &class,
                    format!("this crate has {DDPM}, {DDIM} and {FLOW}"),
                ));
            }
        };
        Self::new(settings)
    }

    /// The `scheduler_config.json` that the Python package reads.
    pub fn to_json(&self) -> String {
        let fields = match &self.settings {
            Settings::Ddpm(settings) | Settings::Ddim(settings) => json!(settings),
            Settings::Flow(settings) => json!(settings),
        };
        let mut all = Map::new();
        all.insert("_class_name".into(), self.class_name().into());
        if let Value::Object(fields) = fields {
            all.extend(fields);
        }
        format!("{:#}\n", Value::Object(all))
    }

    /// The name of the class in diffusers.
    pub fn class_name(&self) -> &'static str {
        match self.settings {
            Settings::Ddpm(_) => DDPM,
            Settings::Ddim(_) => DDIM,
            Settings::Flow(_) => FLOW,
        }
    }

    /// The scheduler of a model that was trained here: DDIM for a sampler of this name, otherwise DDPM, and the
    /// flow-matching Euler on the flow schedule. Steps are spaced as this project does.
    ///
    /// # Errors
    /// [`SampleError::Scheduler`] for a schedule or an objective that the package does not have.
    pub fn of_run(
        schedule: &ScheduleConfig,
        objective: &ObjectiveConfig,
        sampler: &SamplerConfig,
        clip: bool,
    ) -> Result<Self, SampleError> {
        if schedule.name == "flow" {
            if objective.name != "flow_velocity" {
                let remedy =
                    "on the flow schedule diffusers samples the flow's velocity only; train flow_velocity";
                return Err(refuse("objective.name", &objective.name, remedy));
            }
            return Self::new(Settings::Flow(FlowMatchEuler::default()));
        }
        let prediction = PREDICTION_TYPES.iter().find(|(own, _)| *own == objective.name);
        let Some((_, prediction)) = prediction else {
            return Err(refuse(
                "objective.name",
                &objective.name,
                "diffusers has epsilon, x0 and v for this schedule",
            ));
        };
        if sampler.name == "ddpm" && sampler.variance == Some(Variance::FixedLarge) {
            let remedy = "with it diffusers adds noise to the last image; train with fixed_small";
            return Err(refuse("sample.variance", &sampler.variance, remedy));
        }
        let timesteps = schedule.timesteps.unwrap_or(1000);
        let scale = 1000.0 / timesteps as f64;
        let (beta_schedule, [beta_start, beta_end]) = match &*schedule.name {
            "linear" => ("linear", [1e-4, 0.02]),
            "scaled_linear" => ("scaled_linear", [0.00085, 0.012]),
            "cosine" => ("squaredcos_cap_v2", [1e-4 / scale, 0.02 / scale]),
            _ => {
                return Err(refuse(
                    "schedule.name",
                    &schedule.name,
                    "diffusers has linear, scaled_linear and cosine",
                ));
            }
        };
        let ddim = sampler.name == "ddim";
        let settings = Discrete {
            num_train_timesteps: timesteps,
            beta_start: beta_start * scale,
            beta_end: beta_end * scale,
            beta_schedule: beta_schedule.into(),
            clip_sample: clip,
            prediction_type: (*prediction).into(),
            timestep_spacing: Spacing::Trailing,
            variance_type: (!ddim).then(|| sampler.variance.unwrap_or_default()),
            set_alpha_to_one: ddim.then_some(true),
            ..Discrete::default()
        };
        Self::new(if ddim { Settings::Ddim(settings) } else { Settings::Ddpm(settings) })
    }

    fn new(settings: Settings) -> Result<Self, SampleError> {
        let (schedule, objective): (Box<dyn NoiseSchedule>, _) = match &settings {
            Settings::Ddpm(discrete) | Settings::Ddim(discrete) => {
                (Box::new(discrete.schedule()?), discrete.objective()?)
            }
            Settings::Flow(flow) => {
                flow.validate()?;
                (Box::new(Flow::default()), "flow_velocity")
            }
        };
        match &settings {
            Settings::Ddpm(Discrete { set_alpha_to_one: Some(value), .. }) => {
                return Err(refuse("set_alpha_to_one", value, format!("{DDPM} has no such field")));
            }
            Settings::Ddim(Discrete { variance_type: Some(value), .. }) => {
                return Err(refuse("variance_type", value, format!("{DDIM} has no such field")));
            }
            _ => {}
        }
        let objective = ObjectiveConfig::new(objective).build()?;
        compatible(&*schedule, &*objective)?;
        Ok(Self { settings, schedule, objective })
    }

    /// The sampler of the scheduler's class, or the one that is named, in this number of steps.
    ///
    /// # Errors
    /// If there is no such sampler or number of steps.
    pub fn sampler(&self, sampler: Option<&SamplerConfig>, steps: usize) -> Result<Sampler<'_>, SampleError> {
        let own = match &self.settings {
            Settings::Ddpm(settings) => {
                SamplerConfig { variance: settings.variance_type, ..SamplerConfig::new("ddpm") }
            }
            Settings::Ddim(_) => SamplerConfig::new("ddim"),
            Settings::Flow(_) => SamplerConfig::new("euler"),
        };
        let config = sampler.unwrap_or(&own);
        let kernel: Box<dyn StepKernel> = config.build()?;
        let (transitions, clip) = match &self.settings {
            Settings::Ddpm(settings) | Settings::Ddim(settings) => {
                let points = settings.transitions(&*self.schedule, steps, &config.name)?;
                // x0 alone is clamped there; the noise stays as it was predicted.
                let clip = Clip { range: settings.clip_sample_range, noise_follows: false };
                (points, settings.clip_sample.then_some(clip))
            }
            Settings::Flow(settings) => (settings.transitions(&*self.schedule, steps)?, None),
        };
        Ok(Sampler::along(&*self.schedule, &*self.objective, kernel, transitions, clip))
    }
}

impl Discrete {
    fn schedule(&self) -> Result<VariancePreserving, SampleError> {
        if self.thresholding {
            return Err(refuse("thresholding", &true, "only false is supported"));
        }
        if self.rescale_betas_zero_snr {
            return Err(refuse("rescale_betas_zero_snr", &true, "only false is supported"));
        }
        if !(self.clip_sample_range > 0.0 && self.clip_sample_range.is_finite()) {
            return Err(refuse("clip_sample_range", &self.clip_sample_range, "use a positive number"));
        }
        let timesteps = self.num_train_timesteps;
        if !(1..=MOST_TIMESTEPS).contains(&timesteps) {
            let remedy = format!("use 1 to {MOST_TIMESTEPS}");
            return Err(refuse("num_train_timesteps", &timesteps, remedy));
        }
        if self.steps_offset >= timesteps {
            return Err(refuse("steps_offset", &self.steps_offset, format!("use less than {timesteps}")));
        }
        if let Some(betas) = &self.trained_betas {
            if betas.len() != timesteps {
                let remedy = format!("it has {} betas; set it to that", betas.len());
                return Err(refuse("num_train_timesteps", &timesteps, remedy));
            }
            return Ok(VariancePreserving::from_betas("trained_betas", betas.iter().copied())?);
        }
        let between = |first: f64, last: f64| {
            let step = (last - first) / timesteps.saturating_sub(1).max(1) as f64;
            (0..timesteps).map(move |i| first + i as f64 * step)
        };
        let defaults =
            |first: f64, last: f64| (self.beta_start, self.beta_end, timesteps) == (first, last, 1000);
        Ok(match &*self.beta_schedule {
            "linear" if defaults(1e-4, 0.02) => linear(timesteps)?,
            "scaled_linear" if defaults(0.00085, 0.012) => scaled_linear(timesteps)?,
            "linear" => VariancePreserving::from_betas("linear", between(self.beta_start, self.beta_end))?,
            "scaled_linear" => {
                let roots = between(self.beta_start.sqrt(), self.beta_end.sqrt());
                VariancePreserving::from_betas("scaled_linear", roots.map(|root| root * root))?
            }
            "squaredcos_cap_v2" => cosine(timesteps)?,
            other => {
                let remedy = "linear, scaled_linear and squaredcos_cap_v2 are supported";
                return Err(refuse("beta_schedule", other, remedy));
            }
        })
    }

    fn objective(&self) -> Result<&'static str, SampleError> {
        let known = PREDICTION_TYPES.iter().find(|(_, kind)| *kind == self.prediction_type);
        known.map(|(own, _)| *own).ok_or_else(|| {
            refuse("prediction_type", &self.prediction_type, "epsilon, sample and v_prediction are supported")
        })
    }

    /// The steps from noise to data. Those of DDIM go T/S timesteps down (rounded down), as in the package, also where the
    /// next one starts elsewhere; all others join.
    fn transitions(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
        sampler: &str,
    ) -> Result<Vec<(Point, Point)>, SampleError> {
        let timesteps = self.num_train_timesteps;
        if !(1..=timesteps).contains(&steps) {
            return Err(refuse(
                "steps",
                &steps,
                format!("the model has {timesteps} timesteps; use 1 to {timesteps}"),
            ));
        }
        let from: Vec<usize> = match self.timestep_spacing {
            Spacing::Linspace => {
                let step = (timesteps - 1) as f64 / (steps - 1).max(1) as f64;
                (0..steps).rev().map(|i| (i as f64 * step).round_ties_even() as usize).collect()
            }
            Spacing::Leading => {
                (0..steps).rev().map(|i| i * (timesteps / steps) + self.steps_offset).collect()
            }
            Spacing::Trailing => {
                let step = timesteps as f64 / steps as f64;
                (0..steps)
                    .map(|i| (timesteps as f64 - i as f64 * step).round_ties_even() as usize - 1)
                    .collect()
            }
        };
        let point = |t: usize| schedule.at(Time::Index(t as u32));
        let last = if self.set_alpha_to_one.unwrap_or(true) { Point::CLEAN } else { point(0)? };
        let joined = sampler != "ddim";
        from.iter()
            .enumerate()
            .map(|(i, &t)| {
                let to = if joined { from.get(i + 1).copied() } else { t.checked_sub(timesteps / steps) };
                Ok((point(t)?, to.map_or(Ok(last), point)?))
            })
            .collect()
    }
}

impl FlowMatchEuler {
    fn validate(&self) -> Result<(), SampleError> {
        if self.num_train_timesteps != 1000 {
            return Err(refuse("num_train_timesteps", &self.num_train_timesteps, "only 1000 is supported"));
        }
        if !(self.shift > 0.0 && self.shift.is_finite()) {
            return Err(refuse("shift", &self.shift, "use a positive number, 1 for none"));
        }
        for (field, value) in [
            ("use_dynamic_shifting", self.use_dynamic_shifting),
            ("invert_sigmas", self.invert_sigmas),
            ("use_karras_sigmas", self.use_karras_sigmas == Some(true)),
            ("use_exponential_sigmas", self.use_exponential_sigmas == Some(true)),
            ("use_beta_sigmas", self.use_beta_sigmas == Some(true)),
            ("stochastic_sampling", self.stochastic_sampling),
        ] {
            if value {
                return Err(refuse(field, &true, "only false is supported"));
            }
        }
        match self.shift_terminal {
            Some(value) => Err(refuse("shift_terminal", &value, "only null is supported")),
            None => Ok(()),
        }
    }

    /// Evenly from t = 1 to the smallest time of training, shifted, then to the data.
    fn transitions(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
    ) -> Result<Vec<(Point, Point)>, SampleError> {
        if !(1..=MOST_TIMESTEPS).contains(&steps) {
            return Err(refuse("steps", &steps, format!("use 1 to {MOST_TIMESTEPS}")));
        }
        // Rounding can go beyond 1.
        let shifted = |t: f64| (self.shift * t / (1.0 + (self.shift - 1.0) * t)).min(1.0);
        let least = shifted(1.0 / self.num_train_timesteps as f64);
        let step = (1.0 - least) / (steps - 1).max(1) as f64;
        let points = (0..steps).map(|i| schedule.at(Time::Continuous(shifted(1.0 - i as f64 * step))));
        let points: Vec<Point> = points.chain([Ok(Point::CLEAN)]).collect::<Result<_, _>>()?;
        Ok(points.windows(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

/// As many as any schedule of this project has.
const MOST_TIMESTEPS: usize = 100_000;

fn refuse(field: &'static str, value: &(impl Serialize + ?Sized), remedy: impl Into<String>) -> SampleError {
    SampleError::Scheduler { field, value: json!(value).to_string(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ddim(fields: &str) -> Result<Scheduler, SampleError> {
        Scheduler::from_json(&format!(
            r#"{{"_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1"{fields}}}"#
        ))
    }

    fn timesteps(scheduler: &Scheduler, steps: usize) -> Vec<(Time, Time)> {
        let Settings::Ddim(settings) = &scheduler.settings else { panic!("no DDIM") };
        let transitions = settings.transitions(&*scheduler.schedule, steps, "ddim").unwrap();
        transitions.into_iter().map(|(from, to)| (from.time, to.time)).collect()
    }

    #[test]
    fn every_class_survives() {
        for class in [DDPM, DDIM, FLOW] {
            let scheduler = Scheduler::from_json(&format!(r#"{{"_class_name": "{class}"}}"#)).unwrap();
            assert_eq!(scheduler.class_name(), class);
            let again = Scheduler::from_json(&scheduler.to_json()).unwrap();
            assert_eq!(scheduler.settings, again.settings);
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (json, words) in [
            (r#"{"_class_name": "PNDMScheduler"}"#, ["PNDMScheduler", "DDIMScheduler"]),
            (r#"{}"#, ["_class_name", "null"]),
            (r#"{"_class_name": "DDIMScheduler", "betas": 1}"#, ["betas", "unknown field"]),
            (r#"{"_class_name": "DDIMScheduler", "thresholding": true}"#, ["thresholding", "false"]),
            (
                r#"{"_class_name": "DDIMScheduler", "prediction_type": "flow"}"#,
                ["prediction_type", "v_prediction"],
            ),
            (r#"{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}"#, ["beta_schedule", "sigmoid"]),
            (
                r#"{"_class_name": "DDIMScheduler", "variance_type": "fixed_small"}"#,
                ["variance_type", "DDIM"],
            ),
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
            (r#"{"_class_name": "DDPMScheduler", "variance_type": "learned"}"#, ["learned", "fixed_small"]),
            (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}"#, ["shift", "positive"]),
            (
                r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": true}"#,
                ["use_karras_sigmas", "false"],
            ),
            ("[]", ["settings", "map"]),
            ("{", ["settings", "EOF"]),
        ] {
            let error = Scheduler::from_json(json).err().expect(json).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{json}: {error}");
        }
    }

    #[test]
    fn timesteps_are_the_packages() {
        use Time::{Clean, Index};
        let leading = timesteps(&ddim("").unwrap(), 4);
        assert_eq!(
            leading,
            [(Index(750), Index(500)), (Index(500), Index(250)), (Index(250), Index(0)), (Index(0), Clean)]
        );
        let offset = ddim(r#", "steps_offset": 1, "set_alpha_to_one": false"#).unwrap();
        assert_eq!(timesteps(&offset, 2), [(Index(501), Index(1)), (Index(1), Index(0))]);
        // 1000 / 3 is no whole number: each step goes down by 333, and the next one starts elsewhere.
        let trailing = ddim(r#", "timestep_spacing": "trailing""#).unwrap();
        assert_eq!(
            timesteps(&trailing, 3),
            [(Index(999), Index(666)), (Index(666), Index(333)), (Index(332), Clean)]
        );
        let linspace = ddim(r#", "timestep_spacing": "linspace""#).unwrap();
        let Settings::Ddim(settings) = &trailing.settings else { panic!("no DDIM") };
        let ancestral = settings.transitions(&*trailing.schedule, 3, "ddpm").unwrap();
        let ancestral: Vec<_> = ancestral.into_iter().map(|(from, to)| (from.time, to.time)).collect();
        assert_eq!(ancestral, [(Index(999), Index(666)), (Index(666), Index(332)), (Index(332), Clean)]);
        assert_eq!(
            timesteps(&linspace, 3),
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
                for sampler in ["ddim", "ddpm", "heun"] {
                    let (objective, sampler) = (ObjectiveConfig::new(objective), SamplerConfig::new(sampler));
                    let scheduler = Scheduler::of_run(&schedule, &objective, &sampler, true).unwrap();
                    let read = Scheduler::from_json(&scheduler.to_json()).unwrap();
                    assert_eq!(read.objective.name(), objective.name);
                    let own = schedule.build().unwrap();
                    for t in [0, 1, timesteps / 2, timesteps - 1] {
                        let at = |schedule: &dyn NoiseSchedule| schedule.at(Time::Index(t as u32)).unwrap();
                        let (a, b) = (at(&*own), at(&*read.schedule));
                        assert!(
                            (a.alpha - b.alpha).abs() < 1e-9 && (a.sigma - b.sigma).abs() < 1e-9,
                            "{name}, {t}"
                        );
                    }
                }
            }
        }
        let flow = ScheduleConfig::new("flow");
        let euler = SamplerConfig::new("euler");
        assert!(Scheduler::of_run(&flow, &ObjectiveConfig::new("flow_velocity"), &euler, true).is_ok());
        assert!(Scheduler::of_run(&flow, &ObjectiveConfig::new("epsilon"), &euler, true).is_err());
        let linear = ScheduleConfig::new("linear");
        assert!(Scheduler::of_run(&linear, &ObjectiveConfig::new("flow_velocity"), &euler, true).is_err());
    }
}
