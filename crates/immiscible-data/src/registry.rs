use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fit::{Crop, Resize};
#[cfg(feature = "parquet")]
use crate::sources::parquet;
use crate::sources::{cifar, digits, folder, idx, latents, npy, npz, tar};
use crate::{DataError, Source};

/// Which data set, and where it lies.
///
/// An option that the named data set does not use must stay unset; setting it is an error, not a silent no-op.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Side in pixels to which image files are brought: a square of each, resized. For `records` the side of the images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// The filter of that; Lanczos if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Which square; the middle if unset. [`Crop::Random`] is for [`Loader::random_crops`](crate::Loader::random_crops).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// Which labels of CIFAR-100; the fine ones if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelKind>,
    /// The labels of `npy`: a vector in a file of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_file: Option<PathBuf>,
    /// The values of `npy` and `npz` that become −1 and 1. Bytes have 0 and 255 if unset; for other numbers it must be
    /// said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Which axis of `npy` and `npz` is the channels, where the shape does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// The share of samples that may be damaged, 0 to 1; 0.001 if unset. See [`Tolerant`](crate::Tolerant).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bad: Option<f64>,
}

impl DataOptions {
    /// The data set `name` with every other option unset.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// How many of `samples` may be damaged: `max_bad` of them, rounded down.
    ///
    /// # Errors
    /// [`DataError::MaxBad`] where it is not within 0 and 1.
    pub fn most_bad(&self, samples: usize) -> Result<usize, DataError> {
        let share = self.max_bad.unwrap_or(1e-3);
        match (0.0..=1.0).contains(&share) {
            true => Ok((share * samples as f64) as usize),
            false => Err(DataError::MaxBad { value: share }),
        }
    }

    /// Refuses options that are set and not among `used`.
    pub(crate) fn allow(&self, used: &[&str]) -> Result<(), DataError> {
        let set = [
            ("path", self.path.is_some()),
            ("split", self.split.is_some()),
            ("image_size", self.image_size.is_some()),
            ("resize", self.resize.is_some()),
            ("crop", self.crop.is_some()),
            ("labels", self.labels.is_some()),
            ("label_file", self.label_file.is_some()),
            ("range", self.range.is_some()),
            ("layout", self.layout.is_some()),
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

/// The labels of CIFAR-100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelKind {
    /// One of 20 groups of classes.
    Coarse,
    /// One of 100 classes.
    #[default]
    Fine,
}

/// Order of the axes of an array of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[N, C, H, W]`
    Nchw,
    /// `[N, H, W, C]`
    Nhwc,
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
    ("cifar10", cifar::build_10),
    ("cifar100", cifar::build_100),
    ("digits", digits::build),
    ("fashion-mnist", idx::build_fashion_mnist),
    ("folder", folder::build),
    ("idx", idx::build),
    ("latents", latents::build),
    ("mnist", idx::build_mnist),
    ("npy", npy::build),
    ("npz", npz::build),
    #[cfg(feature = "parquet")]
    ("parquet", parquet::build),
    ("records", cifar::build_records),
    ("tar", tar::build),
];

/// Makes the data set that `options` name: reads its files, or, where they are large, what says which samples
/// they hold.
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
