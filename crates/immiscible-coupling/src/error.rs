use immiscible_assign::AssignError;
use thiserror::Error;

/// Why a coupling could not be built or could not draw.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CouplingError {
    /// No coupling has this name.
    #[error("unknown coupling `{name}`; known: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The registered names.
        known: String,
    },
    /// An option is outside its range.
    #[error("coupling.{option} = {value}: {remedy}")]
    Option {
        /// The option's key.
        option: &'static str,
        /// Its value.
        value: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// Class-wise assignment was asked for and the batch has no labels.
    #[error("coupling.class_wise = true needs labels and the data has none; set coupling.class_wise = false")]
    LabelsRequired,
    /// The rows of the context do not fit the batch.
    #[error("the batch has {rows} images and its {what} {found} rows")]
    ContextRows {
        /// Which part of the context.
        what: &'static str,
        /// Images in the batch.
        rows: usize,
        /// Rows of that part.
        found: usize,
    },
    /// The assignment refused the batch.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The device did not hand over its values.
    #[error("the device did not return the values of a tensor: {0}")]
    Device(String),
}

impl CouplingError {
    pub(crate) fn device(reason: impl std::fmt::Display) -> Self {
        Self::Device(reason.to_string())
    }
}
