//! Between host and device.

use burn::tensor::{Device, Tensor, TensorData};
use ndarray::Array2;
use std::cell::Cell;

thread_local! {
    static DOWNLOADS: Cell<u64> = const { Cell::new(0) };
}

/// The device did not hand over the values of a tensor: what it says.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DownloadError(String);

/// Puts host noise `[B, D]` on a device as `[B, C, H, W]`.
pub fn upload(noise: Array2<f32>, shape: [usize; 4], device: &Device) -> Tensor<4> {
    let (values, _) = noise.into_raw_vec_and_offset();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Reads the values of a tensor, for which the host waits until the device has worked off all that it was asked for.
///
/// A step of training may do so twice: for its coupling, and for its loss. [`downloads`] counts them.
///
/// # Errors
/// When the device does not hand them over.
pub fn download<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, DownloadError> {
    DOWNLOADS.set(DOWNLOADS.get() + 1);
    let data = tensor.try_into_data().map_err(|error| DownloadError(error.to_string()))?;
    data.try_into_vec_as().map_err(|error| DownloadError(error.to_string()))
}

/// How often this thread has [read](download) from a device so far.
pub fn downloads() -> u64 {
    DOWNLOADS.get()
}
