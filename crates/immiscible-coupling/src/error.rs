use crate::DownloadError;
use immiscible_assign::AssignError;
use std::path::{Path, PathBuf};
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
    /// An option that the coupling does not have.
    #[error("coupling.{option} has no meaning for coupling.kind = \"{kind}\": leave it out{has}")]
    UnusedOption {
        /// The coupling.
        kind: &'static str,
        /// The option's key.
        option: &'static str,
        /// The options that there are, as the end of the sentence.
        has: String,
    },
    /// An option that another one leaves nothing to decide.
    #[error("coupling.{option} is for {of} only: leave it out, or write that")]
    OptionOf {
        /// The option's key.
        option: &'static str,
        /// What it belongs to.
        of: &'static str,
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
    /// The shape of the images is not known, or not that of their rows.
    #[error(
        "coupling.coarse compares cells of images, and rows of {dimensions} values are no images of the shape {shape:?}"
    )]
    NoShape {
        /// Values of a row.
        dimensions: usize,
        /// What the context says an image's shape is.
        shape: Option<[usize; 3]>,
    },
    /// A coupling was to draw that must see the data set first.
    #[error("coupling.kind = \"{name}\" must see the data set before it draws: call `Coupling::fit`")]
    NotFitted {
        /// The coupling.
        name: &'static str,
    },
    /// A label that the data set of the fit did not have.
    #[error(
        "label {label} is not among those that priced_knn was fitted to; set coupling.class_wise = false or fit it anew"
    )]
    UnknownLabel {
        /// The label.
        label: u32,
    },
    /// The file with what a coupling learnt of a data set cannot be used.
    #[error("{}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file with what a coupling learnt is for something else.
    #[error("{} was fitted to another {what}; {remedy}", path.display())]
    StateOfOther {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// There is nothing to learn from.
    #[error("the data has no images")]
    NoImages,
    /// The images hold values that cannot be compared.
    #[error("the images of the batch hold values that are not finite, or too large to be compared")]
    NonFinite,
    /// The assignment refused the batch.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// A coupling has no form that draws.
    #[error("coupling.kind = \"{name}\" draws neither on the host nor on a device")]
    DrawsNowhere {
        /// The coupling.
        name: &'static str,
    },
    /// The device did not hand over its values.
    #[error("the device did not return the values of a tensor: {0}")]
    Device(String),
}

impl From<DownloadError> for CouplingError {
    fn from(error: DownloadError) -> Self {
        Self::device(error)
    }
}

impl CouplingError {
    pub(crate) fn device(reason: impl std::fmt::Display) -> Self {
        Self::Device(reason.to_string())
    }

    pub(crate) fn state(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::State { path: path.into(), reason: reason.to_string() }
    }
}
