use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sources::{cifar10, digits, folder, idx};
use crate::{DataError, Source};

/// Which data set, and where it lies.
///
/// An option that the named data set does not use must stay unset; setting it is an error, not a silent no-op.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataOptions {
    /// Name in [`SOURCES`].
    pub name: String,
    /// File or folder of the data set; all but `digits` need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Which part. The file formats take [`Split::Train`] where it is unset. `folder` takes the sub-folder of that name
    /// where it is set, and the folder itself where not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Side in pixels to which `folder` brings every image: the largest centred square, resized with the Lanczos filter
    /// (a = 3, widened when it shrinks the image, so antialiased).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
}

impl DataOptions {
    /// The data set `name` with every other option unset.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), path: None, split: None, image_size: None }
    }

    /// Refuses options that are set and not among `used`.
    pub(crate) fn allow(&self, used: &[&str]) -> Result<(), DataError> {
        let set = [
            ("path", self.path.is_some()),
            ("split", self.split.is_some()),
            ("image_size", self.image_size.is_some()),
        ];
        match set.into_iter().find(|(option, is_set)| *is_set && !used.contains(option)) {
            Some((option, _)) => Err(DataError::UnusedOption { name: self.name.clone(), option }),
            None => Ok(()),
        }
    }

    /// The path, which must be set; `wanted` says what it must lead to.
    pub(crate) fn require_path(&self, wanted: &'static str) -> Result<&Path, DataError> {
        self.path.as_deref().ok_or_else(|| DataError::MissingPath { name: self.name.clone(), wanted })
    }
}

/// The two parts in which data sets are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The images to train on.
    Train,
    /// The images held back.
    Test,
}

impl Split {
    /// `"train"` or `"test"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Makes a data set from its options.
pub type Build = fn(&DataOptions) -> Result<Box<dyn Source>, DataError>;

/// Every data set by name, sorted.
pub const SOURCES: &[(&str, Build)] = &[
    ("cifar10", cifar10::build),
    ("digits", digits::build),
    ("fashion-mnist", idx::build_fashion_mnist),
    ("folder", folder::build),
    ("idx", idx::build),
    ("mnist", idx::build_mnist),
];

/// Makes the data set that `options` name: reads its files, or lists them in the case of `folder`.
///
/// # Errors
/// One line that names the file or option and the remedy.
pub fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    match SOURCES.iter().find(|(name, _)| *name == options.name) {
        Some((_, build)) => build(options),
        None => Err(DataError::UnknownSource {
            name: options.name.clone(),
            known: SOURCES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        }),
    }
}
