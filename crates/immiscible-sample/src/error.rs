use immiscible_schedule::ScheduleError;
use thiserror::Error;

use crate::Spacing;

/// Why nothing can be sampled.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SampleError {
    /// The schedule, the objective and the sampler do not fit together, or one of them is misconfigured.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The guidance scale is infinite or not a number.
    #[error("guidance = {0} is not a finite number; 1 is no guidance, 1.5 to 8 is usual")]
    GuidanceScale(f64),
    /// Guidance with a network that was never trained without its condition.
    #[error(
        "guidance = {0} needs the prediction without a condition, and the network has none, such as a null class; use \
         guidance = 1, or train one that drops the class now and then"
    )]
    NoNull(f64),
    /// The range of noise levels with guidance is empty.
    #[error(
        "guidance_interval = [{low}, {high}]: give two levels of noise sigma/alpha with 0 <= low < high, such as [0.2, 5]"
    )]
    GuidanceInterval {
        /// Its lower end.
        low: f64,
        /// Its upper end.
        high: f64,
    },
    /// The range of the data is none.
    #[error("range = {0}: give the largest absolute value of the data, above 0; 1 is usual")]
    Range(f64),
    /// The quantile of dynamic thresholding is none.
    #[error("threshold = {0}: give the share of pixels to keep, above 0 and up to 1 (0.995 is usual)")]
    Threshold(f64),
    /// Dynamic thresholding of estimates that are not kept in range.
    #[error("threshold = {0} is a way to clip, and clip = false: set clip = true, or leave out threshold")]
    ThresholdWithoutClip(f64),
    /// A sampler that jumps to the end of a trajectory, for a network that does not, or the other way round.
    #[error(
        "sampler \"{sampler}\" does not go with a network that was trained for \"{objective}\": {remedy}"
    )]
    Jumps {
        /// Name of the sampler.
        sampler: &'static str,
        /// Name of the objective.
        objective: &'static str,
        /// What to change.
        remedy: &'static str,
    },
    /// Noise levels for a sampler that has its own.
    #[error(
        "spacing = {spacing:?} with sampler \"{sampler}\": it takes its noise levels from the schedule; leave spacing out"
    )]
    OwnSpacing {
        /// How they were to be spaced.
        spacing: Spacing,
        /// Name of the sampler.
        sampler: &'static str,
    },
    /// A way to space noise levels that the schedule does not have.
    #[error(
        "spacing = {spacing:?} is not possible on schedule \"{schedule}\"; leave it out, or use karras or exponential"
    )]
    Spacing {
        /// How they were to be spaced.
        spacing: Spacing,
        /// Name of the schedule.
        schedule: String,
    },
    /// A `scheduler_config.json` is not JSON, or holds a field or a value that no supported scheduler has.
    #[error("cannot read the scheduler's settings: {0}")]
    SchedulerFile(String),
    /// A setting of a scheduler that cannot be sampled with, or that diffusers does not have.
    #[error("scheduler setting `{field}` = {value} is not possible: {remedy}")]
    Scheduler {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What to change.
        remedy: String,
    },
    /// A different number of images and of conditions.
    #[error("{images} images were asked for with conditions for {conditions}; give one condition per image")]
    Batch {
        /// Images asked for.
        images: usize,
        /// Rows of the condition.
        conditions: usize,
    },
}
