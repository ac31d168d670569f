use immiscible_coupling::CouplingError;
use immiscible_data::DataError;
use immiscible_models::ModelError;
use immiscible_schedule::ScheduleError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why training could not start or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An option is outside its range.
    #[error("{key} = {value}: {remedy}")]
    Option {
        /// The option's key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// No registry entry has this name.
    #[error("{key} = {name} is unknown; known: {known}")]
    Unknown {
        /// The key.
        key: &'static str,
        /// What was asked for.
        name: String,
        /// The registered names.
        known: String,
    },
    /// An option was given to something that does not have it.
    #[error("{key} = {name} has no option {option}; remove it")]
    UnusedOption {
        /// The key that names it.
        key: &'static str,
        /// Its name.
        name: String,
        /// The option's key.
        option: &'static str,
    },
    /// Two parts of a config do not go together.
    #[error("{key} = {value} does not go with {other} = {other_value}: {remedy}")]
    Conflict {
        /// The one key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The other key.
        other: &'static str,
        /// Its value.
        other_value: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// The forward process or the objective cannot be built or used.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The data set failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The coupling failed.
    #[error("step {step}: {source}")]
    Coupling {
        /// The step whose batch it was.
        step: u64,
        /// What went wrong.
        source: CouplingError,
    },
    /// The network could not be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device did not hand over its values.
    #[error("the device did not return the latents of a batch: {0}")]
    Device(String),
    /// An image, or the latents that an autoencoder made of it, is bad input: no step could learn from it.
    #[error(
        "step {step}: the {} of image {image} of the data set hold {value}: {}",
        if *latents { "latents" } else { "values" },
        if *latents {
            "the autoencoder cannot encode it; take it out of the data set, or use another autoencoder"
        } else {
            "repair it, or take it out of the data set"
        }
    )]
    NonFiniteImage {
        /// The step whose batch it was in.
        step: u64,
        /// Its index in the data set.
        image: u64,
        /// The value that is not finite.
        value: f32,
        /// Whether it is one of its latents, and not of the image itself.
        latents: bool,
    },
    /// The loss or its gradient is not a finite number. Nothing was changed by the step.
    #[error("the loss is {loss} and the gradient norm {gradient_norm} at step {step}")]
    NonFinite {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f32,
        /// The norm of its gradient.
        gradient_norm: f32,
    },
    /// Too many steps in a row had a loss or gradient that is not finite. The checkpoints are from before the first of them.
    #[error(
        "{skipped} steps in a row, up to step {step}, had to be skipped (train.max_skipped): the loss is {loss}, the gradient \
         norm {gradient_norm}; {}: lower optimizer.learning_rate, raise optimizer.warmup_steps or set optimizer.clip_norm, and run \
         again",
        match kept {
            Some(step) => format!("the checkpoint of step {step} is unharmed"),
            None => "there is no checkpoint yet".into(),
        }
    )]
    Diverged {
        /// The last step.
        step: u64,
        /// Steps skipped in a row, this one included.
        skipped: u64,
        /// Its loss.
        loss: f32,
        /// The norm of its gradient.
        gradient_norm: f32,
        /// The step of the newest checkpoint.
        kept: Option<u64>,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint does not hold what its manifest says.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl TrainError {
    /// [`TrainError::Unknown`] with the names of a registry.
    pub(crate) fn unknown<T>(key: &'static str, name: &str, registry: &[(&str, T)]) -> Self {
        let known: Vec<_> = registry.iter().map(|(known, _)| *known).collect();
        Self::Unknown { key, name: name.into(), known: known.join(", ") }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl ToString) -> Self {
        Self::Checkpoint { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
