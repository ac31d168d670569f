use crate::{
    ConsistencyStep, DISTANCES, Diffusion, DiffusionStep, Distance, EmaConfig, ImprovedConsistencyStep,
    LogNormal, OptimizerConfig, TrainError, TrainStep,
};
use burn::tensor::Device;
use immiscible_models::Network;
use immiscible_random::Key;
use immiscible_schedule::{
    Objective, ObjectiveConfig, ScheduleConfig,
    objective::{Consistency, SIGMA_DATA},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The `[method]` table of a config: how a step learns from a batch. Options that the chosen kind does not have are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MethodConfig {
    /// A name in [`METHODS`].
    pub kind: String,
    /// Of `consistency` and `improved_consistency`: a name in [`DISTANCES`]; `l2` and `pseudo_huber` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance: Option<String>,
    /// Of the distance `lpips`: the file with its weights, the state dict of `lpips.LPIPS(net="vgg")`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<PathBuf>,
    /// Of both: s₀, how fine the grid of noise levels is at the beginning; 2 and 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s0: Option<u64>,
    /// Likewise: s₁, how fine it is at the end; 150 and 1280 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s1: Option<u64>,
    /// Likewise: K, the step of the end; `train.steps` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curriculum_steps: Option<u64>,
    /// Likewise: the standard deviation of the data; 0.5 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
    /// Of `consistency`: μ₀, how fast the teacher follows at the beginning; 0.9 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mu0: Option<f64>,
    /// Of `improved_consistency`: the mean of ln σ of the noise levels that are compared; −1.1 if absent. Half of
    /// the distribution must lie inside the schedule: see [`LogNormal::validate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_mean: Option<f64>,
    /// Of `improved_consistency`: their standard deviation; 2 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_std: Option<f64>,
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            kind: "diffusion".into(),
            distance: None,
            lpips: None,
            s0: None,
            s1: None,
            curriculum_steps: None,
            sigma_data: None,
            mu0: None,
            p_mean: None,
            p_std: None,
        }
    }
}

/// What every method is built from.
pub struct MethodParts {
    /// Forward process, what outputs mean, and the coupling.
    pub diffusion: Diffusion,
    /// What is trained, on the autodiff side of `device`.
    pub network: Network,
    /// Its optimiser.
    pub optimizer: OptimizerConfig,
    /// Its average.
    pub ema: EmaConfig,
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Images whose gradient is computed at once; all of a batch if absent.
    pub micro_batch: Option<usize>,
    /// The run's key.
    pub key: Key,
    /// A plain device.
    pub device: Device,
}

/// Builds a method from its config.
pub type BuildMethod = fn(&MethodConfig, MethodParts) -> Result<Box<dyn TrainStep>, TrainError>;

/// Every method by name, sorted.
pub const METHODS: &[(&str, BuildMethod)] = &[
    (CONSISTENCY, |config, parts| Ok(Box::new(ConsistencyStep::new(config, parts)?))),
    (DIFFUSION, |_, MethodParts { diffusion, network, optimizer, ema, micro_batch, key, device, .. }| {
        let step = DiffusionStep::new(diffusion, network, &optimizer, &ema, key, &device)?;
        Ok(Box::new(step.with_micro_batch(micro_batch)))
    }),
    (IMPROVED_CONSISTENCY, |config, parts| Ok(Box::new(ImprovedConsistencyStep::new(config, parts)?))),
];

const CONSISTENCY: &str = "consistency";
const DIFFUSION: &str = "diffusion";
const IMPROVED_CONSISTENCY: &str = "improved_consistency";

impl MethodConfig {
    /// Whether the network becomes a consistency function, which jumps to the end of a trajectory.
    pub fn jumps(&self) -> bool {
        [CONSISTENCY, IMPROVED_CONSISTENCY].contains(&&*self.kind)
    }

    /// Whether a slow copy of the network is trained beside it.
    pub fn has_teacher(&self) -> bool {
        self.kind == CONSISTENCY
    }

    /// The standard deviation of the data that a consistency function is made for.
    pub fn sigma_data(&self) -> f64 {
        self.sigma_data.unwrap_or(SIGMA_DATA)
    }

    /// The same for data that are multiplied by `scale`, and so have `scale` times the standard deviation.
    pub fn of_scaled_data(&self, scale: f64) -> Self {
        let of_data = self.sigma_data.or(self.jumps().then_some(SIGMA_DATA));
        Self { sigma_data: of_data.map(|sigma| sigma * scale), ..self.clone() }
    }

    /// s₀ and s₁ ≥ s₀ of a consistency method: the grid has s₀ + 1 noise levels at the beginning, or s₀ of `consistency`, and
    /// s₁ + 1 at the end.
    pub fn fineness(&self) -> [u64; 2] {
        let [s0, s1] = if self.kind == CONSISTENCY { [2, 150] } else { [10, 1280] };
        [self.s0.unwrap_or(s0), self.s1.unwrap_or(s1)]
    }

    /// Which noise levels improved consistency training compares.
    pub(crate) fn noise_levels(&self) -> LogNormal {
        LogNormal { mean: self.p_mean.unwrap_or(-1.1), std: self.p_std.unwrap_or(2.0) }
    }

    /// # Errors
    /// When the kind is unknown, has no such option, or a value is outside its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        if !METHODS.iter().any(|(name, _)| *name == self.kind) {
            return Err(TrainError::unknown("method.kind", &self.kind, METHODS));
        }
        let (any, plain) = (self.jumps(), self.kind == CONSISTENCY);
        let improved = self.kind == IMPROVED_CONSISTENCY;
        for (option, given, has) in [
            ("method.distance", self.distance.is_some(), any),
            ("method.lpips", self.lpips.is_some(), any),
            ("method.s0", self.s0.is_some(), any),
            ("method.s1", self.s1.is_some(), any),
            ("method.curriculum_steps", self.curriculum_steps.is_some(), any),
            ("method.sigma_data", self.sigma_data.is_some(), any),
            ("method.mu0", self.mu0.is_some(), plain),
            ("method.p_mean", self.p_mean.is_some(), improved),
            ("method.p_std", self.p_std.is_some(), improved),
        ] {
            if given && !has {
                return Err(TrainError::UnusedOption { key: "method.kind", name: self.kind.clone(), option });
            }
        }
        if let Some(name) = &self.distance
            && !DISTANCES.iter().any(|(known, _)| known == name)
        {
            return Err(TrainError::unknown("method.distance", name, DISTANCES));
        }
        if self.lpips.is_some() && self.distance.as_deref() != Some("lpips") {
            let name = self.distance.clone().unwrap_or_else(|| "unset".into());
            return Err(TrainError::UnusedOption { key: "method.distance", name, option: "method.lpips" });
        }
        let option = |key, value: String, remedy| Err(TrainError::Option { key, value, remedy });
        let [s0, s1] = self.fineness();
        if s0 == 0 {
            return option("method.s0", s0.to_string(), "write at least 1");
        }
        if !(s0..=MOST_LEVELS).contains(&s1) {
            return option("method.s1", s1.to_string(), "write at least method.s0, and at most 10000");
        }
        if self.curriculum_steps == Some(0) {
            return option("method.curriculum_steps", "0".into(), "write at least 1");
        }
        if let Some(mu0) = self.mu0.filter(|mu0| !(0.0..1.0).contains(mu0)) {
            return option("method.mu0", mu0.to_string(), "write a value in [0, 1)");
        }
        if let Some(mean) = self.p_mean.filter(|mean| !mean.is_finite()) {
            return option("method.p_mean", mean.to_string(), "write a finite number");
        }
        if let Some(std) = self.p_std.filter(|std| !(*std > 0.0 && std.is_finite())) {
            return option("method.p_std", std.to_string(), "write a value > 0");
        }
        Ok(())
    }

    /// What the network's outputs mean: the `[objective]` of the config for diffusion, the consistency function otherwise,
    /// which has one of its own.
    ///
    /// # Errors
    /// When the method does not go with the schedule or the objective, or one of them cannot be built.
    pub fn objective(
        &self,
        schedule: &ScheduleConfig,
        objective: Option<&ObjectiveConfig>,
    ) -> Result<Box<dyn Objective>, TrainError> {
        self.validate()?;
        let conflict = |other, other_value: &str, remedy| TrainError::Conflict {
            key: "method.kind",
            value: self.kind.clone(),
            other,
            other_value: other_value.into(),
            remedy,
        };
        match objective {
            Some(config) if !self.jumps() => Ok(config.build()?),
            None if !self.jumps() => {
                Err(conflict("objective.name", "unset", "write one, such as epsilon or flow_velocity"))
            }
            Some(config) => {
                Err(conflict("objective.name", &config.name, "the method has its own; leave out [objective]"))
            }
            None if schedule.name != "ve" => {
                Err(conflict("schedule.name", &schedule.name, "consistency training needs ve"))
            }
            None => {
                if self.kind == IMPROVED_CONSISTENCY {
                    self.noise_levels().validate(&*schedule.build()?)?;
                }
                let sigma_min = schedule.sigma_min.unwrap_or(0.002);
                Ok(Box::new(Consistency::new(sigma_min, self.sigma_data())?))
            }
        }
    }

    /// Builds the method that the config names.
    ///
    /// # Errors
    /// When the config is not valid, or one of the parts is not.
    pub fn build(&self, parts: MethodParts) -> Result<Box<dyn TrainStep>, TrainError> {
        self.validate()?;
        let parts = MethodParts { optimizer: parts.optimizer.of_run(parts.steps), ..parts };
        match METHODS.iter().find(|(name, _)| *name == self.kind) {
            Some((_, build)) => build(self, parts),
            None => Err(TrainError::unknown("method.kind", &self.kind, METHODS)),
        }
    }

    pub(crate) fn distance(&self, default: &str, device: &Device) -> Result<Distance, TrainError> {
        let name = self.distance.as_deref().unwrap_or(default);
        match DISTANCES.iter().find(|(known, _)| *known == name) {
            Some((_, build)) => build(self, device),
            None => Err(TrainError::unknown("method.distance", name, DISTANCES)),
        }
    }
}

/// More noise levels than any published curriculum has.
const MOST_LEVELS: u64 = 10_000;
