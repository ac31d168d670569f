use crate::{OptimizerConfig, TrainError};
use std::f64::consts::PI;

/// How the learning rate goes on after the warm-up.
pub struct LearningRateSchedule {
    /// The keys of `[optimizer]` that it reads.
    pub options: &'static [&'static str],
    /// The share of `optimizer.learning_rate` at a step from the end of the warm-up on, counted from 0.
    share: fn(&OptimizerConfig, step: u64) -> f64,
}

const FALLING: &[&str] = &["schedule_steps", "final_share"];

/// Every schedule of the learning rate by name, sorted. The names are those of `diffusers.optimization.get_scheduler`, which
/// has no `inverse_sqrt`.
pub const LEARNING_RATE_SCHEDULES: &[(&str, LearningRateSchedule)] = &[
    (CONSTANT, LearningRateSchedule { options: &[], share: |_, _| 1.0 }),
    // Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
    (
        "cosine",
        LearningRateSchedule {
            options: FALLING,
            share: |c, step| towards_final(c, 0.5 * (1.0 + (PI * progress(c, step)).cos())),
        },
    ),
    // Karras et al. 2024, arXiv 2312.02696, equation 67.
    (
        "inverse_sqrt",
        LearningRateSchedule {
            options: &["decay_start"],
            share: |c, step| (step as f64 / c.decay_start.unwrap_or(1) as f64).max(1.0).sqrt().recip(),
        },
    ),
    (
        "linear",
        LearningRateSchedule { options: FALLING, share: |c, step| towards_final(c, 1.0 - progress(c, step)) },
    ),
];

/// What is trained with if the config says nothing.
pub(crate) const CONSTANT: &str = "constant";

/// From 0 at the end of the warm-up to 1 at `schedule_steps`.
fn progress(config: &OptimizerConfig, step: u64) -> f64 {
    let end = config.schedule_steps.unwrap_or(step);
    let length = end.saturating_sub(config.warmup_steps).max(1);
    (step.saturating_sub(config.warmup_steps) as f64 / length as f64).min(1.0)
}

/// From 1 to `final_share` while `share` falls from 1 to 0.
fn towards_final(config: &OptimizerConfig, share: f64) -> f64 {
    let last = config.final_share.unwrap_or(0.0);
    last + (1.0 - last) * share
}

impl OptimizerConfig {
    /// The schedule that the config names.
    ///
    /// # Errors
    /// When the name is unknown.
    pub(crate) fn schedule(&self) -> Result<&'static LearningRateSchedule, TrainError> {
        let found = LEARNING_RATE_SCHEDULES.iter().find(|(name, _)| *name == self.schedule);
        found
            .map(|(_, schedule)| schedule)
            .ok_or_else(|| TrainError::unknown("optimizer.schedule", &self.schedule, LEARNING_RATE_SCHEDULES))
    }

    /// The same for a run of so many steps: where a schedule's length is open, it is the run's.
    pub fn of_run(mut self, steps: u64) -> Self {
        if self.schedule().is_ok_and(|schedule| schedule.options.contains(&"schedule_steps")) {
            self.schedule_steps.get_or_insert(steps);
        }
        self
    }

    /// Learning rate of `step`, counted from 0: a linear warm-up, then as the schedule says. The first step has
    /// 1/`warmup_steps` of the full rate, where the Python package has 0 and learns nothing; after the warm-up the two are
    /// the same.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        let warmup = (step + 1) as f64 / self.warmup_steps.max(1) as f64;
        let share = match self.schedule() {
            Ok(schedule) if step >= self.warmup_steps => (schedule.share)(self, step),
            _ => warmup.min(1.0),
        };
        self.learning_rate * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn rates_are_the_packages() {
        let golden: Value =
            serde_json::from_str(include_str!("../tests/golden/learning_rates.json")).unwrap();
        for case in golden.as_array().unwrap() {
            let config: OptimizerConfig = serde_json::from_value(case["optimizer"].clone()).unwrap();
            config.validate().unwrap();
            for (step, expected) in (0..).zip(case["rates"].as_array().unwrap()) {
                let (found, expected) = (config.learning_rate_at(step), expected.as_f64().unwrap());
                let what = format!("{}, step {step}: {found}, {expected}", case["optimizer"]);
                assert!((found - expected).abs() <= 1e-12 * config.learning_rate, "{what}");
            }
        }
        assert!(LEARNING_RATE_SCHEDULES.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn rates_warm_up_join_and_stay_at_their_end() {
        for (name, schedule) in LEARNING_RATE_SCHEDULES {
            let has = |option| schedule.options.contains(&option);
            let config = OptimizerConfig {
                learning_rate: 1.0,
                warmup_steps: 4,
                schedule: (*name).into(),
                final_share: has("final_share").then_some(0.25),
                decay_start: has("decay_start").then_some(6),
                ..OptimizerConfig::default()
            };
            let config = config.of_run(20);
            config.validate().unwrap();
            let rates: Vec<f64> = (0..40).map(|step| config.learning_rate_at(step)).collect();
            assert_eq!(rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0], "{name}");
            assert!(rates[4..].is_sorted_by(|a, b| a >= b) && rates.iter().all(|rate| *rate > 0.0), "{name}");
            if has("final_share") {
                assert!(
                    rates[19] > 0.25 && rates[20..].iter().all(|rate| *rate == 0.25),
                    "{name}: {rates:?}"
                );
            }
        }
    }

    #[test]
    fn options_of_other_schedules_are_refused() {
        let refused = |change: fn(&mut OptimizerConfig)| {
            let mut config = OptimizerConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let with = |name: &str| OptimizerConfig { schedule: name.into(), ..OptimizerConfig::default() };
        assert_eq!(
            refused(|c| c.final_share = Some(0.1)),
            "optimizer.schedule = constant has no option optimizer.final_share; remove it"
        );
        assert_eq!(
            refused(|c| c.schedule = "cosin".into()),
            "optimizer.schedule = cosin is unknown; known: constant, cosine, inverse_sqrt, linear"
        );
        let error = with("inverse_sqrt").validate().unwrap_err().to_string();
        assert!(error.contains("optimizer.decay_start = unset"), "{error}");
        let late = OptimizerConfig { final_share: Some(1.5), ..with("linear") };
        assert!(late.validate().is_err() && with("linear").validate().is_ok());
    }
}
