use thiserror::Error;

use crate::Time;

/// Why a schedule, objective or sampler could not be built or used.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ScheduleError {
    /// No registry entry has this name.
    #[error("there is no {kind} \"{name}\"; choose one of {known}")]
    Unknown {
        /// What it is a name of, such as `"schedule"`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// An option was given to something that does not have it.
    #[error("{kind} \"{name}\" has no option `{option}`; remove it")]
    UnusedOption {
        /// What has options, such as `"schedule"`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The option's name in the config.
        option: &'static str,
    },
    /// An option has no meaning at this value.
    #[error("{kind} \"{name}\" with {option} = {value}: give {valid}")]
    OutOfRange {
        /// What has options, such as `"weighting"`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The option's name in the config.
        option: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        valid: &'static str,
    },
    /// The distribution of training times is one of flow times, and the schedule has others.
    #[error(
        "time sampler \"{time_sampler}\" draws flow times, and schedule \"{schedule}\" has others; \
         use log_normal, stratified or uniform, or schedule \"flow\""
    )]
    TimeSampler {
        /// Name of the time sampler.
        time_sampler: &'static str,
        /// Name of the schedule.
        schedule: String,
    },
    /// The weight of the loss is infinite or undefined at a time that is trained on.
    #[error(
        "weighting \"{weighting}\" of objective \"{objective}\" is {weight} at {time} of schedule \"{schedule}\"; \
         use weighting \"simple\" or another objective"
    )]
    Weight {
        /// Name of the weighting.
        weighting: &'static str,
        /// Name of the objective.
        objective: &'static str,
        /// Name of the schedule.
        schedule: String,
        /// The time.
        time: Time,
        /// The weight there.
        weight: f64,
    },
    /// The loss cannot train a variance on this schedule.
    #[error(
        "schedule \"{0}\" has no timesteps whose variance could be learned; use a discrete schedule of at least 2 timesteps, \
         or leave loss.vlb_weight out"
    )]
    LearnedVariance(String),
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
    /// The ends of a discrete schedule are not in order.
    #[error(
        "schedule \"{name}\" with beta_start = {beta_start}, beta_end = {beta_end}: give 0 < beta_start <= beta_end < 1"
    )]
    Betas {
        /// Name of the schedule.
        name: &'static str,
        /// beta at the first of 1000 timesteps.
        beta_start: f64,
        /// beta at the last of 1000 timesteps.
        beta_end: f64,
    },
    /// The piece of the sigmoid is empty, or all of it is flat.
    #[error(
        "schedule \"sigmoid\" with start = {start}, end = {end}, tau = {tau}: give start < end and 0 < tau, and neither end \
         farther from 0 than 30 tau (-3, 3 and 1 are usual)"
    )]
    Sigmoid {
        /// Where alpha² starts.
        start: f64,
        /// Where it ends.
        end: f64,
        /// The temperature.
        tau: f64,
    },
    /// A schedule of one timestep cannot keep its first one and end in pure noise.
    #[error("schedule \"{0}\" with zero_terminal_snr = true: give at least 2 timesteps (1000 is usual)")]
    OneTimestep(String),
    /// The shift of the flow is not a usable factor.
    #[error(
        "schedule \"flow\" with shift = {0}: give a number in [0.001, 1000], 1 for none (3 is usual for large images)"
    )]
    Shift(f64),
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
    /// The noise level at which trajectories end is not a positive number.
    #[error("sigma_min = {0}: give a positive number, 0.002 is usual")]
    SigmaMin(f64),
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
