use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::DataError;

/// A data set: samples with stable indices `0..len`, all of one shape, every one labelled or none.
///
/// An index names the same sample for as long as the data on disk stays the same, in every epoch, run and process:
/// noise and flips are addressed by it.
pub trait Source: Send + Sync {
    /// Name of the data set, for logs and messages.
    fn name(&self) -> &str;

    /// Number of samples, at least one.
    fn len(&self) -> usize;

    /// `false`: a data set holds at least one sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape of every sample: `[C, H, W]`.
    fn shape(&self) -> [usize; 3];

    /// Names of the classes in the order of their labels; `None` where the data set has no labels.
    fn classes(&self) -> Option<&[String]>;

    /// Label of sample `index`, less than the number of classes; `None` where there are no labels or `index` is not
    /// less than [`len`](Self::len).
    fn label(&self, index: usize) -> Option<u32>;

    /// Writes sample `index` to `out`, every value of it: what is there before may be another sample.
    ///
    /// # Shapes
    /// `out`: C·H·W values in row-major `[C, H, W]` order, each in [−1, 1] unless they are [`latents`](Self::latents).
    ///
    /// # Errors
    /// [`DataError::Index`] and [`DataError::OutLength`] where the request does not fit the data set, and whatever a
    /// source that reads from disk meets there.
    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError>;

    /// As [`read`](Self::read), of another part of an image that is larger than what is read: `place` says which,
    /// `[x, y]` from 0 (left, top) to 1. Sources without such images read what `read` does.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_crop(&self, index: usize, place: [f32; 2], out: &mut [f32]) -> Result<(), DataError> {
        let _ = place;
        self.read(index, out)
    }

    /// The samples as bytes, where they are RGB images of bytes: the [shape](Self::shape) is `[3, H, W]` then.
    fn pixels(&self) -> Option<&dyn ReadPixels> {
        None
    }

    /// The file that sample `index` comes from, where it has one of its own.
    fn place(&self, index: usize) -> Option<PathBuf> {
        let _ = index;
        None
    }

    /// Whether samples lie on disk as real numbers, of which one may not be finite: only [reading](read_all) tells.
    fn holds_real_numbers(&self) -> bool {
        false
    }

    /// What is known of the autoencoder, if the samples are latents and not images.
    fn latents(&self) -> Option<&LatentInfo> {
        None
    }
}

/// A data set of RGB images, as bytes.
pub trait ReadPixels: Send + Sync {
    /// Writes the pixels of what [`Source::read_crop`] reads to `out`, every one of them.
    ///
    /// # Shapes
    /// `out`: H·W pixels in row-major `[H, W]` order. The value of a byte v is 2 v/255 − 1.
    ///
    /// # Errors
    /// As [`Source::read`], and [`DataError::NoPixels`] where there are none.
    fn read_pixels(&self, index: usize, place: [f32; 2], out: &mut [[u8; 3]]) -> Result<(), DataError>;
}

/// Reads every sample once, on all threads of the current rayon pool: what is wrong with one is then known before it is needed.
///
/// # Errors
/// One of [`Source::read`]'s.
pub fn read_all(source: &dyn Source) -> Result<(), DataError> {
    let sample = || vec![0.0; source.shape().iter().product()];
    (0..source.len()).into_par_iter().try_for_each_init(sample, |out, index| source.read(index, out))
}

/// What a file of latents says about the autoencoder that made them. Training and sampling must use the same numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentInfo {
    /// What latents were multiplied by; `None` where the file does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
    /// What was subtracted from them before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift_factor: Option<f64>,
    /// SHA-256 of the weights of the autoencoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae_sha256: Option<String>,
}

/// Refuses a [`Source::read`] request that does not fit the source.
pub(crate) fn check_request<T>(source: &dyn Source, index: usize, out: &[T]) -> Result<(), DataError> {
    let (len, expected) = (source.len(), source.shape().iter().product());
    if index >= len {
        return Err(DataError::Index { index, len });
    }
    if out.len() != expected {
        return Err(DataError::OutLength { found: out.len(), expected });
    }
    Ok(())
}

/// 2v/white − 1: 0 becomes −1 and `white` becomes 1.
#[inline(always)]
pub(crate) fn level(v: u8, white: u8) -> f32 {
    f32::from(v) / (f32::from(white) / 2.0) - 1.0
}

/// The [`level`] of every byte.
pub(crate) fn levels(white: u8) -> [f32; 256] {
    std::array::from_fn(|v| level(v as u8, white))
}
