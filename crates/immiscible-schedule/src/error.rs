use thiserror::Error;

use crate::Time;

/// Why a schedule, objective or sampler could not be built or used.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ScheduleError {
    /// No registry entry has this name.
    #[error("there is no {kind} \"{name}\"; choose one of {known}")]
    Unknown {
        /// `"schedule"`, `"objective"` or `"sampler"`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// An option was given to something that does not have it.
    #[error("{kind} \"{name}\" has no option `{option}`; remove it")]
    UnusedOption {
        /// `"schedule"` or `"sampler"`.
        kind: &'static str,
        /// Name of the schedule or sampler.
        name: String,
        /// The option's name in the config.
        option: &'static str,
    },
    /// DDIM's eta is negative, above 1, or not a number.
    #[error(
        "eta = {0} is outside [0, 1]; use 0 for the deterministic sampler or 1 for as much noise as DDPM"
    )]
    Eta(f64),
    /// A schedule has a noise increment beta outside (0, 1).
    #[error(
        "schedule \"{name}\" with {timesteps} timesteps has beta = {beta} at timestep {index}, outside (0, 1); \
         use more timesteps (1000 is usual)"
    )]
    Beta {
        /// Name of the schedule.
        name: String,
        /// T.
        timesteps: usize,
        /// The timestep whose beta is wrong.
        index: usize,
        /// Its value.
        beta: f64,
    },
    /// A schedule with no timesteps.
    #[error("schedule \"{0}\" has no timesteps; give at least 1 (1000 is usual)")]
    NoTimesteps(String),
    /// A schedule with more timesteps than can be meant.
    #[error("schedule \"{name}\" with timesteps = {timesteps}: give at most {max} (1000 is usual)")]
    TooManyTimesteps {
        /// Name of the schedule.
        name: String,
        /// T.
        timesteps: usize,
        /// The most there may be.
        max: usize,
    },
    /// The noise levels of a schedule are not in order.
    #[error(
        "schedule \"ve\" with sigma_min = {sigma_min}, sigma_max = {sigma_max}, rho = {rho}: give finite numbers with \
         0 < sigma_min < sigma_max and 0 < rho (0.002, 80 and 7 are usual)"
    )]
    Sigmas {
        /// The smallest.
        sigma_min: f64,
        /// The largest.
        sigma_max: f64,
        /// How they are spaced.
        rho: f64,
    },
    /// The standard deviation of the data is not a positive number.
    #[error("sigma_data = {0}: give a positive number, 0.5 for pixels, 1 for latents")]
    SigmaData(f64),
    /// The time does not exist in the schedule.
    #[error("schedule \"{name}\" has no {time}; its times are {valid}")]
    Time {
        /// Name of the schedule.
        name: String,
        /// The time that was asked for.
        time: Time,
        /// The times that exist.
        valid: String,
    },
    /// The number of sampling steps does not fit the schedule.
    #[error("schedule \"{name}\" cannot be sampled in {steps} steps; use {valid}")]
    Steps {
        /// Name of the schedule.
        name: String,
        /// The number that was asked for.
        steps: usize,
        /// The numbers that are possible.
        valid: String,
    },
    /// The objective's output says nothing about x0 at pure noise, where the schedule starts.
    #[error(
        "objective \"{objective}\" cannot be sampled on schedule \"{schedule}\", which starts from pure noise \
         (alpha = 0); use one of {alternatives}"
    )]
    PureNoise {
        /// Name of the objective.
        objective: &'static str,
        /// Name of the schedule.
        schedule: String,
        /// The objectives that work, separated by commas.
        alternatives: String,
    },
    /// A method that evaluates the network at times of its own, on a schedule that has timesteps only.
    #[error(
        "sampler \"{sampler}\" needs a continuous time, and schedule \"{schedule}\" has timesteps; use another sampler \
         (heun, dpmpp_2m), or train on flow or ve"
    )]
    DiscreteTime {
        /// Name of the sampler.
        sampler: &'static str,
        /// Name of the schedule.
        schedule: String,
    },
    /// The order of a method is not one that it has.
    #[error("sampler \"{sampler}\" with order = {order}: give 1 to {most}")]
    Order {
        /// Name of the sampler.
        sampler: &'static str,
        /// The order that was asked for.
        order: usize,
        /// The highest that there is.
        most: usize,
    },
    /// A tolerance that no step can have, or that is none.
    #[error("tolerance = {0}: give a number from 1e-7 to below 1 (1e-5 is usual)")]
    Tolerance(f64),
    /// Fewer steps than the start of a multistep method takes.
    #[error(
        "sampler \"{sampler}\" cannot go in {steps} steps: give at least {least}, or set skip_prk_steps = true"
    )]
    TooFewSteps {
        /// Name of the sampler.
        sampler: &'static str,
        /// The number of steps.
        steps: usize,
        /// The least there may be.
        least: usize,
    },
    /// A method that chooses its steps cannot go on.
    #[error(
        "sampler \"{sampler}\" is stuck at noise level {sigma}: the network's output is not finite, or changes too fast \
         for its tolerance; give a larger one, or use another sampler"
    )]
    StepSize {
        /// Name of the sampler.
        sampler: &'static str,
        /// sigma where it got stuck.
        sigma: f64,
    },
    /// A method that needs the network's variance, with a network that predicts none.
    #[error(
        "sampler \"{sampler}\" with a learned variance needs a network with twice the channels; use fixed_small or \
         fixed_large"
    )]
    NoVariance {
        /// Name of the sampler.
        sampler: &'static str,
    },
}

/// The entry of a registry with this name.
pub(crate) fn lookup<B: Copy>(
    kind: &'static str,
    registry: &[(&'static str, B)],
    name: &str,
) -> Result<B, ScheduleError> {
    registry.iter().find(|(known, _)| *known == name).map(|(_, build)| *build).ok_or_else(|| {
        let known: Vec<_> = registry.iter().map(|(known, _)| *known).collect();
        ScheduleError::Unknown { kind, name: name.into(), known: known.join(", ") }
    })
}
