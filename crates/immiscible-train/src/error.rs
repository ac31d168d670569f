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
    #[error("the device did not return {what}: {reason}")]
    Device {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        reason: String,
    },
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
         norm {gradient_norm}; {}",
        mend_words(*kept)
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
    /// A weight is not a finite number, or so large that its square is none: such weights are not saved.
    #[error("the weights are no longer finite, and are not saved; {}", mend_words(*kept))]
    NonFiniteWeights {
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
    /// A file of a checkpoint could not be written.
    #[error(
        "{}: {source}; {wanted} bytes are wanted{}",
        path.display(),
        free.map_or_else(String::new, |free| format!(", {free} are free"))
    )]
    Write {
        /// The file, or the folder of the checkpoints.
        path: PathBuf,
        /// Its size.
        wanted: u64,
        /// Room on its disk in bytes, if the system tells.
        free: Option<u64>,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint could not be saved; training goes on.
    #[error(
        "step {step}: no checkpoint, {failures} of {most} times in a row (checkpoint.max_failures): {source}; the older ones \
         are unharmed, and it is tried again in {seconds} s"
    )]
    NotSaved {
        /// The step that was to be saved.
        step: u64,
        /// Failures in a row, this one included.
        failures: u64,
        /// Failures in a row that end the run.
        most: u64,
        /// Until it is tried again.
        seconds: u64,
        /// What went wrong.
        source: Box<TrainError>,
    },
    /// Checkpoints could not be saved, and the run ends.
    #[error(
        "step {step}: no checkpoint could be saved, {failures} times in a row (checkpoint.max_failures): {source}; {}; mend \
         that and run again",
        kept_words(*kept)
    )]
    Unsaved {
        /// The last step.
        step: u64,
        /// Failures in a row.
        failures: u64,
        /// The last of them.
        source: Box<TrainError>,
        /// The step of the newest checkpoint.
        kept: Option<u64>,
    },
    /// The log could not be written; training goes on.
    #[error("{}: {source}; training goes on, and it is tried again with the next line", path.display())]
    Log {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process trains in the run directory.
    #[error("{}: {holder} trains in this run; wait for its end, or train under another name", run.display())]
    Locked {
        /// The run directory.
        run: PathBuf,
        /// Who that is.
        holder: String,
    },
    /// Training was asked to stop, and did.
    #[error("stopped at step {step}; {}; the same command goes on from there", kept_words(*kept))]
    Stopped {
        /// Steps taken.
        step: u64,
        /// The step of the newest checkpoint.
        kept: Option<u64>,
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

fn kept_words(kept: Option<u64>) -> String {
    match kept {
        Some(step) => format!("the checkpoint of step {step} is unharmed"),
        None => "there is no checkpoint yet".into(),
    }
}

/// What to do about a run that diverged, which goes on from its newest checkpoint.
fn mend_words(kept: Option<u64>) -> String {
    let back = match kept {
        Some(step) => format!(
            "; if it diverges again, remove checkpoints/step-{step:08} from the run directory, and it goes on from the one \
             before"
        ),
        None => String::new(),
    };
    format!(
        "{}: lower optimizer.learning_rate, raise optimizer.warmup_steps or set optimizer.clip_norm, and run again{back}",
        kept_words(kept)
    )
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
